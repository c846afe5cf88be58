"""Training and the search for circuits of ``experiments.reasoning_circuits``, round by round, kill-safe."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import _circuit_measures as measures
from experiments._reasoning_data import Samples, of_suites
from experiments._reasoning_kinds import ARMS, HELD, ROUND
from experiments._reasoning_measures import single
from experiments._rounds import Together, quickly, run_rounds
from jaxnet import circuits, lab, transformer
from jaxnet.data.sequences import Sequences
from jaxnet.keys import CHANGE, LOOK, network_keys, purpose
from jaxnet.optim import with_scales
from jaxnet.programs import ONCE
from jaxnet.protect import fisher, no_memory, penalty, remember, zoned
from jaxnet.train import Batches, Net, Task, train_batches
from jaxnet.types import Array

LEARNERS = ("trained", "shuffled answers", *HELD)
"""Networks that are trained, by name in the state; those that are held begin where all suites but the last
are learned."""


class Reasoning:
    """The programs of a run, each compiled once for all seeds."""

    def __init__(self, run: lab.Run[Any], spec: transformer.Spec) -> None:
        """Nothing is computed yet."""
        config = run.config
        self.run, self.spec, self.config = run, spec, config
        samples: Any = run.dataset
        self.samples: Samples = samples
        self.names, self.number = self.samples.names, len(self.samples.names)
        self.last, self.protect = self.names.index(config.last), self.names.index(config.protect)
        rate = optax.warmup_cosine_decay_schedule(
            0.0, config.lr, max(1, min(200, config.steps // 10)), config.steps, config.lr / 10
        )
        self.optimizer = zoned(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)))
        self.task = Task(transformer.model(spec), config.per_suite * self.number, penalty=penalty)
        self.keys, self.look = run.keys, of_suites(self.samples.train, self.number, config.look)
        self.all_of_them = Together(run, len(run.seeds))
        self.orders = dict[tuple[tuple[int, ...], int], Any]()
        self.how = quickly(transformer.num_params(spec))

    def together(self, what: str, function: Any, each: Any, *args: Any, **how: Any) -> Any:
        """``function`` of every network, as :class:`experiments._rounds.Together` computes it."""
        return self.all_of_them(what, function, each, *args, **{**self.how, **how})

    def drawn(self, key: Any) -> Net:
        """One network before training; nothing is protected."""
        keys = network_keys(key)
        params, structure = transformer.init(self.spec, density=self.config.density, **keys)
        return Net.of(params, structure, self.optimizer, no_memory(params, 0.0))

    def begin(self, key: Any) -> dict[str, Any]:
        """The state of one network before the first round."""
        net = self.drawn(key)
        count = circuits.existing(net.params, net.structure).shape[0]
        shape = (len(ARMS), self.number)
        return {
            "nets": {name: net for name in LEARNERS},
            "keep": jnp.zeros((*shape, count), bool),
            "size": jnp.zeros(shape),
            "reached": jnp.zeros(shape, bool),
            "error": jnp.zeros(shape),
        }

    def answers(self, key: Any) -> Array:
        """Tokens ``(sample, time)`` to be said: of every suite those of the first samples shuffled."""

        def one(y: Array, key: Any) -> Array:
            few = y[: self.config.look]
            return y.at[: self.config.look].set(jax.random.permutation(key, few))

        y = of_suites(self.samples.train, self.number).y
        mixed = jax.vmap(one)(y, jax.random.split(purpose(key, LOOK), self.number))
        return mixed.reshape(-1, y.shape[-1])

    def order(self, suites: Any, most: int) -> Any:
        """``(key, round) -> Batches`` of as many samples in every step, of the suites given."""
        size = self.config.per_suite * self.number
        place = jnp.asarray([suites[i * len(suites) // size] for i in range(size)])

        def draw(key: Any, at: Any) -> Batches:
            of = jax.random.randint(jax.random.fold_in(key, at), (ROUND, size), 0, most)
            rows = place * self.config.samples + of
            return Batches(rows.astype(jnp.int32), jnp.ones((ROUND, size)))

        return draw

    def batches(self, suites: list[int], most: int, at: int) -> Batches:
        """A round's batches of some suites, by a program for these suites."""
        args = self.run.key_data, jnp.asarray(at, jnp.int32)
        if (which := (tuple(suites), most)) not in self.orders:
            name = f"an order of {len(suites)} suites{'' if most == self.config.samples else ', few samples'}"
            self.orders[which] = self.run.compiled(name, self.order(suites, most), *args, options=ONCE)
        made: Batches = self.orders[which](*args)
        return made

    def learn(self, net: Any, y: Any, batches: Any, data: Any) -> Net:
        """A round."""
        return train_batches(self.task, net, data.replace(y=y), batches)[0]

    def held(self, net: Any, keep: Any, key: Any, look: Any) -> dict[str, Net]:
        """Where all suites but the last are learned: one suite is protected, in every way."""
        own = net.params, net.structure
        chance = circuits.random_like(*own, keep, key=purpose(key, CHANGE, 1))
        few = jax.tree.map(lambda a: a[self.protect], look)
        found = fisher(self.task, *own, few, jnp.arange(few.size), labels="data")
        # of a suite that is solved it is next to nothing: what counts is what is more important than what
        number = sum(leaf.size for leaf in jax.tree.leaves(found))
        mean = sum(map(jnp.sum, jax.tree.leaves(found))) / number
        found = jax.tree.map(lambda leaf: leaf / jnp.maximum(mean, 1e-30), found)
        strength = jnp.asarray(self.config.ewc, jnp.float32)
        memory = remember(no_memory(net.params, strength), net.params, found)

        def frozen(mask: Array) -> Net:
            parts = circuits.split(mask, *own)
            free = jax.tree.map_with_path(
                lambda p, leaf: jnp.where(
                    parts.get(jax.tree_util.keystr(p), False), 0.0, jnp.ones_like(leaf)
                ),
                net.params,
            )
            return net.replace(opt_state=with_scales(net.opt_state, free))

        nets = net, frozen(keep), frozen(chance), net.replace(carried=memory)
        return dict(zip(HELD, nets, strict=True))

    def search(self, net: Any, y: Any, k: Any, data: Any) -> Any:
        """A circuit of the suite ``k``; ``y`` is what the network has learned to say."""
        few = of_suites(data.replace(y=y), self.number, self.config.look)
        config, own = self.config, (self.task, net.params, net.structure)
        how: Any = "zero", config.fraction, config.chunks, config.nodes
        found, error = measures.find(*own, single(few, k), jnp.zeros((), jnp.int32), *how)
        there = jnp.sum(circuits.existing(net.params, net.structure), dtype=jnp.float32)
        return found.keep, found.size.astype(jnp.float32) / there, found.reached, error

    def net_of(self, state: Any, arm: int) -> Net:
        """The networks of one of :data:`ARMS`."""
        if ARMS[arm] == "untrained":
            net: Net = self.together("networks before training", self.drawn, (True,), self.keys, options=ONCE)
            return net
        return state["nets"][ARMS[arm]]


def rounds(made: Reasoning) -> Any:
    """Goes through all rounds that are still to do; the state after them."""
    config, run, keys = made.config, made.run, made.keys
    count = len(run.seeds)
    train: Sequences = made.samples.train
    others = [k for k in range(made.number) if k != made.last]
    every = list(range(made.number))
    right = jnp.broadcast_to(train.y, (count, *train.y.shape))
    mixed = made.together("shuffled answers", made.answers, (True,), keys, options=ONCE)
    phases: list[tuple[str, list[int], int, int]] = [  # network, suites, samples of each, rounds
        ("trained", others, config.samples, config.steps // ROUND),
        ("hold", [], 0, 1),
        ("trained", every, config.samples, config.last_steps // ROUND),
        *((name, [made.last], config.samples, config.last_steps // ROUND) for name in HELD),
        ("shuffled answers", every, config.look, config.shuffled_steps // ROUND),
    ]
    plan = [(phase, at) for phase, what in enumerate(phases) for at in range(what[3])]

    def search(net: Net, y: Array, k: int) -> Any:
        args = net, y, jnp.asarray(k, jnp.int32), train
        return made.together("circuits", made.search, (True, True, False, False), *args)

    def train_round(state: Any, at: int) -> Any:
        phase, within = plan[at]
        name, suites, most, _ = phases[phase]
        if name == "hold":
            keep, *_ = search(state["nets"]["trained"], right, made.protect)
            args: Any = state["nets"]["trained"], keep, keys, made.look
            found = made.together("protection", made.held, (True, True, True, False), *args)
            return {**state, "nets": {**state["nets"], **found}}
        # those that are held see the last suite at the same rounds
        batches = made.batches(suites, most, within if name in HELD else at)
        y = mixed if name == "shuffled answers" else right
        args = state["nets"][name], y, batches, train
        net = made.together("a round", made.learn, (True, True, False, False), *args)
        return {**state, "nets": {**state["nets"], name: net}}

    def step(at: int, state: Any) -> Any:
        if at < len(plan):
            return train_round(state, at), []
        arm, k = divmod(at - len(plan), made.number)
        y = mixed if ARMS[arm] == "shuffled answers" else right
        keep, *rest = search(made.net_of(state, arm), y, k)
        state = {**state, "keep": state["keep"].at[:, arm, k].set(keep)}
        for name, value in zip(("size", "reached", "error"), rest, strict=True):
            state[name] = state[name].at[:, arm, k].set(value)
        rows = [
            {"arm": ARMS[arm], "seed": s, "phase": made.names[k], "epoch": k, "size": float(rest[0][i])}
            for i, s in enumerate(run.seeds)
        ]
        return state, rows

    def start() -> Any:
        return made.together("the start", made.begin, (True,), keys, options=ONCE)

    total = len(plan) + len(ARMS) * made.number
    return run_rounds(
        run, "reasoning", total, start, step, lambda _: jax.eval_shape(jax.vmap(made.begin), keys)
    )
