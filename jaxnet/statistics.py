"""Summaries of many seeds: the whole distribution in few numbers, and paired comparisons.

Everything returned is JSON-safe, with ``None`` where a number does not exist. A value that
is not finite (a seed that diverged) is left out and counted in ``not_finite``, which a report
must show beside ``n``.
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
    """What :func:`paired_difference` and :func:`paired_rates` return."""

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
    """Summarises one number per seed, ``values: (n,)``.

    Returns:
      ``std`` (unbiased, ``n - 1``) and ``ci95`` (95 % Student-t interval of the mean,
      ``[low, high]``) are ``None`` for ``n = 1``, everything is for ``n = 0``; ``n``
      counts the finite values, ``not_finite`` those left out.

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
    left, right, left_out = _pairs(a, b)
    found = _compared(left, right, left_out)
    found["p"], found["test"] = _p_value(left - right)
    return found


def exact_fraction(value: float, count: int) -> float:
    """The fraction of ``count`` samples (below 2**23) that a rounded one in [0, 1] stands for.

    In float32, as accuracies are computed, 0.97 is 0.96999997: below a target of 0.97.

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

    ``success: (n,)`` says it of each seed; None or NaN for one that has no say.

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


def paired_rates(
    a: Sequence[bool | None] | np.ndarray | Any, b: Sequence[bool | None] | np.ndarray | Any
) -> PairedDifference:
    """Compares how often two methods succeed on the same seeds: McNemar's exact test.

    Args:
      a: ``(n,)``, whether each seed succeeded; None or NaN for one that has no say.
      b: ``(n,)``, the same seeds in the same order.

    Returns:
      As :func:`paired_difference`, with ``wins`` and ``losses`` the pairs in which only ``a``
      or only ``b`` succeeded and ``mean`` the difference of the two rates; ``ci95`` is Wald's
      after half a pair was added to each of the four outcomes (Agresti & Min, 2005), ``p`` that
      of the two-sided sign test on the pairs that differ (1 without any).

    Raises:
      ValueError: different lengths, no pair at all, or not one-dimensional.
    """
    from scipy.stats import binomtest

    left, right, left_out = _pairs(a, b)
    found = _compared((left > 0).astype(float), (right > 0).astype(float), left_out)
    found["test"] = "McNemar, exact"
    n, only_a, only_b = found["n"], found["wins"], found["losses"]
    if n:
        found["p"] = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
        centre = (only_a - only_b) / (n + 2)
        half = 1.959963984540054 * math.sqrt((only_a + only_b + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
        found["ci95"] = [max(-1.0, centre - half), min(1.0, centre + half)]
    return found


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


def _pairs(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Both sides ``(n,)`` of the pairs with a finite difference, and how many others there are."""
    left, right = _vector(a, "a"), _vector(b, "b")
    if left.size != right.size:
        raise ValueError(f"a and b must be pairs of equal length: {left.size} and {right.size}")
    with np.errstate(over="ignore", invalid="ignore"):  # not finite, and as such counted
        both = np.isfinite(left - right)
    return left[both], right[both], int(both.size - both.sum())


def _compared(left: np.ndarray, right: np.ndarray, left_out: int) -> PairedDifference:
    """What is known of pairs before a test."""
    mean, std, ci95 = _moments(left - right)
    wins, ties, losses = (int(np.sum(sign)) for sign in (left > right, left == right, left < right))
    return PairedDifference(
        mean=mean,
        std=std,
        ci95=ci95,
        n=left.size,
        wins=wins,
        ties=ties,
        losses=losses,
        p=None,
        test=None,
        not_finite=left_out,
    )


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
