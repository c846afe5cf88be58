"""What a learner is: what is done so that old tasks are not forgotten. One network each, for jit and vmap.

A learner has one **dial**, a number that is data: networks of all its values are trained by one program. It
may change the task (loss, penalty), the optimiser, the batches, and what happens before and after a task.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet import protect
from jaxnet.continual.streams import Stream
from jaxnet.data.batches import Data
from jaxnet.optim import scale_updates, with_scales
from jaxnet.train import Batches, Net, Task, train_batches
from jaxnet.types import Array, Int, Key, PyTree, Scalar


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all learners share (static).

    Attributes:
      task: the model, the loss, the batches.
      optimizer: of the naive learner.
      tasks: how many.
      look: samples of a task that are looked at after it (Fisher information, bases).
      buffer: samples of every task that a replay may keep, at most.
      fan_in: most inputs of a row, layer by layer; None for a dense layer (bases).
      bias: whether layers have one.
      retrain: share of a task's steps after its weights are chosen (free weights).
    """

    task: Task
    optimizer: optax.GradientTransformation
    tasks: int
    look: int = 500
    buffer: int = 200
    fan_in: tuple[int | None, ...] = ()
    bias: bool = True
    retrain: float = 0.3


class Turn(NamedTuple):
    """A task whose turn it is.

    Attributes:
      setting: static.
      stream: all tasks.
      t: the number of this one.
      dial: the learner's number.
      key: of this task and network.
    """

    setting: Setting
    stream: Stream
    t: Int[Array, ""]
    dial: Scalar
    key: Key


@dataclasses.dataclass(frozen=True)
class Learner:
    """Learns one task after the other and does nothing about it (static).

    Attributes:
      what: it does, for readers.
      dial: what its number is.
      values: to choose from.
      knows_task: it must be told which task a test sample is from.
      sparse_only: it needs the sparse representation.
    """

    what: ClassVar[str] = "nothing; the dial is the learning rate"
    dial: ClassVar[str] = "rate x"
    values: ClassVar[tuple[float, ...]] = (0.3, 1.0, 2.0, 3.0)
    knows_task: ClassVar[bool] = False
    sparse_only: ClassVar[bool] = False

    def task(self, setting: Setting) -> Task:
        """How it trains."""
        return setting.task

    def optimizer(self, setting: Setting, net: Net) -> optax.GradientTransformation:
        """What it trains by; a factor per weight comes last."""
        return optax.chain(setting.optimizer, scale_updates())

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """The network and what is remembered, before the first task."""
        return everywhere(net, dial), ()

    def data(self, now: Turn, net: Net, memory: PyTree) -> Data:
        """What the batches point into."""
        return now.stream.task(now.t)

    def batches(self, now: Turn, memory: PyTree, batches: Batches) -> Batches:
        """Which samples it learns from, where the naive learner has ``batches`` of the task."""
        return batches

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Before task ``t``."""
        return net, memory

    def train(self, now: Turn, net: Net, memory: PyTree, data: Data, batches: Batches) -> tuple[Net, PyTree]:
        """One pass over the batches of a task."""
        return train_batches(self.task(now.setting), net, data, batches)[0], memory

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """After task ``t``; ``key`` is of this task."""
        return net, memory

    def answers(self, params: Any, memory: PyTree, structure: PyTree, t: Array) -> Any:
        """The parameters that answer samples of task ``t``; only those that know the task look at memory."""
        return params

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """Bytes kept of old tasks beside a network of so many weights, after the last task but one."""
        return 0


def everywhere(net: Net, scale: Scalar | float) -> Net:
    """The net with one factor on all its updates."""
    scales = jax.tree.map(
        lambda leaf: jnp.broadcast_to(jnp.asarray(scale, jnp.float32), leaf.shape), net.params
    )
    return net.replace(opt_state=with_scales(net.opt_state, scales))


def looked_at(setting: Setting, data: Data) -> Int[Array, "sample"]:
    """Samples of a task that are looked at after it: the first ones, as their order is random."""
    return jnp.arange(min(setting.look, data.size))


def importance(setting: Setting, net: Net, data: Data, key: Key) -> PyTree:
    """The Fisher information of a task, labels drawn by the network."""
    index = looked_at(setting, data)
    return protect.fisher(setting.task, net.params, net.structure, data, index, labels="drawn", key=key)
