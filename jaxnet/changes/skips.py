"""Skip connections: sparse weights from a hidden layer to one that is not the next.

They lie in one bank per layer they lead to, of fixed capacity, and are added by
the same sparse product as the layer's own weights. A bank is created once, empty;
adding connections is then an edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.changes.moving import edit, reshape
from jaxnet.changes.rewire import NEW_WEIGHT
from jaxnet.changes.weights import edited, random_score
from jaxnet.nn.mlp import skip_sources
from jaxnet.nn.params import sparse
from jaxnet.structure import entries, with_entries
from jaxnet.topology import Entry, Topology, topology_from_flat, topology_mask
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key
from jaxnet.units import Extrema

MAX_INCOMING = 5
"""Skip connections into one unit at most (the original's)."""


def with_skips(net: Net, capacity: int) -> tuple[Net, None]:
    """Adds empty banks of skip connections; the function is unchanged.

    Args:
      net: a multi-layer perceptron in the sparse representation, without banks.
      capacity: skip connections into each layer at most.

    Raises:
      ValueError: there are banks already, or the network is too shallow for a skip.
    """
    layers = sparse(net.structure)
    if net.structure.skips:
        raise ValueError("the network has banks of skip connections already")
    if len(layers) < 3:
        raise ValueError("a skip connection needs two hidden layers or more")
    banks: list[Topology | None] = []
    for number, layer in enumerate(layers):
        width = sum(layers[s].shape[0] for s in skip_sources(number))
        if not width:
            banks.append(None)
            continue
        nowhere = jnp.full(min(capacity, layer.shape[0] * width), layer.shape[0] * width, jnp.int32)
        banks.append(topology_from_flat(nowhere, jnp.zeros(nowhere.shape, bool), (layer.shape[0], width)))
    structure = net.structure.replace(skips=tuple(banks))

    def change(params: Any) -> tuple[Any, Any]:
        empty = tuple(None if bank is None else jnp.zeros(bank.capacity) for bank in banks)
        return params.replace(skips=empty), structure

    return reshape(net, change), None


def route_skips(
    net: Net,
    extrema: Sequence[Extrema],
    number: Int[Array, ""] | int,
    at_most: int,
    *,
    max_incoming: int = MAX_INCOMING,
    scale: float = NEW_WEIGHT,
    key: Key,
) -> tuple[Net, Int[Array, ""]]:
    """Adds skip connections from high extrema to low ones two or three layers ahead.

    An output unit counts as low as long as fewer than ``max_incoming`` weights of
    any kind lead to it: it has no activation to be extreme. Among the possible
    connections the choice is random.

    Args:
      net: with banks (:func:`with_skips`).
      extrema: of each hidden layer.
      number: how many to add; fewer where fewer are possible.
      at_most: largest ``number`` (static).
      max_incoming: skip connections into one unit at most, those there are included.
      scale: standard deviation of the new weights.
      key: PRNG key.

    Returns:
      The network, and how many connections were added.

    Raises:
      ValueError: the structure has no banks.
    """
    structure = net.structure
    if not structure.skips:
        raise ValueError("the network has no banks of skip connections: create them by with_skips")
    key_place, key_value = jax.random.split(key)
    banks = {t: bank for t, bank in enumerate(structure.skips) if bank is not None}
    layers = sparse(structure)
    scores = []
    for t, bank in banks.items():
        high = jnp.concatenate([extrema[s].high for s in skip_sources(t)])
        low = extrema[t].low if t < len(extrema) else layers[t].fan_in + bank.fan_in < max_incoming
        possible = low[:, None] & high[None, :] & ~topology_mask(bank)
        score = random_score(bank.shape, key=jax.random.fold_in(key_place, t))
        scores.append(_limited(jnp.where(possible, score, -1), max_incoming - bank.fan_in).ravel())
    top, flat = jax.lax.top_k(jnp.concatenate(scores), min(at_most, sum(s.shape[0] for s in scores)))
    chosen = (top >= 0) & (jnp.arange(top.shape[0]) < number)
    start, new, added = 0, dict[str, Entry](), jnp.zeros((), jnp.int32)
    for t, bank in banks.items():
        size = bank.shape[0] * bank.shape[1]
        here = chosen & (flat >= start) & (flat < start + size)
        here &= jnp.cumsum(here) <= bank.capacity - bank.num_nonzeros
        new[f".skips[{t}]"] = edited(bank, bank.exists, flat - start, here)
        added += jnp.sum(here, dtype=jnp.int32)
        start += size

    def value(path: str, entry: Entry) -> Array:
        t = next(t for t in banks if path == f".skips[{t}]")
        return scale * jax.random.normal(jax.random.fold_in(key_value, t), (banks[t].capacity,))

    assert new.keys() <= entries(structure).keys()
    return edit(net, with_entries(structure, new), value)[0], added


def _limited(score: Int[Array, "out in"], room: Int[Array, "out"]) -> Int[Array, "out in"]:
    """Keeps the ``room`` largest scores of every row; the others become -1."""
    rank = jnp.argsort(jnp.argsort(-score, axis=1), axis=1)
    return jnp.where(rank < room[:, None], score, -1)
