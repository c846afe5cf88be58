"""Networks too sparse to learn, and ways to rescue them: arms side by side, grown between epochs.

All arms have the shapes of the one that grows most, so that one program trains them; what is added lies in
room that was there from the start (:func:`jaxnet.changes.with_room`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import changes, keys, optim, signals, trees
from jaxnet.allocation import allocate
from jaxnet.changes import scaffold_path
from jaxnet.data.batches import Split
from jaxnet.growth.scheduled import PRESETS, consult, init_account, members
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.snapshots import ensemble_logits
from jaxnet.train import EpochResult, Net, Task, TrainState, init_state
from jaxnet.types import Array, Key, PyTree

STRUCTURE = 10
"""Weights that count as one structure for the limits of a scheduler."""


class Way(Protocol):
    """What is done with the networks of an arm."""

    @property
    def grow(self) -> str:
        """What is added at a growth: ``none``, ``clone``, ``skips``, ``random`` or ``output``."""

    @property
    def allocation(self) -> str:
        """Of the density over the layers at the start."""

    @property
    def scheduled(self) -> str:
        """When it grows: a preset of :data:`jaxnet.growth.scheduled.PRESETS`, or (empty) every few epochs."""


@dataclasses.dataclass(frozen=True)
class RescueRules:
    """How networks are trained and grown (static).

    Attributes:
      lr: of Adam.
      epochs: of training.
      every: epochs between two growths of the arms without a scheduler.
      fraction: weights added at a growth, per weight that each hidden layer had.
      max_incoming: skip connections into one unit at most.
      detector: signal that finds the extrema.
    """

    lr: float
    epochs: int
    every: int
    fraction: float
    max_incoming: int
    detector: str


def by_path(counts: Any) -> dict[str, Any]:
    """Numbers of every layer by the path of its weights."""
    return {scaffold_path(layer): count for layer, count in enumerate(counts)}


@dataclasses.dataclass(frozen=True)
class Rescue:
    """Networks of all arms, made and grown: the seeds of the first arm, then of the second, and so on.

    Attributes:
      rules: how they are trained and grown.
      arms: by name.
      spec: of a network at the start.
      task: what training needs to know.
      keys: ``(seed,)``.
      shown: samples that show the extrema.
      compiled: ``(name, function, *args) -> program``.
    """

    rules: RescueRules
    arms: Mapping[str, Way]
    spec: NetworkSpec
    task: Task
    keys: Key
    shown: Split
    compiled: Callable[..., Any]
    programs: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Networks of an arm."""
        return int(self.keys.shape[0])

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """One for all: networks of another one could not lie side by side."""
        return optim.dual_rate_adam(self.rules.lr, 0.0)

    @cached_property
    def first(self) -> tuple[int, ...]:
        """Weights of each layer of a network with the uniform allocation."""
        return tuple(allocate(self.spec.sizes, self.spec.density))

    @cached_property
    def step(self) -> tuple[int, ...]:
        """What ``random`` adds to each layer at a growth: a fraction of the first, hidden layers only."""
        return (*(max(1, int(self.rules.fraction * n)) for n in self.first[:-1]), 0)

    @cached_property
    def times(self) -> int:
        """Growths at most."""
        rules = self.rules
        rests = [PRESETS[self.ways[place].scheduled].config.rest_epochs for place in self.scheduled]
        scheduled = [-(-rules.epochs // (rest + 1)) for rest in rests]
        return max((rules.epochs - 1) // rules.every, *scheduled, 0)

    @cached_property
    def ways(self) -> list[Any]:
        """The arms by place."""
        return list(self.arms.values())

    @cached_property
    def scheduled(self) -> list[int]:
        """Places of the arms that grow when a scheduler says so."""
        return [place for place, arm in enumerate(self.ways) if arm.scheduled]

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
        net = Net.of(*mlp.init(spec, **keys.network_keys(key)), self.optimizer)
        net, _ = changes.with_room(net, by_path(self.room(layer) - n for layer, n in enumerate(there)))
        if any(arm.grow == "skips" for arm in self.arms.values()):
            net, _ = changes.with_skips(net, max(1, self.times * sum(self.step)))
        return init_state(net)

    def accounts(self) -> dict[str, PyTree] | None:
        """The accounts of the arms that have a scheduler, leaves ``(seed, ...)``; None without any."""
        hidden = sum(self.spec.sizes[1:-1])

        def one(place: int, key: Key) -> PyTree:
            net = self.start_one(self.ways[place].allocation, key).net
            return init_account(PRESETS[self.ways[place].scheduled], net, hidden)

        made = {str(place): jax.vmap(partial(one, place)) for place in self.scheduled}
        return {
            place: self.program(f"the account {place}", f, self.keys) for place, f in made.items()
        } or None

    def between(
        self, epoch: int, state: TrainState, accounts: Any, result: EpochResult
    ) -> tuple[TrainState, PyTree]:
        """Between two epochs: growth every ``--grow-every`` epochs, and where a scheduler says so."""
        number, shown = jnp.asarray(epoch, jnp.int32), self.shown

        def grown(name: str, places: list[int], now: Any, state: TrainState) -> Any:
            return self.program(name, partial(self.grow_all, places), state, shown, self.keys, number, now)

        fixed = [k for k, arm in enumerate(self.ways) if arm.grow != "none" and not arm.scheduled]
        if fixed and epoch % self.rules.every == 0:
            state = grown("growth", fixed, jnp.ones(self.seeds, bool), state)
        accounts = dict(accounts) if accounts else accounts
        for place in self.scheduled:
            told = self.of_arm((result.info.gradient_norms, result.evaluation.accuracy), place)
            asked = partial(self.consult, place)
            given = state, accounts[str(place)], *told, shown, number - 1  # a scheduler counts epochs from 0
            state, accounts[str(place)], now = self.program(f"the schedulers {place}", asked, *given)
            if bool(np.any(np.asarray(now))):
                state = grown(f"scheduled growth {place}", [place], now, state)
        return state, accounts

    def consult(
        self, place: int, state: TrainState, accounts: Any, norms: Any, accuracy: Any, shown: Any, epoch: Any
    ) -> tuple[TrainState, Any, Any]:
        """The schedulers of an arm after an epoch: all states, its accounts, which of its networks grow."""
        rules = PRESETS[self.ways[place].scheduled]

        def one(account: Any, state: TrainState, norms: Any, accuracy: Any) -> Any:
            net, more = state.net, sum(self.step)
            found = signals.find(self.task, net.params, net.structure, shown, self.rules.detector)
            told = found, norms, epoch, accuracy, more // STRUCTURE
            account, net, grow = consult(rules, account, net, *told)
            return state.replace(net=net), account, grow

        parts = [self.of_arm(state, k) for k in range(len(self.ways))]
        parts[place], accounts, now = jax.vmap(one)(accounts, parts[place], norms, accuracy)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), accounts, now

    def told(self, accounts: Any, state: TrainState, test: Split) -> dict[str, dict[str, Any]]:
        """By arm with a scheduler, columns ``(seed,)``: growths, boundaries, returns, the ensemble."""
        found: dict[str, dict[str, Any]] = {}
        for place in self.scheduled:
            account, name = accounts[str(place)], list(self.arms)[place]
            columns = {"growths": account.scheduler.growths}
            columns |= {what: getattr(account, what) for what in ("boundaries", "restored")}
            if account.ring is not None:
                nets = self.of_arm(state.net, place)
                right = self.program(
                    f"the ensembles {place}", jax.vmap(self.asked, (0, 0, None)), account.ring, nets, test
                )
                columns["ensemble_accuracy"] = np.asarray(right, float) / test.size
            found[name] = {what: np.asarray(column).tolist() for what, column in columns.items()}
        return found

    def asked(self, ring: Any, net: Net, test: Any) -> Any:
        """How many samples the snapshots and the network answer right together."""
        x, y = test.batch(jnp.arange(test.size))

        def logits(kept: Any) -> Any:
            return self.task.model(kept[0], kept[1], x, key_forward=None)[0]

        mean = ensemble_logits(members(ring, net, self.rules.epochs), logits)
        return jnp.sum(jnp.argmax(mean, axis=self.task.model.class_axis) == y)

    def program(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs ``function``, compiled at its first call."""
        if name not in self.programs:
            self.programs[name] = self.compiled(name, function, *args)
        return self.programs[name](*args)

    def of_arm(self, tree: PyTree, place: int) -> PyTree:
        """The part of a tree of all networks that belongs to an arm."""
        n = self.seeds
        return jax.tree.map(lambda leaf: leaf[place * n : (place + 1) * n], tree)

    def grow_all(
        self, places: list[int], state: TrainState, shown: Any, every: Key, epoch: Array, now: Array
    ) -> Any:
        """A growth of the seeds that grow ``now``, in the arms at these places; the others stay."""

        def one(arm: Any, state: TrainState, key: Key, now: Array) -> TrainState:
            # best_params stay: they belong to an earlier topology, and only their accuracy is reported
            net = self.grow_one(arm, state.net, shown, keys.purpose(key, keys.REGROW, epoch))
            return trees.where(now, state.replace(net=net), state)

        parts = [self.of_arm(state, place) for place in range(len(self.arms))]
        for place in places:
            arm = list(self.arms.values())[place]
            parts[place] = jax.vmap(partial(one, arm))(parts[place], every, now)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def grow_one(self, arm: Any, net: Net, shown: Any, key: Key) -> Net:
        """One growth of a network; skips go as far as they can be routed, the rest at random."""
        step = self.step
        if arm.grow in ("random", "output"):
            more = by_path(step if arm.grow == "random" else (*(0 for _ in step[:-1]), sum(step)))
            return changes.grow_random(net, more, more, key=key)[0]
        found = signals.find(self.task, net.params, net.structure, shown, self.rules.detector)
        if arm.grow == "clone":
            return changes.clone_and_prune(net, found, step, key=key)[0]
        key_route, key_fill = jax.random.split(key)
        total, most = sum(step), self.rules.max_incoming
        net, added = changes.route_skips(net, found, total, total, max_incoming=most, key=key_route)
        ends = zip(np.cumsum(step), step, strict=True)
        counts = [jnp.clip(total - added - (end - here), 0, here) for end, here in ends]
        return changes.grow_random(net, by_path(counts), by_path(step), key=key_fill)[0]
