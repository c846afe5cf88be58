"""What the arms of ``experiments.cliff_rescue`` do to one network; vmap gives all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp
import optax

from experiments.cliff_rescue import ARMS, Arm
from jaxnet import extrema, network, rewire, scheduler, train
from jaxnet.extrema import Extrema
from jaxnet.masks import allocate
from jaxnet.network import NetworkSpec, Params, Structure
from jaxnet.train import Split, Task, TrainState
from jaxnet.types import Array, Key, PyTree

if TYPE_CHECKING:
    from experiments.cliff_rescue import Config

_MASK, _INIT = 0, 1  # purposes of a seed's key
GROW = 2
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


class Memory(flax.struct.PyTreeNode):
    """What goes from epoch to epoch beside the state: structures, and the schedulers of their arm's seeds."""

    structure: Structure
    accounts: scheduler.SchedulerState | None


@dataclasses.dataclass(frozen=True)
class Treatment:
    """How networks are made and grown.

    Attributes:
      config: of the run.
      task: the network and how it is applied.
      optimizer: whose state goes along.
    """

    config: Config
    task: Task
    optimizer: optax.GradientTransformation

    @property
    def sizes(self) -> Sizes:
        """How many weights there are, and how many are added."""
        return Sizes.of(self.config, self.task.spec)

    def init_one(self, allocation: str, key: Key) -> tuple[TrainState, Structure]:
        """A network before training, with room for what its arm and the others add."""
        spec = dataclasses.replace(self.task.spec, allocation=allocation)
        params, structure = network.init(
            spec, key_mask=jax.random.fold_in(key, _MASK), key_init=jax.random.fold_in(key, _INIT)
        )
        there = allocate(spec.sizes, spec.density, spec.allocation)
        room = tuple(slots - n for slots, n in zip(self.sizes.capacity, there, strict=True))
        params, structure = rewire.with_room(params, structure, room)
        if any(ARMS[name].grow == "skips" for name in self.config.arms):
            params, structure = rewire.with_skips(params, structure, self.sizes.skips)
        return train.init_state(params, self.optimizer.init(params)), structure

    def grow_one(
        self, arm: Arm, state: TrainState, structure: Structure, split: Split, key: Key
    ) -> tuple[TrainState, Structure]:
        """One growth of a network."""
        params, opt_state, step = state.params, state.opt_state, self.sizes.step
        if arm.grow == "none":
            return state, structure
        if arm.grow in ("random", "output"):
            counts = step if arm.grow == "random" else (*(0 for _ in step[:-1]), sum(step))
            params, structure, opt_state, _ = rewire.grow_random(
                params, structure, opt_state, counts, counts, key_rewire=key
            )
        else:
            stats = train.collect_stats(self.task, params, structure, split)
            found = tuple(extrema.detect(s, self.config.detector) for s in stats)
            if arm.grow == "clone":
                params, structure, opt_state, _ = rewire.clone_and_prune(
                    params, structure, opt_state, found, step, key_rewire=key
                )
            else:
                params, structure, opt_state = self.grow_skips(params, structure, opt_state, found, key)
        # best_params stay: they belong to an earlier topology, and only their accuracy is reported
        return state.replace(params=params, opt_state=opt_state), structure

    def grow_skips(
        self, params: Params, structure: Structure, opt_state: PyTree, found: tuple[Extrema, ...], key: Key
    ) -> tuple[Params, Structure, PyTree]:
        """Skip connections as far as they can be routed, the rest at random into the hidden layers."""
        step, total = self.sizes.step, sum(self.sizes.step)
        key_route, key_fill = jax.random.split(key)
        params, structure, opt_state, added = rewire.route_skips(
            params,
            structure,
            opt_state,
            found,
            total,
            total,
            max_incoming=self.config.max_incoming,
            key_rewire=key_route,
        )
        counts, left = [], total - added
        for most in step:
            counts.append(jnp.minimum(left, most))
            left = left - counts[-1]
        return rewire.grow_random(params, structure, opt_state, counts, step, key_rewire=key_fill)[:3]

    def consult(
        self, account: scheduler.SchedulerState, norms: Array, epoch: Array
    ) -> tuple[scheduler.SchedulerState, Array]:
        """Shows a network's scheduler the gradient norms of an epoch; whether it wants to grow."""

        def see(account: scheduler.SchedulerState, norm: Array) -> tuple[scheduler.SchedulerState, Array]:
            account, decision = scheduler.step(SCHEDULER, account, norm, epoch)
            return account, decision.grow

        account, grow = jax.lax.scan(see, account, norms)
        return account, jnp.any(grow)
