"""Keys: of networks and of data, and the purposes that they are folded with, once.

A network's key follows from its number alone and decides everything that is
drawn for it; the key of the data decides the order of the samples. What a key
is used for is said by folding it with a purpose, so that two uses never draw
the same numbers.

All keys are of one implementation, whatever ``JAX_DEFAULT_PRNG_IMPL`` says: a
seed gives the same network everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.types import Array, Int, Key

IMPLEMENTATION = "threefry2x32"
"""Of every key that jaxnet makes."""

MASK, INIT, PATCH, LOOK, CHANGE, METHOD, ORDER, DRAW = range(8)
"""Purposes of a network's key: which weights exist, their first values, its patches, what is
drawn while it is looked at, changes between epochs, what a method draws, an order of the
samples of its own, what is drawn of its own in every step (augmentation)."""

OTHER_MASK, OTHER_INIT, SHUFFLE = 2, 3, 4
"""Further purposes of the key of a network that is built from another: its controls."""

REGROW = 2
"""Changes of a network of fixed shape between epochs; such a network has no patches."""


def key_of(seed: int) -> Key:
    """The key of a number.

    >>> key_of(3) == jax.random.key(3, impl="threefry2x32")
    Array(True, dtype=bool)
    """
    return jax.random.key(np.uint32(seed), impl=IMPLEMENTATION)


def keys_of(seeds: Sequence[int]) -> Key:
    """``(seed,)`` keys of numbers: that of a number is the same whatever stands beside it."""
    return jax.vmap(lambda seed: jax.random.key(seed, impl=IMPLEMENTATION))(
        jnp.asarray(list(seeds), jnp.uint32)
    )


def purpose(key: Key, *what: int | Int[Array, ""]) -> Key:
    """``key`` for a purpose, then for a part of it (a layer, an epoch), and so on."""
    for number in what:
        key = jax.random.fold_in(key, number)
    return key


class NetworkKeys(TypedDict):
    """The keys that a network is drawn by."""

    key_mask: Key
    key_init: Key


def network_keys(key: Key) -> NetworkKeys:
    """``key_mask`` and ``key_init`` of a network that is drawn."""
    return {"key_mask": purpose(key, MASK), "key_init": purpose(key, INIT)}
