"""What predicts what, over networks: correlation with an interval, cross-validated fits, permuted baselines.

Everything is about one row per network; rows with a value that is not finite are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxnet.statistics import Aggregate, aggregate

_Division = tuple[int, np.ndarray, np.ndarray, np.ndarray]


class Correlation(TypedDict):
    """What :func:`spearman` returns."""

    rho: float | None
    ci95: list[float] | None
    p: float | None
    n: int


class Prediction(TypedDict):
    """What :func:`predict` returns of one set of predictors."""

    r2: float | None
    ci95: list[float] | None
    increment: float | None
    baseline95: float | None
    p: float | None
    n: int
    not_finite: int


def spearman(x: np.ndarray | Sequence[float], y: np.ndarray | Sequence[float]) -> Correlation:
    """Spearman's rank correlation with its 95 % interval.

    The interval is that of Bonett and Wright (2000): Fisher's transform with the variance
    ``(1 + rho^2 / 2) / (n - 3)``. Nothing is known of fewer than 4 pairs, or where one side does not vary.
    """
    from scipy.stats import spearmanr

    a, b = np.asarray(x, float), np.asarray(y, float)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if a.size < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(rho=None, ci95=None, p=None, n=int(a.size))
    found = spearmanr(a, b)
    rho = float(found.statistic)
    inside = min(max(rho, -1 + 1e-12), 1 - 1e-12)
    half = 1.959963984540054 * math.sqrt((1 + inside**2 / 2) / (a.size - 3))
    ends = [math.tanh(math.atanh(inside) + sign * half) for sign in (-1, 1)]
    return Correlation(rho=rho, ci95=ends, p=float(found.pvalue), n=int(a.size))


def cross_validated_r2(
    x: np.ndarray, y: np.ndarray, *, folds: int = 10, repeats: int = 5, seed: int = 0
) -> float:
    """How much of the variance of ``y`` a linear fit explains in networks that it has not seen.

    ``1 - sum (y - prediction)^2 / sum (y - mean of the fitted)^2`` over all folds, the mean over repeats;
    below 0 where the fit is worse than a constant.

    Args:
      x: ``(network, predictor)``; without predictors a constant is fitted.
      y: ``(network,)``.
      folds: parts, each of which is predicted from the others; at most as many as networks.
      repeats: divisions into folds.
      seed: decides these.

    Raises:
      ValueError: fewer than 4 networks, or lengths that differ.
    """
    if np.ndim(x) != 2:
        raise ValueError(f"x must be (network, predictor): {np.shape(x)}")
    return float(_explained(*_errors(x, y, folds, repeats, seed)))


def _explained(wrong: np.ndarray, total: np.ndarray) -> np.ndarray:
    """R2 ``(...)`` from the errors ``(..., repeat, network)``; 0 where nothing varies."""
    wrong, total = wrong.sum(axis=-1), total.sum(axis=-1)
    found: np.ndarray = np.mean(np.where(total > 0, 1 - wrong / np.where(total > 0, total, 1), 0.0), axis=-1)
    return found


def _divisions(x: np.ndarray, y: np.ndarray, folds: int, repeats: int, seed: int) -> Iterator[_Division]:
    """Linear fits of one ``x`` or of many at once, ``(..., network, predictor)``.

    Number of the repeat, networks left out, their rows of ``x``, the coefficients ``(..., predictor)``. The
    fit without a fold has the sums over all networks less those over the fold. Columns that say the same to
    seven digits count as one.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[-2] != len(y) or len(y) < 4:
        raise ValueError(f"x must be (network, predictor), y (network,), of 4 or more: {x.shape}, {y.shape}")
    spread = x.std(axis=-2, keepdims=True)
    x = (x - x.mean(axis=-2, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    x = np.concatenate([np.ones((*x.shape[:-1], 1)), x], axis=-1)
    turned = np.swapaxes(x, -1, -2)
    squares, products = turned @ x, turned @ y
    draw = np.random.default_rng(seed)
    for repeat in range(repeats):
        part = draw.permutation(np.arange(len(y)) % min(folds, len(y)))
        for fold in range(part.max() + 1):
            new = part == fold
            rows, there = x[..., new, :], turned[..., new]
            inverse = np.linalg.pinv(squares - there @ rows, rcond=1e-13, hermitian=True)
            yield repeat, new, rows, (inverse @ (products - there @ y[new])[..., None])[..., 0]


def _errors(
    x: np.ndarray, y: np.ndarray, folds: int = 10, repeats: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors ``(..., repeat, network)`` of what was predicted, and of the mean of those fitted."""
    y = np.asarray(y, float)
    wrong, total = np.zeros((2, *np.shape(x)[:-2], repeats, len(y)))
    for repeat, new, rows, fit in _divisions(x, y, folds, repeats, seed):
        wrong[..., repeat, new] = np.square(y[new] - (rows @ fit[..., None])[..., 0])
        total[..., repeat, new] = np.square(y[new] - y[~new].mean())
    return wrong, total


def _r2_interval(wrong: np.ndarray, total: np.ndarray, seed: int, draws: int = 2000) -> list[float] | None:
    """Of the networks' mean errors, drawn again and again with replacement: the middle 95 % of R2."""
    wrong, total = wrong.mean(axis=0), total.mean(axis=0)
    times = np.random.default_rng([seed, 2]).multinomial(
        len(wrong), np.full(len(wrong), 1 / len(wrong)), draws
    )
    whole = times @ total
    if not np.all(whole > 0):
        return None
    ends: list[float] = np.quantile(1 - times @ wrong / whole, (0.025, 0.975)).tolist()
    return ends


def importance(
    columns: Mapping[str, np.ndarray | Sequence[float]],
    y: np.ndarray | Sequence[float],
    *,
    folds: int = 10,
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """What R2 of the fit by all columns loses where one is shuffled among the networks left out of a fit.

    Permutation importance (Breiman 2001), cross-validated as :func:`cross_validated_r2`. Columns that say
    the same share what they are worth. Rows with a value that is not finite are left out.

    Raises:
      ValueError: fewer than 4 networks.
    """
    x, target = np.column_stack([np.asarray(c, float) for c in columns.values()]), np.asarray(y, float)
    whole = np.isfinite(np.column_stack([x, target])).all(axis=1)
    x, target = x[whole], target[whole]
    draw, lost, total = np.random.default_rng([seed, 3]), np.zeros(len(columns)), 0.0
    for _, new, rows, fit in _divisions(x, target, folds, repeats, seed):
        right = np.sum(np.square(target[new] - rows @ fit))
        total += float(np.sum(np.square(target[new] - target[~new].mean())))
        for k in range(len(columns)):
            other = rows.copy()
            other[:, k + 1] = draw.permutation(rows[:, k + 1])
            lost[k] += np.sum(np.square(target[new] - other @ fit)) - right
    return dict(zip(columns, (lost / total if total > 0 else lost).tolist(), strict=True))


class Thirds(TypedDict):
    """What :func:`thirds` returns."""

    least: Aggregate
    most: Aggregate
    difference: float | None
    ci95: list[float] | None
    p: float | None


def thirds(column: np.ndarray | Sequence[float], y: np.ndarray | Sequence[float]) -> Thirds:
    """``y`` of the third of the networks where a column is least, and where it is most; their difference.

    ``difference`` is most minus least, with the interval and the p of Welch's t-test; None where the
    column does not vary. Equal values are divided by the order of the networks.
    """
    from scipy.stats import ttest_ind

    a, b = np.asarray(column, float), np.asarray(y, float)
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    order, third = np.argsort(a, kind="stable"), len(a) // 3
    least, most = b[order[:third]], b[order[len(a) - third :]]
    found = Thirds(least=aggregate(least), most=aggregate(most), difference=None, ci95=None, p=None)
    if third > 1 and np.ptp(a) > 0 and max(np.ptp(least), np.ptp(most)) > 0:
        test = ttest_ind(most, least, equal_var=False)
        found["difference"] = float(most.mean() - least.mean())
        found["ci95"], found["p"] = list(map(float, test.confidence_interval())), float(test.pvalue)
    return found


def predict(
    x: np.ndarray,
    y: np.ndarray,
    base: np.ndarray | None = None,
    *,
    permutations: int = 200,
    seed: int = 0,
    **how: int,
) -> Prediction:
    """What predictors explain beyond those that are known already, against permuted ones.

    Args:
      x: ``(network, predictor)``.
      y: ``(network,)``.
      base: ``(network, known)``, predictors that are in every fit; None for a constant.
      permutations: of the rows of ``x``, which break its tie to ``y`` and ``base`` and nothing else.
      seed: decides folds and permutations.
      how: for :func:`cross_validated_r2`.

    Returns:
      ``r2`` of all predictors together with ``ci95`` (networks drawn with replacement from those there
      are, their predictions as they are), ``increment`` over that of ``base`` (of a constant: 0),
      ``baseline95``, the increment that 95 % of the permutations stay below, and ``p``, the share of
      permutations, the real order among them, that reach the increment. None without 4 networks.
    """
    x = np.asarray(x, float).reshape(len(y), -1)
    known = np.zeros((len(y), 0)) if base is None else np.asarray(base, float).reshape(len(y), -1)
    y = np.asarray(y, float)
    whole = np.isfinite(np.column_stack([x, known, y])).all(axis=1)
    x, known, y = x[whole], known[whole], y[whole]
    out = int((~whole).sum())
    if len(y) < 4:
        return Prediction(
            r2=None, ci95=None, increment=None, baseline95=None, p=None, n=len(y), not_finite=out
        )
    without = cross_validated_r2(known, y, seed=seed, **how)
    both = np.column_stack([known, x])
    r2 = cross_validated_r2(both, y, seed=seed, **how)
    draw = np.random.default_rng([seed, 1])
    permuted = np.zeros(0)
    if permutations:
        many = np.stack([np.column_stack([known, draw.permutation(x)]) for _ in range(permutations)])
        permuted = _explained(*_errors(many, y, seed=seed, **how)) - without
    increment = r2 - without
    p = (1 + int(np.sum(permuted >= increment))) / (1 + permutations)
    limit = float(np.quantile(permuted, 0.95)) if permutations else None
    found = Prediction(r2=r2, ci95=None, increment=increment, baseline95=limit, p=p, n=len(y), not_finite=out)
    found["ci95"] = _r2_interval(*_errors(both, y, seed=seed, **how), seed)
    return found


def predictors(
    columns: Mapping[str, np.ndarray | Sequence[float]],
    y: np.ndarray | Sequence[float],
    base: str | None = None,
    **how: Any,
) -> dict[str, dict[str, Any]]:
    """For every column ``spearman``, ``alone`` and, over the column ``base``, ``beyond``; then all at once.

    Raises:
      ValueError: a base that is no column.
    """
    if base is not None and base not in columns:
        raise ValueError(f"unknown base {base!r}: choose one of {', '.join(columns)}")
    target = np.asarray(y, float)
    values = {name: np.asarray(column, float) for name, column in columns.items()}
    known = None if base is None else values[base]
    found: dict[str, dict[str, Any]] = {}
    for name, column in values.items():
        found[name] = {"spearman": spearman(column, target), "alone": predict(column, target, **how)}
        if known is not None:
            found[name]["beyond"] = None if name == base else predict(column, target, known, **how)
    every = np.column_stack(list(values.values()))
    rest = [column for name, column in values.items() if name != base]
    found["all at once"] = {"spearman": None, "alone": predict(every, target, **how)}
    if known is not None:
        beyond = predict(np.column_stack(rest), target, known, **how) if rest else None
        found["all at once"]["beyond"] = beyond
    return found
