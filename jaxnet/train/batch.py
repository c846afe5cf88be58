"""One batch: its loss, its gradient at all positions, and what a method may ask of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxnet import losses
from jaxnet import structure as structures
from jaxnet.train.net import Net, Task
from jaxnet.types import Array, Float, Key, PyTree, Scalar
from jaxnet.units import UnitStats, init_stats, update_stats


def dense_gradient(
    task: Task,
    net: Net,
    x: Array,
    y: Any,
    weight: Float[Array, "batch"],
    *,
    key_forward: Key | None = None,
) -> PyTree:
    """Gradient of the loss at all positions of every weight; see :func:`jaxnet.structure.dense_gradient`."""

    def loss(params: Any, structure: Any) -> Scalar:
        return batch_loss(task, params, structure, net.carried, x, y, weight, key_forward)[0]

    return structures.dense_gradient(loss, net.params, net.structure)


def batch_loss(
    task: Task,
    params: Any,
    structure: Any,
    carried: PyTree,
    x: Array,
    y: Any,
    weight: Float[Array, "batch"],
    key_forward: Key | None,
) -> tuple[Scalar, tuple[Scalar, Scalar, Any]]:
    """What is minimised; the loss alone, the weighted number of correct answers, the structure afterwards.

    That is the structure as it was, but for what a model remembers (:class:`jaxnet.train.Model`); None
    where it remembers nothing.
    """
    model: Any = task.model
    axis, after = model.class_axis, None
    if hasattr(model, "learn"):
        logits, seen, learned = model.learn(params, structure, x, key_forward=key_forward)
        after = learned if remembers(task) else None
    else:
        logits, seen = model(params, structure, x, key_forward=key_forward)
    loss = task.loss(logits, y, weight, axis=axis)
    whole = loss if task.penalty is None else loss + task.penalty(params, carried)
    if task.activity is not None:
        whole = whole + task.activity(seen, params, x, weight, carried)
    return whole, (loss, losses.num_correct(logits, y, weight, axis=axis), after)


def remembers(task: Task) -> bool:
    """Whether the model learns something of batches without a gradient."""
    return bool(getattr(task.model, "remembers", False))


@dataclasses.dataclass(frozen=True)
class BatchView:
    """What a method may ask of the batch of its step; called, it gives the gradient at all positions.

    Attributes:
      task: the model and the loss.
      net: after the step.
      x: of the batch, as it was learned.
      y: likewise.
      weight: ``(batch,)``.
      key_forward: for models that draw in every pass.
    """

    task: Task
    net: Net
    x: Array
    y: Any
    weight: Float[Array, "batch"]
    key_forward: Key | None = None

    def __call__(self) -> PyTree:
        """See :func:`dense_gradient`."""
        return dense_gradient(self.task, self.net, self.x, self.y, self.weight, key_forward=self.key_forward)

    def stats(self, values: str = "pre") -> tuple[UnitStats, ...]:
        """Statistics of every hidden layer on this batch; see :func:`jaxnet.train.collect_stats`."""
        model: Any = self.task.model
        seen = model(self.net.params, self.net.structure, self.x, key_forward=self.key_forward)[1]
        if not hasattr(seen, values):
            raise ValueError(f"{type(model).__name__} shows no activations of hidden units")
        return tuple(
            update_stats(init_stats(post.shape[0]), watched, post, model.activation, self.weight)
            for watched, post in zip(getattr(seen, values), seen.post, strict=True)
        )
