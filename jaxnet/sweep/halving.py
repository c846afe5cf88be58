"""Successive halving: networks are compared after few epochs already, and the best go on.

A rung is given by its accuracies, in groups of networks that may be compared: after few
epochs a large network is often behind a small one that it will overtake. NaN is of a network
that has diverged; none of these goes on, is ranked or correlated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jaxnet.sweep.table import grouped, values

Rung = Mapping[Any, tuple[np.ndarray, np.ndarray]]
"""By group: seeds ``(network,)``, and their accuracies."""


def rung_epochs(epochs: int, factor: int | None) -> list[int]:
    """Epochs after which networks are compared: ``epochs`` divided by the factor again and again.

    >>> rung_epochs(9, 3), rung_epochs(20, 4), rung_epochs(9, None)
    ([1, 3, 9], [1, 5, 20], [9])
    """
    ends = [epochs]
    while factor is not None and ends[0] >= factor:
        ends.insert(0, ends[0] // factor)
    return ends


def best_first(seeds: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Places of the networks that have not diverged, by accuracy, equal ones by seed.

    >>> best_first(np.array([4, 3, 2, 1]), np.array([0.5, 0.5, np.nan, 0.9])).tolist()
    [3, 1, 0]
    """
    finite = np.flatnonzero(np.isfinite(accuracy))
    return np.asarray(finite[np.lexsort((seeds[finite], -accuracy[finite]))])


def rung(table: pa.Table) -> Rung:
    """The rows of a table as a rung: networks of one architecture and density may be compared."""
    seeds, accuracy = values(table, "seed"), values(table, "accuracy")
    return {key: (seeds[at], accuracy[at]) for key, at in grouped(table, "architecture", "density").items()}


def surviving(table: pa.Table, factor: int, keep: int | None = None) -> np.ndarray:
    """Places of the rows that go on, the best of every group: one in ``factor``, rounded up, or ``keep``."""
    groups = zip(rung(table).values(), grouped(table, "architecture", "density").values(), strict=True)
    found = [at[best_first(*here)][: -(-len(at) // factor) if keep is None else keep] for here, at in groups]
    return np.concatenate([np.zeros(0, np.int64), *found])


def rank_correlation(early: Rung, late: Rung) -> float | None:
    """Spearman's, of the accuracies in two rungs, of the networks that went on.

    The mean over groups of three or more; None without any. It is measured on survivors, whose
    accuracies lie close together, so it is lower than among all.
    """
    from scipy.stats import rankdata  # slow to import, and only a hunt in rungs needs it

    found = []
    for group, (seeds, accuracy) in late.items():
        finite, (all_seeds, before) = np.isfinite(accuracy), early[group]
        order = np.argsort(all_seeds)
        same = order[np.searchsorted(all_seeds, seeds[finite], sorter=order)]
        ranks = [rankdata(values) for values in (before[same], accuracy[finite])]
        if finite.sum() > 2 and all(np.ptp(r) > 0 for r in ranks):
            found.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(found)) if found else None


def place_of_best(early: Rung, last: Rung) -> dict[str, float] | None:
    """Place of the finally best of each group in an earlier rung, from 1: median and worst; None without any.

    The closer to the last place that went on, the likelier a better one was stopped.
    """
    places = []
    for group, (seeds, accuracy) in last.items():
        for best in best_first(seeds, accuracy)[:1]:
            before = early[group][0][best_first(*early[group])]
            places.append(int(np.flatnonzero(before == seeds[best])[0]) + 1)
    return {"median_place": float(np.median(places)), "worst_place": max(places)} if places else None
