"""The networks that ``experiments.circuits`` looks into."""

from __future__ import annotations

ARMS = ("trained", "shuffled labels", "untrained")
"""Networks that circuits are found in; the last two are nonsense."""
