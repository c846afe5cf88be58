"""Pruning, random growth into free slots, and cloning of strong connections.

All at numbers given for each layer; a layer of 0 stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.extrema import Extrema
from jaxnet.network import Params, Structure
from jaxnet.rewire.apply import NEW_WEIGHT, RewireInfo, apply_edit, small_weights
from jaxnet.rewire.edit import edited, largest, random_score, smallest, topologies
from jaxnet.topology import Topology, topology_mask
from jaxnet.types import Array, Float, Int, Key, PyTree

Edited = tuple[Params, Structure, PyTree, RewireInfo]
"""Values, structure, optimiser state and what was done."""

_PREFERRED = 2**30  # above every random score: such a position goes first


def prune_smallest(
    params: Params, structure: Structure, opt_state: PyTree, counts: Sequence[int | Int[Array, ""]]
) -> Edited:
    """Drops the weights of the smallest magnitude, ``counts`` in each layer; their slots become free."""
    nowhere = jnp.zeros(0, jnp.int32)
    new = tuple(
        edited(t, t.exists & ~smallest(t, jnp.abs(layer.weight), count), nowhere, nowhere > 0)
        for t, layer, count in zip(topologies(structure), params.scaffold, counts, strict=True)
    )
    return apply_edit(params, structure, opt_state, structure.replace(connectivity=new))


def grow_random(
    params: Params,
    structure: Structure,
    opt_state: PyTree,
    counts: Sequence[int | Int[Array, ""]],
    at_most: Sequence[int],
    *,
    scale: float = NEW_WEIGHT,
    key_rewire: Key,
) -> Edited:
    """Adds weights at random free positions, as far as free slots go (see ``with_room``).

    Args:
      params: the values.
      structure: in the sparse representation.
      opt_state: its moments follow.
      counts: new weights of each layer; may be traced.
      at_most: largest ``counts`` (static); a layer of 0 is not touched.
      scale: standard deviation of the new weights.
      key_rewire: PRNG key.
    """
    key_place, key_value = jax.random.split(key_rewire)
    new = []
    for layer, (t, count, most) in enumerate(zip(topologies(structure), counts, at_most, strict=True)):
        if most:
            score = random_score(t.shape, key=jax.random.fold_in(key_place, layer))
            number = jnp.minimum(count, t.capacity - t.num_nonzeros)
            t = edited(t, t.exists, *largest(score, ~topology_mask(t), number, most))
        new.append(t)
    values = small_weights(key_value, scale)
    return apply_edit(params, structure, opt_state, structure.replace(connectivity=tuple(new)), values)


def clone_and_prune(
    params: Params,
    structure: Structure,
    opt_state: PyTree,
    extrema: Sequence[Extrema],
    counts: Sequence[int],
    *,
    scale: float = NEW_WEIGHT,
    key_rewire: Key,
) -> Edited:
    """Gives low extrema the strongest inputs of high ones, and prunes as many of the weakest weights.

    Which of the possible pairs of a layer get a connection is random. Where
    there are fewer than wanted (no extrema, or the connections exist) the rest is
    added at random, as the original does. New weights are small and random and
    never among the pruned. The number of weights of a layer stays.

    Args:
      params: the values.
      structure: in the sparse representation.
      opt_state: its moments follow.
      extrema: of each hidden layer.
      counts: connections of each layer to be replaced, the output layer
        included (which has no extrema: there all are random).
      scale: standard deviation of the new weights.
      key_rewire: PRNG key.
    """
    key_place, key_value = jax.random.split(key_rewire)
    new = []
    for layer, (t, count) in enumerate(zip(topologies(structure), counts, strict=True)):
        if count:
            weight = params.scaffold[layer].weight
            score = random_score(t.shape, key=jax.random.fold_in(key_place, layer))
            if layer < len(extrema):
                wanted = wanted_clones(t, weight, extrema[layer])
                score = jnp.where(wanted, score + _PREFERRED, score)
            free = ~topology_mask(t)
            number = jnp.minimum(jnp.minimum(count, t.num_nonzeros), jnp.sum(free))
            keep = t.exists & ~smallest(t, jnp.abs(weight), number)
            t = edited(t, keep, *largest(score, free, number, count))
        new.append(t)
    values = small_weights(key_value, scale)
    return apply_edit(params, structure, opt_state, structure.replace(connectivity=tuple(new)), values)


def wanted_clones(topology: Topology, weight: Float[Array, "nnz"], found: Extrema) -> Array:
    """``(out, in)`` bool: the strongest input of a high extremum, for every low extremum.

    The first slot wins ties; a high extremum without inputs has nothing to copy.
    """
    num_out, num_in = topology.shape
    size = jnp.where(topology.exists, jnp.abs(weight), -1.0)
    # per output unit the largest magnitude, and the first slot that has it
    top = jnp.full(num_out, -1.0).at[topology.rows].max(size, mode="drop")
    is_top = topology.exists & (size == top.at[topology.rows].get(mode="fill", fill_value=-2.0))
    slots = jnp.arange(topology.capacity, dtype=jnp.int32)
    first = (
        jnp.full(num_out, topology.capacity, jnp.int32)
        .at[topology.rows]
        .min(jnp.where(is_top, slots, topology.capacity), mode="drop")
    )
    column = topology.cols.at[first].get(mode="fill", fill_value=num_in)
    copied = jnp.zeros(num_in, bool).at[jnp.where(found.high, column, num_in)].set(True, mode="drop")
    return found.low[:, None] & copied[None, :]
