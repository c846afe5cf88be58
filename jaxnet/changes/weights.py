"""One weight's structure edited: which entries stay, which are grown, and what goes where.

All functions serve both representations: a :class:`~jaxnet.topology.Topology`,
whose values are a vector of slots, and a :class:`~jaxnet.topology.Mask` over a
dense array of any rank. Positions are numbered as in the flattened dense array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.kernels.keys import NEVER, places_of, smallest_keys, sorted_keys
from jaxnet.structure import exists, present
from jaxnet.topology import Entry, Mask, Topology, positions, topology_from_sorted
from jaxnet.types import Array, Bool, Int, Key


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
    kept = jnp.where(keep & entry.exists, positions(entry), NEVER)
    both = sorted_keys(jnp.concatenate([kept, jnp.where(wanted, grown.astype(jnp.int32), NEVER)]))
    return topology_from_sorted(both[: entry.capacity], entry.shape)


def after_keeping(entry: Entry, keep: Array) -> Bool[Array, "..."]:
    """Which positions of the dense array still hold a weight when only those in ``keep`` stay."""
    if isinstance(entry, Mask):
        return entry.mask & keep
    return present(entry).at[entry.rows, entry.cols].set(keep, mode="drop")  # padding lies outside


def origin(old: Topology, new: Topology) -> Int[Array, "nnz"]:
    """``(new capacity,)``: the old slot of every weight; ``old.capacity`` for new ones and padding."""
    return jnp.where(new.exists, places_of(positions(new), positions(old)), old.capacity)


class Move:
    """What goes where when one entry becomes another, found once for everything with an entry per weight.

    Attributes:
      is_new: of the parameter's new shape: which entries hold a weight that was not there.
      num_dropped: how many weights are gone.
    """

    def __init__(self, old: Entry, new: Entry) -> None:
        """From ``old`` to ``new``, two of a kind."""
        if isinstance(old, Topology) and isinstance(new, Topology):
            self._slots: Array | None = origin(old, new)
            self.is_new = new.exists & (self._slots == old.capacity)
        else:
            self._slots, self._stays = None, present(old) & present(new)
            self.is_new = present(new) & ~present(old)
        self.num_dropped = old.num_nonzeros - (new.num_nonzeros - jnp.sum(self.is_new, dtype=jnp.int32))

    def carry(self, values: Array) -> Array:
        """An array with an entry per weight in the new structure; zero where there was no weight."""
        if self._slots is None:
            return jnp.where(self._stays, values, jnp.zeros((), values.dtype))
        return values.at[self._slots].get(mode="fill", fill_value=0)


def smallest(entry: Entry, score: Array, number: Int[Array, ""] | int) -> Bool[Array, "..."]:
    """The ``number`` existing weights of the smallest score, of the parameter's shape; the earlier on ties.

    A score that is not a number counts as the largest: such a weight is not dropped.
    """
    there = exists(entry)
    keys = jnp.where(there, _ordered(score, nan=jnp.inf), NEVER).ravel()
    place = smallest_keys(keys, number, keys.size)
    return jnp.zeros(keys.size, bool).at[place].set(True, mode="drop").reshape(there.shape)


def _ordered(score: Array, nan: float) -> Int[Array, "..."]:
    """Integers in the order of the scores, below NEVER; floats by their bits, with one zero."""
    if not jnp.issubdtype(score.dtype, jnp.floating):
        return jnp.minimum(score, NEVER - 1)
    score = jnp.where(jnp.isnan(score), nan, score).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(score + 0.0, jnp.int32)  # -0.0 + 0.0 is 0.0
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def largest(
    score: Array, free: Bool[Array, "..."], number: Int[Array, ""] | int, at_most: int
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """The ``number`` free positions of the largest score, the earlier position on ties.

    Args:
      score: of the dense array's shape; not a number counts as 0, which is no reason to choose it.
      free: likewise, positions to choose from.
      number: how many; fewer where fewer are free.
      at_most: largest ``number`` (static).

    Returns:
      ``(k,)`` positions, ascending, and whether they are chosen, ``k = min(at_most, size)``.
    """
    keys = jnp.where(free, ~_ordered(score, nan=0.0), NEVER).ravel()
    place = smallest_keys(keys, jnp.minimum(number, at_most), at_most)
    return place, place < keys.size


def random_score(shape: tuple[int, ...], *, key: Key) -> Int[Array, "..."]:
    """Random int32 in [0, 2**30), to choose at random by :func:`largest`."""
    return (jax.random.bits(key, shape, jnp.uint32) >> 2).astype(jnp.int32)
