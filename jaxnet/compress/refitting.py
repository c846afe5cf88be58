"""Refit: what stays of a layer learns by least squares to give what the whole layer gave."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import linalg
from jaxnet.circuits.attribution import chain
from jaxnet.nn.layers import linear
from jaxnet.protect import supports
from jaxnet.structure import LayerParams
from jaxnet.topology import Entry, Topology
from jaxnet.train import Task
from jaxnet.types import Array, Float


def refit_layer(
    entry: Entry,
    x: Float[Array, "in sample"],
    wanted: Float[Array, "out sample"],
    ridge: float | Array = 1e-3,
    *,
    fan_in: int | None = None,
    old: LayerParams | None = None,
) -> LayerParams:
    """Weights and bias of every output unit, from the inputs that it has: ridge regression row by row.

    ``min |w x_S + b - wanted|^2 + r |w - w_old|^2`` with ``r`` the ridge times the mean square of the
    inputs times the number of samples; the bias is free.

    Args:
      entry: which weights exist, ``(out, in)``.
      x: inputs.
      wanted: pre-activations to be met.
      ridge: above 0.
      fan_in: most inputs of a row (static); None finds it on the host.
      old: what the ridge draws to; zero by default.
    """
    shape = (entry.shape[0], entry.shape[1])
    cols = supports(entry, shape, fan_in=fan_in)  # (row, place), the bias last, in + 1 for none
    num_in, number = shape[1], x.shape[1]
    one = jnp.ones((1, number), x.dtype)
    seen = jnp.concatenate([x, one, 0 * one])
    gram, cross = linalg.times(seen, seen.T), linalg.times(wanted, seen.T)  # (in + 2, ..), (out, in + 2)
    strength = jnp.asarray(ridge, x.dtype) * jnp.maximum(jnp.mean(x**2), 1e-12) * number
    extra = jnp.full(num_in + 2, strength).at[num_in].set(0).at[num_in + 1].set(1)
    before = jnp.zeros(cols.shape) if old is None else _rows(old, entry, cols)

    def solved(args: tuple[Array, Array, Array]) -> Array:
        place, right, start = args
        diagonal = extra[place]
        pull = jnp.where(place < num_in, strength * start, 0)
        return linalg.solve(
            gram[place[:, None], place[None]] + jnp.diag(diagonal), (right[place] + pull)[:, None]
        )[:, 0]

    found = jax.lax.map(solved, (cols, cross, before))
    bias = found[:, -1]
    dense = jnp.zeros((shape[0], num_in + 2)).at[jnp.arange(shape[0])[:, None], cols].set(found)[:, :num_in]
    if isinstance(entry, Topology):
        return LayerParams(dense.at[entry.rows, entry.cols].get(mode="fill", fill_value=0), bias)
    return LayerParams(jnp.where(entry.mask, dense, 0), bias)


def _rows(layer: LayerParams, entry: Entry, cols: Array) -> Array:
    """A layer's weights at the places of its rows; 0 for the bias and for none."""
    if isinstance(entry, Topology):
        dense = jnp.zeros(entry.shape).at[entry.rows, entry.cols].set(layer.weight, mode="drop")
    else:
        dense = jnp.where(entry.mask, layer.weight, 0)
    return jnp.pad(dense, ((0, 0), (0, 2)))[jnp.arange(entry.shape[0])[:, None], cols]


def refit(
    task: Task,
    params: Any,
    structure: Any,
    pruned: Any,
    left: Any,
    x: Float[Array, "sample in"],
    ridge: float | Array = 1e-3,
    *,
    fan_in: tuple[int | None, ...] | None = None,
) -> Any:
    """The parameters of a pruned perceptron, refitted layer by layer to what the whole network computed.

    A layer sees what the refitted layers before it give, and shall give the pre-activations of the whole
    network (Frantar and Alistarh 2023 fit to equal ends, SparseGPT; here exactly, row by row).

    Args:
      task: its model is a perceptron's.
      params: before pruning.
      structure: before.
      pruned: after.
      left: the structure after.
      x: samples, more than the inputs of a row.
      ridge: see :func:`refit_layer`.
      fan_in: most inputs of a row, layer by layer (static), where structures are traced.
    """
    seen = chain(task, params, structure, x)
    count = len(params.scaffold)
    wanted = pre_activations(task, params, structure, seen[1])
    layers, h = [], x.T
    for number, (layer, entry) in enumerate(zip(pruned.scaffold, left.weights, strict=True)):
        room = None if fan_in is None else fan_in[number]
        made = refit_layer(entry, h, wanted[number], ridge, fan_in=room, old=layer)
        layers.append(made)
        if number + 1 < count:
            upto = pruned.replace(scaffold=(*layers, *pruned.scaffold[number + 1 :]))
            h = chain(task, upto, left, x)[1][number + 1]
    return pruned.replace(scaffold=tuple(layers))


def pre_activations(task: Task, params: Any, structure: Any, inputs: list[Array]) -> list[Array]:
    """Of every layer what it gives before the activation, from what goes into it."""
    model: Any = task.model
    return [
        linear(layer, entry, h, model.product)
        for layer, entry, h in zip(params.scaffold, structure.weights, inputs, strict=True)
    ]
