"""Updates that are not made: of batches that are not like the others.

For gradients that are not finite there is ``optax.apply_if_finite``, for a bound that is known
``optax.skip_large_updates``. Here the bound is the run's own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Int, PyTree, Scalar


class SkipState(NamedTuple):
    """State of :func:`skip_outlying`.

    Attributes:
      mean: of the logarithm of gradient norms, lately.
      variance: of it.
      seen: batches so far.
      skipped: of them.
      in_a_row: skipped just now.
      inner: of the optimiser.
    """

    mean: Scalar
    variance: Scalar
    seen: Int[Array, ""]
    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    inner: PyTree


def skip_outlying(
    inner: optax.GradientTransformation,
    *,
    deviations: float = 5.0,
    memory: int = 100,
    patience: int = 50,
) -> optax.GradientTransformation:
    """An optimiser that skips batches whose gradient is not finite or far larger than lately.

    Far larger: the logarithm of its norm is more than ``deviations`` standard deviations above its mean, both
    over about ``memory`` batches. A skipped batch changes neither weights nor the optimiser's state. After
    ``patience`` finite ones in a row the level has changed, and is learned.

    Raises:
      ValueError: a number out of range.
    """
    if not (math.isfinite(deviations) and deviations > 0 and memory > 1 and patience > 0):
        raise ValueError(
            f"deviations, memory and patience must be positive: {deviations}, {memory}, {patience}"
        )
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SkipState:
        # one array each: a state may be given away whole
        a, b, c = (jnp.zeros((), jnp.int32) for _ in range(3))
        return SkipState(jnp.zeros(()), jnp.zeros(()), a, b, c, wrapped.init(params))

    def update(
        grads: PyTree, state: SkipState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, SkipState]:
        norm = optax.tree.norm(grads).astype(jnp.float32)
        finite = jnp.isfinite(norm)
        size = jnp.log(jnp.maximum(jnp.where(finite, norm, 1.0), 1e-30))
        # a deviation of a few per cent is nothing, however even the batches were
        spread = jnp.sqrt(jnp.maximum(state.variance, 0.05**2))
        known = state.seen >= memory // 2
        large = known & (size > state.mean + deviations * spread) & (state.in_a_row < patience)
        skip = ~finite | large
        share = jnp.maximum(1 / memory, 1 / (state.seen.astype(jnp.float32) + 1))
        seen = ~skip
        off = size - state.mean
        mean = jnp.where(seen, state.mean + share * off, state.mean)
        variance = jnp.where(seen, (1 - share) * (state.variance + share * off**2), state.variance)
        safe = jax.tree.map(lambda g: jnp.where(skip, jnp.zeros((), g.dtype), g), grads)
        updates, moved = wrapped.update(safe, state.inner, params, **extra)
        updates = jax.tree.map(lambda u: jnp.where(skip, jnp.zeros((), u.dtype), u), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(skip, old, new), moved, state.inner)
        one = skip.astype(jnp.int32)
        row = jnp.where(skip, state.in_a_row + one, 0)
        return updates, SkipState(mean, variance, state.seen + 1, state.skipped + one, row, kept)

    return optax.GradientTransformationExtraArgs(init, update)
