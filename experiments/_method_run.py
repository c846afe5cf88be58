"""One arm of ``experiments.method_comparison``: networks of one method at one density."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import jaxnet
from experiments import _method_arms as methods
from experiments import _method_rewind as rewinding
from experiments import _method_sparser as sparser
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Allocation

if TYPE_CHECKING:
    from jaxnet.data import Dataset
    from jaxnet.nn.mlp import NetworkSpec


@dataclass(frozen=True)
class ArmConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """One method at one density, at one learning rate or several side by side."""

    arm: str = option("static", "one of the methods")
    rates: tuple[float, ...] = option((1e-3,), "Adam's learning rates at the start")
    epochs: int = option(20, "of training", "epochs", least=1)
    every: int = option(100, "steps between two changes", "steps", least=1)
    rounds: int = option(5, "prunings of rewind", least=1)
    judged: bool = option(True, "read the test set")
    peers: bool = option(False, "read it after every epoch, too")
    allocation: Allocation = changed(lab.NetworkFlags, "allocation", "erdos-renyi")
    batch_size: int = changed(lab.BatchFlags, "batch_size", 128)
    weight_decay: float = option(0.0, "decoupled decay of the weights", least=0)
    taught: int = option(0, "dense networks that teach, together", least=0)
    average: float = option(0.0, "also keep a running mean of the weights, with this decay per step", least=0)

    def check(self) -> None:
        """Raises InputError for a decay that keeps the start for ever."""
        if self.average >= 1:
            raise InputError(f"--average must be at least 0 and below 1: {self.average}")
        super().check()


class Networks(NamedTuple):
    """Trained networks: how they are applied, parameters and structures with a leading axis.

    ``watched`` are accuracies on validation samples, -1 of those that diverged.
    """

    model: Any
    params: Any
    structure: Any
    watched: np.ndarray

    def best(self) -> tuple[Any, Any]:
        """Parameters and structure of the best on validation samples."""
        import jax

        number = int(np.argmax(self.watched))
        return jax.tree.map(lambda leaf: leaf[number], (self.params, self.structure))

    def teacher(self) -> tuple[Any, Any, Any]:
        """All that did not diverge as one model, with its parameters and structure."""
        import jax

        sound = np.flatnonzero(self.watched >= 0)
        if not sound.size:
            raise InputError("every teacher diverged: lower --rates")
        chosen = jax.tree.map(lambda leaf: leaf[sound], (self.params, self.structure))
        return jaxnet.train.Together(self.model), *chosen


def make_spec(config: ArmConfig, dataset: Dataset) -> NetworkSpec:
    """The network at the start; where it is pruned, before that."""
    arm = methods.ARMS[config.arm]
    spec = lab.run.network_spec(
        dataset,
        config.sizes,
        density=config.density,
        allocation=arm.allocation or config.allocation,
        activation=config.activation,
        init=lab.run.init_rule(config),
    )
    if arm.start in ("dense", "chosen", "rewound"):
        return dataclasses.replace(spec, density=1.0, allocation="uniform")
    if arm.start == "half":
        return dataclasses.replace(spec, density=0.5)
    if arm.start == "small":
        sizes = methods.small_sizes(spec.sizes, int(spec.density * spec.dense_weights))
        return dataclasses.replace(spec, sizes=sizes, density=1.0, allocation="uniform")
    return spec


def steps_of(config: ArmConfig, dataset: Dataset) -> int:
    """Steps of training."""
    return config.epochs * -(-len(dataset.y_train) // config.batch_size)


def settle_arm(config: ArmConfig, dataset: Dataset) -> ArmConfig:
    """Settles the kernel; checks what can be checked."""
    arm, spec = methods.ARMS[config.arm], make_spec(config, dataset)
    try:
        jaxnet.allocate(spec.sizes, spec.density, spec.allocation)
    except ValueError as error:
        raise InputError(f"{config.arm}: {error}") from None
    steps = steps_of(config, dataset)
    method = methods.make_method(arm, float(config.density or 0), steps, config.every)
    methods.check_time(config.arm, method, spec, steps, config.epochs)
    lab.run.check_samples(config, dataset)
    if arm.start == "small" or config.arm == "dense":  # masks on dense arrays, to the end
        return dataclasses.replace(config, kernel="dense")
    if arm.start != "sparse":  # it will be
        spec = dataclasses.replace(spec, density=float(config.density or 0))
    return lab.run.resolve_kernel(config, spec, config.num_seeds * len(config.rates))


def run_arm(run: lab.Run[ArmConfig], teachers: Networks | None = None) -> lab.Found:
    """Trains the networks of one method, those of every rate side by side; ``teachers`` teach all of them."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxnet import keys

    config, dataset = run.config, run.dataset
    arm, spec, steps = methods.ARMS[config.arm], make_spec(config, dataset), steps_of(config, dataset)
    method = methods.make_method(arm, float(config.density or 0), steps, config.every)
    task = run.task(spec)
    if teachers is not None:
        transform = jaxnet.train.taught_by(*teachers.teacher(), then=task.transform)
        task = dataclasses.replace(task, loss=jaxnet.losses.Distillation(0.3, 4.0), transform=transform)
    optimizer = optax.chain(
        optax.scale_by_adam(),
        *([optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []),
        optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, steps)),
        # the rate is data, so that all trials are one program
        optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=1e-3),
        *([jaxnet.optim.averaged(config.average)] if config.average else []),
    )
    seen = run.split("train", slice(config.batch_size))
    watched = run.split("train", slice(1000)) if arm.wiring != "random" else None

    def ready(params: Any, structure: Any, rate: float) -> Any:
        net = jaxnet.Net.of(params, structure, optimizer)
        opt_state = optax.tree.set(net.opt_state, learning_rate=jnp.float32(rate))
        return jaxnet.init_state(net.replace(opt_state=opt_state))

    def start(key: Any, before: Any) -> Any:
        given: dict[str, Any] = {}
        if watched is not None:
            given = {"inputs": watched.batch(jnp.arange(watched.size))[0], "wiring": arm.wiring}
        params, structure = jaxnet.init(spec, **keys.network_keys(key), **given)
        if arm.start != "sparse":
            params, structure = jaxnet.to_masked_network(params, structure)

        def at(rate: float) -> Any:
            if method is None:
                return ready(params, structure, rate)
            net = ready(params, structure, rate).net
            x, y = seen.batch(jnp.arange(seen.size))
            view = jaxnet.train.BatchView(task, net, x, y, jnp.ones(seen.size), key)
            state = jaxnet.init_state(net, method, view, key=keys.purpose(key, keys.METHOD))
            if arm.start != "chosen":
                return state
            chosen = jaxnet.to_sparse_network(state.net.params, state.net.structure, room)
            return ready(*chosen, rate)

        return tuple(at(rate) for rate in config.rates)

    full = jaxnet.allocation.dense_counts(spec.sizes)
    room = sparser.room_for(int(float(config.density or 0) * sum(full)), full)  # of a chosen network
    counts_at_start = jaxnet.allocate(spec.sizes, spec.density, spec.allocation)
    layers = list(zip(counts_at_start, full, strict=True))
    existed = methods.budgets(method, layers, steps)
    per_epoch = steps // config.epochs

    def at_best(net: Any, before: np.ndarray) -> np.ndarray:
        """As peers select: the highest test accuracy of any epoch."""
        return np.fmax(before, run.judge(task, net.params, net.structure, run.split("test"))[0])

    peers = config.peers and config.judged

    def between(done: int, state: Any, account: Any, result: Any) -> Any:
        if peers:
            account = at_best(state.net, account)
        if existed[done * per_epoch] > existed[-1]:  # larger than it will be: such an epoch is not the best
            state = state.replace(best_accuracy=jnp.full_like(state.best_accuracy, -1.0))
        return state, account

    names = tuple(f"{rate:g}" for rate in config.rates)
    best_of_test = np.full(len(run.seeds) * len(names), np.nan)
    after = None if arm.start == "chosen" else method
    hooks: dict[str, Any] = {"method": after, "between": between, "account": best_of_test if peers else None}
    if arm.start in ("dense", "half") and config.kernel != "dense" and not peers:
        stages = sparser.make_stages(
            task, start, epochs=config.epochs, existed=existed, full=full, arms=names, **hooks
        )
    else:
        stages = [lab.Stage("train", config.epochs, task, start, arms=names, order=0, **hooks)]
    if arm.start == "rewound":
        rules = {name: getattr(config, name) for name in ("density", "rounds", "epochs", "rates")}
        stages = rewinding.make_stages(task, start, ready, sizes=spec.sizes, **rules)
    trained = lab.train_stages(run, stages)[stages[-1].name]
    state = trained.kept
    if config.average:
        state = averaged_where_better(run, task, state)
    params, structure = state.best
    counted = run.over_seeds("the count", jaxnet.count_nonzeros, params, structure)
    counts, gone, best = jax.device_get((counted, state.diverged, state.best_accuracy))
    halves: dict[str, Any] = {}
    accuracy = np.asarray(best, float)
    if config.judged and config.protocol == "clean":
        accuracy, of_halves = run.judge(task, params, structure, run.split("test"))
        halves = {"accuracy_halves": of_halves}
    if peers and arm.start != "rewound":
        halves["accuracy_peers"] = at_best(state.net, trained.account)
    found = lab.entries(
        run.seeds,
        names,
        diverged=gone,
        accuracy=np.where(gone, np.nan, accuracy),
        watched=np.where(gone, np.nan, best),
        best_epoch=state.best_epoch,
        weights=counts["scaffold"],
        **halves,
    )
    flops = methods.flops(arm, method, existed, sum(full), config.batch_size)
    if arm.start == "rewound":
        per_weight = 6.0 * config.batch_size * steps
        counts = rewinding.weights_of_rounds(config.density or 0, config.rounds, sum(full))
        flops = per_weight * (sum(counts) + sum(full) / config.epochs)
    extra = {
        "sizes": list(spec.sizes),
        "kernel": config.kernel,
        "epochs": sum(stage.epochs for stage in stages),
        "most_weights": max(existed),
        "flops": flops,
        "seconds_per_network": run.clock.run_seconds / (len(run.seeds) * len(names)),
    }
    shared = Networks(task.model, params, structure, np.where(gone, -1.0, best))
    return lab.Found(found, extra=extra, shared=shared)


def averaged_where_better(run: lab.Run[ArmConfig], task: Any, state: Any) -> Any:
    """The state whose best is the running mean of the weights, where validation samples like it better."""
    import jax
    import jax.numpy as jnp

    def better(state: Any, split: Any) -> Any:
        mean, structure = jaxnet.optim.average_of(state.net.opt_state), state.net.structure
        accuracy = jaxnet.evaluate(task, mean, structure, split).accuracy
        wins = ~state.diverged & (accuracy > state.best_accuracy)
        new = state.replace(best_params=mean, best_accuracy=accuracy, best_epoch=state.epoch)
        new = new.replace(best_structure=None if state.best_structure is None else structure)
        return jax.tree.map(lambda a, b: jnp.where(wins, a, b), new, state)

    plain = state.replace(key=None)  # keys know no where, and nothing is drawn any more
    return run.over_seeds("the averages", better, plain, run.split(run.watched)).replace(key=state.key)


UNSAID = ("weight_decay", "peers", "taught", "average")  # stored only where they say something
ARM = lab.Study("method_comparison", ArmConfig, run_arm, settle=settle_arm, unsaid=UNSAID)
