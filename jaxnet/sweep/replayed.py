"""Rows of one network, trained twice: the same, or as close as sums in another order allow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxnet.errors import InputError
from jaxnet.sweep.table import network_id, values, where

TOLERANCE = {"accuracy": 0.02, "loss": 0.05, "extrema_score": 0.05, "dead": 0.05, "saturated": 0.05}
"""How far a network trained alone may differ from its row (the loss relatively, where it is above 1).

XLA may take sums in another order in a program for one network than in one for many, and training
makes more of the last bit. In the hunt's own program the bits are the same. What exists is equal always."""

_DERIVED = ("high", "low", "high_by_layer", "low_by_layer", "patchability", "efficiency")


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, NaN and NaN too."""
    return bool(a == b or (a != a and b != b))  # NaN twice


def close(name: str, a: Any, b: Any, diverged: bool) -> bool:
    """Whether two values of a column are within :data:`TOLERANCE`; ``diverged``: both networks have."""
    if name in _DERIVED or same(a, b):
        return True
    if name not in TOLERANCE or diverged:  # of what is not finite nothing is alike but that
        return name in TOLERANCE
    return bool(abs(a - b) <= TOLERANCE[name] * (max(1.0, abs(a)) if name == "loss" else 1.0))


def find_row(rows: pa.Table, asked_for: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The one row that is meant; of a network that went through several rungs of --halving the last."""
    names = ("seed", "architecture", "density", "stage")
    wanted = {name: asked_for[name] for name in names}
    asked = ", ".join(f"{k} {v}" for k, v in wanted.items() if v is not None)
    every = where(rows, **wanted).sort_by("epochs").to_pylist()
    found = list({network_id(row): row for row in every}.values())
    if not found:
        seeds = values(rows, "seed")
        there = f"seeds {seeds.min()} to {seeds.max()}" if len(seeds) else "no row at all"
        some = [f"{k} {_some(rows[k].unique().to_pylist())}" for k in names[1:] if len(rows)]
        raise InputError(f"{out}: no row of {asked}: the table holds {'; '.join([there, *some])}")
    if len(found) > 1:
        kinds = {k: {row[k] for row in found} for k in names[1:]}
        choices = "; ".join(f"--{k} {_some(kind)}" for k, kind in kinds.items() if len(kind) > 1)
        raise InputError(f"{out}: {len(found)} rows of {asked}: say which by {choices}")
    return found[0]


def _some(values: Any) -> str:
    """``a|b|c|...``"""
    shown = sorted(map(str, values))
    return "|".join(shown[:5]) + ("|..." if len(shown) > 5 else "")
