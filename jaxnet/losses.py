"""Losses and accuracy on logits, the classes along any axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Float, Labels, Scalar


def cross_entropy(
    logits: Float[Array, "..."], labels: Labels, weight: Float[Array, "batch"], *, axis: int = -1
) -> Scalar:
    """Mean softmax cross-entropy in nats over the samples of positive weight.

    NaN with a label that is no class.

    Args:
      logits: ``(batch, classes)``, or ``(classes, batch)`` with ``axis=0``.
      labels: ``(batch,)`` int.
      weight: ``(batch,)``, 1 for a sample and 0 for padding.
      axis: of the classes.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[axis], axis=axis, dtype=logits.dtype)
    losses = optax.losses.softmax_cross_entropy(logits, one_hot, axis=axis)
    # a product with weight 0 would let padding through that is not finite
    mean = jnp.sum(jnp.where(weight > 0, losses * weight, 0.0)) / jnp.sum(weight)
    known = (labels >= 0) & (labels < logits.shape[axis])
    return jnp.where(jnp.all(known), mean, jnp.nan)


def num_correct(
    logits: Float[Array, "..."], labels: Labels, weight: Float[Array, "batch"], *, axis: int = -1
) -> Scalar:
    """Weighted number of samples whose largest logit is the label's.

    The lowest class index wins ties.
    """
    return jnp.sum(jnp.where(jnp.argmax(logits, axis=axis) == labels, weight, 0.0))
