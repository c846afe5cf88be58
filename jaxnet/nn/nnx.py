"""Sparse layers for Flax nnx, and the way between a module and parameters beside a structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.nn import conv_layer
from jaxnet.nn.convolution import Padding, pair
from jaxnet.nn.dense import draw, sparse_dense, values_of
from jaxnet.types import Array, Float

WEIGHT, ENTRY = "kernel", "structure"
"""Names of a layer's weights and of what says which exist."""


class Structure(nnx.Variable[Any]):
    """Which weights of a layer exist."""


class SparseDense(nnx.Module):
    """A linear layer with a fraction of its weights; see :class:`jaxnet.nn.SparseDense`.

    The rng stream ``structure`` (else ``params``) decides which weights exist.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        density: float = 0.1,
        use_bias: bool = True,
        init_values: str = "sparse-fan-in",
        activation: str = "relu",
        rngs: nnx.Rngs,
    ) -> None:
        key = rngs.structure() if "structure" in rngs else rngs.params()
        topology = draw(in_features, out_features, density, key)
        values = values_of(topology, init_values, activation, rngs.params())
        self.structure = Structure(topology)
        self.kernel = nnx.Param(values.weight)
        self.bias = nnx.Param(values.bias) if use_bias else None

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """``(..., in) -> (..., out)``."""
        bias = None if self.bias is None else self.bias.get_value()
        return sparse_dense(self.kernel.get_value(), self.structure.get_value(), x, bias)


class SparseConv(nnx.Module):
    """A convolution with a fraction of its weights; see :class:`jaxnet.nn.SparseConv`.

    The rng stream ``structure`` (else ``params``) decides which weights exist.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        padding: Padding = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        density: float = 1.0,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: jax.nn.initializers.Initializer = flax.linen.linear.default_kernel_init,
        bias_init: jax.nn.initializers.Initializer = jax.nn.initializers.zeros,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (*pair(kernel_size, "kernel_size"), in_features, out_features)
        mask = None
        if density != 1:  # else no key is used, so that the initial values are those of nnx.Conv
            key = rngs.structure() if "structure" in rngs else rngs.params()
            mask = conv_layer.draw(shape, density, key)
        values = kernel_init(rngs.params(), shape, param_dtype)
        self.structure = None if mask is None else Structure(mask)
        self.kernel = nnx.Param(conv_layer.thinned(values, mask))
        self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype)) if use_bias else None
        # no lists in a module: nnx takes them for state
        self.strides = pair(strides, "strides")
        self.kernel_dilation = pair(kernel_dilation, "kernel_dilation")
        self.padding = padding if isinstance(padding, (str, int)) else tuple((a, b) for a, b in padding)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*batch height width in"]) -> Float[Array, "*batch h w out"]:
        """``(..., height, width, in) -> (..., height', width', out)``."""
        bias = None if self.bias is None else self.bias.get_value()
        entry = None if self.structure is None else self.structure.get_value()
        x, kernel, bias = nnx.nn.dtypes.promote_dtype((x, self.kernel.get_value(), bias), dtype=self.dtype)
        return conv_layer.sparse_conv(
            kernel, entry, x, bias, strides=self.strides, padding=self.padding, dilation=self.kernel_dilation
        )


def split(model: Any) -> tuple[Any, Any, Any, Any]:
    """Takes a module apart: graph definition, parameters, structure, and all other state.

    The structure has the paths of the parameters, as everything in jaxnet that
    goes by path wants it; :func:`merge` puts the module together again.
    """
    parts: Any = nnx.split(model, nnx.Param, Structure, ...)
    graph, params, structure, rest = parts
    return graph, params, _renamed(structure, ENTRY, WEIGHT), rest


def merge(graph: Any, params: Any, structure: Any, rest: Any) -> Any:
    """The module of :func:`split`, with these parameters and this structure."""
    return nnx.merge(graph, params, _renamed(structure, WEIGHT, ENTRY), rest)


def _renamed(state: Any, old: str, new: str) -> Any:
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state(
        [((*path[:-1], new if path[-1] == old else path[-1]), variable) for path, variable in flat]
    )
