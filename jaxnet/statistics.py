"""Summaries of many seeds: the whole distribution in few numbers, and paired comparisons.

Everything returned is JSON-safe: Python floats, integers, lists and ``None``
where a number does not exist (never NaN). A value that is not finite (a seed
that diverged) never enters a mean silently: it is left out and counted in
``not_finite``, which a report must show beside ``n``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

EXACT_PAIRS = 20
"""Up to so many pairs the sign-flip test enumerates every assignment of signs."""


class Aggregate(TypedDict):
    """What :func:`aggregate` returns."""

    mean: float | None
    std: float | None
    median: float | None
    min: float | None
    max: float | None
    ci95: list[float] | None
    n: int
    not_finite: int


class PairedDifference(TypedDict):
    """What :func:`paired_difference` returns."""

    mean: float | None
    std: float | None
    ci95: list[float] | None
    n: int
    wins: int
    ties: int
    losses: int
    p: float | None
    test: str | None
    not_finite: int


def aggregate(values: Sequence[float] | np.ndarray | Any) -> Aggregate:
    """Summarises one number per seed.

    Args:
      values: ``(n,)``, one number per seed.

    Returns:
      ``mean``, ``std`` (unbiased, ``n - 1``), ``median``, ``min``, ``max``,
      ``ci95`` (95 % Student-t interval of the mean, ``[low, high]``) of the
      finite values, ``n`` how many these are and ``not_finite`` how many were
      left out. ``std`` and ``ci95`` are ``None`` for ``n = 1``, everything is
      for ``n = 0``.

    Raises:
      ValueError: there is no value at all, or ``values`` is not one-dimensional.

    >>> aggregate([1.0, 2.0, 3.0])["mean"]
    2.0
    """
    array = _vector(values, "values")
    finite = array[np.isfinite(array)]
    n = int(finite.size)
    mean, std, ci95 = _moments(finite)
    return Aggregate(
        mean=mean,
        std=std,
        median=_median(finite) if n else None,
        min=float(finite.min()) if n else None,
        max=float(finite.max()) if n else None,
        ci95=ci95,
        n=n,
        not_finite=int(array.size) - n,
    )


def paired_difference(
    a: Sequence[float] | np.ndarray | Any, b: Sequence[float] | np.ndarray | Any
) -> PairedDifference:
    """Compares two methods on the same seeds: the differences ``a - b``.

    The p-value is two-sided for "the differences are symmetric about zero". Up
    to :data:`EXACT_PAIRS` pairs it is exact: the share of all ``2**n`` sign
    assignments whose absolute sum is at least the one seen. Beyond that it is
    Wilcoxon's signed-rank test (zeros ranked and then dropped, Pratt).

    Args:
      a: ``(n,)``, one number per seed.
      b: ``(n,)``, the same seeds in the same order.

    Returns:
      ``mean``, ``std`` and ``ci95`` of the differences as in :func:`aggregate`;
      ``n`` pairs with two finite values, ``not_finite`` pairs left out;
      ``wins`` (``a > b``), ``ties``, ``losses``; ``p`` and the name of the
      ``test``, ``None`` below two pairs.

    Raises:
      ValueError: different lengths, no pair at all, or not one-dimensional.
    """
    left, right = _vector(a, "a"), _vector(b, "b")
    if left.size != right.size:
        raise ValueError(f"a and b must be pairs of equal length: {left.size} and {right.size}")
    with np.errstate(over="ignore", invalid="ignore"):  # not finite, and as such counted
        both = np.isfinite(left - right)
    left, right = left[both], right[both]
    difference = left - right
    n = int(difference.size)
    mean, std, ci95 = _moments(difference)
    p, test = _p_value(difference)
    return PairedDifference(
        mean=mean,
        std=std,
        ci95=ci95,
        n=n,
        wins=int(np.sum(left > right)),
        ties=int(np.sum(left == right)),
        losses=int(np.sum(left < right)),
        p=p,
        test=test,
        not_finite=int(both.size) - n,
    )


def exact_fraction(value: float, count: int) -> float:
    """The fraction of a count that a rounded one stands for: 9,700 of 10,000 are 0.97.

    In float32, as accuracies are computed, 0.97 is 0.96999997, which is below a
    target of 0.97.

    Args:
      value: in [0, 1], rounded.
      count: samples it is a fraction of, below 2**23.

    Raises:
      ValueError: a count below 1.

    >>> exact_fraction(float(np.float32(0.97)), 10_000)
    0.97
    """
    if count < 1:
        raise ValueError(f"count must be at least 1: {count}")
    return round(value * count) / count if math.isfinite(value) else value


class Rate(TypedDict):
    """What :func:`success_rate` returns."""

    successes: int
    n: int
    rate: float | None
    ci95: list[float] | None
    not_finite: int


def success_rate(success: Sequence[bool | None] | np.ndarray | Any) -> Rate:
    """How often something succeeded, with Wilson's 95 % interval.

    Args:
      success: ``(n,)``, whether each seed succeeded; None or NaN for one that has no say.

    Returns:
      ``successes`` among ``n`` seeds, ``not_finite`` seeds left out; ``rate`` and
      ``ci95`` are ``None`` where none is left.

    Raises:
      ValueError: there is no value at all, or ``success`` is not one-dimensional.

    >>> success_rate([True, False, True, True])["rate"]
    0.75
    """
    from scipy.stats import binomtest

    array = _vector(success, "success")
    finite = array[np.isfinite(array)]
    k, n = int(np.sum(finite > 0)), int(finite.size)
    left_out = int(array.size) - n
    if not n:
        return Rate(successes=0, n=0, rate=None, ci95=None, not_finite=left_out)
    interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
    ci95 = [float(interval.low), float(interval.high)]
    return Rate(successes=k, n=n, rate=k / n, ci95=ci95, not_finite=left_out)


class PairedRates(TypedDict):
    """What :func:`paired_rates` returns."""

    only_a: int
    only_b: int
    n: int
    difference: float | None
    ci95: list[float] | None
    p: float | None
    not_finite: int


def paired_rates(
    a: Sequence[bool | None] | np.ndarray | Any, b: Sequence[bool | None] | np.ndarray | Any
) -> PairedRates:
    """Compares how often two methods succeed on the same seeds: McNemar's exact test.

    Args:
      a: ``(n,)``, whether each seed succeeded; None or NaN for one that has no say.
      b: ``(n,)``, the same seeds in the same order.

    Returns:
      Pairs in which only one succeeded, all ``n`` pairs, ``not_finite`` pairs left
      out, the ``difference`` of the two rates with its 95 % interval (Wald's, after
      half a pair was added to each of the four outcomes: Agresti & Min, 2005), and the
      two-sided p-value of the sign test on the pairs that differ (1 without any).
      ``None`` where there is no pair.

    Raises:
      ValueError: different lengths, no pair at all, or not one-dimensional.
    """
    from scipy.stats import binomtest

    left, right = _vector(a, "a"), _vector(b, "b")
    if left.size != right.size:
        raise ValueError(f"a and b must be pairs of equal length: {left.size} and {right.size}")
    both = np.isfinite(left) & np.isfinite(right)
    first, second = left[both] > 0, right[both] > 0
    n, left_out = int(both.sum()), int(both.size - both.sum())
    only_a, only_b = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    if not n:
        nothing = {"difference": None, "ci95": None, "p": None}
        return PairedRates(only_a=0, only_b=0, n=0, not_finite=left_out, **nothing)  # type: ignore[typeddict-item]
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    centre = (only_a - only_b) / (n + 2)
    half = 1.959963984540054 * math.sqrt((only_a + only_b + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    return PairedRates(
        only_a=only_a,
        only_b=only_b,
        n=n,
        difference=(only_a - only_b) / n,
        ci95=[max(-1.0, centre - half), min(1.0, centre + half)],
        p=p,
        not_finite=left_out,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of p-values for their number, in their order.

    Below a level, no test of the family is wrong with a probability above that level.

    >>> [round(q, 3) for q in holm([0.01, 0.04, 0.02])]
    [0.03, 0.04, 0.04]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found


def _vector(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be one number per seed, at least one: shape {array.shape}")
    return array


def _moments(x: np.ndarray) -> tuple[float | None, float | None, list[float] | None]:
    """Mean, unbiased standard deviation and 95 % t interval of finite ``x: (n,)``."""
    from scipy.special import stdtrit  # slow to import and only needed at the end of a run

    n = x.size
    if n == 0:
        return None, None, None
    # A scale keeps sums and squares of huge or tiny values inside float64. The exact sum, clipped,
    # gives equal values their own value as the mean and a spread of exactly zero.
    scale = float(np.abs(x).max()) or 1.0
    unit = x / scale
    centre = min(max(math.fsum(unit) / n, float(unit.min())), float(unit.max()))
    mean = min(max(centre * scale, float(x.min())), float(x.max()))
    if n == 1:
        return mean, None, None
    spread = math.sqrt(math.fsum((unit - centre) ** 2) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    low, high = min((centre - half) * scale, mean), max((centre + half) * scale, mean)
    interval = [low, high] if half else [mean, mean]
    return mean, _finite(spread * scale), interval if math.isfinite(low) and math.isfinite(high) else None


def _p_value(difference: np.ndarray) -> tuple[float | None, str | None]:
    n = difference.size
    if n < 2:
        return None, None
    if not difference.any():
        return 1.0, "sign-flip, exact" if n <= EXACT_PAIRS else "wilcoxon"
    if n <= EXACT_PAIRS:
        return sign_flip_p(difference), "sign-flip, exact"
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference, zero_method="pratt").pvalue), "wilcoxon"


def sign_flip_p(difference: np.ndarray) -> float:
    """Exact two-sided p-value of the sign-flip test on ``difference: (n,)``, ``n <= 20``."""
    unit = np.abs(difference) / np.abs(difference).max()
    # By symmetry the first sign can stay: 2**(n - 1) sums tell the share of all 2**n.
    sums = unit[:1]
    for step in unit[1:]:
        sums = np.concatenate([sums + step, sums - step])
    seen = abs(math.fsum(difference / np.abs(difference).max()))
    # Sums that are equal on paper may differ in the last bits; they count as at least as extreme.
    return float(np.mean(np.abs(sums) >= seen - 1e-12 * unit.size))


def _median(x: np.ndarray) -> float:
    """Median of finite ``x: (n,)``; the two in the middle are halved first, their sum may overflow."""
    ordered = np.sort(x)
    low, high = float(ordered[(x.size - 1) // 2]), float(ordered[x.size // 2])
    return low if low == high else low / 2 + high / 2


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
