"""Mask edits: another set of weights in the same arrays, and what follows a weight to its new slot.

A rule decides which positions a layer has from now on; what it had before does
not matter for the result. Everything with one entry per weight (values, Adam's
moments) is then carried over by position: :func:`follow`. A position that is in
both topologies keeps what it had, a new one starts at zero, and so does padding.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxnet.network import Connectivity, Structure
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Bool, Int, Key

T = TypeVar("T")

# A leaf that has one entry per weight: in the parameters, in moments, in anything shaped like them.
_PER_WEIGHT = re.compile(r"\.(?:scaffold\[(\d+)\]\.weight|skips\[(\d+)\])$")


def positions(topology: Topology) -> Int[Array, "nnz"]:
    """``(capacity,)``, position ``row * in + col`` of every weight, ascending; ``out * in`` in padding."""
    num_out, num_in = topology.shape
    return jnp.where(topology.exists, topology.rows * num_in + topology.cols, num_out * num_in)


def edited(
    topology: Topology, keep: Bool[Array, "nnz"], grown: Int[Array, "k"], wanted: Bool[Array, "k"]
) -> Topology:
    """The topology with the slots in ``keep`` and the positions ``grown`` where ``wanted``.

    Args:
      topology: of one layer.
      keep: ``(capacity,)``, which weights stay; padding counts as not kept.
      grown: ``(k,)``, different positions that are not kept.
      wanted: ``(k,)``, which of them are really added; kept and wanted ones
        together must fit the capacity (what does not is cut off at the end).
    """
    size = topology.shape[0] * topology.shape[1]
    flat = jnp.concatenate(
        [jnp.where(keep, positions(topology), size), jnp.where(wanted, grown.astype(jnp.int32), size)]
    )
    flat = jnp.sort(flat)[: topology.capacity]
    return topology_from_flat(flat, flat < size, topology.shape)


def origin(old: Topology, new: Topology) -> Int[Array, "nnz"]:
    """``(new capacity,)``: the old slot of every weight; ``old.capacity`` for new ones and padding."""
    before, after = positions(old), positions(new)
    slot = jnp.searchsorted(before, after).astype(jnp.int32)
    same = before.at[slot].get(mode="fill", fill_value=-1) == after
    return jnp.where(same & new.exists, slot, old.capacity)


def carry(values: Array, old: Topology, new: Topology) -> Array:
    """Brings one array with an entry per weight to the slots of ``new``; zero for new weights and padding."""
    return values.at[origin(old, new)].get(mode="fill", fill_value=0)


def is_new(old: Topology, new: Topology) -> Bool[Array, "nnz"]:
    """``(new capacity,)``, which slots hold a weight that ``old`` has not."""
    return new.exists & (origin(old, new) == old.capacity)


def follow(tree: T, old: Structure, new: Structure) -> T:
    """Carries every leaf that has one entry per weight over from ``old`` to ``new``.

    Such leaves are found by their path (``.scaffold[l].weight``, ``.skips[l]``
    at its end), so that the parameters, a state of Adam for several rate groups
    and a whole ``TrainState`` are served alike. All other leaves stay.

    Args:
      tree: any tree with parameters in it.
      old: the structure it belongs to.
      new: the structure it shall belong to; a skip bank that ``old`` lacks starts empty.
    """
    slots: dict[str, tuple[Topology, Topology]] = {}
    for name, before, after in (
        ("scaffold", old.connectivity, new.connectivity),
        ("skips", old.skips, new.skips),
    ):
        for number, (a, b) in enumerate(zip(before, after, strict=True)):
            if isinstance(a, Topology) and isinstance(b, Topology) and a is not b:
                slots[f"{name}{number}"] = a, b

    def move(path: Any, leaf: Any) -> Any:
        found = _PER_WEIGHT.search(jax.tree_util.keystr(path))
        if found is None:
            return leaf
        pair = slots.get(f"scaffold{found[1]}" if found[1] else f"skips{found[2]}")
        return leaf if pair is None else carry(leaf, *pair)

    return jax.tree.map_with_path(move, tree)


def smallest(topology: Topology, score: Array, number: Int[Array, ""] | int) -> Bool[Array, "nnz"]:
    """``(capacity,)``, the ``number`` existing weights of the smallest score, the earlier slot on ties.

    A score that is not a number counts as the largest: such a weight is not dropped.
    """
    score = jnp.where(jnp.isnan(score), jnp.inf, score)
    slots = jnp.arange(topology.capacity, dtype=jnp.int32)
    missing = (~topology.exists).astype(jnp.int32)
    _, _, order = jax.lax.sort((missing, score, slots), num_keys=3)
    chosen = jnp.zeros(topology.capacity, bool).at[order].set(slots < number, unique_indices=True)
    return chosen & topology.exists


def largest(
    score: Array, free: Bool[Array, "out in"], number: Int[Array, ""] | int, at_most: int
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """The ``number`` free positions of the largest score, the earlier position on ties.

    Args:
      score: ``(out, in)``, 0 or more.
      free: ``(out, in)``, positions to choose from.
      number: how many; fewer where fewer are free.
      at_most: largest ``number`` (static).

    Returns:
      ``(k,)`` positions ``row * in + col`` and whether they are chosen, ``k = min(at_most, out * in)``.
    """
    if jnp.issubdtype(score.dtype, jnp.floating):
        score = jnp.where(jnp.isnan(score), 0.0, score)  # no reason to choose it
    ranked = jnp.where(free, score, jnp.asarray(-1, score.dtype)).ravel()
    _, flat = jax.lax.top_k(ranked, min(at_most, ranked.shape[0]))
    return flat, (jnp.arange(flat.shape[0]) < number) & free.ravel()[flat]


def random_score(shape: tuple[int, ...], *, key: Key) -> Int[Array, "..."]:
    """Random int32 in [0, 2**30), to choose at random by :func:`largest`."""
    return (jax.random.bits(key, shape, jnp.uint32) >> 2).astype(jnp.int32)


def topologies(structure: Structure) -> tuple[Topology, ...]:
    """The topologies of all layers.

    Raises:
      TypeError: a layer is in the masked-dense representation.
    """
    return tuple(_sparse(c) for c in structure.connectivity)


def with_room(params_and_more: T, structure: Structure, extra: tuple[int, ...]) -> tuple[T, Structure]:
    """Adds free slots to every layer, for weights to be grown later (a shape edit, on the host or under jit).

    Args:
      params_and_more: a tree of everything that goes with ``structure``: parameters, optimiser state.
      structure: in the sparse representation.
      extra: free slots for each layer.
    """
    padded = []
    for topology, room in zip(topologies(structure), extra, strict=True):
        flat = jnp.pad(positions(topology), (0, room), constant_values=topology.shape[0] * topology.shape[1])
        padded.append(topology_from_flat(flat, flat < topology.shape[0] * topology.shape[1], topology.shape))
    new = structure.replace(connectivity=tuple(padded))
    return follow(params_and_more, structure, new), new


def _sparse(connectivity: Connectivity) -> Topology:
    if not isinstance(connectivity, Topology):
        raise TypeError("rewiring needs a scaffold in the sparse representation")
    return connectivity


__all__ = [
    "carry",
    "edited",
    "follow",
    "is_new",
    "largest",
    "origin",
    "positions",
    "random_score",
    "smallest",
    "topologies",
    "with_room",
]
