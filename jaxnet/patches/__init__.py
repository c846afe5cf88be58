"""Patches: small modules around the extrema of a scaffold, in a bank of fixed capacity."""

from __future__ import annotations

from jaxnet.patches.bank import (
    active_slots,
    add_patches,
    apply_patches,
    check_same_use,
    keep_patches,
    merge_patches,
    placed,
    remove_patches,
    slot_sizes,
    taken,
)
from jaxnet.patches.dense import Dense, DensePatches, DensePatchParams
from jaxnet.patches.kinds import KINDS, Kind, LayerPatches, PatchBank, PatchParams, PatchRules, SlotParams
from jaxnet.patches.measures import contributions, gain_per_weight, needed, redundancy
from jaxnet.patches.mlp import Mlp, MlpParams, MlpPatches
from jaxnet.patches.places import PLACEMENTS, slot_counts

KINDS["mlp"] = Mlp()
KINDS["dense"] = Dense()

__all__ = [
    "KINDS",
    "PLACEMENTS",
    "DensePatchParams",
    "DensePatches",
    "Kind",
    "LayerPatches",
    "MlpParams",
    "MlpPatches",
    "PatchBank",
    "PatchParams",
    "PatchRules",
    "SlotParams",
    "active_slots",
    "add_patches",
    "apply_patches",
    "check_same_use",
    "contributions",
    "gain_per_weight",
    "keep_patches",
    "merge_patches",
    "needed",
    "placed",
    "redundancy",
    "remove_patches",
    "slot_counts",
    "slot_sizes",
    "taken",
]
