"""A complex: what it must be, its ranks, its homology, how far it is from being one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxnet.errors import InputError
from jaxnet.linalg import singular_values, svd, times
from jaxnet.reach.ranks import LEAST_GAP, Rank, check_decided, check_maps, check_tolerance, decide, known
from jaxnet.types import Array, Float, Int, Scalar

Maps = tuple[Float[Array, "out in"], ...]
TOL = 1e-5
"""A singular value counts above this share of the largest one: fit for float32; 1e-10 is for float64."""


class Spectrum(NamedTuple):
    """Singular values of matrices, descending, and where they are cut.

    ``rank`` values of a matrix are above ``cut``, the tolerance times the largest of all. ``gap`` is the
    least above over the largest below; the cut stands for one that is not there.
    """

    rank: Int[Array, "matrix ..."]
    singular: tuple[Float[Array, "..."], ...]
    cut: Scalar
    gap: Float[Array, "matrix ..."]


def check(d: Any, tol: float = TOL, *, chain: bool = True, zero: bool = False) -> None:
    """Raises InputError for a bad tolerance, NaN, maps that do not ``chain``, or no complex (``zero``)."""
    check_tolerance(tol)
    check_maps(d, chain=chain)
    if zero and len(d) > 1 and known(d) and (worst := float(jnp.max(defect(d, relative=True)))) > tol:
        raise InputError(f"no complex: the relative defect {worst:.3g} is above {tol:g} (see nearest)")


def certain(found: Spectrum, least: float = LEAST_GAP) -> Spectrum:
    """The spectrum; InputError, with the values, for a gap below ``least``. Traced ones pass."""
    for k, (rank, values, gap) in enumerate(zip(found.rank, found.singular, found.gap, strict=True)):
        check_decided(Rank(rank, values, found.cut, gap), f"the rank of matrix {k}", least)
    return found


def spectrum(matrices: Sequence[Any], tol: float, scale: Any = None) -> Spectrum:
    """Of matrices ``(..., m, n)``, cut at ``tol`` times ``scale``, by default the largest value of all."""

    def values(m: Array) -> Array:
        return singular_values(m) if m.size else jnp.zeros((*m.shape[:-2], 0), m.dtype)

    singular = tuple(map(values, matrices))
    cut = tol * (jnp.max(jnp.stack([jnp.max(s, initial=0) for s in singular])) if scale is None else scale)
    found = [decide(s, cut) for s in singular]
    rank, gap = (jnp.stack([getattr(one, name) for one in found]) for name in ("rank", "gap"))
    return Spectrum(rank.astype(int), singular, jnp.asarray(cut), gap)


def ranks(d: Maps, tol: float = TOL) -> Spectrum:
    """The rank of every map; InputError as :func:`check` and :func:`certain` raise it."""
    check(d, tol, chain=False)
    return certain(spectrum(d, tol))


def betti(d: Maps, tol: float = TOL) -> tuple[Int[Array, "space"], Spectrum]:
    """Betti numbers of a complex of K maps, ``(K + 1,)``: dimensions of the kernels of its Laplacians.

    ``L_k = d[k-1] d[k-1]^T + d[k]^T d[k]`` has the kernel of ``d[k]`` stacked on ``d[k-1]^T``, whose singular
    values (the spectrum given) are the roots of its eigenvalues: nothing is squared.
    """
    check(d, tol, zero=True)
    pairs = zip([*d, None], [None, *(m.T for m in d)], strict=True)
    stacks = [jnp.concatenate([m for m in pair if m is not None]) for pair in pairs]
    found = certain(spectrum(stacks, tol))
    return jnp.asarray([m.shape[1] for m in stacks]) - found.rank, found


def image(matrix: Array, cut: Any) -> Float[Array, "n n"]:
    """The orthogonal projector onto the image: left singular vectors of values above the cut."""
    if not matrix.size:
        return jnp.zeros((matrix.shape[0],) * 2, matrix.dtype)
    u, s, _ = svd(matrix)
    return times(jnp.where(s > cut, u, 0), u.T)


def split(d: Maps, k: int, cut: Any) -> list[Array]:
    """Projectors of space k: the image of the map into it, what the map out of it does not kill, the rest."""
    one = jnp.eye(d[k].shape[1] if k < len(d) else len(d[-1]), dtype=d[0].dtype)
    exact = image(d[k - 1], cut) if k else jnp.zeros_like(one)
    other = image(d[k].T, cut) if k < len(d) else jnp.zeros_like(one)
    return [exact, other, one - exact - other]


def hodge(d: Maps, k: int, x: Array, tol: float = TOL) -> tuple[Array, Array, Array, Spectrum]:
    """``x``, ``(n_k, ...)``, as a sum of orthogonal parts: exact, coexact, harmonic."""
    check(d, tol, zero=True)
    found = certain(spectrum(d, tol))
    exact, coexact, harmonic = (times(p, x) for p in split(d, k, found.cut))
    return exact, coexact, harmonic, found


def defect(d: Maps, *, relative: bool = False) -> Float[Array, "pair"]:
    """Frobenius norms of ``d[k+1] d[k]``; ``relative``: over the product of both norms, so at most 1."""
    found = jnp.stack([jnp.linalg.norm(times(b, a)) for a, b in zip(d, d[1:], strict=False)])
    norms = jnp.stack([jnp.linalg.norm(m) for m in d])
    return found / jnp.maximum(norms[1:] * norms[:-1], jnp.finfo(norms.dtype).tiny) if relative else found


def penalty(d: Maps) -> Scalar:
    """Sum of the squared defects: smooth, also where they are zero."""
    return jnp.sum(jnp.stack([jnp.sum(times(b, a) ** 2) for a, b in zip(d, d[1:], strict=False)]))
