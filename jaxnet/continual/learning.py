"""One network that learns one task after the other: the same compiled program for every task."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.continual.learner import Learner, Setting, Turn
from jaxnet.continual.streams import Stream
from jaxnet.data.batches import epoch_batches
from jaxnet.train import Batches, Net, evaluate
from jaxnet.types import Array, Float, Int, Key, PyTree, Scalar


class Progress(flax.struct.PyTreeNode):
    """What is carried from task to task.

    Attributes:
      net: the network.
      memory: what the learner remembers.
      dial: the learner's number.
      key: of the network.
      accuracies: ``(T, T)``: row ``i`` after task ``i``, column ``j`` on task ``j``; NaN before it is judged.
      before: ``(T,)``, before the first task.
    """

    net: Net
    memory: PyTree
    dial: Scalar
    key: Key
    accuracies: Float[Array, "task task"]
    before: Float[Array, "task"]


def begin(
    setting: Setting, learner: Learner, params: Any, structure: Any, dial: Scalar, key: Key
) -> Progress:
    """Before the first task."""
    optimizer = learner.optimizer(setting, Net(params, structure, None, optimizer=setting.optimizer))
    dial = jnp.asarray(dial, jnp.float32)
    net, memory = learner.begin(setting, Net.of(params, structure, optimizer), dial)
    number = setting.tasks
    return Progress(net, memory, dial, key, jnp.full((number, number), jnp.nan), jnp.full(number, jnp.nan))


def turn(setting: Setting, stream: Stream, progress: Progress, t: Int[Array, ""]) -> Turn:
    """Task ``t`` of this network."""
    return Turn(setting, stream, t, progress.dial, jax.random.fold_in(progress.key, t))


def learn(
    setting: Setting,
    learner: Learner,
    progress: Progress,
    stream: Stream,
    t: Int[Array, ""],
    batches: Batches,
) -> Progress:
    """Learns task ``t``; ``batches`` are of its samples (:func:`order`)."""
    now = turn(setting, stream, progress, t)
    net, memory = learner.before(now, progress.net, progress.memory)
    data = learner.data(now, net, memory)
    net, memory = learner.train(now, net, memory, data, learner.batches(now, memory, batches))
    net, memory = learner.after(now, net, memory)
    return progress.replace(net=net, memory=memory)


def order(per_task: int, batch_size: int, epochs: int, key_data: Key, t: Int[Array, ""]) -> Batches:
    """The batches of task ``t``, an epoch after the other: a program of its own, for all learners."""
    parts = [
        epoch_batches(per_task, batch_size, jax.random.fold_in(key_data, t * epochs + e))
        for e in range(epochs)
    ]
    return Batches(*(jnp.concatenate(part) for part in zip(*parts, strict=True)))


def grown(setting: Setting, learner: Any, progress: Progress, stream: Stream) -> Progress:
    """After the first task, for learners that ``grow``."""
    net, memory = learner.grow(turn(setting, stream, progress, jnp.zeros((), jnp.int32)), progress.net)
    return progress.replace(net=net, memory=memory)


AHEAD = 1000
"""Samples by which tasks are judged whose turn has not come."""


def judge(
    setting: Setting,
    learner: Learner,
    params: Any,
    memory: PyTree,
    structure: Any,
    stream: Stream,
    t: Int[Array, ""],
) -> Float[Array, "task"]:
    """Accuracies on all tasks of ``stream`` after task ``t`` (-1: before the first); NaN if it has diverged.

    Tasks ahead are judged by the first :data:`AHEAD` samples.
    """

    def on(number: Array) -> Scalar:
        answering, part = learner.answers(params, memory, structure, number), stream.task(number)
        whole = partial(evaluate, setting.task, answering, structure)
        some = First(part, min(AHEAD, part.size))
        return jax.lax.cond(number <= t, lambda: whole(part).accuracy, lambda: whole(some).accuracy)

    return jax.lax.map(on, jnp.arange(setting.tasks))


class First(flax.struct.PyTreeNode):
    """The first samples of data."""

    data: Any
    size: int = flax.struct.field(pytree_node=False)

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples and labels."""
        x, y = self.data.batch(index)
        return x, y
