"""What the arms of ``experiments.cliff_rescue`` do: how their networks start, and what is added to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from jaxnet import changes, keys, lab, scheduler, trees
from jaxnet.allocation import allocate
from jaxnet.changes import scaffold_path
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.train import EpochResult, Net, Task, TrainState
from jaxnet.types import Array, Key, PyTree

SCHEDULER = scheduler.ORIGINAL


def by_path(counts: Any) -> dict[str, Any]:
    """Numbers of every layer by the path of its weights."""
    return {scaffold_path(layer): count for layer, count in enumerate(counts)}


@dataclasses.dataclass(frozen=True)
class Growth:
    """Networks of all arms, made and grown: the seeds of the first arm, then of the second, and so on."""

    run: lab.Run[Any]
    arms: Mapping[str, Any]
    spec: NetworkSpec
    task: Task
    programs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """One for all: networks of another one could not lie side by side."""
        return jaxnet.dual_rate_adam(self.run.config.lr, 0.0)

    @cached_property
    def first(self) -> tuple[int, ...]:
        """Weights of each layer of a network with the uniform allocation."""
        return tuple(allocate(self.spec.sizes, self.spec.density))

    @cached_property
    def step(self) -> tuple[int, ...]:
        """What ``random`` adds to each layer at a growth: a fraction of the first, hidden layers only."""
        return (*(max(1, int(self.run.config.grow_fraction * n)) for n in self.first[:-1]), 0)

    @cached_property
    def times(self) -> int:
        """Growths at most."""
        config = self.run.config
        scheduled = -(-config.epochs // (SCHEDULER.rest_epochs + 1)) if self.places(scheduled=True) else 0
        return max((config.epochs - 1) // config.grow_every, scheduled)

    def places(self, *, scheduled: bool) -> list[int]:
        """Places of the arms that grow when a scheduler says so, or of those that grow every few epochs."""
        arms = enumerate(self.arms.values())
        return [place for place, arm in arms if arm.grow != "none" and arm.scheduled == scheduled]

    def room(self, layer: int) -> int:
        """Slots of a layer, enough for every arm."""
        sizes, ways = self.spec.sizes, {arm.grow for arm in self.arms.values()}
        slots = [allocate(sizes, self.spec.density, arm.allocation)[layer] for arm in self.arms.values()]
        if ways & {"random", "skips"}:
            slots.append(self.first[layer] + self.times * self.step[layer])
        if "output" in ways and layer == len(self.first) - 1:
            slots.append(self.first[layer] + self.times * sum(self.step))
        return min(max(slots), sizes[layer] * sizes[layer + 1])

    def start(self, key: Key, before: None) -> tuple[TrainState, ...]:
        """A network per arm before training: the same in all of one allocation."""
        made = {
            name: self.start_one(name, key)
            for name in dict.fromkeys(a.allocation for a in self.arms.values())
        }
        return tuple(made[arm.allocation] for arm in self.arms.values())

    def start_one(self, allocation: str, key: Key) -> TrainState:
        """A network before training, with room for what its arm and the others add."""
        spec = dataclasses.replace(self.spec, allocation=allocation)
        there = allocate(spec.sizes, spec.density, allocation)
        net = Net.of(*jaxnet.init(spec, **keys.network_keys(key)), self.optimizer)
        net, _ = changes.with_room(net, by_path(self.room(layer) - n for layer, n in enumerate(there)))
        if any(arm.grow == "skips" for arm in self.arms.values()):
            net, _ = changes.with_skips(net, max(1, self.times * sum(self.step)))
        return jaxnet.init_state(net)

    def accounts(self) -> PyTree:
        """The schedulers of the seeds of the arm that has them; None without it."""
        account = scheduler.init_scheduler(SCHEDULER)
        return trees.stack([account] * len(self.run.seeds)) if self.places(scheduled=True) else None

    def between(
        self, epoch: int, state: TrainState, accounts: PyTree, result: EpochResult
    ) -> tuple[TrainState, PyTree]:
        """Between two epochs: growth every ``--grow-every`` epochs, and where the scheduler says so."""
        run, number = self.run, jnp.asarray(epoch, jnp.int32)
        shown = run.split("test" if run.config.protocol == "seed" else "train")  # these show the extrema

        def grown(name: str, places: list[int], now: Any) -> Any:
            return self.program(name, partial(self.grow_all, places), state, shown, run.keys, number, now)

        if (places := self.places(scheduled=False)) and epoch % run.config.grow_every == 0:
            state = grown("growth", places, jnp.ones(len(run.seeds), bool))
        if accounts is not None:
            places = self.places(scheduled=True)
            norms = self.of_arm(np.asarray(result.info.gradient_norms), places[0])
            consult = jax.vmap(partial(scheduler.steps, SCHEDULER), in_axes=(0, 0, None))
            # the scheduler counts epochs from 0
            accounts, now = self.program("the schedulers", consult, accounts, norms, number - 1)
            if bool(np.any(np.asarray(now))):
                state = grown("scheduled growth", places, now)
        return state, accounts

    def program(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs ``function``, compiled at its first call."""
        if name not in self.programs:
            self.programs[name] = self.run.compiled(name, function, *args)
        return self.programs[name](*args)

    def of_arm(self, tree: PyTree, place: int) -> PyTree:
        """The part of a tree of all networks that belongs to an arm."""
        n = len(self.run.seeds)
        return jax.tree.map(lambda leaf: leaf[place * n : (place + 1) * n], tree)

    def grow_all(
        self, places: list[int], state: TrainState, shown: Any, seeds: Key, epoch: Array, now: Array
    ) -> Any:
        """A growth of the seeds that grow ``now``, in the arms at these places; the others stay."""

        def one(arm: Any, state: TrainState, key: Key, now: Array) -> TrainState:
            # best_params stay: they belong to an earlier topology, and only their accuracy is reported
            net = self.grow_one(arm, state.net, shown, keys.purpose(key, keys.REGROW, epoch))
            return trees.where(now, state.replace(net=net), state)

        parts = [self.of_arm(state, place) for place in range(len(self.arms))]
        for place in places:
            arm = list(self.arms.values())[place]
            parts[place] = jax.vmap(partial(one, arm))(parts[place], seeds, now)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def grow_one(self, arm: Any, net: Net, shown: Any, key: Key) -> Net:
        """One growth of a network; skips go as far as they can be routed, the rest at random."""
        step, config = self.step, self.run.config
        if arm.grow in ("random", "output"):
            more = by_path(step if arm.grow == "random" else (*(0 for _ in step[:-1]), sum(step)))
            return changes.grow_random(net, more, more, key=key)[0]
        found = jaxnet.signals.find(self.task, net.params, net.structure, shown, config.detector)
        if arm.grow == "clone":
            return changes.clone_and_prune(net, found, step, key=key)[0]
        key_route, key_fill = jax.random.split(key)
        total, most = sum(step), config.max_incoming
        net, added = changes.route_skips(net, found, total, total, max_incoming=most, key=key_route)
        ends = zip(np.cumsum(step), step, strict=True)
        counts = [jnp.clip(total - added - (end - here), 0, here) for end, here in ends]
        return changes.grow_random(net, by_path(counts), by_path(step), key=key_fill)[0]
