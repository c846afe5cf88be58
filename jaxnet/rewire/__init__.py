"""Rewiring: which weights exist changes while a network trains, array shapes stay.

Every edit is a pure function of one network that lives inside jit and vmap.
"""

from jaxnet.rewire.apply import NEW_WEIGHT, RewireInfo, apply_edit, small_weights
from jaxnet.rewire.edit import carry, follow, positions, with_room
from jaxnet.rewire.exchange import GROWTHS, Exchange, ExchangeRules, dense_gradients, exchange, rewire_network
from jaxnet.rewire.growth import clone_and_prune, grow_random, prune_smallest
from jaxnet.rewire.skips import MAX_INCOMING, route_skips, with_skips

__all__ = [
    "GROWTHS",
    "MAX_INCOMING",
    "NEW_WEIGHT",
    "Exchange",
    "ExchangeRules",
    "RewireInfo",
    "apply_edit",
    "carry",
    "clone_and_prune",
    "dense_gradients",
    "exchange",
    "follow",
    "grow_random",
    "positions",
    "prune_smallest",
    "rewire_network",
    "route_skips",
    "small_weights",
    "with_room",
    "with_skips",
]
