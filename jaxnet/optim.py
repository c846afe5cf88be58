"""Optimisers with a learning rate per group, by ``optax.multi_transform``.

The groups are ``scaffold`` (to which skip connections belong) and ``patch``,
after the fields of :class:`jaxnet.network.Params`. Both labels are there before the first patch is,
so that adding patches leaves the scaffold's optimiser state where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from jaxnet.network import Params
from jaxnet.trees import transplant
from jaxnet.types import PyTree

GROUPS = ("scaffold", "patch")


def label_params(params: Params) -> Params:
    """Labels every leaf with its group."""
    return Params(
        scaffold=jax.tree.map(lambda _: "scaffold", params.scaffold),
        patches=jax.tree.map(lambda _: "patch", params.patches),
        skips=jax.tree.map(lambda _: "scaffold", params.skips),
    )


def grouped(transforms: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimiser per group.

    Args:
      transforms: an optax optimiser for each of ``scaffold`` and ``patch``;
        ``optax.set_to_zero()`` freezes a group.

    Raises:
      ValueError: a group is missing or unknown.
    """
    if set(transforms) != set(GROUPS):
        raise ValueError(f"groups must be {', '.join(GROUPS)}: {', '.join(sorted(transforms))}")
    return optax.multi_transform(dict(transforms), label_params)


def dual_rate_adam(lr_scaffold: float, lr_patch: float) -> optax.GradientTransformation:
    """Adam (beta 0.9 and 0.999, epsilon 1e-8) with one rate per group; a rate of 0 freezes its group.

    A frozen scaffold keeps its Adam moments as they are (they are there when
    training goes on).

    Raises:
      ValueError: a rate is negative or not finite.
    """
    for group, rate in zip(GROUPS, (lr_scaffold, lr_patch), strict=True):
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"the {group} rate must be 0 or more: {rate}")

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(rate) if rate > 0 else frozen_adam()

    return grouped({"scaffold": adam(lr_scaffold), "patch": adam(lr_patch)})


def frozen_adam() -> optax.GradientTransformation:
    """An optimiser with Adam's state that changes neither the values nor the state."""
    adam = optax.adam(0.0)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        del params
        # zeros, not a product: a gradient that is not finite must not reach a frozen value
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformation(adam.init, update)


def carry_over(old_state: PyTree, optimizer: optax.GradientTransformation, params: Params) -> PyTree:
    """The state of ``optimizer`` for ``params``, keeping what ``old_state`` knows.

    Leaves that exist in both keep the old values (moments, counts); those of new
    parameters start afresh. The patch group as a whole starts afresh where
    ``old_state`` knows no patches: its step count ran on while it was empty, and
    with it Adam would skip the bias correction of the new moments and take first
    steps up to 3.2 times too large.
    """
    group = ".inner_states['patch']"
    had_patches = any(
        jax.tree_util.keystr(path).startswith(group) and jnp.ndim(leaf) > 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(old_state)
    )

    def source(path: str) -> str | None:
        return None if path.startswith(group) and not had_patches else path

    return transplant(old_state, optimizer.init(params), source=source)
