"""Skip connections: sparse weights from a hidden layer to one that is not the next.

They lie in one bank per layer they lead to, of fixed capacity, and are added by
the same sparse product as the layer's own weights. A bank is created once, empty;
adding connections is then a mask edit.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.extrema import Extrema
from jaxnet.network import Params, Structure, skip_sources
from jaxnet.rewire.apply import NEW_WEIGHT
from jaxnet.rewire.edit import edited, follow, is_new, random_score, topologies
from jaxnet.topology import Topology, topology_from_flat, topology_mask
from jaxnet.types import Array, Int, Key, PyTree

MAX_INCOMING = 5
"""Skip connections into one unit at most (the original's)."""


def with_skips(params: Params, structure: Structure, capacity: int) -> tuple[Params, Structure]:
    """Adds empty banks of skip connections (a shape edit; the function is unchanged).

    An optimiser state is brought along by :func:`jaxnet.optim.carry_over`.

    Args:
      params: the values.
      structure: in the sparse representation, without banks.
      capacity: skip connections into each layer at most.

    Raises:
      ValueError: there are banks already, or the network is too shallow for a skip.
    """
    layers = topologies(structure)
    if structure.skips:
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
    values = tuple(None if bank is None else jnp.zeros(bank.capacity) for bank in banks)
    return params.replace(skips=values), structure.replace(skips=tuple(banks))


def route_skips(
    params: Params,
    structure: Structure,
    opt_state: PyTree,
    extrema: Sequence[Extrema],
    number: Int[Array, ""] | int,
    at_most: int,
    *,
    max_incoming: int = MAX_INCOMING,
    scale: float = NEW_WEIGHT,
    key_rewire: Key,
) -> tuple[Params, Structure, PyTree, Int[Array, ""]]:
    """Adds skip connections from high extrema to low ones two or three layers ahead.

    An output unit counts as low as long as fewer than ``max_incoming`` weights of
    any kind lead to it: it has no activation to be extreme. Among the possible
    connections the choice is random.

    Args:
      params: the values.
      structure: with banks (:func:`with_skips`).
      opt_state: its moments follow; those of new weights are zero.
      extrema: of each hidden layer.
      number: how many to add; fewer where fewer are possible.
      at_most: largest ``number`` (static).
      max_incoming: skip connections into one unit at most, those there are included.
      scale: standard deviation of the new weights.
      key_rewire: PRNG key.

    Returns:
      Values, structure, optimiser state, and how many connections were added.

    Raises:
      ValueError: the structure has no banks.
    """
    if not structure.skips:
        raise ValueError("the network has no banks of skip connections: create them by with_skips")
    key_place, key_value = jax.random.split(key_rewire)
    banks = {t: bank for t, bank in enumerate(structure.skips) if bank is not None}
    scores = []
    for t, bank in banks.items():
        high = jnp.concatenate([extrema[s].high for s in skip_sources(t)])
        own = structure.connectivity[t]
        assert isinstance(own, Topology)
        low = extrema[t].low if t < len(extrema) else own.fan_in + bank.fan_in < max_incoming
        possible = low[:, None] & high[None, :] & ~topology_mask(bank)
        score = random_score(bank.shape, key=jax.random.fold_in(key_place, t))
        scores.append(_limited(jnp.where(possible, score, -1), max_incoming - bank.fan_in).ravel())
    top, flat = jax.lax.top_k(jnp.concatenate(scores), min(at_most, sum(s.shape[0] for s in scores)))
    chosen = (top >= 0) & (jnp.arange(top.shape[0]) < number)
    start, new, added = 0, list(structure.skips), jnp.zeros((), jnp.int32)
    for t, bank in banks.items():
        size = bank.shape[0] * bank.shape[1]
        here = chosen & (flat >= start) & (flat < start + size)
        here &= jnp.cumsum(here) <= bank.capacity - bank.num_nonzeros
        new[t] = edited(bank, bank.exists, flat - start, here)
        added += jnp.sum(here, dtype=jnp.int32)
        start += size
    after = structure.replace(skips=tuple(new))
    params, opt_state = follow((params, opt_state), structure, after)
    values = list(params.skips)
    for t, bank in banks.items():
        drawn = scale * jax.random.normal(jax.random.fold_in(key_value, t), (bank.capacity,))
        moved, edited_bank = values[t], new[t]
        assert moved is not None and edited_bank is not None
        values[t] = jnp.where(is_new(bank, edited_bank), drawn, moved)
    return params.replace(skips=tuple(values)), after, opt_state, added


def _limited(score: Int[Array, "out in"], room: Int[Array, "out"]) -> Int[Array, "out in"]:
    """Keeps the ``room`` largest scores of every row; the others become -1."""
    rank = jnp.argsort(jnp.argsort(-score, axis=1), axis=1)
    return jnp.where(rank < room[:, None], score, -1)
