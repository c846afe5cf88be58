"""The drifts of ``experiments.guarded_training``, known before JAX is loaded."""

from __future__ import annotations

import math

from jaxnet.errors import InputError

DRIFTS = ("rotate", "label-noise", "spike")


def drift_of(text: str) -> tuple[str, float]:
    """Kind and angle of a drift; InputError for another word."""
    kind, _, angle = text.partition(":")
    try:
        degrees = float(angle) if angle else 60.0
    except ValueError:
        degrees = math.nan
    if kind not in DRIFTS or not math.isfinite(degrees) or (angle and kind != "rotate"):
        raise InputError(f"--drift must be rotate:DEGREES, label-noise or spike: {text!r}")
    return kind, degrees
