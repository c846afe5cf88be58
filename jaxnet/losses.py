"""Losses and accuracy on features-first logits ``(classes, batch)``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Features, Float, Labels, Scalar


def cross_entropy(logits: Features, labels: Labels, weight: Float[Array, "batch"]) -> Scalar:
    """Mean softmax cross-entropy in nats over the samples of positive weight.

    Args:
      logits: ``(classes, batch)``.
      labels: ``(batch,)`` int.
      weight: ``(batch,)``, 1 for a sample and 0 for padding.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[0], axis=0, dtype=logits.dtype)
    losses = optax.losses.softmax_cross_entropy(logits, one_hot, axis=0)
    # a product with weight 0 would let padding through that is not finite
    return jnp.sum(jnp.where(weight > 0, losses * weight, 0.0)) / jnp.sum(weight)


def num_correct(logits: Features, labels: Labels, weight: Float[Array, "batch"]) -> Scalar:
    """Weighted number of samples whose largest logit is the label's.

    The lowest class index wins ties.
    """
    return jnp.sum(jnp.where(jnp.argmax(logits, axis=0) == labels, weight, 0.0))
