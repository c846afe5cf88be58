"""What hunts find on MNIST: a thousand seeds, the portfolio, and the check against masked dense networks.

python -m experiments.seed_hunt_results --dataset mnist --doc docs/results/seed_hunt.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import seed_hunt
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path, write_bytes, write_json
from jaxnet.lab import changed, option
from jaxnet.lab.shown import left_out, number

DESCRIBED: dict[str, Any] = {"described": "applied-once", "described, enforced": "enforced"}
"""The hunts as the texts on the original describe them: masks once, and masks that hold."""

BATCH = 512
"""Samples of their steps, the least of those that they choose from: the same on every machine."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """Two hunts and a reference, and the document of what came out."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    num_seeds: int = option(1000, "seeds of the hunt of one architecture")
    portfolio_seeds: int = option(20, "seeds of every architecture of the portfolio", least=1)
    described_seeds: int = option(
        20, "seeds of every architecture of the portfolio described; 0: none", least=0
    )
    reference_seeds: int = option(64, "seeds also trained as masked dense networks", least=2)
    epochs: int = option(5, "passes over the training samples", "epochs", least=1)
    out: str = changed(lab.RunFlags, "out", "checkpoints/seed_hunt_results")

    def check(self) -> None:
        """Raises InputError where there are fewer seeds than those that are compared."""
        super().check()
        if self.reference_seeds > self.num_seeds:
            raise InputError(f"--reference-seeds must be at most --num-seeds: {self.reference_seeds}")


def hunt_config(config: Config, name: str) -> seed_hunt.Config:
    """One of the hunts."""
    values: Any = {"num_seeds": config.num_seeds}
    if name == "portfolio":
        values = {"num_seeds": config.portfolio_seeds, "portfolio": "later"}
    elif name in DESCRIBED:
        values = {"num_seeds": config.described_seeds, "portfolio": "described", "protocol": "described"}
        values |= {"mask_mode": DESCRIBED[name], "batch_size": BATCH}
    return seed_hunt.Config(**lab.run.arm_values(config, name), epochs=config.epochs, **values)


def run(config: Config) -> dict[str, dict[str, Any]]:
    """Runs both hunts and the reference; an arm per architecture."""
    many = hunt_config(config, "many-seeds")
    found = {name: seed_hunt.STUDY.main(hunt_config(config, name)) for name in ("many-seeds", "portfolio")}
    for name in DESCRIBED if config.described_seeds else ():
        found[name] = seed_hunt.STUDY.main(hunt_config(config, name))
    stored = user_path(config.out) / "reference.json"
    if config.resume and stored.exists():
        accuracy = read_json(stored)["accuracy"]
    else:
        accuracy = reference(many, config.reference_seeds)
        write_json(stored, {"accuracy": accuracy})
    (arm,) = found["many-seeds"]["arms"].values()
    same = compare([seed["accuracy"] for seed in arm["seeds"][: len(accuracy)]], accuracy)
    mean, largest = number(same["mean"], "+.3f"), number(same["largest"])
    print(f"hunt against masked dense, {same['n']} seeds: mean difference {mean} points, largest {largest}")
    found["many-seeds"]["agreement"] = same
    return {"hunts": found}


def reference(config: seed_hunt.Config, num_seeds: int) -> list[float]:
    """Accuracies of the first seeds of a hunt of one architecture and density, as masked dense networks."""
    from experiments import _hunt_plan as plans
    from experiments._hunt_train import Trainer
    from jaxnet.sweep import masked_dense_accuracy
    from jaxnet.sweep.jobs import Stage

    dataset = lab.run.load(config)
    stage = Stage("reference", 0, plans.epochs_of(config, "single"), plans.first_densities(config))
    seeds, groups = range(config.seed, config.seed + num_seeds), plans.make_groups(config, dataset)
    (job,), _ = plans.make_jobs(stage, groups, seeds, config)
    bench = Trainer(config, dataset.fingerprint, dataset).bench
    return masked_dense_accuracy(bench, job.grid, job.numbers, stage.epochs)


def compare(hunt: Sequence[Any], reference: Sequence[Any]) -> dict[str, Any]:
    """Accuracies of the seeds that diverged neither in the hunt nor as masked dense networks, in points."""
    from jaxnet.statistics import paired_difference

    a, b = 100 * np.asarray(hunt, float), 100 * np.asarray(reference, float)
    both = np.isfinite(a - b)
    largest = float(np.max(np.abs(a - b)[both])) if both.any() else None
    pairs = {"hunt": a[both].tolist(), "reference": b[both].tolist()}
    return {**paired_difference(a, b), "largest": largest, **pairs}


def correlation(seeds: Sequence[Mapping[str, Any]]) -> str:
    """The rank correlation of extrema score and accuracy over networks."""
    from jaxnet.prediction import spearman

    here = lab.shown.sound(seeds)
    found = spearman(*([entry[name] for entry in here] for name in ("extrema_score", "accuracy")))
    return f"{number(found['rho'], '+.2f')} (p = {number(found['p'], '.1g')}, n = {len(here)})"


def values(config: Config, groups: Mapping[str, Any], comparisons: Any) -> dict[str, Any]:
    """What the template has besides."""
    from jaxnet.allocation import dense_counts
    from jaxnet.sweep.table import sizes_of

    many, portfolio, *rest = groups["hunts"].values()
    ((name, arm),) = many["arms"].items()
    every = [s for a, found in portfolio["arms"].items() if a.count("-") > 1 for s in found["seeds"]]
    told = {"many": many, "portfolio": portfolio, "architecture": name}
    told["dense"] = lambda architecture: sum(dense_counts(sizes_of(architecture)))
    told["described"] = dict(zip(DESCRIBED, rest, strict=False))
    return {**told, "correlation": correlation(arm["seeds"]), "correlation_of_all": correlation(every)}


def draw_seeds(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """The distribution of the accuracy, and the hunt against the masked dense networks seed by seed."""
    plots, many = lab.plots, groups["hunts"]["many-seeds"]
    (arm,) = many["arms"].values()
    seeds, shown, same = arm["seeds"], lab.shown.sound(arm["seeds"]), many["agreement"]
    with plots.picture(path, 1, 2, size=(9, 3.6)) as (left, right):
        left.hist([100 * seed["accuracy"] for seed in shown], bins=40, color=plots.LOW)
        left.set(xlabel="validation accuracy (%)", ylabel="seeds")
        title = f"{len(seeds)} seeds{left_out(len(seeds) - len(shown))}"
        plots.finish(left, title, "" if shown else plots.EVERY)
        if ends := same["reference"]:
            right.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.5", lw=1)
        right.plot(same["reference"], same["hunt"], ".", color=plots.HIGH, ms=5)
        right.set(xlabel="as a masked dense network (%)", ylabel="in the hunt (%)")
        plots.finish(right, f"the same {same['n']} seeds both ways")


def copy_plot(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """A plot of the portfolio's own folder: accuracy per architecture, or against weights."""
    name = "pareto" if path.stem.endswith("pareto") else "accuracy"
    write_bytes(path, (user_path(hunt_config(config, "portfolio").out) / f"{name}.png").read_bytes())


PLOTS = {"_seeds": draw_seeds, "_portfolio": copy_plot, "_pareto": copy_plot}
REPORT = Path(__file__).parent / "reports" / "seed_hunt.md"
RESULTS = lab.Controls("seed_hunt_results", Config, run, lab.Document(REPORT, values, PLOTS))

if __name__ == "__main__":
    RESULTS.command(__doc__)
