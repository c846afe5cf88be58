"""The dense product: existing weights are scattered into a matrix, then one GEMM.

The way to go on accelerators with matrix units, and the reference for every
other product. Only the existing weights are parameters: the gradient of the
scatter is a gather, so the optimiser never sees a weight that does not exist.

Under ``vmap`` with an input that all networks share, the product of all of them
is a single one, ``(seeds * out, in) @ (in, batch)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.topology import Probed, Topology, densify
from jaxnet.types import Array, Features, Values, Weight


def dense_product(values: Values, topology: Topology, x: Features) -> Features:
    """``W @ x`` with ``W`` the dense matrix of the sparse layer, in float32 wherever it runs.

    Args:
      values: ``(nnz,)``, the weights that exist.
      topology: where they are; shape ``(out, in)``.
      x: ``(in, batch)``.

    Returns:
      ``(out, batch)``.
    """
    # by default XLA takes TensorFloat32 on GPUs and bfloat16 on TPUs
    return jnp.matmul(densify(values, topology), x, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def zero_product(zeros: Weight, x: Features) -> Features:
    """``zeros @ x`` without computing it; the gradient for ``zeros: (out, in)`` is that of any matrix."""
    return jnp.zeros((zeros.shape[0], x.shape[1]), x.dtype)


def _zero_forward(zeros: Weight, x: Features) -> tuple[Features, Features]:
    return zero_product(zeros, x), x


def _zero_backward(x: Features, dy: Features) -> tuple[Weight, Features]:
    return jnp.matmul(dy, x.T, precision=jax.lax.Precision.HIGHEST), jnp.zeros_like(x)


zero_product.defvjp(_zero_forward, _zero_backward)


def beside_probe(
    product: Callable[[Values, Topology, Features], Features], values: Values, topology: Topology, x: Features
) -> Features:
    """A product whose gradients know nothing of probes, and that of the probe, where there is one."""
    if isinstance(topology, Probed):
        return product(values, topology.alone, x) + zero_product(topology.probe, x)
    return product(values, topology, x)


def rounded_product(precision: str, values: Values, topology: Topology, x: Features) -> Features:
    """:func:`dense_product` with operands rounded to ``tf32`` or ``bf16``; that of a probe is float32."""
    return beside_probe(functools.partial(_rounded_product, precision), values, topology, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_product(precision: str, values: Values, topology: Topology, x: Features) -> Features:
    """:func:`dense_product` and both gradients with operands rounded to ``tf32`` or ``bf16``.

    Sums, results and gradients are float32: what is trained never is rounded.
    """
    return _forward(precision, values, topology, x)[0]


def _forward(precision: str, values: Values, topology: Topology, x: Features) -> tuple[Features, Any]:
    dtype = _OPERANDS[precision]
    matrix, x = densify(values.astype(dtype), topology), x.astype(dtype)  # rounded first: less to write
    return _dot(precision, matrix, x), (matrix, topology, x)


def _backward(precision: str, saved: Any, gradient: Features) -> tuple[Values, None, Features]:
    matrix, topology, x = saved
    gradient = gradient.astype(matrix.dtype)
    of_matrix = _dot(precision, gradient, x.T)
    of_values = of_matrix.at[topology.rows, topology.cols].get(
        mode="fill", fill_value=0.0, indices_are_sorted=True, unique_indices=True
    )
    return of_values, None, _dot(precision, matrix.T, gradient)


_rounded_product.defvjp(_forward, _backward)

_OPERANDS: dict[str, Any] = {"tf32": np.float32, "bf16": jnp.bfloat16}


def _dot(precision: str, a: Array, b: Array) -> Array:
    """``a @ b``, summed in float32."""
    if precision == "bf16":
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)
    # only NVIDIA's GPUs have TensorFloat32: elsewhere XLA's second best, which is float32 on CPUs
    return jax.lax.platform_dependent(
        a,
        b,
        cuda=functools.partial(jnp.matmul, precision=jax.lax.DotAlgorithmPreset.TF32_TF32_F32),
        default=functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGH),
    )


DENSE_PRODUCTS: dict[str, Callable[[Values, Topology, Features], Features]] = {
    "f32": dense_product,
    "tf32": functools.partial(rounded_product, "tf32"),
    "bf16": functools.partial(rounded_product, "bf16"),
}
"""The dense product by the precision of its operands. Parameters, sums and gradients are float32 in all."""
