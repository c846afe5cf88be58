"""Ranks with their evidence, the barcode of a chain of matrices, and effective ranks of spectra.

A numerical rank is a decision: singular values above a cut count. It is given together with the
singular values, the cut, and the **gap**, the factor between the smallest value that counts and
the largest that does not. A gap below :data:`LEAST_GAP` decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError, check_choice
from jaxnet.linalg import singular_values, svd, times
from jaxnet.types import Array, Float, Int, Scalar

LEAST_GAP = 10.0
"""Factor between the singular values on both sides of a cut below which a rank is ambiguous."""

EFFECTIVE = ("energy", "participation", "marchenko-pastur")
"""Rules of :func:`effective_rank`."""


class Rank(flax.struct.PyTreeNode):
    """A numerical rank and what it rests on.

    Attributes:
      rank: ``(...)``, number of singular values above the cut.
      singular_values: ``(..., min(out, in))``, descending.
      cut: the tolerance times a scale.
      gap: smallest value above the cut over the largest below it; the cut stands for the side
        that has none, and a value of exactly 0 makes it infinite.
    """

    rank: Int[Array, "..."]
    singular_values: Float[Array, "... value"]
    cut: Scalar
    gap: Float[Array, "..."]


class Bars(flax.struct.PyTreeNode):
    """The barcode of a chain of ``L`` maps, and what it rests on.

    Attributes:
      bars: ``(L + 1, L + 1)`` int32; at ``[i, j]`` with ``i <= j`` the number of dimensions that are
        born in space ``i`` and last until space ``j``.
      ranks: ``(L + 1, L + 1)`` int32; at ``[i, j]`` the rank of the maps from space ``i`` to space ``j``,
        on the diagonal the dimensions.
      decided: for ``i < j`` the :class:`Rank` behind the entry, in the order (0, 1), (0, 2), ..., (1, 2), ...
    """

    bars: Int[Array, "space space"]
    ranks: Int[Array, "space space"]
    decided: tuple[Rank, ...]

    @property
    def gap(self) -> Scalar:
        """The smallest gap of all ranks."""
        gaps = [rank.gap for rank in self.decided]
        return jnp.min(jnp.stack(gaps), axis=0) if gaps else jnp.asarray(jnp.inf)


def rank_of(matrix: Float[Array, "out in"], tol: float | Array, scale: float | Array | None = None) -> Rank:
    """The number of singular values above ``tol * scale``, with its evidence; pure, for ``jit`` and ``vmap``.

    Args:
      matrix: any.
      tol: above 0, below 1.
      scale: what the tolerance is relative to; the largest singular value by default.
    """
    values = singular_values(matrix)
    return decide(values, tol * (jnp.max(values, initial=0) if scale is None else scale))


def decide(values: Float[Array, "... value"], cut: float | Array) -> Rank:
    """The rank that singular values, descending along the last axis, have above a cut; pure."""
    cut, number = jnp.asarray(cut, values.dtype), values.shape[-1]
    rank = jnp.sum(values > cut, axis=-1, dtype=jnp.int32)
    above = jnp.min(jnp.where(values > cut, values, jnp.inf), axis=-1, initial=jnp.inf)
    below = jnp.max(jnp.where(values > cut, 0, values), axis=-1, initial=0)
    below = jnp.where((rank == number) & (rank > 0), cut, below)
    gap = jnp.where(below > 0, jnp.where(rank > 0, above, cut) / jnp.where(below > 0, below, 1), jnp.inf)
    return Rank(rank, values, cut, gap)


def bars_of(mats: Sequence[Float[Array, "out in"]], tol: float | Array) -> Bars:
    """The barcode of the type-A quiver ``V_0 -> V_1 -> ... -> V_L``; pure, for ``jit`` and ``vmap``.

    Such a chain is, up to a change of basis in every space, a sum of intervals (Gabriel 1972): lines that
    are born in one space, carried along by identities, and end in another. With ``r(i, j)`` the rank of
    the maps from ``V_i`` to ``V_j``, there are ``r(i, j) - r(i-1, j) - r(i, j+1) + r(i-1, j+1)`` of them
    from ``i`` to ``j``. Nothing is asked of the products of neighbours (no ``d d = 0``).

    Products of many maps lose small singular values in the rounding of large ones. So a map is applied to
    an orthonormal basis of the image so far, and every rank is decided relative to the norm of one map.

    Args:
      mats: ``(n_{k+1}, n_k)`` each, the first applied first.
      tol: singular values above ``tol`` times the norm of the map count.
    """
    number, dtype = len(mats), jnp.result_type(*mats)
    maps = [m.astype(dtype) for m in mats]
    sizes = [maps[0].shape[-1], *(m.shape[-2] for m in maps)]
    decided, norms = dict[tuple[int, int], Rank](), dict[int, Array]()
    for i in reversed(range(number)):  # from the end, so that the norm of every map is known
        image = None
        for j in range(i, number):
            here = times(maps[j], image)
            basis, values, _ = svd(here)
            if image is None:
                norms[i] = values[0] if values.shape[0] else jnp.zeros((), dtype)
            found = decide(values, tol * norms[j])
            counts = jnp.arange(values.shape[0], dtype=jnp.int32) < found.rank
            image = jnp.where(counts, basis, 0)
            decided[i, j + 1] = found
    nothing = jnp.zeros((), jnp.int32)

    def rank(i: int, j: int) -> Array:
        if i < 0 or j > number or i > j:
            return nothing
        return jnp.asarray(sizes[i], jnp.int32) if i == j else decided[i, j].rank

    def bar(i: int, j: int) -> Array:
        return rank(i, j) - rank(i - 1, j) - rank(i, j + 1) + rank(i - 1, j + 1) if i <= j else nothing

    spaces = range(number + 1)
    bars, ranks = (jnp.stack([jnp.stack([f(i, j) for j in spaces]) for i in spaces]) for f in (bar, rank))
    return Bars(bars, ranks, tuple(decided[key] for key in sorted(decided)))


def check_tolerance(tol: float, what: str = "the tolerance") -> None:
    """Raises InputError unless a tolerance is above 0 and below 1."""
    if not (math.isfinite(tol) and 0 < tol < 1):
        raise InputError(f"{what} must be above 0 and below 1: {tol}")


def known(*trees: Any) -> bool:
    """Whether all values can be looked at: neither they nor what is computed here (a zero) are traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((trees, jnp.zeros(()))))


def check_maps(d: Sequence[Any], *, chain: bool = True) -> None:
    """Raises InputError unless d are matrices with finite values (traced ones pass) that chain."""
    shapes = [jnp.shape(m) for m in d]
    if not shapes or any(len(s) != 2 or 0 in s for s in shapes):
        raise InputError(f"one or more matrices with rows and columns are needed: shapes {shapes}")
    if bad := [k for k, (a, b) in enumerate(zip(shapes, shapes[1:], strict=False)) if chain and a[0] != b[1]]:
        raise InputError(f"maps {bad[0]} and {bad[0] + 1} do not chain: shapes {shapes}")
    if known(*d) and (bad := [k for k, m in enumerate(d) if not np.isfinite(m).all()]):
        raise InputError(f"map {bad[0]} holds values that are not finite")


def check_decided(found: Rank, what: str, least: float = LEAST_GAP) -> None:
    """Raises InputError where a gap is below ``least``, with the values around the cut; traced ones pass."""
    if not known(found) or np.min(gaps := np.asarray(found.gap)) >= least:
        return
    at = np.unravel_index(np.argmin(gaps), gaps.shape)
    values, cut = np.asarray(found.singular_values)[at], float(found.cut)
    near = ", ".join(f"{v:.3g}" for v in (*values[values > cut][-2:], *values[values <= cut][:2]))
    raise InputError(
        f"{what} is ambiguous: around the cut {cut:.3g} lie the singular values {near}, a gap of "
        f"{gaps[at]:.2g} where {least:g} decides: choose another tolerance"
    )


@overload
def rank_bars(mats: Sequence[Any], tol: float, *, evidence: Literal[False] = False) -> np.ndarray: ...


@overload
def rank_bars(mats: Sequence[Any], tol: float, *, evidence: Literal[True]) -> Bars: ...


def rank_bars(mats: Sequence[Any], tol: float, *, evidence: bool = False) -> np.ndarray | Bars:
    """The bars of a chain of matrices in float64, checked; see :func:`bars_of`.

    Args:
      mats: ``(n_{k+1}, n_k)`` each, the first applied first, at least one.
      tol: above 0, below 1; singular values above ``tol`` times the norm of the map count.
      evidence: give ranks, singular values, cuts and gaps as well.

    Returns:
      ``(L + 1, L + 1)`` numbers of intervals, or the :class:`Bars` with arrays of NumPy.

    Raises:
      InputError: a value is not finite, the matrices do not chain, the tolerance is not above 0 and below
        1, or a rank is ambiguous.

    >>> rank_bars([[[1.0, 0.0]], [[0.0], [2.0]]], 1e-9).tolist()
    [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    """
    check_tolerance(tol)
    arrays = [np.asarray(m, np.float64) for m in mats]
    check_maps(arrays)
    with jax.enable_x64(True):
        found: Bars = jax.tree.map(np.asarray, _bars_of(arrays, tol))
    pairs = [(i, j) for i in range(len(arrays)) for j in range(i + 1, len(arrays) + 1)]
    for (i, j), rank in zip(pairs, found.decided, strict=True):
        check_decided(rank, f"the rank from space {i} to space {j}")
    return found if evidence else np.asarray(found.bars)


_bars_of = jax.jit(bars_of)


def effective_rank(
    s: Float[Array, "value"] | np.ndarray | Sequence[float],
    rule: str = "participation",
    *,
    shape: tuple[int | Array, int | Array] | None = None,
    share: float = 0.99,
) -> Array:
    """How many dimensions a spectrum has; pure, for ``jit`` and ``vmap``.

    - ``energy``: the fewest singular values whose squares make up ``share`` of the sum of squares.
    - ``participation``: ``(sum s^2)^2 / sum s^4``, the participation ratio of the eigenvalues of the Gram
      matrix: ``n`` for ``n`` equal values (Gao et al. 2017, bioRxiv 214262).
    - ``marchenko-pastur``: the values above the edge ``sigma (sqrt(out) + sqrt(in))`` that a matrix of
      independent entries of variance ``sigma^2`` has in the limit (Marchenko and Pastur 1967). The variance
      is estimated from the values below the edge, again and again until no more values rise above it:
      ``sigma^2 = sum of these s^2 / ((out - k) (in - k))`` with ``k`` above. Rows and columns of zeros are
      to be left out of ``shape``: they are no noise.

    Args:
      s: ``(value,)`` singular values, all of them, in any order.
      rule: one of :data:`EFFECTIVE`.
      shape: of the matrix, for ``marchenko-pastur``.
      share: for ``energy``, in (0, 1].

    Returns:
      A number of type float, 0 where all values are 0.

    Raises:
      ValueError: an unknown rule, or no shape where it is needed.
    """
    check_choice("rule", rule, EFFECTIVE)
    s = jnp.sort(jnp.asarray(s))[::-1]
    s = s / jnp.where(s[0] > 0, s[0], 1)  # squares of huge or tiny values stay finite
    squares = jnp.square(s)
    total = jnp.sum(squares)
    if rule == "participation":
        return jnp.square(total) / jnp.where(total > 0, jnp.sum(jnp.square(squares)), 1)
    if rule == "energy":
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1: {share}")
        rest = jnp.cumsum(squares[::-1])[::-1]  # from a value on: small ones are summed first
        return jnp.sum(rest > (1 - share) * total).astype(s.dtype)
    if shape is None:
        raise ValueError("the rule marchenko-pastur needs the shape of the matrix")
    out, width = (jnp.asarray(side, jnp.int32) for side in shape)
    edge = jnp.sqrt(out.astype(s.dtype)) + jnp.sqrt(width.astype(s.dtype))
    rest = jnp.append(jnp.cumsum(squares[::-1])[::-1], 0)  # sum of squares from a value on

    def again(_: int, k: Array) -> Array:
        left = jnp.maximum((out - k) * (width - k), 1).astype(s.dtype)
        return jnp.maximum(k, jnp.sum(s > edge * jnp.sqrt(rest[k] / left), dtype=jnp.int32))

    return jax.lax.fori_loop(0, s.shape[0], again, jnp.zeros((), jnp.int32)).astype(s.dtype)
