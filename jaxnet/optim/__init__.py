"""Optimisers with a rate per group or a factor per weight, and their state beside parameters that change."""

from __future__ import annotations

from jaxnet.optim.averages import AverageState, average_of, averaged
from jaxnet.optim.following import (
    assemble,
    check_follows,
    cleared_state,
    followed,
    is_part,
    parts,
)
from jaxnet.optim.groups import GROUPS, dual_rate_adam, frozen_adam, grouped, label_params, while_present
from jaxnet.optim.scales import ScaleState, replaced, scale_updates, with_scales

__all__ = [
    "GROUPS",
    "AverageState",
    "ScaleState",
    "assemble",
    "average_of",
    "averaged",
    "check_follows",
    "cleared_state",
    "dual_rate_adam",
    "followed",
    "frozen_adam",
    "grouped",
    "is_part",
    "label_params",
    "parts",
    "replaced",
    "scale_updates",
    "while_present",
    "with_scales",
]
