"""The parts of a decoder that read and write its stream: heads, and shares of its perceptrons."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.transformer.spec import MLP_FACTOR, Spec
from jaxnet.types import PyTree


class Components(NamedTuple):
    """Groups of a decoder's weights.

    Attributes:
      groups: a tree like the parameters with the number of every value's group, as
        :func:`jaxnet.circuits.ablate_each` takes it (``wrt``); the last one is whatever belongs to none.
      layer: of every group but the last, ``(group,)`` int, on the host.
      head: whether it is a head, ``(group,)`` bool, on the host; else a share of a perceptron.
      size: weights of each, ``(group,)`` int, on the host.
    """

    groups: PyTree
    layer: np.ndarray
    head: np.ndarray
    size: np.ndarray


def components(params: PyTree, spec: Spec, *, parts: int = 4) -> Components:
    """The heads of all layers, then equal shares of their perceptrons.

    A head has its columns of query, key and value and its rows of out; a share its columns of up and its
    rows of down.

    Args:
      params: of a decoder with dense or masked kernels ``(in, out)``; values are not looked at.
      spec: of it.
      parts: shares of every perceptron; they must divide its hidden units.

    Raises:
      ValueError: ``parts`` do not divide the hidden units, or a kernel is stored as a vector.
    """
    hidden = MLP_FACTOR * spec.width
    if parts < 1 or hidden % parts:
        raise ValueError(f"parts must divide the {hidden} hidden units of a perceptron: {parts}")
    heads = spec.layers * spec.heads
    total = heads + spec.layers * parts

    def one(path: Any, leaf: Any) -> Any:
        names = [getattr(step, "key", "") for step in path]
        if len(names) != 3 or names[-1] != "kernel" or not names[0].startswith("block_"):
            return jnp.full(jnp.shape(leaf), total, jnp.int32)
        if jnp.ndim(leaf) != 2:
            raise ValueError("components are those of dense or masked kernels (in, out)")
        layer, name = int(names[0].removeprefix("block_")), names[1]
        first, width, axis = (
            (heads + layer * parts, hidden // parts, name == "up")
            if name in ("up", "down")
            else (layer * spec.heads, spec.head_width, name != "out")
        )
        own = jax.lax.broadcasted_iota(jnp.int32, jnp.shape(leaf), int(axis)) // width
        return first + own

    layers = np.arange(spec.layers)
    layer = np.concatenate([np.repeat(layers, spec.heads), np.repeat(layers, parts)])
    head = np.arange(total) < heads
    size = np.where(head, 4 * spec.width * spec.head_width, 2 * spec.width * hidden // parts)
    return Components(jax.tree.map_with_path(one, params), layer, head, size)
