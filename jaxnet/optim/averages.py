"""The mean of a network's values over its last steps, kept by the optimiser."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import PyTree


class AverageState(NamedTuple):
    """State of :func:`averaged`: the mean of the parameters, which follows every change of structure."""

    mean: PyTree


def averaged(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters: last in a chain, updates pass unchanged.

    After every step ``mean = decay * mean + (1 - decay) * parameters``, from the parameters at the start.
    A weight that goes is zero in the mean as well, one that comes starts there from nothing;
    :func:`average_of` gives the mean.

    Source: Polyak and Juditsky 1992; the exponential form as in Tarvainen and Valpola 2017.

    Args:
      decay: per step, at least 0 and below 1; ``1 / (1 - decay)`` steps count.

    Raises:
      ValueError: the decay is out of range.
    """
    if not (math.isfinite(decay) and 0 <= decay < 1):
        raise ValueError(f"decay must be at least 0 and below 1: {decay}")

    def init(params: PyTree) -> AverageState:
        # copies: a whole state may be donated, and no array can be given away twice
        return AverageState(jax.tree.map(jnp.copy, params))

    def update(updates: PyTree, state: AverageState, params: PyTree = None) -> tuple[PyTree, AverageState]:
        if params is None:
            raise ValueError("an average of the parameters needs them: give params to update")

        def one(mean: jax.Array, value: jax.Array, change: jax.Array) -> jax.Array:
            return mean + (1 - decay) * (value + change - mean)

        return updates, AverageState(jax.tree.map(one, state.mean, params, updates))

    return optax.GradientTransformation(init, update)


def average_of(state: PyTree) -> PyTree:
    """The mean that :func:`averaged` keeps in a state, like the parameters; ValueError without one."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, AverageState))
    found = [node.mean for node in nodes if isinstance(node, AverageState)]
    if not found:
        raise ValueError("the optimiser keeps no average: put averaged() at the end of its chain")
    return found[0]
