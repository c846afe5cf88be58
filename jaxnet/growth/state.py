"""The optimiser's state across a change of shape: what stays is kept, what is new is fresh."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxnet import optim
from jaxnet.network import Params
from jaxnet.types import PyTree


def carry_over(
    old_state: PyTree,
    optimizer: optax.GradientTransformation,
    params: Params,
    change: Callable[[Params], Params],
) -> PyTree:
    """The state of ``optimizer`` after a network has grown.

    Whatever the optimiser keeps for every value (moments, traces) is sent through
    the same change as the values: it follows its weight wherever the weight goes,
    across layers and re-sorted slots, in every rate group. New values start with
    zeros. Step counts go on, but a patch group that had no patches counts from
    zero (:func:`jaxnet.optim.carry_over`). New values of a group that has counted
    steps share its count: with Adam their first steps are up to 3.2 times as long
    as those of a new run (:func:`jaxnet.trees.transplant`).

    >>> def change(values):                                             # doctest: +SKIP
    ...     return widen(spec, values, structure, ...)[1]
    >>> state = carry_over(state, optimizer, params, change)            # doctest: +SKIP

    Args:
      old_state: state for ``params``.
      optimizer: what made it.
      params: values before the change.
      change: the values after it, from those before; one operator or several in a
        row, with fixed keys. It moves values and adds new ones, but does not look
        at values to decide what goes where, nor calculates with them.
    """
    fresh = optim.carry_over(old_state, optimizer, change(params))
    # a value that came from before is told from a new one by what the change makes of ones and zeros
    ones, zeros = (change(jax.tree.map(lambda a, n=n: jnp.full_like(a, n), params)) for n in (1, 0))
    kept = jax.tree.map(lambda a, b: a != b, ones, zeros)

    def follow(new: PyTree, old: PyTree) -> PyTree:
        if not isinstance(new, Params):
            return new
        whole = jax.tree.map(lambda a, b: b if _masked(a) else a, old, _zeros(params), is_leaf=_masked)
        moved = jax.tree.map(lambda k, a: jnp.where(k, a, jnp.zeros_like(a)), kept, change(whole))
        return jax.tree.map(lambda a, b: a if _masked(a) else b, new, moved, is_leaf=_masked)

    return jax.tree.map(follow, fresh, old_state, is_leaf=lambda node: isinstance(node, Params))


def _zeros(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _masked(node: PyTree) -> bool:
    """Whether a node stands for a value of another rate group."""
    return isinstance(node, optax.MaskedNode)


__all__ = ["carry_over"]
