"""Protection: keep what a network can do while it learns something else.

Factors per weight (:func:`jaxnet.optim.scale_updates`) and zones of them, updates that act as zero on old
inputs, importance and penalties (EWC, SI), updates of low rank, batches that are skipped. All of it works on
the parameters of any model, around any optimiser.
"""

from __future__ import annotations

from jaxnet.protect.importance import (
    LABELS,
    Memory,
    fisher,
    no_memory,
    path_importance,
    path_of,
    penalty,
    remember,
    track_path,
)
from jaxnet.protect.projection import RowsState, check_bases, layer_inputs, project_rows, with_bases
from jaxnet.protect.rows import RowBasis, merge, no_rows, row_basis, supports
from jaxnet.protect.skipping import SkipState, skip_outlying
from jaxnet.protect.zones import NAMES, ZONES, Keep, Refresh, by_importance, scales_of, zone_scales, zoned

__all__ = [
    "LABELS",
    "NAMES",
    "ZONES",
    "Keep",
    "Memory",
    "Refresh",
    "RowBasis",
    "RowsState",
    "SkipState",
    "by_importance",
    "check_bases",
    "fisher",
    "layer_inputs",
    "merge",
    "no_memory",
    "no_rows",
    "path_importance",
    "path_of",
    "penalty",
    "project_rows",
    "remember",
    "row_basis",
    "scales_of",
    "skip_outlying",
    "supports",
    "track_path",
    "with_bases",
    "zone_scales",
    "zoned",
]
