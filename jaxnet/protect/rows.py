"""Row projection: updates that act as zero on old inputs, row by row within the support of each row.

An output unit computes ``w . x_S + b`` from the inputs ``S`` that it has weights from. An update of
``(w, b)`` that is orthogonal to all old ``(x_S, 1)`` changes nothing that the unit has computed on them.
For a sparse layer this has to be asked of every row by itself, within its support: projecting the dense
matrix and masking it afterwards leaves no zero. Dense layers share one basis.

Source: Saha, Garg and Roy 2021 (GPM), who have dense layers without biases.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import linalg
from jaxnet.errors import InputError
from jaxnet.topology import Entry, Topology
from jaxnet.types import Array, Float, Int

_CUT = 1e-6
"""Directions below this share of the largest singular value are rounding errors of float32."""


class RowBasis(flax.struct.PyTreeNode):
    """Orthonormal directions that the inputs of a layer span, for every row within its support.

    Attributes:
      vectors: ``(row, place, direction)``; columns beyond the rank are zero. The last place is the bias, a
        constant input. One row stands for all where the layer is dense.
      rank: ``(row,)``, directions that count.
      cols: ``(row, place)``, the input of every place; ``in`` for the bias, above for none.
      shape: static, ``(out, in)``.
    """

    vectors: Float[Array, "row place direction"]
    rank: Int[Array, "row"]
    cols: Int[Array, "row place"]
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)

    @property
    def free(self) -> Int[Array, "row"]:
        """``(row,)``, directions that an update may still take."""
        return jnp.sum(self.cols <= self.shape[1], 1) - self.rank


def supports(
    entry: Entry | None, shape: tuple[int, int], *, fan_in: int | None = None, bias: bool = True
) -> Int[Array, "row place"]:
    """``(row, place)``: the inputs of every row, ascending, then none, then the bias: see :class:`RowBasis`.

    Args:
      entry: of the weights; None for a dense layer, whose rows have one support.
      shape: ``(out, in)``.
      fan_in: places for weights (static), at least the most inputs of a row; None finds them on the host.
      bias: whether the layer has one.
    """
    num_in = shape[1]
    constant = num_in if bias else num_in + 1
    if entry is None:
        return jnp.append(jnp.arange(num_in), constant)[None].astype(jnp.int32)
    if isinstance(entry, Topology):
        number = entry.fan_in
        width = int(np.max(np.asarray(number), initial=0)) if fan_in is None else fan_in
        place = jnp.arange(width)
        slot = jnp.where(place < number[:, None], entry.row_ptr[:-1, None] + place, entry.capacity)
        cols = entry.cols.at[slot].get(mode="fill", fill_value=num_in + 1)
    else:
        width = int(np.max(np.sum(np.asarray(entry.mask), 1), initial=0)) if fan_in is None else fan_in
        cols = jnp.sort(jnp.where(entry.mask, jnp.arange(num_in), num_in + 1), axis=1)[:, :width]
    return jnp.pad(cols, ((0, 0), (0, 1)), constant_values=constant).astype(jnp.int32)


def row_basis(
    entry: Entry | None,
    x: Float[Array, "in sample"],
    energy: float | Array = 1.0,
    *,
    out: int | None = None,
    fan_in: int | None = None,
    bias: bool = True,
    known: RowBasis | None = None,
    at_most: int | None = None,
) -> RowBasis:
    """The leading directions of the inputs of every row.

    The fewest directions whose squared projections make up ``energy`` of the inputs' squares, together
    with those that are ``known`` (then only the new ones are given: :func:`merge` them). ``energy`` 1, a
    number on the host, means all directions that float32 can tell from rounding errors.

    Args:
      entry: which weights exist, ``(out, in)``; None for a dense layer.
      x: ``(in, sample)``, what came into the layer.
      energy: in (0, 1].
      out: rows of a dense layer.
      fan_in: see :func:`supports`.
      bias: the layer has one.
      known: directions that are protected already.
      at_most: directions (static).

    Raises:
      InputError: the energy is not in (0, 1], or ``x`` does not belong to the weights.
    """
    exact = not isinstance(energy, jax.Array) and energy == 1
    if not isinstance(energy, jax.Array) and not 0 < energy <= 1:
        raise InputError(f"energy must be above 0 and at most 1: {energy}")
    num_in = x.shape[0]
    if entry is not None and entry.shape[1] != num_in:
        raise InputError(f"the weights have {entry.shape[1]} inputs, and x has {num_in} of them")
    if entry is None and out is None:
        raise ValueError("a dense layer needs out, its number of rows")
    shape = (int(out or 0), num_in) if entry is None else (entry.shape[0], num_in)
    cols = supports(entry, shape, fan_in=fan_in, bias=bias)
    if known is not None:
        _same_support(known, RowBasis(known.vectors, known.rank, cols, shape))
    seen = jnp.concatenate([x, jnp.ones((1, x.shape[1]), x.dtype), jnp.zeros((1, x.shape[1]), x.dtype)])
    places = cols.shape[1]
    kept = min(places, at_most or places)
    vectors_known = jnp.zeros((cols.shape[0], places, 0), x.dtype) if known is None else known.vectors

    if exact:  # of the inputs themselves: their Gram matrix would square what is to be told from rounding

        def one(args: tuple[Array, Array]) -> tuple[Array, Array]:
            columns, before = args
            here = seen[columns]
            left, values, _ = linalg.svd(outside(before, here))
            first = jnp.linalg.norm(here) if before.shape[1] else values[0]
            rank = jnp.sum(values > _CUT * jnp.maximum(first, 1e-30))
            return _padded(left, places)[:, :kept], jnp.minimum(rank, kept)

        vectors, rank = jax.lax.map(one, (cols, vectors_known))
    else:
        gram = linalg.times(seen, seen.T)
        grams = gram[cols[:, :, None], cols[:, None, :]]
        total = jnp.trace(grams, axis1=1, axis2=2)[:, None]
        rest = jax.vmap(lambda v, g: outside(v, outside(v, g).T))(vectors_known, grams)
        values, vectors = linalg.eigh(rest)
        values, vectors = jnp.maximum(values[:, ::-1], 0), vectors[:, :, ::-1][:, :, :kept]
        already = total - jnp.sum(values, 1, keepdims=True)
        # energy before a direction is taken: it counts where that is too little
        before = already + jnp.cumsum(values, 1) - values
        needed = (before < jnp.asarray(energy) * total) & (values > 1e-6 * total)
        rank = jnp.minimum(jnp.sum(needed, 1), kept)
    counts = jnp.arange(kept) < rank[:, None]
    return RowBasis(jnp.where(counts[:, None], vectors, 0), rank.astype(jnp.int32), cols, shape)


def no_rows(
    entry: Entry | None,
    shape: tuple[int, int],
    *,
    fan_in: int | None = None,
    bias: bool = True,
    room: int | None = None,
) -> RowBasis:
    """A basis without a direction, with ``room`` for so many (None: for all)."""
    cols = supports(entry, shape, fan_in=fan_in, bias=bias)
    vectors = jnp.zeros((*cols.shape, cols.shape[1] if room is None else room))
    return RowBasis(vectors, jnp.zeros(cols.shape[0], jnp.int32), cols, shape)


def merge(a: RowBasis, b: RowBasis, *, room: int | None = None, apart: bool = False) -> RowBasis:
    """A basis of what both span, with ``room`` for so many directions (static; None: for all of both).

    ``apart``: no direction of ``b`` lies in ``a``, as :func:`row_basis` gives it with ``known=a``.

    Raises:
      InputError: they are of different weights.
    """
    _same_support(a, b)
    places = a.vectors.shape[1]
    size = min(places, a.vectors.shape[2] + b.vectors.shape[2]) if room is None else room

    def one(args: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        first, second, rank = args
        if apart:
            more = second
        else:
            left, values, _ = linalg.svd(outside(first, outside(first, second)))
            more = jnp.where(values > _CUT, left, 0)
        both = jnp.concatenate([first, more], 1)
        # zero columns go to the end
        order = jnp.argsort(~jnp.any(both != 0, 0), stable=True)
        both = jnp.pad(both[:, order], ((0, 0), (0, max(0, size - both.shape[1]))))[:, :size]
        return both, jnp.minimum(rank + jnp.sum(jnp.any(more != 0, 0)), size)

    vectors, rank = jax.lax.map(one, (a.vectors, b.vectors, a.rank))
    return RowBasis(vectors, rank.astype(jnp.int32), a.cols, a.shape)


def spanned(vectors: Array, x: Array) -> Array:
    """The part of the columns of ``x`` that orthonormal ``vectors`` span."""
    return linalg.times(vectors, linalg.times(vectors.T, x))


def outside(vectors: Array, x: Array) -> Array:
    """The other part."""
    return x - spanned(vectors, x)


def _padded(left: Array, places: int) -> Array:
    return jnp.pad(left, ((0, 0), (0, places - left.shape[1])))


def _same_support(a: RowBasis, b: RowBasis) -> None:
    known = not any(isinstance(leaf, jax.core.Tracer) for leaf in (a.cols, b.cols))
    alike = a.shape == b.shape and a.cols.shape == b.cols.shape
    if not alike or (known and not np.array_equal(np.asarray(a.cols), np.asarray(b.cols))):
        raise InputError("these are bases of different topologies: make them anew by row_basis")
