"""A teacher in the training loop: its logits beside the labels of every batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.losses import Taught
from jaxnet.train.net import Model, Transform
from jaxnet.types import Array, Key


def taught_by(model: Model, params: Any, structure: Any, *, then: Transform | None = None) -> Transform:
    """A transform of batches that asks a teacher, for :class:`jaxnet.losses.Distillation`.

    The teacher sees what the student sees. Its parameters become constants of the
    compiled program: for many teachers give data whose batches hold the logits
    (:class:`jaxnet.losses.Taught`) instead.

    Args:
      model: how the teacher is applied; its classes lie along the student's axis.
      params: its values.
      structure: which of its weights exist.
      then: a transform that comes first, with a key of its own.

    Example::

        task = Task(student, loss=Distillation(alpha=0.1, temperature=4.0),
                    transform=taught_by(teacher, params, structure))
    """

    def transform(x: Array, y: Array, *, key: Key) -> tuple[Array, Any]:
        key_then, key_forward = jax.random.split(key)
        if then is not None:
            x, y = then(x, y, key=key_then)
        logits, _ = model(params, structure, x, key_forward=key_forward)
        return x, Taught(y, jax.lax.stop_gradient(logits))

    return transform


@dataclasses.dataclass(frozen=True)
class Together:
    """Several networks of one model as one: the mean of their logits (static).

    Its parameters and structure are those of the networks, stacked: leaves ``(network, ...)``. As a
    teacher (:func:`taught_by`) it is an ensemble.

    Source: Hinton, Vinyals and Dean 2015 (distillation of an ensemble).

    Attributes:
      model: of every network.
    """

    model: Model

    @property
    def class_axis(self) -> int:
        """The axis of the logits that the classes lie along."""
        return self.model.class_axis

    def __call__(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Array, Any]:
        """Logits of samples ``(batch, ...)``; there is nothing else to be seen."""

        def one(params: Any, structure: Any) -> Array:
            return self.model(params, structure, x, key_forward=key_forward)[0]

        return jnp.mean(jax.vmap(one)(params, structure), axis=0), None
