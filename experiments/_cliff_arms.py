"""What the arms of ``experiments.cliff_rescue`` do to one network; vmap gives all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from experiments.cliff_rescue import ARMS, Arm
from jaxnet import changes, scheduler, signals, train
from jaxnet.changes import scaffold_path
from jaxnet.data.batches import Split
from jaxnet.keys import INIT, MASK, purpose
from jaxnet.masks import allocate
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.train import Net, Task, TrainState
from jaxnet.types import Array, Key
from jaxnet.units import Extrema

if TYPE_CHECKING:
    from experiments.cliff_rescue import Config

SCHEDULER = scheduler.ORIGINAL


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many weights there are at the start, how many a growth adds, how many slots there must be.

    Attributes:
      start: weights of each layer of a network with the uniform allocation.
      step: of each layer, what ``random`` adds at a growth: a fraction of ``start``, in
        the hidden layers only.
      capacity: slots of each layer, enough for every arm.
      skips: slots of each bank of skip connections.
    """

    start: tuple[int, ...]
    step: tuple[int, ...]
    capacity: tuple[int, ...]
    skips: int

    @classmethod
    def of(cls, config: Config, spec: NetworkSpec) -> Sizes:
        """The numbers of a configuration."""
        start = allocate(spec.sizes, spec.density)
        step = (*(max(1, int(config.grow_fraction * n)) for n in start[:-1]), 0)
        arms = [ARMS[name] for name in config.arms]
        times = (config.epochs - 1) // config.grow_every
        if any(arm.scheduled for arm in arms):
            times = max(times, -(-config.epochs // (SCHEDULER.rest_epochs + 1)))
        capacity = []
        for layer, (num_in, num_out) in enumerate(zip(spec.sizes[:-1], spec.sizes[1:], strict=True)):
            slots = [allocate(spec.sizes, spec.density, arm.allocation)[layer] for arm in arms]
            if any(arm.grow in ("random", "skips") for arm in arms):
                slots.append(start[layer] + times * step[layer])
            if layer == len(start) - 1 and any(arm.grow == "output" for arm in arms):
                slots.append(start[layer] + times * sum(step))
            capacity.append(min(max(slots), num_in * num_out))
        return cls(start, step, tuple(capacity), max(1, times * sum(step)))


def by_path(counts: Sequence[Any]) -> dict[str, Any]:
    """Numbers of every layer by the path of its weights."""
    return {scaffold_path(layer): count for layer, count in enumerate(counts)}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """How networks are made and grown.

    Attributes:
      config: of the run.
      spec: of a network at the start.
      task: how it is applied.
      optimizer: whose state goes along.
    """

    config: Config
    spec: NetworkSpec
    task: Task
    optimizer: optax.GradientTransformation

    @property
    def sizes(self) -> Sizes:
        """How many weights there are, and how many are added."""
        return Sizes.of(self.config, self.spec)

    def init_one(self, allocation: str, key: Key) -> TrainState:
        """A network before training, with room for what its arm and the others add."""
        spec = dataclasses.replace(self.spec, allocation=allocation)
        params, structure = mlp.init(spec, key_mask=purpose(key, MASK), key_init=purpose(key, INIT))
        there = allocate(spec.sizes, spec.density, spec.allocation)
        room = {
            scaffold_path(layer): slots - n
            for layer, (slots, n) in enumerate(zip(self.sizes.capacity, there, strict=True))
        }
        net, _ = changes.with_room(Net.of(params, structure, self.optimizer), room)
        if any(ARMS[name].grow == "skips" for name in self.config.arms):
            net, _ = changes.with_skips(net, self.sizes.skips)
        return train.init_state(net)

    def grow_one(self, arm: Arm, state: TrainState, split: Split, key: Key) -> TrainState:
        """One growth of a network."""
        net, step = state.net, self.sizes.step
        if arm.grow == "none":
            return state
        if arm.grow in ("random", "output"):
            counts = step if arm.grow == "random" else (*(0 for _ in step[:-1]), sum(step))
            net, _ = changes.grow_random(net, by_path(counts), by_path(counts), key=key)
        else:
            found = signals.find(self.task, net.params, net.structure, split, self.config.detector)
            if arm.grow == "clone":
                net, _ = changes.clone_and_prune(net, found, step, key=key)
            else:
                net = self.grow_skips(net, found, key)
        # best_params stay: they belong to an earlier topology, and only their accuracy is reported
        return state.replace(net=net)

    def grow_skips(self, net: Net, found: tuple[Extrema, ...], key: Key) -> Net:
        """Skip connections as far as they can be routed, the rest at random into the hidden layers."""
        step, total = self.sizes.step, sum(self.sizes.step)
        key_route, key_fill = jax.random.split(key)
        net, added = changes.route_skips(
            net, found, total, total, max_incoming=self.config.max_incoming, key=key_route
        )
        counts, left = [], total - added
        for most in step:
            counts.append(jnp.minimum(left, most))
            left = left - counts[-1]
        return changes.grow_random(net, by_path(counts), by_path(step), key=key_fill)[0]

    def consult(
        self, account: scheduler.SchedulerState, norms: Array, epoch: Array
    ) -> tuple[scheduler.SchedulerState, Array]:
        """Shows a network's scheduler the gradient norms of an epoch; whether it wants to grow."""

        def see(account: scheduler.SchedulerState, norm: Array) -> tuple[scheduler.SchedulerState, Array]:
            account, decision = scheduler.step(SCHEDULER, account, norm, epoch)
            return account, decision.grow

        account, grow = jax.lax.scan(see, account, norms)
        return account, jnp.any(grow)
