"""What ``experiments.guarded_training`` computes: the rounds of a run, what is chosen, what is judged."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from experiments import _guard_drift as drift
from experiments import _guard_runs as runs
from experiments._guard_kinds import drift_of
from experiments._rounds import Together, run_rounds
from jaxnet import guard, keys, lab
from jaxnet.data.batches import Split
from jaxnet.guard import Canaries, Rules
from jaxnet.nn.params import release_masks, to_masked_network
from jaxnet.programs import ONCE
from jaxnet.train import Batches, Net, evaluate, train_batches


def run_guarded(run: lab.Run[Any]) -> lab.Found:
    """See :mod:`experiments.guarded_training`."""
    config, classes = run.config, run.dataset.num_classes
    kind, angle = drift_of(config.drift)
    spec = lab.run.network_spec(run.dataset, config.sizes, (100, 100), density=1.0)
    task, shape = run.task(spec), run.dataset.image_shape
    train, val = run.split("train"), run.split("val")
    named = drift.rivals(config.rates, config.strengths)
    count = config.num_seeds
    together = Together(run, count)
    each = max(1, -(-train.size // config.batch_size) // config.every)
    noise = max(3, min(config.noise_checks, each * config.epochs))  # all of it before the drift
    rules = make_rules(config, spec, noise, config.every, "blend")
    changed = partial(drift.drifted, kind=kind, angle=angle, shape=shape, classes=classes)
    held = hold(val, changed, config.held, classes)

    def drawn(key: Any) -> Any:
        params, structure = to_masked_network(*jaxnet.init(spec, **keys.network_keys(key)))
        return Net.of(params, release_masks(structure), optax.adam(float(config.lr or 1e-3)))

    def watched(key: Any) -> Any:
        return guard.guard(rules, task, drawn(key), held[0])

    def learn(state: Any, train: Split, order: Any) -> Any:
        labels = guard.groups(state.net.params, state.net.structure)
        quiet = dataclasses.replace(rules, action="none")
        return drift.train_checked(quiet, task, state, train, order, held[0], held[0], labels)[0]

    def through(state: Any, key: Any, train: Split, order: Any, value: Any, kind: str) -> Any:
        data = changed(train, key=keys.purpose(key, keys.LOOK))
        old, fresh = held[0], held[1]
        how = rules, task, float(config.lr or 1e-3), state, data, order, old, fresh
        labels = guard.groups(state.net.params, state.net.structure)
        rival = drift.Rival("", kind)
        return drift.train_drift(rival, *how, labels, value, key=keys.purpose(key, keys.DRAW))

    def start() -> Any:
        return room(together("the start", watched, (True,), run.keys, options=ONCE))

    def room(state: Any) -> Any:
        ends = jax.tree.map(lambda a: jnp.zeros((count, len(named), *a.shape[1:])), state.net.params)
        return {"run": state, "ends": ends, "alarms": jnp.zeros((count, len(named)), jnp.int32)}

    many = train.size, config.batch_size
    ordered = lambda key: drift.order("healthy", *many, 1, config.every, key=key)  # noqa: E731
    healthy = run.compiled("the order", ordered, run.key_data, options=ONCE)
    later = partial(drift.order, kind, *many, config.drift_epochs, config.every)
    drifting = jax.jit(lambda key: later(key=key))(keys.purpose(run.key_data, config.epochs))

    def step(number: int, state: Any) -> Any:
        if number < config.epochs:
            order = healthy(keys.purpose(run.key_data, number))
            trained = together("an epoch", learn, (True, False, False), state["run"], train, order)
            return {**state, "run": trained}, []
        place = number - config.epochs
        name = list(named)[place]
        rival = named[name]
        how = f"the drift, {rival.kind}", partial(through, kind=rival.kind)
        each = (True, True, False, False, False)
        args = state["run"], run.keys, train, drifting, jnp.asarray(rival.value, jnp.float32)
        end, margins, alarms = together(*how, each, *args)
        ends = jax.tree.map(lambda all_of, new: all_of.at[:, place].set(new), state["ends"], end)
        total = jnp.sum(alarms, 1, dtype=jnp.int32)
        rows = [
            {"seed": seed, "phase": name, "epoch": config.epochs + config.drift_epochs}
            | {"margins": np.asarray(margins[i], float).mean(1).tolist(), "alarms": int(total[i])}
            for i, seed in enumerate(run.seeds)
        ]
        return {**state, "ends": ends, "alarms": state["alarms"].at[:, place].set(total)}, rows

    def shapes(done: int) -> Any:
        return jax.eval_shape(lambda: room(jax.vmap(watched)(run.keys)))

    state = run_rounds(run, "guarded", config.epochs + len(named), start, step, shapes)
    net = state["run"].net
    guard.check_canaries(jnp.min(margins_of_all(together, task, net, held[0]), 0))

    def place(name: str) -> Any:
        return jax.tree.map(lambda a: a[:, list(named).index(name)], state["ends"])

    arms: dict[str, Any] = {}
    for name in drift.ENDS:

        def made(net: Any, after: Any, name: str = name) -> Any:
            labels = guard.groups(net.params, net.structure)
            return drift.end(name, rules, task, net, after, held[0], held[1], labels)

        arms[name] = together(f"the end, {name}", made, (True, True), net, place("plain"))
    arms |= {name: place(name) for name in ("guard", "replay", "skip")}
    chosen = {}
    for family in ("lower-rate", "ewc"):
        names = [name for name in named if name.startswith(family)]
        score = [np.nanmean(on_held(together, task, net, place(name), held[2:])) for name in names]
        chosen[family] = names[int(np.argmax(np.nan_to_num(score, nan=-1)))]
        arms[family] = place(chosen[family])
    found = judge(run, together, task, net, arms, changed)
    noticed = {
        "alarms of the guard per network": float(np.mean(np.asarray(state["alarms"])[:, 2]))
        if count
        else 0.0,
        "alarms where nothing is done": float(np.mean(np.asarray(state["alarms"])[:, 1])),
    }
    if config.runs:
        noticed |= without_drift(run, task, changed, drawn, val)
    rivals_asked = [n for n in arms if n not in ("blend", "nothing", "rollback")]
    asked = [lab.Question("blend", name, "accuracy") for name in rivals_asked]
    asked += [lab.Question(name, "nothing", "accuracy") for name in ("blend", "guard", "skip")]
    facts = {"noticed": noticed, "chosen": chosen, "kernel": config.kernel, "sizes": list(spec.sizes)}
    return lab.Found(found, asked, {**facts, "what": {n: one.what for n, one in named.items()}})


def make_rules(config: Any, spec: Any, noise: int, every: int, action: str) -> Rules:
    """How runs are guarded; a group is a unit of any layer but the first."""
    limits = config.false_alarm, config.checks, config.window, config.capacity
    return Rules(every, noise, *limits, action, sum(spec.sizes[1:]))


def hold(val: Split, changed: Any, held: int, classes: int) -> tuple[Canaries, ...]:
    """Validation samples as they were and as they are now: to fit and watch by, and others to choose by."""
    data = changed(val, key=keys.key_of(0))
    labels = np.asarray(val.y)
    each = max(1, min(held // classes, *(np.bincount(labels, minlength=classes) // 3)))
    rows = np.stack([np.flatnonzero(labels == c)[: 3 * each] for c in range(classes)])  # (class, sample)

    def canaries(part: int, now: bool) -> Canaries:
        here = rows[:, part * each : (part + 1) * each]
        x, _ = data.batch(jnp.asarray(here.ravel() + now * val.size))
        return Canaries(x.reshape(*here.shape, -1), val.y[here])

    return canaries(0, False), canaries(1, True), canaries(2, False), canaries(2, True)


def margins_of_all(together: Together, task: Any, net: Any, canaries: Canaries) -> Any:
    """``(network, K)``."""
    from jaxnet.guard.loop import margins_of

    return together("margins", lambda net: margins_of(task, net, canaries)(net.params), (True,), net)


def on_held(together: Together, task: Any, net: Any, params: Any, parts: tuple[Canaries, ...]) -> np.ndarray:
    """Mean accuracy on held samples, old and new, ``(network,)``."""

    def one(net: Any, params: Any) -> Any:
        right = []
        for part in parts:
            logits, _ = task.model(params, net.structure, part.x.reshape(part.y.size, -1), key_forward=None)
            right.append(jnp.mean(jnp.argmax(logits, task.model.class_axis) == part.y.ravel()))
        return jnp.mean(jnp.stack(right))

    return np.asarray(together("held samples", one, (True, True), net, params))


class Now:
    """The samples of a drift as they are at the end: of its test images, with their own labels."""

    def __init__(self, data: drift.Drifted, split: Split) -> None:
        self.data, self.split, self.size = data, split, split.size

    def batch(self, index: Any) -> Any:
        """Samples and labels."""
        x, _ = self.data.stream.batch(index + self.size)
        return x, self.split.y[index]


def judge(run: Any, together: Together, task: Any, net: Any, arms: Any, changed: Any) -> Any:
    """Test accuracy as it was and as it is now, of every arm: read once."""
    test = run.split("test")

    def one(net: Any, params: Any, test: Split) -> Any:
        data = changed(test, key=keys.key_of(0))
        parts = test, Now(data, test)
        return jnp.stack([evaluate(task, params, net.structure, part).accuracy for part in parts])

    entries: dict[str, Any] = {}
    for name, params in arms.items():
        both = np.asarray(together("test samples", one, (True, True, False), net, params, test), float)
        gone = ~np.isfinite(both).all(1)
        measures = {"accuracy": both.mean(1), "old": both[:, 0], "new": both[:, 1]}
        entries |= lab.entries(run.seeds, (name,), diverged=gone, **measures)
    return entries


def without_drift(run: Any, task: Any, changed: Any, drawn: Any, val: Split) -> dict[str, float]:
    """Runs without drift: false alarms, damage that is planted and seen, who is blamed."""
    config, number = run.config, run.config.runs
    train, together = run.split("train"), Together(run, number)
    spec, shape, classes = task.model.spec, run.dataset.image_shape, run.dataset.num_classes
    rules = make_rules(config, spec, config.noise_checks, config.run_every, "none")
    canaries = hold(val, changed, config.held, classes)[0]
    seeds = keys.keys_of(range(config.seed + config.num_seeds, config.seed + config.num_seeds + number))
    checks = config.noise_checks + config.checks
    turned = partial(drift.drifted, kind="rotate", angle=60.0, shape=shape, classes=classes)
    wild = partial(drift.drifted, kind="spike", angle=0.0, shape=shape, classes=classes)

    def one(key: Any, train: Split) -> Any:
        net = drawn(key)
        labels = guard.groups(net.params, net.structure)
        data = turned(train, key=key), wild(train, key=key)
        return runs.watched(rules, task, net, data, canaries, labels, checks, key=key)

    found = together("runs that are turned, or have a spike", one, (True, False), seeds, train)

    def blamed(key: Any, train: Split) -> Any:
        data = turned(train, key=key)
        net = drawn(key)
        steps = 10 * config.run_every
        batches: Batches = runs.random_batches(train.size, steps, config.batch_size, key=key)
        net, _, _ = train_batches(task, net, data, batches)
        labels = runs.folded(guard.groups(net.params, net.structure))
        return runs.planted(task, net, data, canaries, labels, config.run_every, key=key)

    blame = together("planted damage", blamed, (True, False), seeds, train)
    return {
        "runs": float(number),
        "healthy runs with an alarm": runs.rate(found["false_alarm"]),
        "healthy checks at which one canary is wrong": runs.rate(found["one_wrong"]),
        "rotation seen within 2 checks": runs.rate(found["detected"][:, 0]),
        "spike seen within 2 checks": runs.rate(found["detected"][:, 1]),
        "leave-one-out names the damaged group first": runs.rate(blame["alone"]),
        "path integral names it first": runs.rate(blame["path"]),
        "update norm names it first": runs.rate(blame["norm"]),
        "noise that was felt, times the weights, on average": runs.rate(blame["size"]),
        "damage that was felt": runs.rate(blame["felt"]),
        "error of the sum of shares, median": float(np.median(np.asarray(blame["error"]))),
        "error of the sum of shares, 95 of 100 below": float(np.quantile(np.asarray(blame["error"]), 0.95)),
        "largest error of the sum of shares": float(np.max(np.asarray(blame["error"]))),
    }
