"""What is a number of weights worth? Sparse networks of several kinds against small dense ones of equal size.

Of every density: weights shared out uniformly, by Erdős–Rényi, by Erdős–Rényi and exchanged by RigL for
three quarters of the training, and a dense network with fewer units that has as many weights; and one dense
network of the full width. All train alike; the test set judges the networks of the last epoch.

    python -m experiments.accuracy_by_weights --dataset mnist
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxnet import lab
from jaxnet.lab import changed, option

DENSE = "dense"
ARMS = {"rigl": "RigL", "erdos-renyi": "Erdős–Rényi", "uniform": "uniform", "small": "small dense network"}
"""Ways to have so many weights, and how a picture names them."""


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """Accuracy against the number of weights."""

    hidden: tuple[int, ...] = option((256, 128), "hidden units of the full width")
    densities: tuple[float, ...] = option((0.01, 0.02, 0.05, 0.1), "fractions of weights that exist")
    epochs: int = option(10, "of training", "epochs", least=1)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 128)
    lr: float = changed(lab.TrainFlags, "lr", 2e-3)
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 5)
    out: str = changed(lab.RunFlags, "out", "checkpoints/accuracy_by_weights")


def small_hidden(sizes: Sequence[int], density: float) -> tuple[int, ...]:
    """Hidden units of a dense network with as many weights as a sparse one has, as near as it can be.

    >>> small_hidden((784, 256, 128, 10), 0.01)
    (3, 2)
    """
    wanted = density * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(1, round(factor * units)) for units in sizes[1:-1])

    def weights(hidden: tuple[int, ...]) -> int:
        all_sizes = (sizes[0], *hidden, sizes[-1])
        return sum(a * b for a, b in zip(all_sizes[:-1], all_sizes[1:], strict=True))

    found = {scaled(units / sizes[1]) for units in range(1, sizes[1] + 1)}
    return min(found, key=lambda hidden: abs(weights(hidden) - wanted))


def settle(config: Config, dataset: Any) -> Config:
    """The faster kernel for the sparse networks; raises InputError where there is nothing to judge by."""
    lab.run.check_samples(config, dataset)
    spec = lab.run.network_spec(dataset, None, config.hidden, density=min(config.densities))
    return lab.run.resolve_kernel(config, spec, config.num_seeds)


def run(run: lab.Run[Config]) -> lab.Found:
    """Trains a program per density and kind, and judges every network on the test set."""
    import jax
    import numpy as np
    import optax

    import jaxnet
    from jaxnet.lab.run import count_right, fractions

    config, dataset = run.config, run.dataset
    optimizer, test = optax.adam(config.lr), run.split("test")
    steps = config.epochs * math.ceil(len(dataset.y_train) / config.batch_size)

    def stage(name: str, specs: Mapping[str, Any], kernel: str, method: Any = None) -> lab.Stage:
        first = next(iter(specs.values()))
        task = jaxnet.Task(jaxnet.MLP(first, jaxnet.kernels.product(kernel)), config.batch_size)

        def start(key: Any, before: Any) -> Any:
            key_mask, key_init, key_method = jax.random.split(key, 3)
            drawn = [jaxnet.init(spec, key_mask=key_mask, key_init=key_init) for spec in specs.values()]
            nets = [jaxnet.Net.of(*network, optimizer) for network in drawn]
            same = jaxnet.changes.with_equal_room(*nets) if len(nets) > 1 else nets
            return tuple(jaxnet.init_state(net, method, key=key_method) for net in same)

        def judged(state: Any, split: Any) -> Any:
            net = state.net
            weights = jaxnet.count_nonzeros(net.params, net.structure)["scaffold"]
            return {"right": count_right(task, net.params, net.structure, split), "weights": weights}

        def keep(state: Any, split: Any) -> Any:
            return jax.vmap(partial(judged, split=split))(state) | {"diverged": state.diverged}

        # every stage starts anew: it is handed nothing
        more = {"hand": lambda kept: None, "samples": test, "arms": tuple(specs), "method": method}
        return lab.Stage(name, config.epochs, task, start, keep, **more)

    sizes = lab.run.network_spec(dataset, None, config.hidden, density=1.0).sizes
    rigl = jaxnet.methods.make("rigl", until=max(1, 3 * steps // 4))
    stages = []
    for density in config.densities:
        known = partial(lab.run.network_spec, dataset, None, config.hidden, density=density)
        label, shared = f"{100 * density:g}".replace(".", "_"), known(allocation="erdos-renyi")
        static = {f"erdos-renyi {density:g}": shared, f"uniform {density:g}": known(allocation="uniform")}
        small = lab.run.network_spec(dataset, None, small_hidden(sizes, density), density=1.0)
        stages += [
            stage(f"static-{label}", static, config.kernel),
            stage(f"rigl-{label}", {f"rigl {density:g}": shared}, config.kernel, rigl),
            stage(f"small-{label}", {f"small {density:g}": small}, "dense"),
        ]
    full = lab.run.network_spec(dataset, None, config.hidden, density=1.0)
    stages.append(stage(DENSE, {DENSE: full}, "dense"))
    arms: dict[str, Any] = {}
    for name, trained in lab.train_stages(run, stages).items():
        kept, (mine,) = trained.kept, [s.arms for s in stages if s.name == name]
        accuracy, halves = fractions(np.asarray(kept["right"]), test.size)
        measures = {"accuracy": accuracy, "accuracy_halves": halves, "weights": kept["weights"]}
        arms |= lab.entries(run.seeds, mine, diverged=kept["diverged"], **measures)
    return lab.Found(arms)


def draw(path: Path, summary: Mapping[str, Any], rows: Any) -> None:
    """Mean test accuracy against the number of weights, with 95 % intervals over seeds."""
    from jaxnet.lab import plots

    config, arms = summary["config"], summary["arms"]
    figure, axes = plots.plt.subplots(figsize=(6.4, 4.2), layout="constrained")

    def points(names: Sequence[str], label: str, color: str, marker: str) -> None:
        found = [arms[name]["aggregate"] for name in names]
        found = [f for f in found if f["accuracy"]["mean"] is not None]
        x, y = [f["weights"]["mean"] for f in found], [100 * f["accuracy"]["mean"] for f in found]
        ends = [[100 * end for end in f["accuracy"]["ci95"] or [f["accuracy"]["mean"]] * 2] for f in found]
        about = [
            [m - e[0] for m, e in zip(y, ends, strict=True)],
            [e[1] - m for m, e in zip(y, ends, strict=True)],
        ]
        axes.errorbar(x, y, about, color=color, marker=marker, ms=5, capsize=3, lw=1.5, label=label)

    for (arm, label), color in zip(ARMS.items(), plots.COLORS[1:], strict=False):
        points([f"{arm} {d:g}" for d in config["densities"]], label, color, "o")
    points([DENSE], f"dense, {'-'.join(map(str, config['hidden']))} hidden units", "0.2", "s")
    axes.set_xscale("log")
    axes.set(xlabel="weights that exist", ylabel="test accuracy (%)")
    told = f"{config['epochs']} epochs, mean and 95 % interval of {config['num_seeds']} seeds"
    axes.set_title(f"{config['dataset']}, {told}", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9, loc="lower right")
    plots.save_figure(figure, path)


STUDY = lab.Study("accuracy_by_weights", Config, run, settle, plots={"accuracy.png": draw})

if __name__ == "__main__":
    STUDY.command(__doc__)
