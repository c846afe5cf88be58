"""Losses and accuracy on logits, the classes along any axis; what a teacher says beside the labels."""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Float, Int, Labels, Scalar

ABSENT = -1e30
"""Logit of a class that is not there: out of every softmax, and finite."""


class TokenLabels(flax.struct.PyTreeNode):
    """Labels of the places of a sample, and how much each counts: ``y`` of a batch of token sequences.

    The loss and the accuracy of a sample are weighted means over its places; a sample in which none counts
    has 0 of both. Plain labels ``(batch, time)`` count alike everywhere.

    Attributes:
      labels: ``(batch, time)`` int; where the weight is 0 any number.
      weight: ``(batch, time)``, 0 or above.
    """

    labels: Int[Array, "batch time"]
    weight: Float[Array, "batch time"]


class Taught(flax.struct.PyTreeNode):
    """Labels with a teacher's logits beside them: what a batch has as ``y`` in a distillation.

    They come from data whose ``batch`` gives them, or from a transform of the batch
    (:func:`jaxnet.train.taught_by`).

    Attributes:
      labels: ``(batch,)`` int, or of places (:class:`TokenLabels`).
      logits: of the shape of the student's.
    """

    labels: Labels | TokenLabels
    logits: Float[Array, "..."]


def labels_of(y: Labels | TokenLabels | Taught) -> Int[Array, "batch *time"]:
    """The labels alone, ``(batch,)`` or ``(batch, time)``."""
    while isinstance(y, (Taught, TokenLabels)):
        y = y.labels
    return y


def over_places(
    values: Float[Array, "batch *time"], y: Labels | TokenLabels | Taught
) -> Float[Array, "batch"]:
    """The mean of a sample's values over its places, by their weights; ``(batch,)`` values stay."""
    y = y.labels if isinstance(y, Taught) else y
    if values.ndim == 1:
        return values
    places = tuple(range(1, values.ndim))
    if not isinstance(y, TokenLabels):
        return jnp.mean(values, places)
    weight = y.weight.astype(values.dtype)
    total = jnp.sum(weight, places)
    return jnp.sum(jnp.where(weight > 0, values * weight, 0), places) / jnp.where(total > 0, total, 1)


def cross_entropy(
    logits: Float[Array, "..."],
    labels: Labels | TokenLabels,
    weight: Float[Array, "batch"],
    *,
    axis: int = -1,
) -> Scalar:
    """Mean softmax cross-entropy in nats over the samples of positive weight.

    Of a sample with places (tokens) it is the mean over these: nats per token. NaN with a label that is no
    class at a place that counts.

    Args:
      logits: ``(batch, classes)`` or ``(batch, time, classes)``; with ``axis=0`` the classes come first.
      labels: ``(batch,)`` or ``(batch, time)`` int, or :class:`TokenLabels`.
      weight: ``(batch,)``, 1 for a sample and 0 for padding.
      axis: of the classes.
    """
    plain = labels_of(labels)
    one_hot = jax.nn.one_hot(plain, logits.shape[axis], axis=axis, dtype=logits.dtype)
    losses = over_places(optax.losses.softmax_cross_entropy(logits, one_hot, axis=axis), labels)
    # a product with weight 0 would let padding through that is not finite
    mean = jnp.sum(jnp.where(weight > 0, losses * weight, 0.0)) / jnp.sum(weight)
    known = (plain >= 0) & (plain < logits.shape[axis])
    if isinstance(labels, TokenLabels):
        known |= labels.weight <= 0
    return jnp.where(jnp.all(known), mean, jnp.nan)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """A loss by which a student learns from labels and from a teacher, for :class:`jaxnet.train.Task`.

    ``alpha CE(labels) + (1 - alpha) T**2 KL(teacher || student)``, the distributions of
    the divergence being softmaxes of the logits over ``T``; means over the samples of
    positive weight, in nats. Where no teacher has spoken (an evaluation) it is the
    cross-entropy. No gradient goes to the teacher.

    Source: Hinton, Vinyals and Dean 2015.

    Attributes:
      alpha: share of the labels, in [0, 1].
      temperature: ``T``, above 0.
    """

    alpha: float = 0.1
    temperature: float = 4.0

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if not (math.isfinite(self.alpha) and 0 <= self.alpha <= 1):
            raise ValueError(f"alpha must be between 0 and 1: {self.alpha}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0: {self.temperature}")

    def __call__(
        self,
        logits: Float[Array, "..."],
        y: Labels | TokenLabels | Taught,
        weight: Float[Array, "batch"],
        *,
        axis: int = -1,
    ) -> Scalar:
        """As :func:`cross_entropy`; ``y`` may be :class:`Taught`.

        Raises:
          ValueError: the teacher's logits have another shape than the student's.
        """
        if not isinstance(y, Taught):
            return cross_entropy(logits, y, weight, axis=axis)
        if y.logits.shape != logits.shape:
            raise ValueError(
                f"the teacher's logits must have the student's shape: {y.logits.shape}, {logits.shape}"
            )
        hard = cross_entropy(logits, y.labels, weight, axis=axis)
        teacher = jax.nn.log_softmax(jax.lax.stop_gradient(y.logits) / self.temperature, axis=axis)
        student = jax.nn.log_softmax(logits / self.temperature, axis=axis)
        divergence = over_places(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=axis), y)
        # a product with weight 0 would let padding through that is not finite
        soft = jnp.sum(jnp.where(weight > 0, divergence * weight, 0.0)) / jnp.sum(weight)
        return self.alpha * hard + (1 - self.alpha) * self.temperature**2 * soft


def num_correct(
    logits: Float[Array, "..."],
    labels: Labels | TokenLabels | Taught,
    weight: Float[Array, "batch"],
    *,
    axis: int = -1,
) -> Scalar:
    """Weighted number of samples whose largest logit is the label's.

    A sample with places (tokens) counts as the share of them that is right. The lowest class index wins ties.
    Of :class:`Taught` the labels count.
    """
    right = jnp.argmax(logits, axis=axis) == labels_of(labels)
    if right.ndim == 1:
        return jnp.sum(jnp.where(right, weight, 0.0))
    return jnp.sum(over_places(right.astype(weight.dtype), labels) * weight)
