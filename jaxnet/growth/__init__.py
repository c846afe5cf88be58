"""Growth: changes of a network's shape, on the host between compiled programs."""

from __future__ import annotations

from jaxnet.growth.operators import RULES, add_patches, insert_layer, widen
from jaxnet.growth.state import carry_over

__all__ = ["RULES", "add_patches", "carry_over", "insert_layer", "widen"]
