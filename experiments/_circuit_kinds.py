"""The networks that ``experiments.circuits`` looks into."""

from __future__ import annotations

ARMS = ("trained", "shuffled labels", "untrained")
"""Networks that circuits are found in; the last two are nonsense."""

AGAIN = ("circuits retrained", "random retrained")
"""Networks of the weights of any circuit, or as many at random, trained from their first values."""
