"""What ``experiments.compress`` does with networks: prunes, refits, tunes, rounds, trains rivals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet
from experiments import _winner
from experiments._rounds import Together, quickly
from jaxnet import circuits, compress, lab, methods
from jaxnet.circuits import extract, weight_values
from jaxnet.data.batches import Split
from jaxnet.guard import attribute_change
from jaxnet.kernels import product
from jaxnet.keys import CHANGE, LOOK, METHOD, network_keys, purpose
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import release_masks, to_masked_network
from jaxnet.structure import clear, entries
from jaxnet.train import Batches, Net, evaluate, train_batches
from jaxnet.types import Array

WHOLE, FACTS = "whole", "facts"


class Compression:
    """The programs of a run, each compiled once for all seeds."""

    def __init__(self, run: lab.Run[Any], spec: jaxnet.NetworkSpec) -> None:
        """Nothing is computed yet."""
        config = run.config
        self.run, self.spec, self.config = run, spec, config
        self.task, lr = run.task(spec), float(config.lr or 1e-3)
        self.train, self.test = run.split("train"), run.split("test")
        self.facts_epochs = config.epochs + config.facts_epochs
        steps = self.facts_epochs * -(-self.train.size // config.batch_size)
        # facts are learned at a rate that falls: at a steady one, every batch undoes some of them
        self.optimisers = {WHOLE: optax.adam(lr), FACTS: optax.adam(optax.cosine_decay_schedule(lr, steps))}
        self.winner = _winner.of(config)
        self._known: dict[str, Any] = {}
        self.all_of_them = Together(run, len(run.seeds))
        self.how = quickly(spec.dense_weights)
        self.keys, self.order = run.keys, run.order(config.batch_size)
        x, _ = self.train.batch(jnp.arange(min(config.samples, self.train.size)))
        self.x, self.y = x, self.train.y[: x.shape[0]]
        self.true = jnp.broadcast_to(self.train.y, (len(run.seeds), self.train.size))
        self.wrong = self.together("facts", self._facts, (True,), self.keys)
        entries: Any = None if self.winner is None else self.winner.structure.weights
        # the most inputs of a row, before anything is pruned
        self.fan_in = (
            tuple(int(size) for size in spec.sizes[:-1])
            if entries is None
            else tuple(int(np.max(np.asarray(e.fan_in))) for e in entries)
        )

    def together(self, what: str, function: Any, each: Any, *args: Any) -> Any:
        """``function`` of every network, as :class:`experiments._rounds.Together` computes it."""
        return self.all_of_them(what, function, each, *args, **self.how)

    def once(self, what: str, compute: Callable[[], Any]) -> Any:
        """What is the same for every ratio, computed when it is first asked for."""
        if what not in self._known:
            self._known[what] = compute()
        return self._known[what]

    def _facts(self, key: Any) -> Array:
        """Labels of the training images, the first ``facts`` of them drawn at random."""
        y, number = self.train.y, min(self.config.facts, self.train.size)
        drawn = jax.random.randint(purpose(key, LOOK), (number,), 0, self.spec.sizes[-1]).astype(y.dtype)
        return y.at[:number].set(drawn)

    def start(self, name: str) -> Any:
        """Networks before training; with a checkpoint, that network."""
        return self.together(f"the start: {name}", partial(self.begin, name), (True,), self.keys)

    def begin(self, name: str, key: Any) -> Net:
        """One network before training, :data:`WHOLE` or :data:`FACTS`."""
        if self.winner is not None:
            params, structure = jax.tree.map(jnp.asarray, (self.winner.params, self.winner.structure))
        else:
            params, structure = to_masked_network(*jaxnet.init(self.spec, **network_keys(key)))
            structure = release_masks(structure)
        return Net.of(params, structure, self.optimisers[name])

    def learn(self, net: Any, ys: Array, at: int, what: str = WHOLE, rigl: Any = None) -> Any:
        """An epoch; ``what`` names networks that are trained alike."""
        drawn = self.order(self.run.key_data, jnp.asarray(at, jnp.int32))
        steps = len(drawn[0])

        def one(net: Any, y: Any, key: Any, batches: Any, x: Any, done: Any) -> Any:
            data = Split(x, y, self.train.mean, self.train.std)
            key_forward = jax.random.fold_in(purpose(key, METHOD), done)
            extra: dict[str, Any] = {"method": rigl, "method_state": (), "key_method": purpose(key, METHOD)}
            extra = extra if rigl is not None else {}
            return train_batches(
                self.task, net, data, batches, key_forward=key_forward, steps_before=done, **extra
            )[0]

        each = (True, True, True, False, False, False)
        done = jnp.asarray(at * steps, jnp.int32)
        args = net, ys, self.keys, Batches(*drawn), self.train.x, done
        return self.together(f"an epoch: {what}", one, each, *args)

    def counts(self, structure: Any) -> np.ndarray:
        """``(seed, layer)``, weights that exist."""
        one = lambda s: jnp.stack([entry.num_nonzeros for entry in s.weights])  # noqa: E731
        return np.asarray(self.together("counts", one, (True,), structure))

    def accuracy(self, params: Any, structure: Any) -> np.ndarray:
        """``(seed,)`` on the test images."""

        def one(params: Any, structure: Any, test: Any) -> Array:
            return evaluate(self.task, params, structure, test).accuracy

        args = params, structure, self.test
        return np.asarray(self.together("judging", one, (True, True, False), *args), float)

    def remembered(self, params: Any, structure: Any) -> np.ndarray:
        """``(seed,)``, how many of the facts are answered as they were drawn."""
        number = min(self.config.facts, self.train.size)

        def one(params: Any, structure: Any, y: Any, x: Any) -> Array:
            data = Split(x[:number], y[:number], self.train.mean, self.train.std)
            return evaluate(self.task, params, structure, data).accuracy

        each = (True, True, True, False)
        return np.asarray(
            self.together("facts left", one, each, params, structure, self.wrong, self.train.x), float
        )

    def knowledge(self, facts: Any) -> tuple[np.ndarray, np.ndarray]:
        """``(seed,)`` of a whole network: facts, and test images (rules), that are answered right."""
        own = facts.params, facts.structure
        known: tuple[np.ndarray, np.ndarray] = self.once(
            "knowledge", lambda: (self.remembered(*own), self.accuracy(*own))
        )
        return known

    def scores(self, name: str, net: Any) -> Array:
        """``(seed, E)``."""

        def one(params: Any, structure: Any, key: Any, x: Any, y: Any) -> Array:
            return compress.score(name, self.task, params, structure, x, y, key=purpose(key, CHANGE))

        each = (True, True, True, False, False)
        return self.together(
            f"scores by {name}", one, each, net.params, net.structure, self.keys, self.x, self.y
        )

    def pruned(self, net: Any, scores: Array, ratio: float, keep: Array | None = None) -> Any:
        """Parameters and structure of what stays; weights to keep have their place among all."""
        per = self.config.per if keep is None else "global"
        keep = jnp.zeros(scores.shape, bool) if keep is None else keep

        def one(params: Any, structure: Any, scores: Any, keep: Any, ratio: Any) -> Any:
            return extract(params, structure, compress.kept(params, structure, scores, keep, ratio, per))

        each = (True, True, True, True, False)
        args = net.params, net.structure, scores, keep, jnp.asarray(ratio)
        return self.together(f"pruning: {per}", one, each, *args)

    def refit(self, net: Any, params: Any, structure: Any) -> Any:
        """Parameters of what stays, fitted to what the whole network computes."""

        def one(old: Any, before: Any, params: Any, structure: Any, x: Any) -> Any:
            return compress.refit(
                self.task, old, before, params, structure, x, self.config.ridge, fan_in=self.fan_in
            )

        each = (True, True, True, True, False)
        return self.together("refit", one, each, net.params, net.structure, params, structure, self.x)

    def tuned(self, params: Any, structure: Any) -> Any:
        """Parameters after more epochs."""
        net = self.together(
            "nets", lambda p, s: Net.of(p, s, self.optimisers[WHOLE]), (True, True), params, structure
        )
        for at in range(self.config.tune_epochs):
            net = self.learn(net, self.true, self.config.epochs + at)
        return net.params

    def drawn_like(self, counts: Array, small: bool) -> Any:
        """Fresh networks with as many weights: at random, or (small) a dense network of fewer units."""

        def one(key: Any, count: Any) -> Any:
            keys = jax.tree.map(lambda k: jax.random.fold_in(k, 1), network_keys(key))
            params, structure = to_masked_network(*jaxnet.init(self.spec, **keys))
            structure = release_masks(structure)
            sizes = self.spec.sizes
            if not small:
                draw = jax.random.uniform(
                    jax.random.fold_in(purpose(key, CHANGE), 3), weight_values(params, structure).shape
                )
                ratio = 1 - count.astype(jnp.float32) / draw.shape[0]
                keep = compress.kept(params, structure, draw, None, ratio, "layer")
            else:
                keep = self._block(count)
            made, left = extract(params, structure, keep)
            # values for the inputs that there are: as if drawn for this fan-in
            grow = []
            for layer, entry, width in zip(made.scaffold, left.weights, sizes[:-1], strict=True):
                there = jnp.maximum(jnp.sum(entry.mask, 1, keepdims=True), 1)
                grow.append(layer.replace(weight=layer.weight * jnp.sqrt(width / there.astype(jnp.float32))))
            return Net.of(clear(made.replace(scaffold=tuple(grow)), left), left, self.optimisers[WHOLE])

        name = "small networks" if small else "sparse networks"
        return self.together(name, one, (True, True), self.keys, counts)

    def _block(self, count: Any) -> Array:
        """The weights of the largest dense network, its hidden layers in proportion, of at most so many."""
        sizes = self.spec.sizes
        shares = np.arange(1, 1001) / 1000
        widths = [np.maximum(1, np.floor(shares * s)).astype(int) for s in sizes[1:-1]]
        sides = [np.full(1000, sizes[0]), *widths, np.full(1000, sizes[-1])]
        costs = sum(a * b for a, b in zip(sides[:-1], sides[1:], strict=True))
        choice = jnp.maximum(jnp.sum(jnp.asarray(costs) <= count) - 1, 0)
        parts = []
        for layer, (num_in, num_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            rows = jnp.arange(num_out) < jnp.asarray(sides[layer + 1])[choice]
            cols = jnp.arange(num_in) < jnp.asarray(sides[layer])[choice]
            parts.append((rows[:, None] & cols[None]).ravel())
        return jnp.concatenate(parts)

    def from_scratch(self, counts: Array, kind: str) -> Any:
        """Networks of as many weights, trained for as long as the large ones and their tuning."""
        net = self.drawn_like(counts, kind == "small")
        epochs = self.config.epochs + self.config.tune_epochs
        steps = epochs * -(-self.train.size // self.config.batch_size)
        every = max(1, min(100, steps // 10))
        rigl = (
            methods.make("rigl", fraction=0.3, every=every, until=max(2, 3 * steps // 4))
            if kind == "rigl"
            else None
        )
        for at in range(epochs):
            net = self.learn(net, self.true, at, "RigL" if rigl else WHOLE, rigl)
        return net.params, net.structure

    def circuit(self, net: Any) -> Array:
        """``(seed, E)``, the part of every weight in the losses of all classes, by integrated gradients."""

        def one(params: Any, structure: Any, x: Any, y: Any) -> Array:
            suite = circuits.of_classes(x, y, self.spec.sizes[-1])
            of = circuits.measured(self.task, params, structure, suite, "mean")
            number = circuits.existing(params, structure).shape[0]
            ends = jnp.zeros(number), jnp.ones(number)
            whole = lambda mask: jnp.sum(of(mask))[None]  # noqa: E731
            return -attribute_change(*ends, whole, jnp.arange(number), number, nodes=8)[:, 0]

        each = (True, True, False, False)
        return self.together("circuits", one, each, net.params, net.structure, self.x, self.y)

    def rounded(self, net: Any, bits: Array) -> np.ndarray:
        """``(seed,)`` accuracy with the bits ``(seed, layer)`` of every array of weights."""

        def one(params: Any, structure: Any, bits: Any, test: Any) -> Array:
            params = compress.with_bits(params, circuit_paths(params, structure), bits)
            return evaluate(self.task, params, structure, test).accuracy

        args = net.params, net.structure, bits, self.test
        return np.asarray(self.together("rounding", one, (True, True, True, False), *args), float)

    def sensitivities(self, net: Any) -> tuple[np.ndarray, np.ndarray]:
        """``(seed, layer, choice)``: rises of the loss, and what the Hessian's trace says of them."""

        model = MLP(self.spec, product("dense"))  # the csr kernel has no second derivative

        def one(params: Any, structure: Any, key: Any, x: Any, y: Any) -> Any:
            def loss(values: Any) -> Array:
                logits, _ = model(values, structure, x, key_forward=None)
                return self.task.loss(logits, y, jnp.ones(y.shape[0]), axis=model.class_axis)

            paths = circuit_paths(params, structure)
            found = compress.sensitivity(loss, params, paths)
            key = purpose(key, CHANGE, 5)
            return found, compress.hessian_sensitivity(loss, params, paths, key=key)

        each = (True, True, True, False, False)
        args = net.params, net.structure, self.keys, self.x, self.y
        found = self.together("sensitivities", one, each, *args)
        return np.asarray(found[0], float), np.asarray(found[1], float)


def circuit_paths(params: Any, structure: Any) -> list[str]:
    """The paths of all weights."""
    return list(entries(structure))
