"""Rewiring: which weights exist changes while a network trains, array shapes stay.

Every edit is a pure function of one network that lives inside jit and vmap.
"""

from jaxnet.rewire.edit import carry, follow, grow_random, positions, with_room
from jaxnet.rewire.exchange import (
    GROWTHS,
    ExchangeRules,
    RewireInfo,
    apply_edit,
    dense_gradients,
    exchange,
    rewire_network,
)

__all__ = [
    "GROWTHS",
    "ExchangeRules",
    "RewireInfo",
    "apply_edit",
    "carry",
    "dense_gradients",
    "exchange",
    "follow",
    "grow_random",
    "positions",
    "rewire_network",
    "with_room",
]
