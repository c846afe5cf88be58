"""What is said of a network that has learned one task after the other.

All start from ``accuracies: (T, T)``: row ``i``, after task ``i`` was learned; column ``j``, on task ``j``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.data.batches import Data
from jaxnet.train import Task
from jaxnet.types import Array, Float, Int, Scalar

Accuracies = Float[Array, "task task"]


def average(accuracies: Accuracies) -> Scalar:
    """Mean accuracy on all tasks at the end."""
    return jnp.mean(accuracies[-1])


def learning(accuracies: Accuracies) -> Scalar:
    """Mean accuracy on every task just after it was learned."""
    return jnp.mean(jnp.diagonal(accuracies))


def forgetting(accuracies: Accuracies) -> Scalar:
    """Mean, over all tasks but the last, of the best accuracy before the end less that at the end.

    Source: Chaudhry et al. 2018.

    >>> round(float(forgetting(jnp.asarray([[0.9, 0.1], [0.6, 0.8]]))), 4)
    0.3
    """
    tasks = accuracies.shape[0]
    # of a task, what was seen from its own turn on
    learned = jnp.arange(tasks)[:, None] >= jnp.arange(tasks)
    best = jnp.max(jnp.where(learned, accuracies, -jnp.inf)[:-1], axis=0)[:-1]
    return jnp.mean(best - accuracies[-1, :-1])


def transfer(accuracies: Accuracies, before: Float[Array, "task"]) -> Accuracies:
    """Row ``i``: what learning task ``i`` has added to the accuracy on every task.

    Args:
      accuracies: after every task.
      before: ``(T,)``, before the first.
    """
    return accuracies - jnp.concatenate([before[None], accuracies[:-1]])


def interference(
    task: Task, params: Any, structure: Any, tasks: list[Data], index: Int[Array, "sample"]
) -> Float[Array, "task task"]:
    """Cosines of the gradients of the tasks' losses at one point: below 0 one step undoes another.

    Args:
      task: the model and the loss.
      params: where.
      structure: which weights exist.
      tasks: the data of every task.
      index: samples of each whose mean loss is taken.
    """

    def gradient(data: Data) -> Array:
        x, y = data.batch(index)

        def loss(values: Any) -> Scalar:
            logits, _ = task.model(values, structure, x, key_forward=None)
            return task.loss(logits, y, jnp.ones(index.shape), axis=task.model.class_axis)

        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(loss)(params))])

    g = jnp.stack([gradient(data) for data in tasks])
    norm = jnp.linalg.norm(g, axis=1)
    return g @ g.T / jnp.maximum(norm[:, None] * norm, 1e-30)
