"""Rows of one network, trained twice: the same, or as close as sums in another order allow."""

from __future__ import annotations

from typing import Any

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
