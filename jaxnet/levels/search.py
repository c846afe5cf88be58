"""Search over architectures: successive halving, random search for as much, predictors before training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.levels.cost import matched
from jaxnet.levels.defect import maps, normed
from jaxnet.linalg import singular_values, times
from jaxnet.reach import effective_rank
from jaxnet.sweep.halving import best_first, rung_epochs
from jaxnet.transformer import Decoder, Spec, Window
from jaxnet.types import Scalar

RESAMPLED = 2000
"""Draws of the bootstrap."""


def candidates(spec: Spec, target: int) -> dict[str, Spec]:
    """Decoders of ``target`` parameters: depths, heads and windows around those of the spec, by name.

    Depths for which no width has as many parameters are left out.
    """
    depths = sorted({max(1, spec.layers // 2), spec.layers, spec.layers + (spec.layers + 1) // 2})
    heads = sorted({max(1, spec.heads // 2), spec.heads})
    near = max(2, spec.length // 4)
    found = {}
    for layers, number, window in itertools.product(depths, heads, (None, near)):
        windows: tuple[Window, ...] = (window,) * layers
        asked = _rounded(spec, layers, number, windows)
        try:
            one = matched(Decoder, asked, target)
        except ValueError:
            continue
        found[f"{layers} blocks, {number} heads, {'full' if window is None else f'window {window}'}"] = one
    return found


def _rounded(spec: Spec, layers: int, heads: int, windows: tuple[Window, ...]) -> Spec:
    step = 2 * heads
    width = max(step, round(spec.width * math.sqrt(spec.layers / layers) / step) * step)
    return dataclasses.replace(spec, layers=layers, heads=heads, windows=windows, width=width, hidden=None)


def structure_score(params: Any) -> Scalar:
    """The structural score of a decoder before training: more is supposed to be better.

    The mean effective rank of what the blocks' attention writes for what it reads, as a share of the width,
    less the mean relative defect of neighbouring blocks (:mod:`jaxnet.levels.defect`).
    """
    d = maps(params)
    ranks = jnp.stack([effective_rank(singular_values(m)) / m.shape[1] for m in d])
    pairs = list(itertools.pairwise(normed(d)))
    defects = [jnp.linalg.norm(times(b, a)) for a, b in pairs]
    return jnp.mean(ranks) - (jnp.mean(jnp.stack(defects)) if defects else 0.0)


class Halved(NamedTuple):
    """The candidate that is left, and how many looks all of them were trained for together."""

    chosen: int
    looks: int


def halving(curves: np.ndarray, factor: int = 2) -> Halved:
    """Successive halving on curves that are known: ``(candidate, look)`` losses, less is better.

    Candidates are compared after the looks of :func:`jaxnet.sweep.halving.rung_epochs`; one in ``factor``,
    rounded up, goes on. Rungs with one candidate left are not trained.

    Source: Jamieson and Talwalkar 2016.

    >>> halving(np.array([[3.0, 1.0], [2.0, 2.0]]))
    Halved(chosen=1, looks=2)
    """
    left, before, spent = np.arange(len(curves)), 0, 0
    for end in rung_epochs(curves.shape[1], factor):
        if len(left) == 1:
            break
        spent += len(left) * (end - before)
        order = best_first(left, -curves[left, end - 1])
        left = left[order[: max(1, -(-len(left) // factor))]] if len(order) else left[:1]
        before = end
    return Halved(int(left[0]), spent)  # those that are left are in order


def expected_best(losses: np.ndarray, number: int) -> float:
    """The mean, over all draws of ``number`` candidates without replacement, of the least loss.

    >>> expected_best(np.array([1.0, 2.0, 3.0]), 2)
    1.3333333333333333
    """
    ordered, count = np.sort(losses), len(losses)
    number = min(max(1, number), count)
    ways = [math.comb(count - 1 - k, number - 1) for k in range(count)]
    return float(np.dot(ordered, ways) / math.comb(count, number))


def kendall(
    score: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray, seed: int = 0
) -> Mapping[str, Any]:
    """Kendall's tau-b of a score with the negative loss, and its 95 % interval over the candidates.

    The interval is that of percentiles of a bootstrap: candidates are drawn with replacement.

    Returns:
      ``tau`` and ``ci95``; None where all scores, or all losses, are equal.
    """
    from scipy.stats import kendalltau  # slow to import

    a, b = np.asarray(score, float), -np.asarray(losses, float)

    def tau(at: np.ndarray) -> float:
        if np.ptp(a[at]) == 0 or np.ptp(b[at]) == 0:
            return math.nan
        return float(kendalltau(a[at], b[at]).statistic)

    whole, rng = tau(np.arange(len(a))), np.random.default_rng(seed)
    if not math.isfinite(whole):
        return {"tau": None, "ci95": None}
    drawn = np.array([tau(rng.integers(len(a), size=len(a))) for _ in range(RESAMPLED)])
    ends = np.quantile(drawn[np.isfinite(drawn)], (0.025, 0.975))
    return {"tau": whole, "ci95": [float(end) for end in ends]}
