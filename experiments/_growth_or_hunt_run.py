"""Half of ``experiments.growth_or_hunt``: a hunt over architectures of equal weights, within some epochs.

All architectures are trained for all seeds: both ways to spend the epochs, and none, come from one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxnet
from experiments.cifar10_patched import hidden_sizes
from jaxnet import allocation, lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.shown import sizes_label

ONE, EQUAL, HALVED = "one network", "hunt", "hunt, halving"
"""All epochs for the architecture that growth starts with; as many for every architecture; for the better
half of those that are left, again and again."""


@dataclass(frozen=True)
class HuntConfig(lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """Architectures of equal weights, hunted within a number of epochs."""

    hidden: tuple[str, ...] = option(
        ("64-32", "128"), "hidden layers of the architectures, the first alone too"
    )
    weights: int = option(3900, "of every architecture", "weights", least=1)
    budget: int = option(24, "epochs of all architectures together", "epochs", least=1)
    lr: float = changed(lab.TrainFlags, "lr", 2e-3)
    num_seeds: int = changed(lab.SeedFlags, "num_seeds", 16)
    allocation: lab.flags.Allocation = changed(lab.NetworkFlags, "allocation", "erdos-renyi")
    out: str = changed(lab.RunFlags, "out", "checkpoints/hunt_of_architectures")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        many = list(map(hidden_sizes, self.hidden))
        if len(set(many)) < max(2, len(many)):
            raise InputError(
                f"--hidden must be different hidden layers, at least two: {','.join(self.hidden)}"
            )
        if self.budget < (least := 2 * len(many)):
            raise InputError(
                f"{self.budget} epochs are too few to hunt {len(many)} architectures, which takes {least} or "
                "more: name fewer in --hidden, or let growth train longer"
            )
        super().check()


def rungs(architectures: int, budget: int) -> list[tuple[int, int]]:
    """Successive halving: how many architectures are trained up to which epoch, an epoch more on every rung.

    The last one is trained until all epochs are spent.

    >>> rungs(8, 24)
    [(8, 1), (4, 2), (2, 3), (1, 13)]
    """
    found, left, epoch = [], architectures, 0
    while left > 1:
        epoch += 1
        budget -= left
        found.append((left, epoch))
        left //= 2
    return [*found, (1, epoch + budget)]


def specs_of(config: HuntConfig, dataset: jaxnet.data.Dataset) -> dict[str, jaxnet.NetworkSpec]:
    """Networks of as many weights by the name of their hidden layers; InputError where they are too small."""
    found = {}
    for name in config.hidden:
        sizes = (dataset.num_features, *hidden_sizes(name), dataset.num_classes)
        dense = sum(allocation.dense_counts(sizes))
        if config.weights > dense:
            raise InputError(f"--hidden {name}: {sizes_label(sizes)} has room for {dense} weights only")
        fields: dict[str, Any] = {"density": config.weights / dense, "allocation": config.allocation}
        found[name] = lab.run.network_spec(dataset, sizes, **fields, init=lab.run.init_rule(config))
    return found


def settle(config: HuntConfig, dataset: jaxnet.data.Dataset) -> HuntConfig:
    """What is wrong is said before anything is written."""
    lab.run.check_samples(config, dataset)
    return lab.run.resolve_kernel(config, specs_of(config, dataset)[config.hidden[0]], config.num_seeds)


def run_hunt(run: lab.Run[HuntConfig]) -> lab.Found:
    """Trains every architecture for all that any way of hunting may ask for, then hunts in the results."""
    import optax

    config, specs = run.config, specs_of(run.config, run.dataset)
    many = len(specs)
    ladder = rungs(many, config.budget)
    each, longest = config.budget // many, ladder[-1][1]
    steps = -(-len(run.dataset.y_train) // config.batch_size)
    tasks = {name: run.task(spec) for name, spec in specs.items()}

    def stage(name: str, way: str, epochs: int) -> lab.Stage:
        rate: Any = optax.cosine_decay_schedule(config.lr, epochs * steps)

        def start(key: Any, before: Any) -> Any:
            network = jaxnet.init(specs[name], **jaxnet.keys.network_keys(key))
            return jaxnet.init_state(jaxnet.Net.of(*network, optax.adam(rate)))

        return lab.Stage(f"{name}-{way}", epochs, tasks[name], start, order=0)

    asked = [(name, way) for name in specs for way in ("each", "longest")] + [(config.hidden[0], "whole")]
    epochs = {"each": each, "longest": longest, "whole": config.budget}
    trained = lab.train_stages(run, [stage(name, way, epochs[way]) for name, way in asked])
    accuracy, watched, gone = {}, {}, {}
    for name, way in asked:
        here, kept = f"{name}-{way}", trained[f"{name}-{way}"]
        gone[here] = np.asarray(kept.kept.diverged)
        network = kept.kept.best_params, kept.kept.net.structure
        accuracy[here], _ = run.judge(tasks[name], *network, run.split("test"))
        rows = [row["accuracy"] for row in kept.rows]
        watched[here] = np.array(rows, float).reshape(epochs[way], config.num_seeds)  # (epoch, seed)
    whole = f"{config.hidden[0]}-whole"
    equal = np.stack(
        [np.max(_known(watched[f"{name}-each"]), axis=0) for name in specs]
    )  # (architecture, seed)
    halved = [watched[f"{name}-longest"] for name in specs]
    chosen = {EQUAL: np.argmax(equal, axis=0), HALVED: survivors(halved, ladder)}
    entries = lab.entries(run.seeds, (ONE,), diverged=gone[whole], accuracy=accuracy[whole])
    for arm, way in ((EQUAL, "each"), (HALVED, "longest")):
        at = [f"{config.hidden[k]}-{way}" for k in chosen[arm]]
        of = {what: [d[n][i] for i, n in enumerate(at)] for what, d in (("a", accuracy), ("g", gone))}
        entries |= lab.entries(run.seeds, (arm,), diverged=np.array(of["g"]), accuracy=np.array(of["a"]))
    spent = {ONE: config.budget, EQUAL: each * many, HALVED: config.budget}
    extra = {
        "kernel": config.kernel,
        "rungs": [list(rung) for rung in ladder],
        "epochs_each": each,
        "epochs_spent": spent,
        "weights": {
            name: sum(jaxnet.allocate(s.sizes, s.density, s.allocation)) for name, s in specs.items()
        },
        "chosen": {arm: dict(Counter(config.hidden[k] for k in at)) for arm, at in chosen.items()},
        "means": {
            name: {way: float(np.nanmean(accuracy[f"{name}-{way}"])) for way in ("each", "longest")}
            for name in specs
        },
    }
    return lab.Found(entries, extra=extra)


def survivors(accuracy: Sequence[np.ndarray], ladder: Sequence[tuple[int, int]]) -> np.ndarray:
    """The architecture ``(seed,)`` that successive halving leaves, by accuracies ``(epoch, seed)`` of each.

    After every rung the better ones go on, by their accuracy in its last epoch; of equal ones the first.
    """
    seeds = accuracy[0].shape[1]
    found = np.zeros(seeds, int)
    for seed in range(seeds):
        left = list(range(len(accuracy)))
        for (_, epoch), (number, _) in zip(ladder, ladder[1:], strict=False):
            left = sorted(left, key=lambda k: -_known(accuracy[k][epoch - 1, seed]))[:number]
        found[seed] = left[0]
    return found


def _known(accuracy: Any) -> Any:
    """A diverged network is the best of nothing."""
    return np.where(np.isfinite(accuracy), accuracy, -1.0)


HUNT = lab.Study("hunt_of_architectures", HuntConfig, run_hunt, settle=settle)
