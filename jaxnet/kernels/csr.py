"""The sparse product on CPU: a compiled kernel that touches existing weights only.

The kernel is called through XLA's foreign function interface, so it lives inside
``jit``, ``grad``, ``vmap`` and ``scan`` like any operation. It is built when
jaxnet is installed where a C++ compiler is at hand (:mod:`~jaxnet.kernels.csr_library`).

``vmap`` over seeds makes one call with a seed axis, not one call per seed; what
is not mapped (a batch that all seeds share, one topology for all) is passed
once. The sum behind every number is taken in an order that depends only on its
place in the network and in the batch: a seed gives bit-identical results alone
or among others, on one thread or many.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from jaxnet.errors import InputError, check_choice
from jaxnet.kernels import csr_library
from jaxnet.kernels.dense import beside_probe
from jaxnet.topology import Probed, Topology
from jaxnet.types import Array, Bias, Features, Values

ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid", "gelu")
"""Activations that :func:`csr_layer` fuses; ``gelu`` is the tanh approximation of ``jax.nn.gelu``."""


def csr_product(values: Values, topology: Topology, x: Features) -> Features:
    """``W @ x`` with ``W`` the sparse matrix, at a cost of ``2 * nnz * batch`` operations.

    Differentiable once in ``values`` and ``x``; the gradient of a padding slot
    is exactly zero.

    Args:
      values: ``(nnz,)`` float32, the weights that exist.
      topology: where they are; shape ``(out, in)``.
      x: ``(in, batch)`` float32.

    Returns:
      ``(out, batch)`` float32.

    Raises:
      InputError: the kernel was not built, the computation is compiled for
        something else than a CPU, or the arrays are not float32.
      ValueError: shapes do not fit.
    """
    _check(values, topology, x, None)
    return beside_probe(_product, values, topology, x)


def csr_layer(
    values: Values, topology: Topology, x: Features, bias: Bias, activation: str = "identity"
) -> Features:
    """``activation(W @ x + bias)`` in one pass, and its gradients likewise.

    Args:
      values: ``(nnz,)`` float32, the weights that exist.
      topology: where they are; shape ``(out, in)``.
      x: ``(in, batch)`` float32.
      bias: ``(out,)`` float32.
      activation: one of :data:`ACTIVATIONS`.

    Returns:
      ``(out, batch)`` float32, after the activation.

    Raises:
      InputError: as :func:`csr_product`.
      ValueError: shapes do not fit, the activation is unknown, or the topology is probed.
    """
    check_choice("activation", activation, ACTIVATIONS)
    if isinstance(topology, Probed):
        raise ValueError("a probed topology has no product and activation in one pass: csr_product has it")
    _check(values, topology, x, bias)
    return _layer(values, topology, x, bias, activation)


def _check(values: Values, topology: Topology, x: Features, bias: Bias | None) -> None:
    csr_library.require()
    arrays = {"values": values, "x": x} | ({} if bias is None else {"bias": bias})
    for name, array in arrays.items():
        if jnp.result_type(array) != jnp.float32:
            raise InputError(
                f"the csr kernel computes in float32 and {name} is {jnp.result_type(array)}: "
                "convert it or choose the dense kernel"
            )
    num_out, num_in = topology.shape
    expected = {
        "values": (values, (topology.capacity,)),
        "topology.cols": (topology.cols, (topology.capacity,)),
        "topology.row_ptr": (topology.row_ptr, (num_out + 1,)),
        "x": (x, (num_in, *jnp.shape(x)[1:2])),
    } | ({} if bias is None else {"bias": (bias, (num_out,))})
    for name, (array, shape) in expected.items():
        if jnp.shape(array) != shape or (name == "x" and len(shape) != 2):
            wanted = f"({num_in}, batch)" if name == "x" else shape
            raise ValueError(f"{name} has shape {jnp.shape(array)}, needed for this layer: {wanted}")
    for name, array in (("cols", topology.cols), ("row_ptr", topology.row_ptr)):
        if jnp.result_type(array) != jnp.int32:
            raise ValueError(f"topology.{name} must be int32, not {jnp.result_type(array)}")


def _call(name: str, results: Any, *operands: Array, activation: str = "identity") -> Any:
    """Calls a handler. ``expand_dims`` gives what ``vmap`` does not map a seed axis of length 1."""
    call = jax.ffi.ffi_call(name, results, vmap_method="expand_dims")
    return call(*operands, activation=np.int32(ACTIVATIONS.index(activation)))


def _transposed(topology: Topology) -> Any:
    """The slots by column, their rows, and where columns begin.

    A call of its own that depends on nothing but the topology: XLA takes it out of a
    training loop, so that a topology is sorted once and not in every step.
    """
    slots = jax.ShapeDtypeStruct((topology.capacity,), jnp.int32)
    col_ptr = jax.ShapeDtypeStruct((topology.shape[1] + 1,), jnp.int32)
    return _call(csr_library.TRANSPOSE, (slots, slots, col_ptr), _cpu_only(topology.cols), topology.row_ptr)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@jax.custom_vjp
def _product(values: Values, topology: Topology, x: Features) -> Features:
    y = _floats(topology.shape[0], x.shape[1])
    out: Array = _call(csr_library.PRODUCT, y, values, _cpu_only(topology.cols), topology.row_ptr, x)
    return out


def _product_forward(values: Values, topology: Topology, x: Features) -> tuple[Features, Any]:
    return _product(values, topology, x), (values, topology, x)


def _product_backward(residuals: Any, dy: Features) -> tuple[Values, None, Features]:
    values, topology, x = residuals
    cols, row_ptr = _cpu_only(topology.cols), topology.row_ptr
    d_values = _call(csr_library.VALUES_GRADIENT, _floats(*values.shape), cols, row_ptr, x, dy)
    transposed = _transposed(topology)
    d_x = _call(csr_library.INPUT_GRADIENT, _floats(*x.shape), values, *transposed, dy)
    return d_values, None, d_x


_product.defvjp(_product_forward, _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _layer(values: Values, topology: Topology, x: Features, bias: Bias, activation: str) -> Features:
    y = _floats(topology.shape[0], x.shape[1])
    operands = values, _cpu_only(topology.cols), topology.row_ptr, x, bias
    out: Array = _call(csr_library.PRODUCT, y, *operands, activation=activation)
    return out


def _layer_forward(
    values: Values, topology: Topology, x: Features, bias: Bias, activation: str
) -> tuple[Features, Any]:
    y = _floats(topology.shape[0], x.shape[1])
    operands = values, _cpu_only(topology.cols), topology.row_ptr, x, bias
    if activation == "gelu":
        # Not invertible from its result: what went in is kept.
        out, saved = _call(csr_library.PRODUCT, (y, y), *operands, activation=activation)
    else:
        out = saved = _call(csr_library.PRODUCT, y, *operands, activation=activation)
    return out, (values, topology, x, saved)


def _layer_backward(activation: str, residuals: Any, dy: Features) -> tuple[Values, None, Features, Bias]:
    values, topology, x, saved = residuals
    cols, row_ptr = _cpu_only(topology.cols), topology.row_ptr
    after = (dy,) if activation == "identity" else (dy, saved)
    d_values, d_bias = _call(
        csr_library.VALUES_GRADIENT,
        (_floats(*values.shape), _floats(topology.shape[0])),
        *(cols, row_ptr, x, *after),
        activation=activation,
    )
    # A call of its own, so that it vanishes where nobody asks for it (the first layer).
    transposed = _transposed(topology)
    d_x = _call(
        csr_library.INPUT_GRADIENT, _floats(*x.shape), values, *transposed, *after, activation=activation
    )
    return d_values, None, d_x, d_bias


_layer.defvjp(_layer_forward, _layer_backward)


# An identity that can only be compiled for a CPU: says so clearly where XLA
# would complain about a missing custom call.
_cpu_only_p = Primitive("jaxnet_csr_cpu_only")
_cpu_only_p.def_impl(lambda x: x)
_cpu_only_p.def_abstract_eval(lambda x: x)
batching.defvectorized(_cpu_only_p)


def _reject_platform(ctx: Any, x: Any) -> Any:
    raise InputError("the csr kernel runs on CPU only: choose the dense kernel for this device")


mlir.register_lowering(_cpu_only_p, _reject_platform)
mlir.register_lowering(_cpu_only_p, lambda ctx, x: [x], platform="cpu")


def _cpu_only(x: Array) -> Array:
    out: Array = _cpu_only_p.bind(x)
    return out
