"""Reach: what a structure can do, before anything is trained.

Which inputs, units, outputs and weights lie on a way from an input to an output
(:func:`live`), how many ways there are through a unit (:func:`path_shares`), how many that
have no unit in common (:func:`disjoint_paths`), which dimensions survive how many layers
(:func:`rank_bars`), and how many dimensions a spectrum has (:func:`effective_rank`). The one
home of these for sweeps, signals and studies.
"""

from __future__ import annotations

from jaxnet.reach.flow import disjoint_paths
from jaxnet.reach.live import Live, LiveCounts, live, path_shares, read_by_outputs
from jaxnet.reach.matrices import (
    Bottleneck,
    Change,
    Directions,
    bottleneck,
    change_between,
    directions,
    layer_matrices,
)
from jaxnet.reach.ranks import (
    EFFECTIVE,
    LEAST_GAP,
    Bars,
    Rank,
    bars_of,
    check_decided,
    check_tolerance,
    decide,
    effective_rank,
    rank_bars,
    rank_of,
)
from jaxnet.reach.wide import wide_rank
from jaxnet.reach.wires import Wires, wires

__all__ = [
    "EFFECTIVE",
    "LEAST_GAP",
    "Bars",
    "Bottleneck",
    "Change",
    "Directions",
    "Live",
    "LiveCounts",
    "Rank",
    "Wires",
    "bars_of",
    "bottleneck",
    "change_between",
    "check_decided",
    "check_tolerance",
    "decide",
    "directions",
    "disjoint_paths",
    "effective_rank",
    "layer_matrices",
    "live",
    "path_shares",
    "rank_bars",
    "rank_of",
    "read_by_outputs",
    "wide_rank",
    "wires",
]
