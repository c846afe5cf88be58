"""Edits at given numbers of weights: exchange, pruning, random growth, cloning of strong connections.

Under fixed shapes, for one network inside jit and vmap. A weight that is not
named stays as it is; positions that something else holds
(:func:`jaxnet.structure.reserved`) are never grown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxnet.changes.moving import EditInfo, edit
from jaxnet.changes.weights import after_keeping, edited, largest, random_score, smallest
from jaxnet.nn.params import sparse
from jaxnet.structure import entries, exists, present, reserved, weights, with_entries
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Float, Int, Key, Scalar
from jaxnet.units import Extrema

NEW_WEIGHT = 0.1
"""Standard deviation of a new weight where it is not zero (the original's)."""

Counts = Mapping[str, int | Int[Array, ""]]
"""Numbers of weights by path."""

_PREFERRED = 2**30  # above every random score: such a position goes first


def scaffold_path(layer: int) -> str:
    """The path of a layer's weights in a multi-layer perceptron."""
    return f".scaffold[{layer}].weight"


def exchange(
    entry: Entry,
    values: Array,
    score: Array,
    fraction: Scalar | float,
    at_most: float = 1.0,
    *,
    taken: Array | None = None,
) -> Entry:
    """Drops the weights of the smallest magnitude and grows as many where ``score`` is largest.

    ``floor(fraction * weights)`` are exchanged, fewer where fewer positions are
    free. Every position that is not kept can be grown, those just dropped
    included (as RigL's authors do it): such a weight stays as it was.

    Args:
      entry: of one weight.
      values: of the parameter's shape.
      score: of the dense array's shape, 0 or more.
      fraction: of the weights, in [0, 1].
      at_most: largest fraction to be expected (static).
      taken: positions that cannot be grown, or None.
    """
    count = entry.num_nonzeros
    # 1e-4: a product such as 0.3 * 10 may come out a rounding error below the whole number
    number = jnp.floor(fraction * count.astype(jnp.float32) + 1e-4).astype(jnp.int32)
    number = jnp.minimum(number, count)
    keep = ~smallest(entry, jnp.abs(values), number)
    free = ~after_keeping(entry, keep)
    free = free if taken is None else free & ~taken
    most = max(1, math.floor(at_most * values.size + 1e-4))
    return edited(entry, keep, *largest(score, free, number, most))


def prune_smallest(net: Net, counts: Counts) -> tuple[Net, EditInfo]:
    """Drops the weights of the smallest magnitude, ``counts`` at each path; their slots become free."""
    nowhere = jnp.zeros(0, jnp.int32)
    there = weights(net.params, net.structure)
    new = {
        path: edited(entry, ~smallest(entry, jnp.abs(values), counts[path]), nowhere, nowhere > 0)
        for path, (values, entry) in there.items()
        if path in counts
    }
    return edit(net, with_entries(net.structure, new))


def grow_random(
    net: Net, counts: Counts, at_most: Mapping[str, int], *, scale: float = NEW_WEIGHT, key: Key
) -> tuple[Net, EditInfo]:
    """Adds weights at random free positions; in a topology as far as free slots go.

    Args:
      net: the network.
      counts: new weights at each path; may be traced.
      at_most: largest ``counts`` (static); a path of 0 is not touched.
      scale: standard deviation of the new weights.
      key: PRNG key.
    """
    key_place, key_value = jax.random.split(key)
    taken, new = reserved(net.structure), dict[str, Entry]()
    for number, (path, entry) in enumerate(entries(net.structure).items()):
        if at_most.get(path, 0):
            score = random_score(entry.shape, key=jax.random.fold_in(key_place, number))
            wanted = counts[path]
            if isinstance(entry, Topology):
                wanted = jnp.minimum(wanted, entry.capacity - entry.num_nonzeros)
            free = _free(entry, taken.get(path))
            new[path] = edited(entry, exists(entry), *largest(score, free, wanted, at_most[path]))
    return edit(net, with_entries(net.structure, new), small_weights(net, scale, key=key_value))


def clone_and_prune(
    net: Net,
    extrema: Sequence[Extrema],
    counts: Sequence[int],
    *,
    scale: float = NEW_WEIGHT,
    key: Key,
) -> tuple[Net, EditInfo]:
    """Gives low extrema the strongest inputs of high ones, and prunes as many of the weakest weights.

    Which of the possible pairs of a layer get a connection is random. Where
    there are fewer than wanted (no extrema, or the connections exist) the rest is
    added at random, as the original does. New weights are small and random and
    never among the pruned. The number of weights of a layer stays.

    Args:
      net: a multi-layer perceptron in the sparse representation.
      extrema: of each hidden layer.
      counts: connections of each layer to be replaced, the output layer
        included (which has no extrema: there all are random).
      scale: standard deviation of the new weights.
      key: PRNG key.

    Raises:
      TypeError: the network is in the masked-dense representation.
    """
    key_place, key_value = jax.random.split(key)
    taken, new = reserved(net.structure), dict[str, Entry]()
    for layer, (count, entry) in enumerate(zip(counts, sparse(net.structure), strict=True)):
        path = scaffold_path(layer)
        values, _ = weights(net.params, net.structure)[path]
        if count:
            score = random_score(entry.shape, key=jax.random.fold_in(key_place, layer))
            if layer < len(extrema):
                wanted = wanted_clones(entry, values, extrema[layer])
                score = jnp.where(wanted, score // 2 + _PREFERRED, score)
            free = _free(entry, taken.get(path))
            number = jnp.minimum(jnp.minimum(count, entry.num_nonzeros), jnp.sum(free))
            keep = ~smallest(entry, jnp.abs(values), number)
            new[path] = edited(entry, keep, *largest(score, free, number, count))
    return edit(net, with_entries(net.structure, new), small_weights(net, scale, key=key_value))


def _free(entry: Entry, taken: Array | None) -> Array:
    """Positions at which a weight can be grown."""
    return ~present(entry) if taken is None else ~present(entry) & ~taken


def small_weights(net: Net, scale: float = NEW_WEIGHT, *, key: Key) -> Callable[[str, Entry], Array]:
    """Values for :func:`jaxnet.changes.edit`: normal with deviation ``scale``, drawn for each weight."""
    place = {path: number for number, path in enumerate(entries(net.structure))}

    def value(path: str, entry: Entry) -> Array:
        return scale * jax.random.normal(jax.random.fold_in(key, place[path]), exists(entry).shape)

    return value


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
