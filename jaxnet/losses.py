"""Losses and accuracy on logits, the classes along any axis; what a teacher says beside the labels."""

from __future__ import annotations

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet.types import Array, Float, Labels, Scalar

ABSENT = -1e30
"""Logit of a class that is not there: out of every softmax, and finite."""


class Taught(flax.struct.PyTreeNode):
    """Labels with a teacher's logits beside them: what a batch has as ``y`` in a distillation.

    They come from data whose ``batch`` gives them, or from a transform of the batch
    (:func:`jaxnet.train.taught_by`).

    Attributes:
      labels: ``(batch,)`` int.
      logits: of the shape of the student's.
    """

    labels: Labels
    logits: Float[Array, "..."]


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
        y: Labels | Taught,
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
        divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=axis)
        # a product with weight 0 would let padding through that is not finite
        soft = jnp.sum(jnp.where(weight > 0, divergence * weight, 0.0)) / jnp.sum(weight)
        return self.alpha * hard + (1 - self.alpha) * self.temperature**2 * soft


def num_correct(
    logits: Float[Array, "..."], labels: Labels | Taught, weight: Float[Array, "batch"], *, axis: int = -1
) -> Scalar:
    """Weighted number of samples whose largest logit is the label's.

    The lowest class index wins ties. Of :class:`Taught` the labels count.
    """
    labels = labels.labels if isinstance(labels, Taught) else labels
    return jnp.sum(jnp.where(jnp.argmax(logits, axis=axis) == labels, weight, 0.0))
