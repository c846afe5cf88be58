"""Partial revert: between a state that was right and one that has learned, a share for every group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Float, PyTree, Scalar


def blend(old: PyTree, new: PyTree, alpha: Float[Array, "group"] | float, labels: PyTree) -> PyTree:
    """``old + alpha[group] * (new - old)``: 0 takes a group back, 1 leaves it.

    With one ``alpha`` for all it is the plain interpolation of weights (WiSE-FT, Wortsman et al. 2022).
    """
    shares = jnp.asarray(alpha)

    def one(o: Array, n: Array, label: Array) -> Array:
        share = shares if shares.ndim == 0 else shares[label]
        return o + share.astype(o.dtype) * (n - o)

    return jax.tree.map(one, old, new, labels)


def fit_plain(
    old: PyTree, new: PyTree, loss: Callable[[Any], Scalar], labels: PyTree, *, points: int = 21
) -> Scalar:
    """The one share for all groups that is best by ``loss``, of so many from 0 to 1."""
    shares = jnp.linspace(0, 1, points)
    return shares[jnp.argmin(jax.lax.map(lambda share: loss(blend(old, new, share, labels)), shares))]


def fit_blend(
    old: PyTree,
    new: PyTree,
    loss: Callable[[Any], Scalar],
    labels: PyTree,
    number: int,
    *,
    steps: int = 150,
    rate: float = 0.03,
) -> Float[Array, "group"]:
    """A share in [0, 1] for every group, fitted on held samples.

    From the best plain interpolation on, by Adam; of all steps the shares with the smallest loss are given:
    on these samples they are no worse than the plain ones.

    Args:
      old: parameters that were right.
      new: parameters that have learned.
      loss: of parameters, on held canaries of both what is to be kept and what was learned.
      labels: the group of every weight.
      number: of groups.
      steps: of Adam.
      rate: of Adam.
    """
    first = jnp.full(number, 1.0) * fit_plain(old, new, loss, labels)
    optimizer = optax.adam(rate)

    def step(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        alpha, state, best, least = carry
        value, gradient = jax.value_and_grad(lambda a: loss(blend(old, new, a, labels)))(alpha)
        better = value < least
        best, least = jnp.where(better, alpha, best), jnp.where(better, value, least)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float (Adam's step count)
            update, state = optimizer.update(gradient, state)
        return (jnp.clip(alpha + update, 0, 1), state, best, least), None

    start = (first, optimizer.init(first), first, jnp.asarray(jnp.inf, first.dtype))
    return jax.lax.scan(step, start, None, length=steps + 1)[0][2]


def revert_worst(
    old: PyTree,
    new: PyTree,
    blame: Float[Array, "group"],
    loss: Callable[[Any], Scalar],
    labels: PyTree,
    *,
    cuts: int = 21,
) -> PyTree:
    """The groups of the most blame taken back, of so many numbers from 0 to all the best one by ``loss``."""
    number = blame.shape[0]
    rank = jnp.zeros(number, jnp.int32).at[jnp.argsort(-blame)].set(jnp.arange(number, dtype=jnp.int32))
    sizes = jnp.round(jnp.linspace(0, number, cuts)).astype(jnp.int32)

    def reverted(size: Array) -> PyTree:
        return blend(old, new, (rank >= size).astype(jnp.float32), labels)

    return reverted(sizes[jnp.argmin(jax.lax.map(lambda size: loss(reverted(size)), sizes))])
