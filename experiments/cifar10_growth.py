"""Growing against static on CIFAR-10: architectures by densities, at equal final non-zeros.

In every cell networks that start at a density and grow (``experiments.indefinite_growth --recipe lean``)
are compared with networks that have as many weights from the start, on the same seeds, for as many
epochs; those that have RigL with RigL, those that have not with static ones. Cells are runs of their own:
some of them with --hidden and --densities, continued with --resume.

    python -m experiments.cifar10_growth --hidden 512 --densities 0.01
    python -m experiments.cifar10_growth --resume --doc docs/results/cifar10_growth.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import indefinite_growth as growth
from experiments.cifar10_patched import hidden_sizes
from jaxnet import allocation, lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.shown import percent

GROWN: dict[str, Any] = {"density": None}
"""Begins with the weights of the start; other arms have those of the end from the start."""

ARMS: dict[str, dict[str, Any]] = {
    "static": {"change": "none", "exchange": "none"},
    "RigL": {"change": "none"},
    "growing": GROWN,
    "growing, without RigL": {**GROWN, "exchange": "none"},
    "growing, dead units revived": {**GROWN, "exchange": "revive"},
}
"""What each arm changes in the recipe ``lean``."""

GROWTH = ("growing, without RigL", "static"), ("growing", "RigL")
"""What growth adds: the second arm has as many weights from the start and is else the same."""

ASKED = (
    *((*pair, True) for pair in GROWTH),
    ("growing, dead units revived", "growing", True),
    ("growing", "static", False),  # growth and RigL at once
)
"""The first arm minus the second, and whether that is judged."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """Static networks against growing ones, on the same seeds, at equal final non-zeros."""

    dataset: str = changed(lab.DataFlags, "dataset", "cifar10")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    normalise: Literal["channels"] | None = changed(lab.DataFlags, "normalise", "channels")
    augment: tuple[str, ...] | None = changed(lab.BatchFlags, "augment", ("crop", "flip"))
    hidden: tuple[str, ...] = option(("128", "512", "256-128", "512-256"), "hidden layers at the start")
    densities: tuple[float, ...] = option((0.01, 0.02, 0.05), "at the start", "in (0, 1]", fraction=True)
    num_seeds: int = option(12, "networks in each arm; verdicts need 12", least=2)
    added: float = option(0.2, "weights that a change adds, of those at the start", above=0)
    iterations: int = option(4, "of training, with a change between two of them", least=2)
    epochs: int = option(5, "of an iteration", "epochs", least=1)
    batch_size: int = changed(lab.BatchFlags, "batch_size", 128)
    out: str = option("checkpoints/cifar10_growth", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for hidden layers that are no sizes, or cells that are named twice."""
        for name in self.hidden:
            hidden_sizes(name)
        for flag, found in (("--hidden", self.hidden), ("--densities", self.densities)):
            if not found or len(set(found)) < len(found):
                raise InputError(f"{flag} must be different, at least one: {list(found)}")
        super().check()


def cells(config: Config) -> list[tuple[str, float, str]]:
    """Hidden layers, density and name of every cell."""
    return [(name, d, f"{name} at {d:g}") for name in config.hidden for d in config.densities]


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Runs every arm of every cell; by cell."""
    data = {name: getattr(config, name) for name in ("dataset", "data_dir", "normalise", "augment")}
    dataset = lab.run.load(growth.Config(**data))
    groups, plans = {}, []
    for name, density, cell in cells(config):  # all of them before the first is trained
        sizes = (dataset.num_features, *hidden_sizes(name), dataset.num_classes)
        dense = sum(allocation.dense_counts(sizes))
        added = max(2, round(config.added * density * dense))
        end = (int(density * dense) + (config.iterations - 1) * added + 0.5) / dense
        if end > 1:
            raise InputError(f"--added {config.added}: {cell} would grow beyond a dense network")
        plans.append((cell, density, sizes, added, end))
    for cell, density, sizes, added, end in plans:
        values: dict[str, Any] = {"recipe": "lean", "target": 1.0, "sizes": sizes, "added": added}
        values |= {field: getattr(config, field) for field in ("num_seeds", "iterations", "epochs")}
        values |= {"batch_size": config.batch_size, "shared": ()}
        arms = {
            arm: {**flags, "density": density if "density" in flags else end} for arm, flags in ARMS.items()
        }
        place: Any = replace(config, out=f"{config.out}/{cell.replace(' ', '-')}")
        found = lab.run_arms(growth.STUDY, arms, place, **values)
        groups[cell] = {f"{cell}: {arm}": summary for arm, summary in found.items()}
        means = {arm: summary["aggregate"]["accuracy"]["mean"] for arm, summary in found.items()}
        print(f"{cell}: " + ", ".join(f"{arm} {percent(mean)} %" for arm, mean in means.items()), flush=True)
    return groups


def questions(config: Config) -> list[lab.Question]:
    """What is asked in every cell."""
    return [
        lab.Question(
            f"{cell}: {a}", f"{cell}: {b}", "accuracy", f"{a} − {b}, {cell}", primary=judged, where=cell
        )
        for _, _, cell in cells(config)
        for a, b, judged in ASKED
    ]


def draw_map(path: Path, config: Config, groups: Any, comparisons: Sequence[lab.Comparison]) -> None:
    """A heat map, with intervals, of what growth adds: without RigL and beside it."""
    plots, shape = lab.plots, (len(config.hidden), len(config.densities))
    known = {(c.question.first, c.question.second): c for c in comparisons}
    maps = [[known.get((f"{cell}: {a}", f"{cell}: {b}")) for _, _, cell in cells(config)] for a, b in GROWTH]
    points = np.array(
        [[np.nan if c is None or c.difference is None else 100 * c.difference for c in one] for one in maps]
    )
    most = max(0.1, float(np.nanmax(np.abs(points), initial=0.1)))
    size = (1.6 + 2 * (0.6 + 1.7 * shape[1]), 1.8 + 0.7 * shape[0])
    figure, both = plots.plt.subplots(1, len(GROWTH), figsize=size, layout="constrained", sharey=True)
    for axes, found, values, (a, b) in zip(both, maps, points, GROWTH, strict=True):
        image = axes.imshow(values.reshape(shape), cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        for place, comparison in enumerate(found):
            if comparison is not None:
                text = f"{percent(comparison.difference, '+.2f')}\n{comparison.interval()}"
                color = "white" if abs(values[place]) > 0.6 * most else "black"
                at = (place % shape[1], place // shape[1])
                axes.text(*at, text, ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(shape[1]), [f"{d:g}" for d in config.densities])
        axes.set(xlabel="density at the start")
        axes.set_title(f"{a} minus {b}", fontsize=9)
    both[0].set_yticks(range(shape[0]), list(config.hidden))
    both[0].set(ylabel="hidden layers at the start")
    figure.colorbar(image, ax=both, label="points of test accuracy, 95 % intervals")
    plots.save_figure(figure, path)


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows besides the comparisons."""
    arms = {name: arm for group in groups.values() for name, arm in group.items()}
    signs = {pair: signs_of(comparisons, *pair) for pair in GROWTH}
    return {"arms": arms, "signs": signs}


def signs_of(comparisons: Sequence[Any], first: str, second: str) -> list[int]:
    """In every cell: 1 where the first arm is shown to be better, -1 where worse, else 0."""
    ends = f": {first}", f": {second}"
    asked = [(c, c.question) for c in comparisons]
    return [c.sign for c, q in asked if q.first.endswith(ends[0]) and q.second.endswith(ends[1])]


REPORT = Path(__file__).parent / "reports" / "cifar10_growth.md"
DIFFERENCES = partial(lab.draw_comparisons, judged=True)
DOCUMENT = lab.Document(REPORT, values, {"": draw_map, "_differences": DIFFERENCES})
CONTROLS = lab.Controls("cifar10_growth", Config, run_all, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
