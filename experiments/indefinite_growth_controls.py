"""Does growth follow the extrema for a reason? Paired controls on the same seeds, at equal non-zeros.

Every arm is a run of ``experiments.indefinite_growth --recipe lean`` with a
target that is never reached, so that all arms train for as many epochs, and all
but one end with as many weights. Differences are taken seed by seed.

    python -m experiments.indefinite_growth_controls --dataset mnist --doc docs/results/growth.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments._cli import run_main
from experiments._options import check_document, option, run_values
from experiments._shown import diverged_in, diverged_line, percent
from experiments.indefinite_growth import RECIPES
from experiments.indefinite_growth import Config as RunConfig
from jaxnet.errors import InputError
from jaxnet.files import user_path

START = "start"
"""Stands for the weights of the start in :data:`ARMS`; without it an arm begins with those of the end."""

ARMS: dict[str, dict[str, Any]] = {
    "extrema": {START: True},
    "extrema per unit": {START: True, "place": "share"},
    "random layer": {START: True, "place": "random"},
    "last layer": {START: True, "place": "last"},
    "fewest extrema": {START: True, "place": "least"},
    "train longer": {START: True, "change": "none"},
    "RigL": {"change": "none"},
    "static Erdős–Rényi": {"change": "none", "exchange": "none"},
    "SET between iterations": {"change": "rewire", "exchange": "none"},
    "extrema, without RigL": {START: True, "exchange": "none"},
}
"""What each arm changes in the recipe ``lean``."""

QUESTIONS = (
    ("Place: most extrema against a random layer", "extrema", "random layer"),
    ("Place: most extrema against the last layer", "extrema", "last layer"),
    ("Place: most extrema against fewest", "extrema", "fewest extrema"),
    ("Place: most extrema per unit against a random layer", "extrema per unit", "random layer"),
    ("Place: most extrema per unit against fewest", "extrema per unit", "fewest extrema"),
    ("Growth against training on without new weights", "extrema", "train longer"),
    ("Growth against RigL with all weights from the start", "extrema", "RigL"),
    ("Growth with RigL against static Erdős–Rényi", "extrema", "static Erdős–Rényi"),
    ("Growth without RigL against static Erdős–Rényi", "extrema, without RigL", "static Erdős–Rényi"),
    ("RigL against static Erdős–Rényi", "RigL", "static Erdős–Rényi"),
    ("SET between iterations against static", "SET between iterations", "static Erdős–Rényi"),
)
"""What is compared: title, first arm, second arm."""

HEADLINE: dict[str, dict[str, Any]] = {
    "lean to 95 %": {},
    "lean to 97 %": {"target": 0.97, "density": 0.1, "added": 1200, "max_nonzeros": 12_000},
    "original, protocol seed, to 95 %": {"recipe": "original", "protocol": "seed", "num_seeds": 8},
}
"""Runs until a target is reached (MNIST only)."""


@dataclass(frozen=True)
class Config:
    """The controls of indefinite growth, paired over seeds."""

    dataset: str = option("mnist", "data set by name, or path of an .npz file or a folder of IDX files")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: int = option(16, "networks in each arm of the controls")
    headline_seeds: int = option(10, "networks in each run to a target; 0 leaves these out")
    sizes: tuple[int, ...] | None = option(None, "units per layer at the start", none="auto")
    density: float = option(RECIPES["lean"]["density"], "at the start", "in (0, 1]")
    added: int = option(RECIPES["lean"]["added"], "weights that a change adds")
    iterations: int = option(4, "of training, with a change between two of them")
    epochs: int = option(10, "of an iteration", "epochs")
    kernel: str = option("auto", "sparse product: auto, dense or csr")
    doc: str | None = option(None, "also write the tables as Markdown to this file, a plot beside it")
    out: str = option("checkpoints/indefinite_growth_controls", "folder for results, a run in a folder each")
    resume: bool = option(False, "keep what is in --out: finished arms are read, an unfinished one continued")
    overwrite: bool = option(False, "replace the runs in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if self.num_seeds < 2:
            raise InputError(f"--num-seeds must be at least 2 for an interval: {self.num_seeds}")
        if self.headline_seeds < 0:
            raise InputError(f"--headline-seeds must be 0 or more: {self.headline_seeds}")
        if self.iterations < 2:
            raise InputError(f"--iterations must be at least 2, or nothing grows: {self.iterations}")
        check_document(self.doc)


def final_density(config: Config, sizes: tuple[int, ...]) -> float:
    """Density of the start's sizes with the weights of the end."""
    dense = sum(i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    return (int(config.density * dense) + (config.iterations - 1) * config.added + 0.5) / dense


def arm_config(config: Config, name: str, changes: dict[str, Any], sizes: tuple[int, ...]) -> RunConfig:
    """The run of one arm."""
    changes = dict(changes)
    grown = changes.pop(START, False)
    values = {
        "recipe": "lean",
        "target": 1.0,
        "iterations": config.iterations,
        "epochs": config.epochs,
        "density": config.density if grown else final_density(config, sizes),
        "sizes": sizes,
        "added": config.added,
        "num_seeds": config.num_seeds,
    }
    return RunConfig(**{**run_values(config, f"arm--{name}"), **values, **changes})


def headline_config(config: Config, name: str, changes: dict[str, Any]) -> RunConfig:
    """A run to a target."""
    values = {"recipe": "lean", "num_seeds": config.headline_seeds}
    return RunConfig(**{**run_values(config, f"to--{name}"), **values, **changes})


def run_one(config: RunConfig) -> dict[str, Any]:
    """Runs one arm, or reads what it found before."""
    from experiments._growth_plots import PLOTS, draw_all
    from experiments._growth_run import prepare, run
    from experiments._population import load
    from experiments._runtime import open_folder

    dataset = load(config)
    config = prepare(config, dataset)
    with open_folder(config, dataset, PLOTS) as folder:
        summary = run(config, folder, dataset, report=lambda line: None)
        draw_all(folder)
    return summary


def main(config: Config) -> None:
    """Runs all arms, compares them, prints and writes the tables."""
    from experiments._comparisons import compare, print_comparisons
    from experiments._growth_report import write_document
    from experiments._population import load
    from experiments._runtime import use_compilation_cache

    use_compilation_cache()
    dataset = load(RunConfig(**run_values(config, "")))
    hidden = RECIPES["lean"]["hidden"]
    sizes = config.sizes or (dataset.num_features, *hidden, dataset.num_classes)
    runs = {name: arm_config(config, name, changes, sizes) for name, changes in ARMS.items()}
    arms = {}
    for name, arm in runs.items():
        arms[name] = run_one(arm)
        print(f"{name}: {percent(arms[name]['aggregate']['accuracy']['mean'])} %", flush=True)
    headline = {}
    if config.headline_seeds and config.dataset == "mnist":
        headline = {
            name: run_one(headline_config(config, name, changes)) for name, changes in HEADLINE.items()
        }
    comparisons = compare(arms, QUESTIONS, "accuracy")
    print_comparisons(f"{config.dataset}, {config.num_seeds} paired seeds", comparisons)
    every = {**arms, **headline}
    line = diverged_line(diverged_in(every), sum(len(arm["seeds"]) for arm in every.values()))
    if line is not None:
        print(line)
    if config.doc is not None:
        write_document(user_path(config.doc), config, sizes, arms, headline, comparisons)


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.indefinite_growth_controls", description=__doc__)
