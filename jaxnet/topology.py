"""Topologies: which weights of a layer exist, as a pytree.

A **topology** lists the weights of one layer that exist, in compressed sparse
row order (rows are output units, columns input units). Everything that has one
entry per weight (values, gradients, optimiser moments) has the topology's
``capacity`` as its length, so a missing weight is nowhere stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.types import Array, Bool, Int, Values, Weight


class Topology(flax.struct.PyTreeNode):
    """Which weights of one layer exist.

    Attributes:
      rows: ``(capacity,)`` int32, output unit of each slot, ascending. A slot
        that holds no weight (padding) has ``rows >= out`` and stands at the end.
      cols: ``(capacity,)`` int32, input unit of each slot, ascending within a
        row. Zero in padding slots.
      row_ptr: ``(out + 1,)`` int32; the weights of output unit ``r`` are the
        slots ``row_ptr[r]:row_ptr[r + 1]``.
      shape: static, ``(out, in)``.
    """

    rows: Int[Array, "nnz"]
    cols: Int[Array, "nnz"]
    row_ptr: Int[Array, "out_plus_1"]
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)

    @property
    def capacity(self) -> int:
        """Number of slots, padding included (static)."""
        return self.rows.shape[-1]

    @property
    def num_nonzeros(self) -> Int[Array, ""]:
        """Number of weights that exist, padding not counted (traced)."""
        return self.row_ptr[..., -1]

    @property
    def exists(self) -> Bool[Array, "nnz"]:
        """``True`` for slots that hold a weight, ``False`` for padding."""
        return self.rows < self.shape[0]

    @property
    def fan_in(self) -> Int[Array, "out"]:
        """``(out,)``, number of weights into each output unit."""
        return jnp.diff(self.row_ptr, axis=-1)


class Probed(Topology):
    """A topology, and a dense matrix of zeros that products and :func:`densify` add to its weights.

    It costs nothing, and the gradient for it is that of a weight at every position, existing or not.

    Attributes:
      probe: ``(out, in)``, zeros.
    """

    probe: Weight

    @property
    def alone(self) -> Topology:
        """The topology without the matrix."""
        return Topology(self.rows, self.cols, self.row_ptr, self.shape)


class Mask(flax.struct.PyTreeNode):
    """Which entries of a dense array of weights exist, whatever its rank.

    Attributes:
      mask: bool, of the array's shape; ``True`` where the weight exists.
    """

    mask: Bool[Array, "..."]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.mask.shape

    @property
    def num_nonzeros(self) -> Int[Array, ""]:
        """Number of weights that exist (traced)."""
        return jnp.sum(self.mask, dtype=jnp.int32)


Entry = Topology | Mask
"""What a structure holds for a weight: which of its entries exist."""


def topology_from_flat(
    flat: Int[Array, "nnz"], exists: Bool[Array, "nnz"], shape: tuple[int, int]
) -> Topology:
    """Builds a topology from flat positions ``row * in + col``.

    Args:
      flat: ``(capacity,)``, distinct positions in any order.
      exists: ``(capacity,)``, ``False`` for slots that are padding.
      shape: ``(out, in)``.

    Returns:
      The topology with its slots in row order and the padding at the end.
    """
    return topology_from_sorted(
        jnp.sort(jnp.where(exists, flat.astype(jnp.int32), shape[0] * shape[1])), shape
    )


@functools.partial(jax.jit, static_argnames="shape")  # traced once for all weights of a size
def topology_from_sorted(flat: Int[Array, "nnz"], shape: tuple[int, int]) -> Topology:
    """Builds a topology from flat positions, ascending; those of ``out * in`` or more are padding."""
    num_out, num_in = shape
    present = flat < num_out * num_in
    # Padding rows are all different (out, out + 1, ...) so that indices stay unique and sorted.
    slots = jnp.arange(flat.shape[0], dtype=jnp.int32)
    rows = jnp.where(present, flat // num_in, num_out + slots - jnp.sum(present, dtype=jnp.int32))
    cols = jnp.where(present, flat % num_in, 0)
    # the first slot of a row or, where it has none, of the next that has; half of a search's compile time
    first = jnp.full(num_out + 1, flat.shape[0], jnp.int32).at[rows].min(slots, mode="drop")
    row_ptr = jax.lax.cummin(first, reverse=True)
    return Topology(rows.astype(jnp.int32), cols.astype(jnp.int32), row_ptr, shape)


def join_topologies(
    parts: Sequence[tuple[Topology, int, int]], shape: tuple[int, int]
) -> tuple[Topology, Int[Array, "nnz"]]:
    """Lays topologies into one of ``shape``, each moved down and to the right.

    Args:
      parts: ``(topology, rows down, columns right)`` each; no position may be taken twice.
      shape: ``(out, in)``.

    Returns:
      The topology, its capacity that of all parts together with the padding at
      the end, and for each of its slots its place among the slots of the parts
      laid end to end.
    """
    size = shape[0] * shape[1]
    flat = jnp.concatenate([(t.rows + down) * shape[1] + t.cols + right for t, down, right in parts])
    exists = jnp.concatenate([t.exists for t, _, _ in parts])
    order = jnp.argsort(jnp.where(exists, flat, size)).astype(jnp.int32)
    return topology_from_flat(flat, exists, shape), order


def topology_from_mask(mask: np.ndarray) -> Topology:
    """Builds the topology of a boolean ``(out, in)`` matrix, on the host."""
    mask = np.asarray(mask, bool)
    flat = np.flatnonzero(mask)
    return topology_from_flat(
        jnp.asarray(flat, jnp.int32), jnp.ones(flat.size, bool), (mask.shape[0], mask.shape[1])
    )


def topology_mask(topology: Topology) -> Bool[Array, "out in"]:
    """Returns the boolean ``(out, in)`` matrix of a topology."""
    mask = jnp.zeros(topology.shape, bool)
    return mask.at[topology.rows, topology.cols].set(
        True, mode="drop", indices_are_sorted=True, unique_indices=True
    )


def densify(values: Values, topology: Topology) -> Weight:
    """Writes ``values: (nnz,)`` into an ``(out, in)`` matrix of zeros.

    Padding slots (``rows >= out``) are dropped.
    """
    matrix = jnp.zeros(topology.shape, values.dtype)
    matrix = matrix.at[topology.rows, topology.cols].set(
        values, mode="drop", indices_are_sorted=True, unique_indices=True
    )
    return matrix + topology.probe.astype(values.dtype) if isinstance(topology, Probed) else matrix


def positions(topology: Topology) -> Int[Array, "nnz"]:
    """``(capacity,)``, position ``row * in + col`` of every weight, ascending; ``out * in`` in padding."""
    num_out, num_in = topology.shape
    return jnp.where(topology.exists, topology.rows * num_in + topology.cols, num_out * num_in)


def with_room(topology: Topology, room: int) -> Topology:
    """The same weights with ``room`` more free slots."""
    size = topology.shape[0] * topology.shape[1]
    flat = jnp.pad(positions(topology), (0, room), constant_values=size)
    return topology_from_flat(flat, flat < size, topology.shape)


def validate_topology(topology: Topology) -> None:
    """Checks once, on the host, that no slot points outside its matrix.

    Accepts a single topology or one with leading (seed) axes.

    Raises:
      ValueError: wrong shapes or types, rows not ascending, a column outside
        the matrix, a position named twice, or a ``row_ptr`` that does not fit.
    """
    num_out, num_in = topology.shape
    rows, cols, ptr = (np.asarray(a) for a in (topology.rows, topology.cols, topology.row_ptr))
    if rows.shape != cols.shape or ptr.shape != (*rows.shape[:-1], num_out + 1):
        raise ValueError(f"shapes do not fit: rows {rows.shape}, cols {cols.shape}, row_ptr {ptr.shape}")
    if not all(np.issubdtype(a.dtype, np.int32) for a in (rows, cols, ptr)):
        raise ValueError("rows, cols and row_ptr must be int32")
    # not -1: a topology without a slot has no size to infer the number from
    capacity, number = rows.shape[-1], math.prod(rows.shape[:-1])
    for r, c, p in zip(
        rows.reshape(number, capacity), cols.reshape(number, capacity), ptr.reshape(number, -1), strict=True
    ):
        if (r.size and r.min() < 0) or (c.size and (c.min() < 0 or c.max() >= num_in)):
            raise ValueError(f"a weight lies outside the {num_out}x{num_in} layer")
        flat = r.astype(np.int64) * num_in + c
        if np.any(np.diff(flat) <= 0):
            raise ValueError("weights must be in row order, each position at most once")
        if not np.array_equal(p, np.searchsorted(r, np.arange(num_out + 1))):
            raise ValueError("row_ptr does not fit the rows")
