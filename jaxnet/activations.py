"""Activation functions by name, and what counts as active or saturated for each."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.types import Array, Bool, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "identity": lambda x: x,
}
"""The activation functions by name; all act on single values."""

GAINS = {"relu": 2.0**0.5, "gelu": 2.0**0.5, "tanh": 1.0, "sigmoid": 1.0, "identity": 1.0}
"""Gain of the initial weights that keeps the variance (He et al. 2015, LeCun et al. 1998)."""

_BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
_SATURATION_MARGIN = 0.05


def activation(name: str) -> Callable[[Array], Array]:
    """Returns the activation function called ``name``.

    Raises:
      ValueError: no activation has this name.
    """
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}") from None


def is_active(post: Float[Array, "*n"], name: str) -> Bool[Array, "*n"]:
    """Whether a unit passes a signal on: a post-activation value above 0 (0.5 for the sigmoid)."""
    return post > (0.5 if name == "sigmoid" else 0.0)


def is_saturated(post: Float[Array, "*n"], name: str) -> Bool[Array, "*n"]:
    """Whether a bounded activation is within 5 % of its range from a bound.

    ReLU, GELU and the identity have no upper bound and never saturate; their
    dead units show in :func:`is_active`.
    """
    if name not in _BOUNDS:
        return jnp.zeros(post.shape, bool)
    low, high = _BOUNDS[name]
    margin = _SATURATION_MARGIN * (high - low)
    return (post < low + margin) | (post > high - margin)
