"""A guard over a run: trained networks meet a drift; what is kept, by whom, and what is noticed.

A network is trained, then its data change: images are turned, labels become noise, or some batches go wild.
Watched, blended and reverted networks stand beside plain interpolation, replay and others, on equal seeds.

    python -m experiments.guarded_training --num-seeds 4 --runs 8
    python -m experiments.guarded_training --dataset mnist --drift rotate:60 --doc docs/results/guard.md
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._guard_kinds import drift_of
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import number, percent, span

if TYPE_CHECKING:
    from jaxnet.data import Dataset


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """A guard over a run: what is kept through a drift, by whom, and what is noticed."""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features,100,100,classes", none="auto"
    )
    num_seeds: int = option(12, "networks of every arm; verdicts need 12", least=1)
    drift: str = option("rotate:60", "rotate:DEGREES, label-noise, or spike (some wild batches)")
    epochs: int = option(3, "of training before the drift", "epochs", least=1)
    drift_epochs: int = option(1, "of the drift", "epochs", least=1)
    every: int = option(100, "steps between two checks", "steps", least=1)
    held: int = option(
        500, "held samples of what is to be kept, and as many of what is new", "samples", least=1
    )
    noise_checks: int = option(20, "checks in which the run's noise is measured", "checks", least=3)
    checks: int = option(60, "healthy checks of the runs without drift", "checks", least=1)
    false_alarm: float = option(0.05, "probability of any alarm in these", above=0)
    window: int = option(2, "bad checks in a row that are an alarm", "checks", least=1)
    capacity: int = option(2, "snapshots that are kept", "snapshots", least=1)
    rates: tuple[float, ...] = option((0.03, 0.1, 0.3), "factors of the lower rate to choose from")
    strengths: tuple[float, ...] = option((10.0, 100.0, 1000.0), "strengths of EWC to choose from")
    runs: int = option(100, "runs without drift, for false alarms and planted damage; 0: none", least=0)
    run_every: int = option(50, "steps between their checks", "steps", least=1)
    out: str = changed(lab.RunFlags, "out", "checkpoints/guarded_training")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_sizes(self.sizes, 3)
        drift_of(self.drift)
        if not self.false_alarm < 1:
            raise InputError(f"--false-alarm must be below 1: {self.false_alarm}")
        for flag in ("rates", "strengths"):
            values = getattr(self, flag)
            if not values or min(values) <= 0:
                raise InputError(f"--{flag} must be one or more numbers above 0: {list(values)}")
        super().check()


def settle(config: Config, dataset: Dataset) -> Config:
    """Checks what can be checked before anything is written."""
    lab.run.check_samples(config, dataset)
    lab.run.network_spec(dataset, config.sizes, (100, 100), density=1.0)
    if len(dataset.image_shape) < 2 or math.prod(dataset.image_shape) != math.prod(dataset.image_shape[:2]):
        raise InputError(
            f"a drift needs images of one channel: those of {dataset.name} are {dataset.image_shape}"
        )
    there, classes = len(dataset.y_val), dataset.num_classes
    if there < 3 * classes:
        raise InputError(f"{dataset.name} has {there} validation samples: too few to hold some of each class")
    return dataclasses.replace(config, kernel="dense")


def run_guarded(run: lab.Run[Config]) -> lab.Found:
    """Trains, drifts in every way, blends; then the runs without drift."""
    from experiments import _guard_found as found

    return found.run_guarded(run)


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per arm; what was noticed."""
    rows = []
    for name, arm in summary["arms"].items():
        a = arm["aggregate"]
        cells = [c for m in ("accuracy", "old", "new") for c in (percent(a[m]["mean"]), span(a[m]["ci95"]))]
        rows.append([name, *cells])
    heads = ["arm", "mean %", "95 %", "old %", "95 %", "new %", "95 %"]
    title = f"{summary['config']['dataset']}, {summary['config']['drift']}"
    noticed = [[name, number(value, ".4g")] for name, value in summary["noticed"].items()]
    return [(title, heads, rows), ("noticed", ["what", "value"], noticed)]


def values(config: Config, groups: Any, comparisons: Any) -> dict[str, Any]:
    """What the template has besides."""
    (summary,) = groups["run"].values()
    return {"noticed": summary["noticed"], "chosen": summary["chosen"], "np": np}


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "guard.md", values, {"": lab.draw_comparisons})
STUDY = lab.Study(
    "guarded_training",
    Config,
    run_guarded,
    settle=settle,
    tables=tables,
    opening=lambda c: f"{c.dataset}, {c.drift}: {c.num_seeds} seeds; results go to {c.out}",
    document=DOCUMENT,
)

if __name__ == "__main__":
    STUDY.command(__doc__)
