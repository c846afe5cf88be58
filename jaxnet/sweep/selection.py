"""What a sweep found: how its networks are distributed, and what picking the best of them is worth.

Of tables as :mod:`jaxnet.sweep.table` has them, with the samples behind the accuracy named in
the column ``split``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jaxnet.statistics import aggregate
from jaxnet.sweep.table import grouped, sound, values

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MEASURED = (
    *("accuracy", "loss", "extrema_score", "patchability"),
    *("efficiency", "dead", "saturated", "nonzeros"),
)


def distribution(rows: pa.Table) -> dict[str, Any]:
    """Quantiles of the accuracy of all ``n`` networks that have not diverged, selected or not."""
    accuracy = values(sound(rows), "accuracy")
    found = np.quantile(accuracy, QUANTILES).tolist() if accuracy.size else [None] * len(QUANTILES)
    return {
        "n": accuracy.size,
        "diverged": len(rows) - accuracy.size,
        "split": rows["split"][0].as_py(),
        "mean": float(accuracy.mean()) if accuracy.size else None,
        "quantiles": {f"{q:g}": value for q, value in zip(QUANTILES, found, strict=True)},
    }


def selection(rows: pa.Table, best: Sequence[Mapping[str, Any]], judged: tuple[int, int]) -> dict[str, Any]:
    """What picking the best of many is worth, and how much of it is luck.

    Args:
      rows: all networks that were trained; candidates are those that have not diverged.
      best: the best by accuracy, with ``test_accuracy``.
      judged: samples behind a row's accuracy, and test samples.

    Returns:
      ``best_minus_mean``: how far the best lies above the average candidate on
      the samples it was selected on. ``selection_effect``: its accuracy there
      minus its test accuracy, with the standard error that the finite numbers
      of samples alone give it; part of it may be that one set is harder than
      the other. ``None`` where selection was on the test samples themselves:
      then no unbiased reading is left.
    """
    candidates, split = values(sound(rows), "accuracy"), rows["split"][0].as_py()
    names = ("best_accuracy", "mean_accuracy", "best_minus_mean", "best_test_accuracy")
    effect = ("selection_effect", "selection_effect_standard_error")
    found = {"candidates": len(candidates), "selected_on": split, **dict.fromkeys((*names, *effect))}
    if best:  # else no network has trained to the end yet, or every one diverged
        p, q, mean = best[0]["accuracy"], best[0]["test_accuracy"], float(candidates.mean())
        found |= zip(names, (p, mean, p - mean, q), strict=True)
        if split != "test" and math.isfinite(q):
            variance = p * (1 - p) / judged[0] + q * (1 - q) / judged[1]
            found |= zip(effect, (p - q, math.sqrt(variance)), strict=True)
    return found


def aggregates(rows: pa.Table, *names: str) -> list[dict[str, Any]]:
    """Mean, deviation, range and interval of every measure among the networks that agree in some columns.

    Of a diverged network no measure counts.
    """
    gone = values(rows, "diverged")
    measures = {name: np.where(gone, np.nan, values(rows, name)) for name in MEASURED}
    return [
        {
            **dict(zip(names, key, strict=True)),
            **{name: aggregate(column[places]) for name, column in measures.items()},
        }
        for key, places in grouped(rows, *names).items()
    ]


def pareto_front(weights: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Places of the networks that no other beats: fewer weights and at least the accuracy, or vice versa.

    Ordered by weights; of equal networks the first. None has an accuracy that is NaN.
    """
    judged = np.flatnonzero(np.isfinite(accuracy))
    order = judged[np.lexsort((judged, -accuracy[judged], weights[judged]))]
    before = np.maximum.accumulate(np.concatenate([[-1.0], accuracy[order]]))[:-1]
    return np.asarray(order[accuracy[order] > before])
