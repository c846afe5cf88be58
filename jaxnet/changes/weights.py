"""One weight's structure edited: which entries stay, which are grown, and what goes where.

All functions serve both representations: a :class:`~jaxnet.topology.Topology`,
whose values are a vector of slots, and a :class:`~jaxnet.topology.Mask` over a
dense array of any rank. Positions are numbered as in the flattened dense array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.structure import exists, present
from jaxnet.topology import Entry, Mask, Topology, origin, positions, topology_from_flat
from jaxnet.types import Array, Bool, Int, Key

_SMALLEST_NORMAL = 2**23
"""The bits of the smallest float32 that is never flushed to zero."""


def edited(entry: Entry, keep: Array, grown: Int[Array, "k"], wanted: Bool[Array, "k"]) -> Entry:
    """The entry with the weights in ``keep`` and the positions ``grown`` where ``wanted``.

    Args:
      entry: of one weight.
      keep: bool of the parameter's shape, which weights stay; where none exists it has no meaning.
      grown: ``(k,)``, different positions that are not kept.
      wanted: ``(k,)``, which of them are really added; in a topology kept and wanted ones
        together must fit the capacity (what does not is cut off at the end).
    """
    if isinstance(entry, Mask):
        kept = (keep & entry.mask).ravel()
        place = jnp.where(wanted, grown, kept.size)
        return Mask(kept.at[place].set(True, mode="drop").reshape(entry.shape))
    size = entry.shape[0] * entry.shape[1]
    flat = jnp.concatenate(
        [
            jnp.where(keep & entry.exists, positions(entry), size),
            jnp.where(wanted, grown.astype(jnp.int32), size),
        ]
    )
    flat = jnp.sort(flat)[: entry.capacity]
    return topology_from_flat(flat, flat < size, entry.shape)


def after_keeping(entry: Entry, keep: Array) -> Bool[Array, "..."]:
    """Which positions of the dense array still hold a weight when only those in ``keep`` stay."""
    if isinstance(entry, Mask):
        return entry.mask & keep
    return present(entry).at[entry.rows, entry.cols].set(keep, mode="drop")  # padding lies outside


def carry(values: Array, old: Entry, new: Entry) -> Array:
    """Brings an array with an entry per weight to another structure; zero where ``old`` had no weight."""
    if isinstance(old, Topology) and isinstance(new, Topology):
        return values.at[origin(old, new)].get(mode="fill", fill_value=0)
    return jnp.where(present(old) & present(new), values, jnp.zeros((), values.dtype))


def is_new(old: Entry, new: Entry) -> Bool[Array, "..."]:
    """Which entries of the parameter hold a weight that ``old`` has not."""
    if isinstance(old, Topology) and isinstance(new, Topology):
        return new.exists & (origin(old, new) == old.capacity)
    return present(new) & ~present(old)


def smallest(entry: Entry, score: Array, number: Int[Array, ""] | int) -> Bool[Array, "..."]:
    """The ``number`` existing weights of the smallest score, of the parameter's shape; the earlier on ties.

    A score that is not a number counts as the largest: such a weight is not dropped.
    """
    there = exists(entry)
    keys = _ordered(jnp.where(jnp.isnan(score), jnp.inf, score) if _is_float(score) else score)
    last = jnp.inf if _is_float(keys) else jnp.iinfo(keys.dtype).max
    keys = jnp.where(there, keys, jnp.asarray(last, keys.dtype)).ravel()
    # of one array of integers, which XLA sorts seven times as fast on a CPU as floats, or keys with more
    bound = jnp.sort(keys)[jnp.clip(number - 1, 0, keys.shape[0] - 1)]
    below, tied = keys < bound, there.ravel() & (keys == bound)
    first = jnp.cumsum(tied, dtype=jnp.int32) <= number - jnp.sum(below, dtype=jnp.int32)
    return (below | (tied & first)).reshape(there.shape)


def _is_float(score: Array) -> bool:
    return bool(jnp.issubdtype(score.dtype, jnp.floating))


def _ordered(score: Array) -> Array:
    """Integers in the order of the scores; float32 by its bits, with one zero."""
    if score.dtype != jnp.float32:
        return score
    bits = jax.lax.bitcast_convert_type(score + 0.0, jnp.int32)  # -0.0 + 0.0 is 0.0
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def largest(
    score: Array, free: Bool[Array, "..."], number: Int[Array, ""] | int, at_most: int
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """The ``number`` free positions of the largest score, the earlier position on ties.

    Args:
      score: of the dense array's shape, 0 or more; integers at most ``2**30 + 2**29``.
      free: likewise, positions to choose from.
      number: how many; fewer where fewer are free.
      at_most: largest ``number`` (static).

    Returns:
      ``(k,)`` positions and whether they are chosen, ``k = min(at_most, size)``.
    """
    if _is_float(score):
        score = jnp.where(jnp.isnan(score), 0.0, score)  # no reason to choose it
    else:
        # floats in the same order, since XLA sorts all integers to find the largest (on a CPU 60 times
        # slower): their bits, beyond those of the numbers that a processor may take for zero
        score = jax.lax.bitcast_convert_type(score + _SMALLEST_NORMAL, jnp.float32)
    ranked = jnp.where(free, score, jnp.asarray(-1, score.dtype)).ravel()
    _, flat = jax.lax.top_k(ranked, min(at_most, ranked.shape[0]))
    return flat, (jnp.arange(flat.shape[0]) < number) & free.ravel()[flat]


def random_score(shape: tuple[int, ...], *, key: Key) -> Int[Array, "..."]:
    """Random int32 in [0, 2**30), to choose at random by :func:`largest`."""
    return (jax.random.bits(key, shape, jnp.uint32) >> 2).astype(jnp.int32)
