"""Stability of pages: the dimensions of homology that the blocks have, once there, shall stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.levels.arm import SEEN, Arm, ramp
from jaxnet.levels.defect import Maps, maps, normed
from jaxnet.linalg import solve, times
from jaxnet.train import Penalty
from jaxnet.transformer import Spec
from jaxnet.types import Array, Float, Scalar

CUT = 0.1
"""Eigenvalues of a Laplacian count as zero below this share of their mean: a soft cut."""


def soft_betti(d: Maps) -> Float[Array, "space"]:
    """Betti numbers of one level (page 1) with a soft cut, as shares of the width, ``(maps + 1,)``.

    ``tr(c (L + c)^-1)`` counts the eigenvalues of ``L_k = d[k-1] d[k-1]^T + d[k]^T d[k]`` that are small
    against ``c``; a count itself has no gradient. It needs no ``d d = 0``. Its gradient, ``-c (L + c)^-2``,
    is given: no decomposition is differentiated.
    """
    return jnp.stack([_small(laplacian) for laplacian in _laplacians(d)])


def _laplacians(d: Maps) -> list[Array]:
    into = [times(m, m.T) for m in d]
    out = [times(m.T, m) for m in d]
    return [out[0], *(a + b for a, b in zip(into, out[1:], strict=False)), into[-1]]


def _small(laplacian: Array) -> Scalar:
    width = laplacian.shape[0]
    one, fixed = jnp.eye(width, dtype=laplacian.dtype), jax.lax.stop_gradient(laplacian)
    cut = CUT * jnp.trace(fixed) / width + 1e-12
    inverse = jax.lax.stop_gradient(solve(fixed + cut * one, one))
    slope = jnp.sum(-cut * times(inverse, inverse) * laplacian)
    value = cut * jnp.trace(inverse) + slope - jax.lax.stop_gradient(slope)
    return jnp.asarray(value / width)


def look(spec: Spec) -> Callable[[Any], Float[Array, "space"]]:
    """The pages of a decoder's blocks."""
    return lambda params: soft_betti(normed(maps(params)))


def penalty(spec: Spec) -> Penalty:
    """Squared difference of the pages from those seen last, summed over the spaces, times the width."""

    def moved(params: Any, carried: Any) -> Scalar:
        now = look(spec)(params)
        return ramp(carried) * spec.width * jnp.sum((now - carried[SEEN]) ** 2)

    return moved


ARM = Arm(
    "the pages of the blocks stay as they were seen last (a loss with a schedule)",
    penalty=penalty,
    look=look,
    dials=(1.0, 10.0),
)
