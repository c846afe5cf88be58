"""A factor per weight on what an optimiser does to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.optim.following import is_part
from jaxnet.types import PyTree


class ScaleState(NamedTuple):
    """State of :func:`scale_updates`: a factor per weight, which follows every change of structure."""

    scales: PyTree

    def for_new(self) -> ScaleState:
        """What a weight that is grown later has: the factor 1."""
        return ScaleState(jax.tree.map(jnp.ones_like, self.scales))


def scale_updates(scales: PyTree = None) -> optax.GradientTransformation:
    """Multiplies every weight's update by a factor of its own: last in a chain.

    There it has the last word over momentum and weight decay. A factor of 0 freezes a weight, whatever
    its update is (NaN too). The factors are in the state, where :func:`with_scales` sets others.

    Args:
      scales: like the parameters, 0 or more; None for 1 everywhere.
    """

    def init(params: PyTree) -> ScaleState:
        ones = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf)), params)
        return ScaleState(ones if scales is None else _alike(scales, ones))

    def update(updates: PyTree, state: ScaleState, params: PyTree = None) -> tuple[PyTree, ScaleState]:
        del params
        scale = lambda u, s: jnp.where(s == 0, jnp.zeros((), u.dtype), u * s.astype(u.dtype))  # noqa: E731
        return jax.tree.map(scale, updates, state.scales), state

    return optax.GradientTransformation(init, update)


def with_scales(state: PyTree, scales: PyTree) -> PyTree:
    """An optimiser's state with other factors in its :func:`scale_updates`; ValueError without one."""
    return replaced(state, ScaleState, lambda old: ScaleState(_alike(scales, old.scales)))


def replaced(state: PyTree, kind: type, change: Callable[[Any], Any]) -> PyTree:
    """An optimiser's state with every state of a kind changed; ValueError where there is none."""
    structure: Any
    nodes, structure = jax.tree.flatten(state, is_leaf=lambda node: isinstance(node, kind))
    if not any(isinstance(node, kind) for node in nodes):
        raise ValueError(f"the optimiser has no {kind.__name__}: put its transformation into the chain")
    return structure.unflatten([change(node) if isinstance(node, kind) else node for node in nodes])


def _alike(new: PyTree, old: PyTree) -> PyTree:
    """``new`` as arrays; ValueError unless it has the structure and shapes of ``old``."""
    if not is_part(new, old):
        raise ValueError("there must be a factor for every weight: a tree of the parameters' shapes")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), new)
