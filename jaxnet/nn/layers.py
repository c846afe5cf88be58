"""The sparse linear layer: parameters, initialisation, the two representations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS, GAINS
from jaxnet.kernels import Product, fused_layer
from jaxnet.structure import LayerParams
from jaxnet.topology import Entry, Mask, Probed, Topology, densify, topology_mask
from jaxnet.types import Features, Key, Values, Weight

INITS = ("dense-fan-in", "sparse-fan-in")
"""Initialisations; see :func:`init_layer`."""


def init_layer(topology: Topology, init: str, activation: str, *, key_init: Key) -> LayerParams:
    """Draws the values of the weights that exist.

    ``dense-fan-in``
      Weights and biases uniform in ``±1/sqrt(in)``, as if all ``in`` weights
      were there: the original's (PyTorch's ``nn.Linear``). At low density the
      signal of a layer starts close to zero.
    ``sparse-fan-in``
      Weights normal with standard deviation ``gain / sqrt(fan_in)``, the fan-in
      counted for every output unit (at least 1), biases zero: the variance of a
      unit does not depend on the density.

    Args:
      topology: which weights exist; shape ``(out, in)``.
      init: one of :data:`INITS`.
      activation: name of the activation of the hidden layers; sets the gain, in all layers alike.
      key_init: one PRNG key.

    Raises:
      ValueError: unknown init.
    """
    num_out, num_in = topology.shape
    key_weight, key_bias = jax.random.split(key_init)
    if init == "dense-fan-in":
        bound = num_in**-0.5
        weight = jax.random.uniform(key_weight, (topology.capacity,), minval=-bound, maxval=bound)
        bias = jax.random.uniform(key_bias, (num_out,), minval=-bound, maxval=bound)
    elif init == "sparse-fan-in":
        fan_in = jnp.maximum(topology.fan_in, 1).astype(jnp.float32)
        scale = GAINS[activation] / jnp.sqrt(fan_in)
        weight = jax.random.normal(key_weight, (topology.capacity,))
        weight = weight * scale.at[topology.rows].get(mode="fill", fill_value=0.0)
        bias = jnp.zeros(num_out)
    else:
        raise ValueError(f"unknown init {init!r}: choose one of {', '.join(INITS)}")
    return LayerParams(jnp.where(topology.exists, weight, 0.0), bias)


def weighted(values: Values | Weight, entry: Entry, x: Features, product: Product) -> Features:
    """``W x`` for a batch.

    Args:
      values: of the weights.
      entry: which of them exist; its type decides the representation.
      x: ``(in, batch)``.
      product: the sparse product (ignored by the masked representation).
    """
    if isinstance(entry, Topology):
        return product(values, entry, x)
    # where, not multiplication: a missing weight's gradient is zero even if the weight is not finite
    weight = jnp.where(entry.mask, values, 0.0)
    # float32 as in the sparse products: by default a GPU would round the operands to TensorFloat32
    return jnp.matmul(weight, x, precision=jax.lax.Precision.HIGHEST)


def linear(params: LayerParams, entry: Entry, x: Features, product: Product) -> Features:
    """``W x + b`` for a batch, ``(out, batch)``; the arguments are those of :func:`weighted`."""
    return weighted(params.weight, entry, x, product) + params.bias[:, None]


def linear_activated(
    params: LayerParams, entry: Entry, x: Features, product: Product, activation: str
) -> tuple[Features, Features]:
    """``W x + b`` and the activation of it, in one pass where the product knows how.

    Then pre- and post-activations are computed apart from each other: under jit,
    what nobody reads is not computed.

    Returns:
      Pre- and post-activations, ``(out, batch)`` each.
    """
    pre = linear(params, entry, x, product)
    fused = fused_layer(product)
    # only activations that are exact in every implementation, so that post is act(pre) to the bit
    if fused is None or activation not in ("relu", "identity") or isinstance(entry, Mask | Probed):
        return pre, ACTIVATIONS[activation](pre)
    return pre, fused(params.weight, entry, x, params.bias, activation)


def to_masked(params: LayerParams, topology: Topology) -> tuple[LayerParams, Mask]:
    """Converts a sparse layer to the masked-dense representation; the function is unchanged."""
    weight = densify(params.weight, topology)
    return LayerParams(weight, params.bias), Mask(topology_mask(topology))


def to_sparse(params: LayerParams, topology: Topology) -> LayerParams:
    """Reads the weights of ``topology`` out of a masked-dense layer."""
    weight = params.weight.at[topology.rows, topology.cols].get(mode="fill", fill_value=0.0)
    return LayerParams(weight, params.bias)
