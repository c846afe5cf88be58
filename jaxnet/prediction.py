"""What predicts what, over networks: correlation with an interval, cross-validated fits, permuted baselines.

Everything is about one row per network; rows with a value that is not finite are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np


class Correlation(TypedDict):
    """What :func:`spearman` returns."""

    rho: float | None
    ci95: list[float] | None
    p: float | None
    n: int


class Prediction(TypedDict):
    """What :func:`predict` returns of one set of predictors."""

    r2: float | None
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
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or len(x) != len(y) or len(y) < 4:
        raise ValueError(f"x must be (network, predictor), y (network,), of 4 or more: {x.shape}, {y.shape}")
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    x = np.column_stack([np.ones(len(y)), x])
    draw, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        part = draw.permutation(np.arange(len(y)) % min(folds, len(y)))
        wrong = total = 0.0
        for fold in range(part.max() + 1):
            seen, new = part != fold, part == fold
            fit = np.linalg.lstsq(x[seen], y[seen], rcond=None)[0]
            wrong += float(np.sum(np.square(y[new] - x[new] @ fit)))
            total += float(np.sum(np.square(y[new] - y[seen].mean())))
        found.append(1 - wrong / total if total > 0 else 0.0)
    return float(np.mean(found))


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
      ``r2`` of all predictors together, ``increment`` over that of ``base`` (of a constant: 0),
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
        return Prediction(r2=None, increment=None, baseline95=None, p=None, n=len(y), not_finite=out)
    without = cross_validated_r2(known, y, seed=seed, **how)
    r2 = cross_validated_r2(np.column_stack([known, x]), y, seed=seed, **how)
    draw = np.random.default_rng([seed, 1])
    permuted = np.array(
        [
            cross_validated_r2(np.column_stack([known, draw.permutation(x)]), y, seed=seed, **how) - without
            for _ in range(permutations)
        ]
    )
    increment = r2 - without
    p = (1 + int(np.sum(permuted >= increment))) / (1 + permutations)
    limit = float(np.quantile(permuted, 0.95)) if permutations else None
    return Prediction(r2=r2, increment=increment, baseline95=limit, p=p, n=len(y), not_finite=out)


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
