"""What ``experiments.level_transformer`` asks besides its arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXTRAS = ()
"""Names, as ``--extras`` has them."""

MOST_LOOKS = 2.0
"""An arm of cheap steps is trained for at most so many times the steps of the plain one."""


def run_extras(config: Any, spec: Any, text: Any, arms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Groups of summaries beside that of the arms."""
    return {}
