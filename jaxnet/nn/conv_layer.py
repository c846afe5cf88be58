"""A sparse convolution for Flax modules: a dense kernel, and a mask beside it of the weights that exist.

The kernel lies in the collection ``params`` and its mask in the collection ``structure``,
at the same path. The same layer for nnx: :class:`jaxnet.nn.nnx.SparseConv`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.allocation import allocate_arrays
from jaxnet.masks import uniform_topology
from jaxnet.nn.convolution import Kernel, Padding, conv, pair
from jaxnet.topology import Mask, topology_mask
from jaxnet.types import Array, Bias, Float, Key

Initializer = jax.nn.initializers.Initializer


def sparse_conv(
    kernel: Kernel,
    entry: Mask | None,
    x: Float[Array, "*batch height width in"],
    bias: Bias | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Float[Array, "*batch h w out"]:
    """:func:`jaxnet.nn.conv` by the weights that exist, and the bias.

    Args:
      kernel: ``(kernel height, kernel width, in, out)``; what it holds of missing weights counts nowhere.
      entry: which weights exist; None for all.
      x: ``(..., height, width, in)``, any number of batch axes.
      bias: ``(out,)``, or None.
      strides, padding, dilation: as for :func:`jaxnet.nn.conv`.

    Returns:
      ``(..., height', width', out)``.

    Raises:
      ValueError: as :func:`jaxnet.nn.conv`, or the mask is not of the kernel's shape.
    """
    if entry is not None:
        if not isinstance(entry, Mask) or entry.shape != kernel.shape:
            raise ValueError(
                f"the structure of a kernel of shape {kernel.shape} must be a Mask of that shape: "
                f"{type(entry).__name__} of {entry.shape}"
            )
        # where, not multiplication: a missing weight's gradient is zero even if the weight is not finite
        kernel = jnp.where(entry.mask, kernel, jnp.zeros((), kernel.dtype))
    if x.ndim < 3:
        raise ValueError(f"images must be (..., height, width, in): {x.shape}")
    images = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
    y = conv(images, kernel, strides=strides, padding=padding, dilation=dilation)
    y = y.reshape(*x.shape[:-3], *y.shape[1:])
    return y if bias is None else y + bias


def draw(shape: Sequence[int], density: float, key: Key) -> Mask:
    """Exactly ``int(density * size)`` weights of a kernel, all positions equally likely.

    Raises:
      ValueError: not a single one, or the density is not in (0, 1].
    """
    (number,) = allocate_arrays([tuple(shape)], density)
    topology = uniform_topology(math.prod(shape[:-1]), shape[-1], number, key_mask=key)
    return Mask(topology_mask(topology).reshape(shape))


def thinned(kernel: Kernel, entry: Mask | None) -> Kernel:
    """Initial values of a dense kernel made those of a sparse one.

    The weights that exist are scaled by ``sqrt(dense fan-in / fan-in)``, the fan-in counted for every
    output channel (at least 1), so that the variance of a channel does not depend on the density; the
    others are zero.
    """
    if entry is None:
        return kernel
    fan_in = jnp.sum(entry.mask, axis=(0, 1, 2), dtype=jnp.int32)
    gain = jnp.sqrt(math.prod(kernel.shape[:3]) / jnp.maximum(fan_in, 1).astype(jnp.float32))
    return jnp.where(entry.mask, kernel * gain.astype(kernel.dtype), jnp.zeros((), kernel.dtype))


class SparseConv(flax.linen.Module):
    """A convolution of images with a fraction of its weights (linen); dense at density 1.

    Parameters are those of ``flax.linen.Conv``. Below density 1 the collection ``structure`` holds a
    :class:`~jaxnet.topology.Mask` at the kernel's path; without an entry there, or with None, the
    layer is dense.

    Attributes:
      features: output channels.
      kernel_size: one number or ``(height, width)``.
      strides: one number or ``(down, right)``.
      padding: see :data:`jaxnet.nn.convolution.Padding`.
      kernel_dilation: distance between neighbouring entries of the kernel.
      density: fraction of the weights that exist, in (0, 1].
      use_bias: whether there is a bias.
      dtype: of the computation; by default that of inputs and parameters together.
      param_dtype: of the parameters.
      kernel_init: initial values of a dense kernel; see :func:`thinned` for those of a sparse one.
      bias_init: initial values of the bias.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    density: float = 1.0
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = flax.linen.linear.default_kernel_init
    bias_init: Initializer = jax.nn.initializers.zeros

    @flax.linen.compact
    def __call__(self, x: Float[Array, "*batch height width in"]) -> Float[Array, "*batch h w out"]:
        """``(..., height, width, in) -> (..., height', width', out)``.

        The rng ``structure``, else ``params``, draws what exists.
        """
        shape = (*pair(self.kernel_size, "kernel_size"), x.shape[-1], self.features)
        # at density 1 no key is used, so that the initial values are those of flax.linen.Conv
        if self.is_initializing() and self.density != 1 and not self.has_variable("structure", "kernel"):
            name = "structure" if self.has_rng("structure") else "params"
            self.put_variable("structure", "kernel", draw(shape, self.density, self.make_rng(name)))
        entry: Mask | None = self.get_variable("structure", "kernel")

        def values(key: Key) -> Kernel:
            return thinned(self.kernel_init(key, shape, self.param_dtype), entry)

        kernel = self.param("kernel", values)
        bias = (
            self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        )
        x, kernel, bias = flax.linen.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return sparse_conv(
            kernel, entry, x, bias, strides=self.strides, padding=self.padding, dilation=self.kernel_dilation
        )
