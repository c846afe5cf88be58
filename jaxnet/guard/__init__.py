"""A guard for a run: notice damage at once, say which part of the change did it, take that part back.

Canaries are held samples of what is to be kept. Their margins are watched at checks while a network trains;
an alarm is a drop that the run's own noise does not explain and that does not heal.
"""

from __future__ import annotations

from jaxnet.guard.blame import (
    attribute_change,
    count_groups,
    ddmin,
    groups,
    leave_one_out,
    update_norms,
)
from jaxnet.guard.canaries import (
    Canaries,
    Warning,
    Watch,
    calibrate,
    check_canaries,
    early_warning,
    margins,
    observe,
    predicted_change,
    quantile,
    spread,
    watch,
)
from jaxnet.guard.loop import ACTIONS, Guarded, Rules, guard, held_loss, rarely, revert, train_guarded
from jaxnet.guard.revert import blend, fit_blend, fit_plain, revert_worst

__all__ = [
    "ACTIONS",
    "Canaries",
    "Guarded",
    "Rules",
    "Warning",
    "Watch",
    "attribute_change",
    "blend",
    "calibrate",
    "check_canaries",
    "count_groups",
    "ddmin",
    "early_warning",
    "fit_blend",
    "fit_plain",
    "groups",
    "guard",
    "held_loss",
    "leave_one_out",
    "margins",
    "observe",
    "predicted_change",
    "quantile",
    "rarely",
    "revert",
    "revert_worst",
    "spread",
    "train_guarded",
    "update_norms",
    "watch",
]
