"""Decompositions and products of many matrices at once, safe on a CPU and exact on a GPU.

On a CPU jaxlib 0.10 splits the decompositions of a *batch* over the thread pool that runs the program, and
waits there for the parts: where as many of them run at once as the pool has threads, none ever ends. These
take a batch one matrix after the other on a CPU, in one call elsewhere. They are not for differentiating.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.types import Array

EXACT = jax.lax.Precision.HIGHEST
"""Of products: by default a GPU would round the operands to TensorFloat32, and ranks with them."""


def _one_by_one(decompose: Callable[..., Any]) -> Callable[..., Any]:
    """A function of matrices for any leading axes, and for ``vmap``."""
    alone = jax.custom_batching.custom_vmap(decompose)

    @alone.def_vmap
    def _(size: int, batched: list[bool], *operands: Array) -> tuple[Any, Any]:
        many = [
            m if b else jnp.broadcast_to(m, (size, *m.shape)) for m, b in zip(operands, batched, strict=True)
        ]
        made = jax.lax.platform_dependent(
            *many, cpu=lambda *ms: jax.lax.map(lambda m: alone(*m), ms), default=jax.vmap(decompose)
        )
        return made, jax.tree.map(lambda _: True, made)

    def for_any(*operands: Array) -> Any:
        return (jax.vmap(for_any) if operands[0].ndim > 2 else alone)(*operands)

    return for_any


_values = _one_by_one(partial(jnp.linalg.svd, compute_uv=False))
_vectors = _one_by_one(partial(jnp.linalg.svd, full_matrices=False))
_symmetric = _one_by_one(lambda m: tuple(jnp.linalg.eigh(m)))
_frame = _one_by_one(lambda m: jnp.linalg.qr(m, mode="complete")[0])
_solution = _one_by_one(jnp.linalg.solve)


def singular_values(matrices: Array) -> Array:
    """``(..., m, n) -> (..., min(m, n))``, descending."""
    return _values(matrices)


def svd(matrices: Array) -> tuple[Array, Array, Array]:
    """``(..., m, n) -> (..., m, r), (..., r), (..., r, n)`` with ``r = min(m, n)``."""
    made = _vectors(matrices)
    return made[0], made[1], made[2]


def eigh(matrices: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and vectors of symmetric matrices: ``(..., n, n) -> (..., n), (..., n, n)``."""
    return _symmetric(matrices)


def frame(matrices: Array) -> Array:
    """Orthonormal bases of a space that begin with one of the columns: ``(..., m, n) -> (..., m, m)``."""
    return _frame(matrices)


def solve(matrices: Array, right: Array) -> Array:
    """``x`` with ``matrices @ x = right``: ``(..., n, n), (..., n, k) -> (..., n, k)``."""
    return _solution(matrices, right)


def times(*factors: Array | None) -> Array:
    """The product from the left, None being one; on a GPU float32 is not rounded to TensorFloat32."""
    made, *rest = (factor for factor in factors if factor is not None)
    for factor in rest:
        made = jnp.matmul(made, factor, precision=EXACT)
    return made
