"""Masks: which weights exist, drawn inside jit and vmap as a :class:`~jaxnet.topology.Topology`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.allocation import allocate, check_count, check_positions
from jaxnet.correlated import correlated_topology, local_topologies
from jaxnet.errors import check_choice
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Bool, Float, Int, Key


def uniform_topology(num_out: int, num_in: int, nnz: int, *, key_mask: Key) -> Topology:
    """Draws exactly ``nnz`` of the ``out * in`` positions, all equally likely.

    The first ``nnz`` different ones of a row of random positions are taken,
    which costs as much as the weights that exist, not as the whole matrix. Small
    or dense matrices are shuffled by 32 random bits per position instead; of two
    positions with equal bits the one with the lower index comes first (a bias
    below 1e-4 of a position for matrices up to a million weights).

    Raises:
      ValueError: ``nnz`` is not within 1 and ``out * in``, or the matrix has
        2**31 positions or more.
    """
    size = num_out * num_in
    check_count(num_out, num_in, nnz)
    exists = jnp.ones(nnz, bool)
    if nnz == size:
        flat = jnp.arange(size, dtype=jnp.int32)
    elif size <= 4096 or 4 * nnz > size:
        bits = jax.random.bits(key_mask, (size,), jnp.uint32)
        flat = jax.lax.sort((bits, jnp.arange(size, dtype=jnp.int32)), num_keys=2)[1][:nnz]
    else:
        flat, exists = _first_distinct(size, nnz, key_mask)
    return topology_from_flat(flat, exists, (num_out, num_in))


def free_topology(taken: Bool[Array, "out in"], nnz: int, *, key_mask: Key) -> Topology:
    """Draws ``nnz`` of the positions that are not taken, all equally likely.

    Costs a sort of the whole matrix. Where fewer positions are free, all of them
    are drawn and the slots left over are padding.
    """
    num_out, num_in = taken.shape
    check_positions(num_out, num_in)
    bits = jax.random.bits(key_mask, (taken.size,), jnp.uint32)
    every = jnp.arange(taken.size, dtype=jnp.int32)
    late, _, flat = jax.lax.sort((taken.ravel().astype(jnp.int32), bits, every), num_keys=3)
    return topology_from_flat(flat[:nnz], late[:nnz] == 0, (num_out, num_in))


def draw_padded_topology(
    shape: tuple[int, int],
    num_out: Int[Array, ""],
    num_in: Int[Array, ""],
    nnz: Int[Array, ""],
    capacity: int,
    max_density: float,
    *,
    key_mask: Key,
) -> Topology:
    """As :func:`uniform_topology` for a layer whose size is data: units beyond it have no weights.

    Args:
      shape: ``(out, in)``, the largest size (static).
      num_out: output units that exist, at most ``out``.
      num_in: input units that exist, at most ``in``.
      nnz: weights, at most ``capacity`` and at most ``num_out * num_in``.
      capacity: slots (static).
      max_density: largest ``nnz / (num_out * num_in)`` to be expected (static).
      key_mask: one PRNG key.

    Returns:
      A topology of ``capacity`` slots, those beyond ``nnz`` padding.
    """
    check_positions(*shape)
    size = num_out * num_in
    wanted = jnp.arange(capacity) < nnz
    if max_density > 0.2:
        every = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
        bits = jax.random.bits(key_mask, every.shape, jnp.uint32)
        _, _, flat = jax.lax.sort(((every >= size).astype(jnp.int32), bits, every), num_keys=3)
        flat = flat[:capacity]
    else:
        flat, found = _first_distinct(size, capacity, key_mask)
        wanted &= found
    position = flat // num_in * shape[1] + flat % num_in
    return topology_from_flat(position, wanted, shape)


def constant_fan_in_topology(num_out: int, num_in: int, fan_in: int, *, key_mask: Key) -> Topology:
    """Draws ``fan_in`` different inputs for every output unit.

    Raises:
      ValueError: ``fan_in`` is not within 1 and ``in``.
    """
    check_positions(num_out, num_in)
    if not 1 <= fan_in <= num_in:
        raise ValueError(f"fan_in must be between 1 and {num_in}: {fan_in}")
    bits = jax.random.bits(key_mask, (num_out, num_in), jnp.uint32)
    index = jnp.broadcast_to(jnp.arange(num_in, dtype=jnp.int32), (num_out, num_in))
    cols = jax.lax.sort((bits, index), num_keys=2)[1][:, :fan_in]
    flat = jnp.arange(num_out, dtype=jnp.int32)[:, None] * num_in + cols
    return topology_from_flat(flat.ravel(), jnp.ones(flat.size, bool), (num_out, num_in))


WIRINGS = ("correlated", "local")
"""How :func:`draw_topologies` wires layers by training samples."""


def draw_topologies(
    sizes: Sequence[int],
    density: float,
    allocation: str = "uniform",
    *,
    key_mask: Key,
    inputs: Float[Array, "sample in"] | None = None,
    wiring: str = "correlated",
) -> tuple[Topology, ...]:
    """Draws the topology of every layer of a network.

    Args:
      sizes: units per layer, input and output included.
      density: fraction of weights that exist, in (0, 1].
      allocation: one of :data:`ALLOCATIONS`.
      key_mask: one PRNG key; layer ``l`` uses ``fold_in(key_mask, l)``.
      inputs: training samples; where given, layers are wired by the correlation of their
        features, not at random.
      wiring: which: the first layer for ``correlated``
        (:func:`jaxnet.correlated.correlated_topology`), all but the last for ``local``
        (:func:`jaxnet.correlated.local_topologies`).

    Returns:
      One topology per layer, with the counts of :func:`allocate`.

    Raises:
      ValueError: as :func:`allocate`, or there is no such wiring.
    """
    check_choice("wiring", wiring, WIRINGS)
    counts, topologies = allocate(sizes, density, allocation), list[Topology]()
    if inputs is not None and wiring == "local":
        topologies += local_topologies(inputs, sizes[1:-1], counts[:-1], key_mask=key_mask)
    for layer, nnz in list(enumerate(counts))[len(topologies) :]:
        num_in, num_out = sizes[layer], sizes[layer + 1]
        key = jax.random.fold_in(key_mask, layer)
        if layer == 0 and inputs is not None:
            topology = correlated_topology(inputs, num_out, nnz, key_mask=key)
        elif allocation == "constant-fan-in":
            topology = constant_fan_in_topology(num_out, num_in, nnz // num_out, key_mask=key)
        else:
            topology = uniform_topology(num_out, num_in, nnz, key_mask=key)
        topologies.append(topology)
    return tuple(topologies)


def _first_distinct(size: int | Array, number: int, key: Key) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """The first ``number`` different values of a row of random integers below ``size``.

    The row is long enough that fewer different ones are in it with a probability
    far below 1e-12: about ``number**2 / (2 * size)`` repeats are expected, twice
    as many and 8 standard deviations are allowed for. If it happened all the
    same, the second result would mark the missing ones.
    """
    # At most a quarter of the positions is wanted: number**2 / size is at most number / 4.
    repeats = number * number // size if isinstance(size, int) else number // 4
    length = number + repeats + 8 * math.isqrt(number) + 64
    drawn = jax.random.randint(key, (length,), 0, size, jnp.int32)
    value, turn = jax.lax.sort((drawn, jnp.arange(length, dtype=jnp.int32)), num_keys=2)
    is_new = jnp.concatenate([jnp.ones(1, bool), value[1:] != value[:-1]])
    turn, value = jax.lax.sort((jnp.where(is_new, turn, length), value), num_keys=1)
    return value[:number], turn[:number] < length
