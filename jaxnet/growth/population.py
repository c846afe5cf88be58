"""Networks that grow until they do well enough, many at once.

In every iteration networks of equal shape are stacked and trained by one
compiled program, compiled once per shape; the number of networks in a stack is
padded to few sizes, so that groups of changing size share programs. What
happens to a network depends on its own key alone, and on nothing that is in the
stack beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import environment
from jaxnet.growth.apart import measure_apart
from jaxnet.growth.budget import Budget, Target
from jaxnet.growth.consider import consider
from jaxnet.growth.decisions import Decision
from jaxnet.growth.journal import Journal
from jaxnet.growth.member import GrowthData, Member, by_shape, history_entry
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.programs import GroupPrograms, one_of
from jaxnet.growth.steps import Measured, grow, grown_spec, measure, start_net
from jaxnet.growth.training import outcome, padded, stack_host, start_state, take_host
from jaxnet.keys import DRAW, METHOD, key_of, keys_of, purpose
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.programs import ONCE, Clock
from jaxnet.store.checkpoint import Pace
from jaxnet.store.folder import RunFolder
from jaxnet.train import Net
from jaxnet.types import Key, PyTree


def grow_until(
    plan: GrowthPlan,
    data: GrowthData,
    target: Target,
    budget: Budget,
    seeds: Sequence[int],
    *,
    folder: RunFolder | None = None,
    clock: Clock | None = None,
    on_epoch: Callable[[int, int, np.ndarray], None] | None = None,
    on_iteration: Callable[[Member], None] | None = None,
    given: tuple[Params, Structure] | None = None,
    apart: bool = False,
) -> list[Member]:
    """Grows networks until each reaches the target or there is a reason to stop.

    Trains to convergence, looks for extrema, decides, changes, and again. A seed
    is one network; grown alone it equals its row in a population.

    Args:
      plan: how to train and change.
      data: what to train on and to judge by.
      target: when a network does well enough.
      budget: what it may cost.
      seeds: numbers of the networks; a number determines masks, values and changes.
      folder: an open run folder for rows and checkpoints; killed at any moment, the run
        continues from it to the same result, bit for bit.
      clock: adds up the time.
      on_epoch: called with iteration and epoch, counted from 1, and the
        accuracies of the networks trained together.
      on_iteration: called with every network after its iteration.
      given: a trained network of the plan's sizes that all seeds begin with.
      apart: also measure what layers and patches give apart (:func:`jaxnet.growth.apart.measure_apart`), for
        three more trainings of every iteration.

    Returns:
      A member per seed: the network, its history and why it stopped: ``target``,
      ``budget: iterations``, ``budget: non-zeros``, ``budget: seconds``,
      ``diminishing returns``, ``no extrema`` or ``diverged``.

    Raises:
      InputError: the network at the start is beyond the budget, or the folder
        holds a checkpoint that does not fit.
    """
    environment.check()
    budget.check_start(plan)
    population = Population(plan, data, target, budget, folder, clock or Clock())
    population.on_epoch, population.on_iteration = on_epoch, on_iteration
    population.given, population.apart = given, apart
    with contextlib.closing(population.programs):
        begun = population.start(seeds)
        while groups := population.groups():
            population.iterate(groups[0], begun)
            begun = None
    return population.members


class Population:
    """Networks growing together; :func:`grow_until` says what it does."""

    on_epoch: Callable[[int, int, np.ndarray], None] | None = None
    on_iteration: Callable[[Member], None] | None = None
    given: tuple[Params, Structure] | None = None
    apart: bool = False

    def __init__(
        self,
        plan: GrowthPlan,
        data: GrowthData,
        target: Target,
        budget: Budget,
        folder: RunFolder | None,
        clock: Clock,
    ) -> None:
        self.plan, self.data, self.target, self.budget = plan, data, target, budget
        self.journal = None if folder is None else Journal(folder, clock)
        self.clock, self.programs = clock, GroupPrograms(plan, data, clock)
        self.optimizer = plan.optimizer(data.train.size)
        self.members: list[Member] = []
        self._shapes: dict[tuple[Decision, ...], tuple[NetworkSpec, Net]] = {}

    def start(self, seeds: Sequence[int]) -> tuple[PyTree, int] | None:
        """Makes the networks, or reads them back; returns a group that was in the middle of an iteration."""
        told = None if self.journal is None else self.journal.read(seeds)
        if told is None:
            keys = keys_of(seeds)
            self.programs.begin_iteration(*self.shapes(()), len(seeds))
            program = self.programs.get("start", lambda: jax.vmap(self.start_one), keys, options=ONCE)
            nets = program(keys)
            self.members = [Member(seed, self.plan.spec, take_host(nets, i)) for i, seed in enumerate(seeds)]
            return None
        assert self.journal is not None
        for seed, (history, stop) in zip(seeds, told, strict=True):
            member = Member(seed, self.plan.spec, None, history, stop)  # type: ignore[arg-type]
            member.spec, member.net = self.shapes(member.decisions)
            self.members.append(member)
        begun = self.journal.epoch > 0
        running = self.start_group(self.groups()[0]) if begun else None
        nets, running = self.journal.restore([m.net for m in self.members], running)
        for member, net in zip(self.members, nets, strict=True):
            member.net = net
        return (running, self.journal.epoch) if begun else None

    def start_one(self, key: Key) -> Net:
        """A network before its first iteration."""
        if self.given is not None:
            return Net.of(*self.given, self.optimizer)
        return start_net(self.plan, self.optimizer, key)

    def shapes(self, decisions: tuple[Decision, ...]) -> tuple[NetworkSpec, Net]:
        """Sizes and shapes of a network after some decisions, without computing it."""
        if decisions not in self._shapes:
            key = jax.eval_shape(lambda: key_of(0))
            if decisions:
                spec, before = self.shapes(decisions[:-1])
                look = functools.partial(measure, self.plan, spec)
                number = jax.ShapeDtypeStruct((), jnp.int32)
                found = jax.eval_shape(look, before, self.data.extrema, key, number).found
                change = self.change_one(spec, decisions[-1])
                after = jax.eval_shape(change, before, found, key, number)
                self._shapes[decisions] = grown_spec(spec, decisions[-1]), after
            else:
                self._shapes[decisions] = self.plan.spec, jax.eval_shape(self.start_one, key)
        return self._shapes[decisions]

    def groups(self) -> list[list[Member]]:
        """Networks that are still to be trained in the present iteration, by shape."""
        alive = [m for m in self.members if m.stop is None]
        now = min((len(m.history) for m in alive), default=0)
        return by_shape([m for m in alive if len(m.history) == now])

    def iterate(self, group: list[Member], begun: tuple[PyTree, int] | None = None) -> None:
        """One iteration of networks of equal shape: train, measure, decide, change."""
        iteration, spec = len(group[0].history), group[0].spec
        state, first = begun or (self.start_group(group), 0)
        state = self.train(group, state, first)
        judged, nets = outcome(self.plan, state)
        args = (nets, self.data.extrema, keys_of(padded([m.seed for m in group])), jnp.int32(iteration))
        measured = self.programs.measure(spec, *args)(*args)
        decisions = []
        for i, member in enumerate(group):
            member.history.append(history_entry(member, take_host(judged, i), take_host(measured, i)))
            decision = self.consider(member)
            decisions.append(decision)
            member.history[-1]["decision"] = None if decision is None else decision.as_dict()
        if self.apart:
            measure_apart(self, group, decisions, nets, measured, iteration)
        self.change(group, decisions, nets, measured, iteration)
        if self.journal is not None:
            self.journal.save(self.members, None, iteration, 0)
        if self.on_iteration is not None:
            for member in group:
                self.on_iteration(member)

    def start_group(self, group: list[Member]) -> PyTree:
        """The stacked state of a group before its first epoch, filled up with networks already stopped."""
        nets = padded([m.net for m in group])
        if isinstance(jax.tree.leaves(nets[0])[0], jax.ShapeDtypeStruct):  # of a run to be continued
            nets = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), nets)
        stopped = np.arange(len(nets)) >= len(group)
        iteration = len(group[0].history)
        keys = [purpose(key_of(m.seed), METHOD, iteration) for m in padded(group)]
        # on the host, so that no two leaves share memory that is donated
        return stack_host([start_state(self.plan, *each) for each in zip(nets, stopped, keys, strict=True)])

    def train(self, group: list[Member], state: PyTree, first: int, *, told: bool = True) -> PyTree:
        """Trains a group for the epochs of an iteration that are still to do; ``told``: with rows."""
        plan, data, spec, iteration = self.plan, self.data, group[0].spec, len(group[0].history)
        if first >= plan.epochs or np.all(state.train.stopped):
            return state

        key = jax.random.fold_in(data.key_data, iteration)
        draws = key
        if plan.own_draws:
            draws = jnp.stack([purpose(key_of(m.seed), DRAW, iteration) for m in padded(group)])
        state = jax.tree.map(jnp.asarray, state)
        sharding = self.programs.sharding(state)
        (state,) = sharding.place((state,), (True,))
        shuffle, program, pace = self.programs.order(key), self.programs.epoch(spec, state, key), Pace()
        for done in range(first, plan.epochs):
            number = jnp.int32(done)
            state, result = program(*self.programs.place(state, draws, number, shuffle(key, number)))
            if self.journal is not None and told:
                place = {"iteration": iteration + 1, "epoch": done + 1}
                labels = [{"seed": m.seed, **place} for m in group]
                self.journal.rows(result.rows(labels, data.watch_name))
                if pace.due():
                    with pace.writing():
                        self.journal.save(self.members, sharding.gather(state), iteration, done + 1)
            if self.on_epoch is not None:
                self.on_epoch(iteration + 1, done + 1, np.asarray(result.evaluation.accuracy)[: len(group)])
            if np.all(state.train.stopped):
                break
        return sharding.gather(state)

    def consider(self, member: Member) -> Decision | None:
        """Decides about a network; where it stops, notes why and returns None."""
        asked = self.plan, self.budget, self.target, member
        seconds = sum(self.clock.as_dict().values())
        return consider(*asked, samples=self.data.watch.size, seconds=seconds, shapes=self.shapes)

    def change_one(self, spec: NetworkSpec, decision: Decision) -> Callable[..., Net]:
        """What carries a decision out: ``(network, found, key, iteration) -> network``."""
        return functools.partial(grow, self.plan, spec, decision)

    def change(
        self,
        group: list[Member],
        decisions: Sequence[Decision | None],
        nets: Net,
        measured: Measured,
        iteration: int,
        *,
        ahead: bool = True,
    ) -> None:
        """Carries the decisions of a group out, equal ones by one program; ``ahead``: begins what follows."""
        alike: dict[Decision | None, list[int]] = {}
        for i, decision in enumerate(decisions):
            what = None if decision is None else dataclasses.replace(decision, reason="")
            alike.setdefault(what, []).append(i)
        spec, changes = group[0].spec, []
        for what, places in alike.items():
            if what is None:
                for i in places:
                    group[i].net = take_host(nets, i)
                continue
            index = padded(places)
            args = (
                take_host(nets, index),
                take_host(measured.found, index),
                keys_of([group[i].seed for i in index]),
                jnp.int32(iteration),
            )
            # one function object for shapes and program, so that it is traced once
            together = jax.vmap(self.change_one(spec, what), in_axes=(0, 0, 0, None))
            after = one_of(jax.eval_shape(together, *args))
            changes.append((what, places, args, together, (grown_spec(spec, what), after)))
        if ahead:
            self.begin_next(group, [(shape, len(places)) for _, places, *_, shape in changes])
        for what, places, args, together, (spec_after, _) in changes:
            program = self.programs.get(("grow", spec, what), lambda f=together: f, *args, options=ONCE)  # type: ignore[misc]
            grown = program(*args)
            for place, i in enumerate(places):
                group[i].net, group[i].spec = take_host(grown, place), spec_after

    def begin_next(
        self, group: Sequence[Member], coming: Sequence[tuple[tuple[NetworkSpec, Net], int]]
    ) -> None:
        """Begins to compile the next iteration where all its networks are known: the last group changes."""
        others = [m for m in self.members if m.stop is None and all(m is not here for here in group)]
        if any(len(m.history) < len(group[0].history) for m in others):
            return
        self.programs.begin_iterations([*coming, *(((m.spec, m.net), 1) for m in others)])
