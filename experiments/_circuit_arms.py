"""Circuits of the networks of one density, and of nonsense networks beside them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jaxnet
from experiments import _winner
from experiments._circuit_kinds import ARMS
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes

if TYPE_CHECKING:
    from jaxnet.data import Dataset


@dataclass(frozen=True)
class FindFlags(lab.SeedFlags):
    """How circuits are found and tried."""

    num_seeds: int = option(12, "networks of every arm; verdicts need 12", least=1)
    epochs: int = option(10, "of training", "epochs", least=1)
    shuffled_epochs: int = option(
        40, "of training on shuffled labels of the samples below", "epochs", least=1
    )
    samples: int = option(500, "training images that circuits are found on", "images", least=1)
    fraction: float = option(0.9, "of a network's own gap, that a circuit must recover", fraction=True)
    mode: Literal["zero", "mean"] = option("mean", "what is left of weights that are gone")
    chunks: int = option(16, "parts of a circuit that are tried to be left out, at the finest", least=0)
    nodes: int = option(8, "of integrated gradients", least=1)
    bootstraps: int = option(2, "of the samples, for stability", least=2)
    exact: int = option(10000, "most weights of networks that are ablated one by one", "weights", least=0)

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        if not self.fraction < 1:
            raise InputError(
                f"--fraction must be below 1: {self.fraction}: no loss need be below a network's own"
            )
        super().check()


@dataclass(frozen=True)
class ArmConfig(FindFlags, lab.RunFlags, lab.TrainFlags, lab.NetworkFlags, lab.DataFlags):
    """One density."""

    num_seeds: int = changed(FindFlags, "num_seeds")
    from_checkpoint: str | None = _winner.flag("look into")
    checkpoint_fingerprint: str | None = option(None, "of the checkpoint", cli=False)


def make_spec(config: Any, dataset: Dataset) -> jaxnet.NetworkSpec:
    """The network."""
    hidden = (256, 128) if dataset.num_features > 256 else (32, 24)
    return lab.run.network_spec(
        dataset,
        config.sizes,
        hidden,
        density=config.density,
        allocation=config.allocation or "uniform",
        activation=config.activation or "relu",
        init=config.init or "sparse-fan-in",
    )


def settle_arm(config: ArmConfig, dataset: Dataset) -> ArmConfig:
    """Checks what can be checked before anything is written."""
    from jaxnet import circuits

    lab.run.check_samples(config, dataset)
    check_sizes(config.sizes, 3)
    if config.from_checkpoint is not None:
        config = _winner.adopt(config, dataset)
        winner = _winner.of(config)
        assert winner is not None
        circuits.check_network(winner.params, str(winner.path))
    spec = make_spec(config, dataset)
    config = dataclasses.replace(config, sizes=spec.sizes)
    y = dataset.y_train[: config.samples]
    missing = np.setdiff1d(np.arange(dataset.num_classes), y)
    if missing.size or len(np.unique(y)) < 2:
        raise InputError(
            f"class {missing[0] if missing.size else y[0]} has no samples among the first {len(y)} of "
            f"{dataset.name}, or no others: raise --samples"
        )
    if spec.density == 1:
        return dataclasses.replace(config, kernel="dense")
    return lab.run.resolve_kernel(config, spec, config.num_seeds)


def run_arm(run: lab.Run[ArmConfig]) -> lab.Found:
    """Trains, finds circuits in every arm, measures."""
    import jax
    import jax.numpy as jnp
    import optax

    from experiments import _circuit_found as found
    from experiments import _circuit_measures as measures
    from experiments._rounds import Together, quickly, run_rounds
    from jaxnet import circuits
    from jaxnet.data.batches import Split
    from jaxnet.keys import CHANGE, LOOK, ORDER, network_keys, purpose
    from jaxnet.nn.params import release_masks, to_masked_network
    from jaxnet.programs import ONCE
    from jaxnet.train import Batches, Net, train_batches

    config, count = run.config, len(run.seeds)
    spec, winner = make_spec(run.config, run.dataset), _winner.of(run.config)
    adam, task = optax.adam(float(config.lr or 1e-3)), run.task(spec)
    together, classes = Together(run, count), run.dataset.num_classes
    how = quickly(spec.dense_weights)
    train = run.split("train")
    index = jnp.arange(min(config.samples, train.size))
    few = Split(train.x[index], train.y[index], train.mean, train.std)
    keys = run.keys

    def drawn(key: Any) -> Any:
        params, structure = jaxnet.init(spec, **network_keys(key))
        if winner is not None:
            fresh = jaxnet.nn.mlp.init_params(spec, winner.structure.weights, key_init=key)  # type: ignore[arg-type]
            return fresh, jax.tree.map(jnp.asarray, winner.structure)
        if config.density == 1:
            params, structure = to_masked_network(params, structure)
            structure = release_masks(structure)
        return params, structure

    def begin(key: Any) -> Any:
        params, structure = drawn(key)
        theirs = jax.tree.map(jnp.asarray, winner.params) if winner is not None else params
        nets = {
            "trained": Net.of(theirs, structure, adam),
            "shuffled labels": Net.of(params, structure, adam),
        }
        number = circuits.existing(params, structure).shape[0]
        shape = (len(ARMS), classes)
        units = sum(spec.sizes[1:-1])
        return {
            "nets": nets,
            "keep": jnp.zeros((*shape, number), bool),
            "size": jnp.zeros(shape),
            "reached": jnp.zeros(shape, bool),
            "error": jnp.zeros(shape),
            "past": jnp.zeros((config.epochs + 1, units, min(128, few.size))),
        }

    def labels(key: Any) -> Any:
        return jax.random.permutation(purpose(key, LOOK), few.y)

    def learn(net: Any, y: Any, key: Any, batches: Any, x: Any) -> Any:
        data = Split(x, y, train.mean, train.std)
        forward = jax.random.fold_in(purpose(key, ORDER), 0)
        return train_batches(task, net, data, batches, key_forward=forward)[0]

    def look(past: Any, net: Any, now: Any, data: Any) -> Any:
        x, _ = data.batch(jnp.arange(past.shape[-1]))
        seen = circuits.chain(task, net.params, net.structure, x)[1][1:]
        return past.at[now].set(jnp.concatenate(seen))

    def suite_of(y: Any, data: Any) -> Any:
        x, _ = data.batch(jnp.arange(data.size))
        return circuits.of_classes(x, y, classes)

    def search(net: Any, y: Any, k: Any, data: Any) -> Any:
        suite, how = suite_of(y, data), (config.mode, config.fraction, config.chunks, config.nodes)
        circuit, error = measures.find(task, net.params, net.structure, suite, k, *how)
        there = jnp.sum(circuits.existing(net.params, net.structure), dtype=jnp.float32)
        return circuit.keep, circuit.size.astype(jnp.float32) / there, circuit.reached, error

    def net_of(state: Any, arm: int) -> Any:
        if ARMS[arm] == "untrained":
            params, structure = together("networks before training", drawn, (True,), keys, options=ONCE)
            return state["nets"]["trained"].replace(params=params, structure=structure)
        return state["nets"][ARMS[arm]]

    whole = 0 if winner is not None else config.epochs
    number = partial(jnp.asarray, dtype=jnp.int32)
    order, steps = run.order(config.batch_size), -(-train.size // config.batch_size)
    mixed = together("shuffled labels", labels, (True,), keys, options=ONCE)
    true = jnp.broadcast_to(few.y, mixed.shape)
    ys = [true, mixed, true]
    on_train = [jnp.broadcast_to(train.y, (count, train.size)) for _ in range(2)]
    on_train[1] = on_train[1].at[:, : few.size].set(mixed)

    def few_order(key: Any, at: Any) -> Batches:
        """As many steps as an epoch, on the samples with shuffled labels."""
        size = steps * config.batch_size
        keys = jax.random.split(jax.random.fold_in(key, at), -(-size // few.size))
        drawn = jax.vmap(lambda key: jax.random.permutation(key, few.size))(keys).ravel()[:size]
        shape = steps, config.batch_size
        return Batches(drawn.reshape(shape).astype(jnp.int32), jnp.ones(shape))

    order_of_few = run.compiled("the order of few", few_order, run.key_data, number(0), options=ONCE)

    def step(at: int, state: Any) -> Any:
        state = dict(state)
        if at < whole + config.shuffled_epochs:
            shuffled = at >= whole
            name, drawn = ARMS[shuffled], (order_of_few if shuffled else order)(run.key_data, number(at))
            args: Any = state["nets"][name], on_train[shuffled], keys, Batches(*drawn), train.x
            net = together("an epoch", learn, (True, True, True, False, False), *args, **how)
            state["nets"] = {**state["nets"], name: net}
            if not shuffled:
                args = state["past"], net, number(at + 1), few
                state["past"] = together(
                    "a look at layers", look, (True, True, False, False), *args, options=ONCE
                )
            return state, []
        arm, k = divmod(at - whole - config.shuffled_epochs, classes)
        args = net_of(state, arm), ys[arm], number(k), few
        keep, *rest = together("circuits", search, (True, True, False, False), *args, **how)
        state["keep"] = state["keep"].at[:, arm, k].set(keep)
        for name, value in zip(("size", "reached", "error"), rest, strict=True):
            state[name] = state[name].at[:, arm, k].set(value)
        rows = [
            {"arm": ARMS[arm], "seed": s, "phase": "circuits", "epoch": k, "size": float(rest[0][i])}
            for i, s in enumerate(run.seeds)
        ]
        return state, rows

    def start() -> Any:
        state = dict(together("the start", begin, (True,), keys, options=ONCE))
        args = state["past"], state["nets"]["trained"], number(0), few
        state["past"] = together("a look at layers", look, (True, True, False, False), *args, options=ONCE)
        return state

    rounds = whole + config.shuffled_epochs + len(ARMS) * classes
    state = run_rounds(run, "circuits", rounds, start, step, lambda _: jax.eval_shape(jax.vmap(begin), keys))
    nets = [net_of(state, arm) for arm in range(len(ARMS))]

    def chosen(net: Any, keep: Any, key: Any) -> Any:
        """From the first values, with the weights of any circuit alone, or as many at random."""
        own = net.params, net.structure
        mask = jnp.any(keep, 0)
        chance = circuits.random_like(*own, mask, key=purpose(key, CHANGE, 14))
        return [Net.of(*circuits.extract(*own, one), adam) for one in (mask, chance)]

    again = together("circuits alone", chosen, (True, True, True), nets[2], state["keep"][:, 0], keys)
    for at in range(config.epochs):
        batches = Batches(*order(run.key_data, number(at)))
        for i, net in enumerate(again):
            args = net, on_train[0], keys, batches, train.x
            again[i] = together("an epoch", learn, (True, True, True, False, False), *args, **how)
    nets += again
    return found.summarise(run, task, state, nets, ys, partial(together, **how), suite_of, few)


ARM: lab.Study[ArmConfig] = lab.Study("circuits", ArmConfig, run_arm, settle=settle_arm, known=_winner.known)
