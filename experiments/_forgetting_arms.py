"""One learner of ``experiments.forgetting`` at one density, all dials side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option

if TYPE_CHECKING:
    from jaxnet.data import Dataset
    from jaxnet.nn.mlp import NetworkSpec

Streams = Literal["permuted", "rotated", "split"]
METHODS = (
    *("naive", "lower-rate", "freeze", "low-rank", "ewc", "si", "lwf", "replay", "row-projection", "zones"),
    *("free-weights", "patches", "joint"),
)
"""Names of :data:`jaxnet.continual.LEARNERS`, known before JAX is loaded."""


@dataclass(frozen=True)
class ArmConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """One method at one density."""

    arm: str = option("naive", "one of the methods")
    dials: tuple[float, ...] = option((1.0,), "values of its dial, side by side")
    stream: Streams = option("permuted", "how tasks are made")
    tasks: int = option(10, "in a stream", least=1)
    epochs: int = option(1, "of every task", "epochs", least=1)
    optimizer: Literal["adam", "sgd"] = option("adam", "of the naive learner")
    bias: bool = option(True, "layers have biases")
    look: int = option(500, "samples looked at after a task", "samples", least=1)
    buffer: int = option(200, "most samples of a task that a replay keeps", "samples", least=1)
    judged: bool = option(True, "read the test set")


def make_spec(config: Any, dataset: Dataset, density: float) -> NetworkSpec:
    """The network."""
    return lab.run.network_spec(dataset, config.sizes, (100, 100), density=density)


def settle_arm(config: ArmConfig, dataset: Dataset) -> ArmConfig:
    """Settles the kernel; checks what can be checked."""
    density = float(config.density or 0)
    spec = make_spec(config, dataset, density)
    lab.run.check_samples(config, dataset)
    if config.tasks < 2:
        raise InputError(f"--tasks must be at least 2: {config.tasks}")
    if config.stream == "split" and config.tasks > dataset.num_classes:
        raise InputError(f"--tasks {config.tasks}: {dataset.name} has {dataset.num_classes} classes to split")
    if config.stream == "rotated" and len(dataset.image_shape) < 2:
        raise InputError(f"--stream rotated needs images, and {dataset.name} has flat features")
    if config.arm == "row-projection" and not all(0 < dial <= 1 for dial in config.dials):
        raise InputError(f"the energy of row-projection must be above 0 and at most 1: {config.dials}")
    if config.arm == "patches" and min(spec.sizes[1:-1]) < 20:
        raise InputError("patches need hidden layers of 20 units or more")
    if density == 1 and config.arm != "patches":
        return dataclasses.replace(config, kernel="dense")
    return lab.run.resolve_kernel(config, spec, config.num_seeds * len(config.dials))


def run_arm(run: lab.Run[ArmConfig]) -> lab.Found:
    """All tasks, one after the other; judged after each."""
    import jax
    import jax.numpy as jnp
    import optax

    from experiments._rounds import Together, quickly, run_rounds
    from jaxnet import continual
    from jaxnet.keys import LOOK, ORDER, network_keys, purpose
    from jaxnet.nn.params import release_masks, to_masked_network
    from jaxnet.programs import ONCE

    config, learner = run.config, continual.LEARNERS[run.config.arm]
    spec = make_spec(config, run.dataset, float(config.density or 0))
    dense = config.density == 1
    rate = float(config.lr or 1e-3)
    base = optax.adam(rate) if config.optimizer == "adam" else optax.sgd(rate)
    seeds, count = list(run.seeds), len(config.dials) * len(run.seeds)
    keys = jnp.concatenate([run.keys] * len(config.dials))
    dials = jnp.repeat(jnp.asarray(config.dials, jnp.float32), len(seeds))
    together, how = Together(run, count), quickly(spec.dense_weights)

    def drawn(key: Any) -> Any:
        params, structure = jaxnet.init(spec, **network_keys(key))
        if dense and not learner.sparse_only:
            params, structure = to_masked_network(params, structure)
            structure = release_masks(structure)
        return params, structure

    # drawn by a program of its own, the same for most methods
    networks = together("the networks", drawn, (True,), keys, options=ONCE)
    fan_in = fan_ins(networks[1], dense)
    setting = continual.Setting(
        run.task(spec), base, config.tasks, config.look, config.buffer, fan_in, config.bias
    )
    split = run.split("train"), run.split("test" if config.judged else "val")

    shared = [stream_parts(config, run.dataset, part) for part in split]

    def own(key: Any) -> Any:
        """The taps of a network's stream."""
        if config.stream != "permuted":
            return ()
        return continual.permuted(split[0], config.tasks, key=purpose(key, LOOK)).taps

    def stream(own: Any, shared: Any, part: Any) -> Any:
        return (
            continual.Stream(part, own, **shared)
            if config.stream == "permuted"
            else shared["whole"].replace(split=part)
        )

    def begin(network: Any, key: Any, dial: Any) -> Any:
        params, structure = network
        progress = continual.begin(setting, learner, params, structure, dial, purpose(key, ORDER))
        return progress if config.bias else without_bias(progress)

    def learn(progress: Any, own: Any, t: Any, batches: Any, *given: Any) -> Any:
        return continual.learn(setting, learner, progress, stream(own, *given), t, batches)

    def judge(params: Any, memory: Any, structure: Any, own: Any, t: Any, *given: Any) -> Any:
        return continual.judge(setting, learner, params, memory, structure, stream(own, *given), t)

    def grow(progress: Any, own: Any, *given: Any) -> Any:
        return continual.grown(setting, learner, progress, stream(own, *given))

    grows, number = hasattr(learner, "grow"), partial(jnp.asarray, dtype=jnp.int32)
    taps = together("the streams", own, (True,), keys, options=ONCE)
    train, seen = (shared[0], split[0]), (shared[1], split[1])
    per_task = jax.eval_shape(lambda own: stream(jax.tree.map(lambda a: a[0], own), *train), taps).per_task
    ordered = partial(continual.order, per_task, config.batch_size, config.epochs)
    order = run.compiled("the order", ordered, run.key_data, number(0), options=ONCE)

    def answering(progress: Any) -> tuple[Any, Any, Any]:
        # of the learner only what it answers from: the program is the same for most
        return progress.net.params, progress.memory if learner.knows_task else (), progress.net.structure

    def judged(progress: Any, t: int, form: str = "") -> Any:
        args = *answering(progress), taps, number(t), *seen
        return together(f"judging{form}", judge, (True, True, True, True, False, False, False), *args, **how)

    def start() -> Any:
        progress = together("the start", begin, (True,) * 3, networks, keys, dials, options=ONCE)
        return progress.replace(before=judged(progress, -1))

    def step(t: int, progress: Any) -> Any:
        form = "with parts" if grows and t else ""
        each = (True, True, False, False, False, False)
        batches = order(run.key_data, number(t))
        progress = together(f"a task{form}", learn, each, progress, taps, number(t), batches, *train, **how)
        row = judged(progress, t, form)
        progress = progress.replace(accuracies=progress.accuracies.at[:, t].set(row))
        rows = [
            {"seed": seed, "dial": dial, "phase": config.arm, "epoch": t + 1, "accuracies": row[i].tolist()}
            | {"accuracy": float(np.mean(row[i][: t + 1]))}
            for row in [np.asarray(row, float)]
            for i, (dial, seed) in enumerate((d, s) for d in config.dials for s in seeds)
        ]
        if grows and t == 0:
            progress = together("the parts", grow, (True, True, False, False), progress, taps, *train)
        return progress, rows

    def shapes(done: int) -> Any:
        found = jax.eval_shape(jax.vmap(begin), networks, keys, dials)
        if grows and done:
            found = jax.eval_shape(jax.vmap(grow, (0, 0, None, None)), found, taps, *train)
        return found

    end = run_rounds(run, config.arm, config.tasks, start, step, shapes)

    def at_last(params: Any, memory: Any, structure: Any, a: Any, before: Any, own: Any, *given: Any) -> Any:
        tasks = stream(own, *given)
        cosines = continual.interference(
            setting.task,
            learner.answers(params, memory, structure, jnp.asarray(config.tasks - 1)),
            structure,
            [tasks.task(j) for j in range(config.tasks)],
            jnp.arange(min(config.look, tasks.per_task)),
        )
        apart = ~jnp.eye(config.tasks, dtype=bool)
        measures = {
            "accuracy": continual.average(a),
            "learning": continual.learning(a),
            "forgetting": continual.forgetting(a),
            "interference": jnp.sum(jnp.where(apart, cosines, 0)) / (config.tasks * (config.tasks - 1)),
        }
        weights = jaxnet.structure.count(params, structure)["total"]
        return measures, weights, continual.transfer(a, before)

    args = *answering(end), end.accuracies, end.before, taps
    each = (*(True for _ in args), False, False)
    measures, weights, moved = together("measures", at_last, each, *args, *train, options=ONCE)
    accuracies = np.asarray(end.accuracies, float)
    gone = ~np.isfinite(accuracies).all((1, 2))
    names = [f"{dial:g}" for dial in config.dials]
    arms = lab.entries(seeds, names, diverged=gone, **{k: np.asarray(v, float) for k, v in measures.items()})
    nonzero, image = float(np.mean(np.asarray(weights))), run.dataset.x_train[0].nbytes
    extra = {
        "kernel": config.kernel,
        "sizes": list(spec.sizes),
        "matrix": np.nanmean(accuracies, 0).tolist(),
        "transfer": np.nanmean(np.asarray(moved, float), 0).tolist(),
        "weights": nonzero,
        "stored": [learner.stored(setting, int(nonzero), dial, image) for dial in config.dials],
    }
    return lab.Found(arms, extra=extra, timing={"seconds_per_network": run.clock.run_seconds / count})


def stream_parts(config: ArmConfig, dataset: Dataset, part: Any) -> dict[str, Any]:
    """What of a stream is the same for all networks."""
    from jaxnet import continual

    if config.stream == "permuted":
        return {}
    if config.stream == "split":
        return {"whole": continual.split_classes(part, config.tasks, dataset.num_classes)}
    angles = [180 * t / config.tasks for t in range(config.tasks)]
    return {"whole": continual.rotated(part, angles, dataset.image_shape)}


def fan_ins(structure: Any, dense: bool) -> tuple[int | None, ...]:
    """Most inputs of a row over all networks, layer by layer; None where all are there."""
    if dense:
        return tuple(None for _ in structure.weights)
    return tuple(int(np.max(np.asarray(entry.fan_in))) for entry in structure.weights)


def without_bias(progress: Any) -> Any:
    """Biases, which begin at zero, never move."""
    import jax
    import jax.numpy as jnp

    from jaxnet import protect
    from jaxnet.optim import with_scales

    def one(path: Any, leaf: Any) -> Any:
        return jnp.zeros_like(leaf) if jax.tree_util.keystr(path).endswith(".bias") else leaf

    scales = jax.tree.map_with_path(one, protect.scales_of(progress.net))
    return progress.replace(net=progress.net.replace(opt_state=with_scales(progress.net.opt_state, scales)))


ARM: lab.Study[ArmConfig] = lab.Study("forgetting", ArmConfig, run_arm, settle=settle_arm)

__all__ = ["ARM", "METHODS", "ArmConfig", "changed", "settle_arm"]
