"""A sparse dense layer for Flax modules: only the weights that exist are parameters.

Its weights lie in the collection ``params`` and what exists in the collection
``structure``, at the same path, beside those of any other layer. The same layer for
nnx: :class:`jaxnet.nn.nnx.SparseDense`.
"""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.kernels import PRODUCTS, dense_product
from jaxnet.masks import uniform_topology
from jaxnet.nn.layers import init_layer
from jaxnet.structure import LayerParams
from jaxnet.topology import Entry, Topology
from jaxnet.types import Array, Bias, Float, Key, Values, Weight


def sparse_dense(
    kernel: Values | Weight, entry: Entry | None, x: Float[Array, "*batch in"], bias: Bias | None = None
) -> Float[Array, "*batch out"]:
    """``x @ W.T + bias`` with a sparse ``W``; on CPUs by the csr kernel, elsewhere by a dense product.

    Args:
      kernel: ``(nnz,)`` with a ``Topology``; ``(out, in)`` with a ``Mask`` or None (dense).
      entry: which weights exist.
      x: ``(..., in)``.
      bias: ``(out,)``, or None.

    Returns:
      ``(..., out)``.
    """
    if isinstance(entry, Topology):
        flat = x.reshape(-1, x.shape[-1]).T  # (in, batch): what the products stream over
        y = _product(kernel, entry, flat)  # (out, batch)
        y = y if bias is None else _with_bias(y, bias)
        return y.T.reshape(*x.shape[:-1], entry.shape[0])
    weight = kernel if entry is None else jnp.where(entry.mask, kernel, 0.0)
    y = jnp.matmul(x, weight.T, precision=jax.lax.Precision.HIGHEST)
    return y if bias is None else y + bias


@jax.custom_vjp
def _with_bias(y: Float[Array, "out batch"], bias: Bias) -> Float[Array, "out batch"]:
    """``y + bias``, ``(out, batch)``.

    XLA cancels the transposes between layers; but it would turn the gradient around again for the sum over
    the batch, were it not kept from it (``benchmarks.sparse_layer``: a step would take 1.1 times as long).
    """
    return y + bias[:, None]


def _with_bias_forward(y: Float[Array, "out batch"], bias: Bias) -> tuple[Float[Array, "out batch"], None]:
    return y + bias[:, None], None


def _with_bias_backward(
    _: None, gradient: Float[Array, "out batch"]
) -> tuple[Float[Array, "out batch"], Bias]:
    gradient = jax.lax.optimization_barrier(gradient)
    return gradient, jnp.sum(gradient, 1)


_with_bias.defvjp(_with_bias_forward, _with_bias_backward)


def _product(values: Values, topology: Topology, x: Array) -> Array:
    fits = values.dtype == x.dtype == jnp.float32
    if "csr" not in PRODUCTS or not fits:
        return dense_product(values, topology, x)
    # chosen when the program is compiled for a platform
    out: Array = jax.lax.platform_dependent(values, topology, x, cpu=PRODUCTS["csr"], default=dense_product)
    return out


def draw(num_in: int, features: int, density: float, key: Key) -> Topology:
    """Exactly ``int(density * in * out)`` weights, all positions equally likely.

    Raises:
      ValueError: not a single one.
    """
    number = int(density * num_in * features)
    if number < 1:
        raise ValueError(f"density {density} leaves {num_in}x{features} without any weight: raise it")
    return uniform_topology(features, num_in, number, key_mask=key)


def values_of(topology: Topology, init: str, activation: str, key: Key) -> LayerParams:
    return init_layer(topology, init, activation, key_init=key)


class SparseDense(flax.linen.Module):
    """A linear layer with a fraction of its weights (linen).

    Attributes:
      features: output units.
      density: fraction of the weights that exist, in (0, 1].
      use_bias: whether there is a bias.
      init_values: see :func:`jaxnet.nn.layers.init_layer`.
      activation: what follows; sets the gain of the initial values.
    """

    features: int
    density: float = 0.1
    use_bias: bool = True
    init_values: str = "sparse-fan-in"
    activation: str = "relu"

    @flax.linen.compact
    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """``(..., in) -> (..., out)``; the rng ``structure``, else ``params``, draws what exists."""

        def topology() -> Topology:
            name = "structure" if self.has_rng("structure") else "params"
            return draw(x.shape[-1], self.features, self.density, self.make_rng(name))

        entry = self.variable("structure", "kernel", topology).value

        def values() -> LayerParams:
            assert isinstance(entry, Topology)
            return values_of(entry, self.init_values, self.activation, self.make_rng("params"))

        # no self.param: it would insist on the first shape, and a dense gradient needs the whole matrix
        kernel = self.variable("params", "kernel", lambda: values().weight).value
        bias = self.variable("params", "bias", lambda: values().bias).value if self.use_bias else None
        return sparse_dense(kernel, entry, x, bias)
