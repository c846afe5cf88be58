"""The optimiser's state across a change of shape: what stays is kept, what is new is fresh."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxnet import optim, trees
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
    old = [n for n in jax.tree.leaves(old_state, is_leaf=_is_params) if _is_params(n)]
    zeros, ones = (jax.tree.map(lambda a, n=n: jnp.full_like(a, n), params) for n in (0, 1))
    # values of another rate group are zeros; other dtypes are sent along as that of the values
    whole = [
        jax.tree.map(lambda a, z: z if _masked(a) else a.astype(z.dtype), n, zeros, is_leaf=_masked)
        for n in old
    ]
    # all in one call: traced once, its random numbers drawn once
    changed = jax.vmap(change)(trees.stack([params, zeros, ones, *whole]))
    # a value that was there before is told from a new one by what the change makes of ones and zeros
    kept = jax.tree.map(lambda a: a[1] != a[2], changed)
    moved = iter(range(3, 3 + len(old)))

    def follow(new: PyTree) -> PyTree:
        if not _is_params(new):
            return new
        number = next(moved)
        return jax.tree.map(
            lambda a, k, b: a if _masked(a) else jnp.where(k, b[number], 0).astype(a.dtype),
            new,
            kept,
            changed,
            is_leaf=_masked,
        )

    fresh = optim.carry_over(old_state, optimizer, trees.take(changed, 0))
    return jax.tree.map(follow, fresh, is_leaf=_is_params)


def _is_params(node: PyTree) -> bool:
    return isinstance(node, Params)


def _masked(node: PyTree) -> bool:
    """Whether a node stands for a value of another rate group."""
    return isinstance(node, optax.MaskedNode)


__all__ = ["carry_over"]
