"""Learners that see or hear of old tasks again: replay, a teacher, all tasks at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet import losses
from jaxnet.continual.learner import Learner, Setting, Turn
from jaxnet.continual.streams import Part, Stream
from jaxnet.data.batches import Data
from jaxnet.train import Batches, Net, Task
from jaxnet.types import Array, Float, Int, PyTree, Scalar


class Reminded(losses.Taught):
    """Labels, what the network of the last task says, and how much that counts."""

    strength: Scalar


class WithOld(flax.struct.PyTreeNode):
    """A task whose samples come with what the network of the last task says of them."""

    part: Part
    params: Any
    structure: Any
    strength: Scalar
    task: Task = flax.struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.part.size

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Any]:
        """Samples; labels and logits."""
        x, y = self.part.batch(index)
        logits, _ = self.task.model(self.params, self.structure, x, key_forward=None)
        return x, Reminded(y, jax.lax.stop_gradient(logits), self.strength)


def reminded(logits: Array, y: Any, weight: Float[Array, "batch"], *, axis: int = -1) -> Scalar:
    """Cross-entropy, and ``strength T^2 KL(old || new)`` at temperature ``T = 2``."""
    if not isinstance(y, Reminded):
        return losses.cross_entropy(logits, y, weight, axis=axis)
    hard = losses.cross_entropy(logits, y.labels, weight, axis=axis)
    soft = losses.Distillation(alpha=0.0, temperature=2.0)(
        logits, losses.Taught(y.labels, y.logits), weight, axis=axis
    )
    return hard + y.strength * soft


class LwF(Learner):
    """Learning without forgetting."""

    what = "LwF: the network of the last task teaches on the new samples"
    dial = "strength"
    values = (0.03, 0.1, 0.3, 1.0)

    def task(self, setting: Setting) -> Task:
        """With what the old network says."""
        return dataclasses.replace(setting.task, loss=reminded)

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """Nobody teaches yet."""
        return net, jax.tree.map(jnp.copy, net.params)

    def data(self, now: Turn, net: Net, memory: PyTree) -> Data:
        """With the old network."""
        strength = jnp.where(now.t > 0, now.dial, 0.0)
        return WithOld(now.stream.task(now.t), memory, net.structure, strength, now.setting.task)

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """This one teaches."""
        return net, jax.tree.map(jnp.copy, net.params)

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """The old network."""
        return 4 * weights


class Mixed(flax.struct.PyTreeNode):
    """Batches whose first samples are of one task, the others numbered in the whole stream."""

    stream: Stream
    number: Array
    first: int = flax.struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.stream.size

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples and labels."""
        parts = (
            self.stream.task(self.number).batch(index[: self.first]),
            self.stream.batch(index[self.first :]),
        )
        x, y = (jnp.concatenate(pair) for pair in zip(*parts, strict=True))
        return x, y


class Replay(Learner):
    """Old samples beside new ones."""

    what = "replay: as many old samples as new ones in every batch, from a buffer of each task"
    dial = "buffer"
    values = (10.0, 30.0, 100.0, 200.0)

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """An empty buffer."""
        return net, jnp.zeros((setting.tasks, setting.buffer), jnp.int32)

    def data(self, now: Turn, net: Net, memory: PyTree) -> Data:
        """New and old."""
        return Mixed(now.stream, now.t, now.setting.task.batch_size)

    def batches(self, now: Turn, memory: PyTree, batches: Batches) -> Batches:
        """As many old samples again; none before there are any."""
        key_task, key_place = jax.random.split(now.key)
        shape = batches.indices.shape
        task = jax.random.randint(key_task, shape, 0, jnp.maximum(now.t, 1))
        number = jnp.clip(jnp.round(now.dial).astype(jnp.int32), 1, now.setting.buffer)
        place = jax.random.randint(key_place, shape, 0, number)
        old, there = memory[task, place], jnp.broadcast_to((now.t > 0).astype(jnp.float32), shape)
        return Batches(
            jnp.concatenate([batches.indices, old], 1), jnp.concatenate([batches.weight, there], 1)
        )

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Random samples of the task."""
        own = jax.random.choice(
            now.key,
            now.stream.per_task,
            (now.setting.buffer,),
            replace=now.stream.per_task < now.setting.buffer,
        )
        return net, memory.at[now.t].set((now.t * now.stream.per_task + own).astype(jnp.int32))

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """The images."""
        return min(dial, setting.buffer) * (setting.tasks - 1) * image_bytes


class Joint(Learner):
    """All tasks at once."""

    what = "joint training: as many samples, of all tasks from the beginning (what could be reached)"

    def data(self, now: Turn, net: Net, memory: PyTree) -> Data:
        """All of it."""
        return now.stream

    def batches(self, now: Turn, memory: PyTree, batches: Batches) -> Batches:
        """The samples' tasks at random."""
        task = jax.random.randint(now.key, batches.indices.shape, 0, now.setting.tasks)
        return Batches(task * now.stream.per_task + batches.indices, batches.weight)
