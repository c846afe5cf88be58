"""One learning rate per group of parameters.

The groups are ``scaffold`` (to which skip connections belong) and ``patch``,
after the fields of :class:`jaxnet.nn.Params`. Both labels are there before the
first patch is, so that adding patches leaves the scaffold's state where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import PyTree

GROUPS = ("scaffold", "patch")
"""Parts of a network that have a learning rate each."""


def label_params(params: Any) -> Any:
    """Labels every leaf with its group: ``patch`` below a field ``patches``, else ``scaffold``."""

    def label(path: Any, leaf: Any) -> str:
        del leaf
        return "patch" if any(getattr(part, "name", None) == "patches" for part in path) else "scaffold"

    return jax.tree.map_with_path(label, params)


def grouped(
    transforms: Mapping[str, optax.GradientTransformation], labels: Callable[[Any], Any] = label_params
) -> optax.GradientTransformation:
    """One optimiser per group. A group counts its steps from its first parameter on.

    Args:
      transforms: an optax optimiser for each of ``scaffold`` and ``patch``;
        ``optax.set_to_zero()`` freezes a group.
      labels: the group of every leaf of the parameters.

    Raises:
      ValueError: a group is missing or unknown.
    """
    if set(transforms) != set(GROUPS):
        raise ValueError(f"groups must be {', '.join(GROUPS)}: {', '.join(sorted(transforms))}")
    return optax.partition({name: while_present(t) for name, t in transforms.items()}, labels)


def while_present(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """``transform``, whose state stays as it is as long as there is no parameter for it.

    A group without parameters that went on counting steps would give its first
    parameters no correction of Adam's bias, and so first steps up to
    ``(1 - b1) / sqrt(1 - b2)`` (3.2 with the defaults) times too long.
    """
    inner = optax.with_extra_args_support(transform)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        if not jax.tree.leaves(updates):
            return updates, state
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


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
