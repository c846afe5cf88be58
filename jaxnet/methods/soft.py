"""Choosing by chance and by score at once, and exchanging what was chosen."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxnet.changes.weights import after_keeping, edited, largest
from jaxnet.topology import Entry
from jaxnet.types import Array, Int, Key, Scalar

_NON_NEGATIVE = 128.0  # more than -log of the smallest float32, and than any Gumbel noise below zero


def softly(score: Array, delta: Scalar | float, *, key: Key) -> Array:
    """Noisy scores: the ``k`` largest are ``k`` draws without replacement.

    Each draw has probabilities in proportion to ``score ** (delta / (1 - delta))``:
    uniform for ``delta`` 0, in proportion for 0.5, the order of the scores for 1. A
    score of 0 comes after all others wherever ``delta`` is not about 0.

    Source: the Gumbel trick (Yellott 1977); the exponent is that of Zhang et al. 2025 (CHTs).

    Args:
      score: 0 or more, of any shape.
      delta: in [0, 1]; may be traced.
      key: PRNG key.
    """
    tiny = jnp.finfo(score.dtype).tiny
    noise = jax.random.gumbel(key, score.shape, score.dtype)
    return delta * jnp.log(jnp.maximum(score, tiny)) + (1 - delta) * noise


def softly_largest(score: Array, delta: float, *, key: Key) -> Array:
    """As :func:`softly`, 0 or more, as :func:`jaxnet.changes.weights.largest` wants it."""
    return score if delta == 1 else _NON_NEGATIVE + softly(score, delta, key=key)


def number_of(fraction: Scalar | float, count: Int[Array, ""]) -> Int[Array, ""]:
    """``floor(fraction * count)``; a whole number that rounding has made a little less counts as itself."""
    number = jnp.floor(fraction * count.astype(jnp.float32) + 1e-4).astype(jnp.int32)
    return jnp.minimum(number, count)


def most_of(fraction: float, size: int) -> int:
    """The largest :func:`number_of` of ``size`` slots, at least 1."""
    return max(1, math.floor(fraction * size + 1e-4))


def regrown(
    entry: Entry,
    keep: Array,
    score: Array,
    number: Int[Array, ""],
    at_most: int,
    taken: Array | None = None,
) -> Entry:
    """The entry with the weights in ``keep`` and ``number`` more where ``score`` is largest.

    Every position that is not kept can be grown, those just dropped included.

    Args:
      entry: of one weight.
      keep: of the parameter's shape.
      score: of the dense array's shape, 0 or more.
      number: weights to be grown.
      at_most: largest ``number`` (static).
      taken: positions that cannot be grown, or None.
    """
    free = ~after_keeping(entry, keep)
    free = free if taken is None else free & ~taken
    return edited(entry, keep, *largest(score, free, number, at_most))
