"""Integer keys, for edits of structures: the smallest of many, all in order, the place of each in a list.

Compiled functions on a CPU, where the library is there: a selection does not sort, and lists that ascend
are walked through once. XLA's own operations everywhere else; the results are the same.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.kernels import csr_library
from jaxnet.types import Array, Int

NEVER = np.iinfo(np.int32).max
"""A key that is never taken, and comes last."""


def _int32(length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((length,), jnp.int32)


def smallest_keys(keys: Int[Array, "n"], number: Int[Array, ""] | int, room: int) -> Int[Array, "k"]:
    """Where the ``number`` smallest keys stand, ascending; of equal keys the earlier ones.

    Args:
      keys: ``(n,)`` int32; those of :data:`NEVER` are not taken.
      number: how many, at most ``room``; fewer where fewer may be taken.
      room: length of the result (static).

    Returns:
      ``(k,)`` int32 with ``k = min(room, n)``, ``n`` behind the last one taken.
    """
    room, number = min(room, keys.shape[0]), jnp.asarray(number, jnp.int32)
    by_sorting = functools.partial(_by_sorting, room=room)
    return csr_library.on_cpu(csr_library.SELECT, _int32(room), by_sorting, keys, number)


@functools.partial(jax.jit, static_argnames="room")  # traced once, however often it is asked for
def _by_sorting(keys: Array, number: Array, room: int) -> Array:
    ordered, place = jax.lax.sort((keys, jnp.arange(keys.shape[0], dtype=jnp.int32)), num_keys=2)
    chosen = (jnp.arange(room) < number) & (ordered[:room] < NEVER)
    return jnp.sort(jnp.where(chosen, place[:room], keys.shape[0]))


def sorted_keys(keys: Int[Array, "n"]) -> Int[Array, "n"]:
    """``(n,)`` int32, ascending; cheap for two ascending lists with gaps of :data:`NEVER`."""
    return csr_library.on_cpu(csr_library.SORT, _int32(keys.shape[0]), jnp.sort, keys)


def places_of(wanted: Int[Array, "k"], keys: Int[Array, "n"]) -> Int[Array, "k"]:
    """``(k,)``: where each of the ``wanted`` stands in ``keys``, both ascending; n where it does not."""
    return csr_library.on_cpu(csr_library.FIND, _int32(wanted.shape[0]), _by_search, keys, wanted)


@jax.jit
def _by_search(keys: Array, wanted: Array) -> Array:
    slot = jnp.searchsorted(keys, wanted).astype(jnp.int32)
    return jnp.where(keys.at[slot].get(mode="fill", fill_value=-1) == wanted, slot, keys.shape[0])
