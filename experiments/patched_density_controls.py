"""Is it the patches, the place, the rate, or just more training? Paired controls on the same seeds.

Every arm is a run of ``experiments.patched_density`` on the same seeds; arms that
start from the same scaffolds share them. Differences are taken seed by seed.

    python -m experiments.patched_density_controls --dataset mnist --doc docs/results/patched_density.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments._cli import run_main
from experiments._options import check_document, option, run_values
from experiments._shown import diverged_in, diverged_line
from experiments.patched_density import Config as RunConfig
from jaxnet.errors import InputError
from jaxnet.files import user_path

NO_PATCHES = {"max_patches": 0}

ARMS: dict[str, dict[str, Any]] = {
    "mlp, extrema": {},
    "mlp, random": {"placement": "random"},
    "mlp, least": {"placement": "least"},
    "mlp, single rate": {"lr_patch": 1e-4},
    "dense, extrema": {"patch_kind": "dense"},
    "dense, random": {"patch_kind": "dense", "placement": "random"},
    "dense, least": {"patch_kind": "dense", "placement": "least"},
    "dense, single rate": {"patch_kind": "dense", "lr_patch": 1e-4},
    "no patches": NO_PATCHES,
    "no patches, rate of the patches": {**NO_PATCHES, "lr_scaffold": 5e-4},
    "no patches, 2.6 % from the start": {**NO_PATCHES, "density": 0.026},
    "no patches, Erdős–Rényi": {**NO_PATCHES, "allocation": "erdos-renyi"},
    "no patches, original init": {**NO_PATCHES, "init": "dense-fan-in"},
}
"""What each arm changes in the defaults of ``experiments.patched_density`` (protocol clean)."""

QUESTIONS = (
    ("Place: extrema against random, mlp patches", "mlp, extrema", "mlp, random"),
    ("Place: extrema against random, dense patches", "dense, extrema", "dense, random"),
    ("Place: extrema against the least extreme, mlp", "mlp, extrema", "mlp, least"),
    ("Place: extrema against the least extreme, dense", "dense, extrema", "dense, least"),
    ("Rate: dual against single, mlp patches", "mlp, extrema", "mlp, single rate"),
    ("Rate: dual against single, dense patches", "dense, extrema", "dense, single rate"),
    ("Patches against mere further training, mlp", "mlp, extrema", "no patches"),
    ("Patches against mere further training, dense", "dense, extrema", "no patches"),
    (
        "mlp patches against the scaffold at their rate",
        "mlp, extrema",
        "no patches, rate of the patches",
    ),
    (
        "mlp patches against more weights from the start",
        "mlp, extrema",
        "no patches, 2.6 % from the start",
    ),
    ("Allocation: Erdős–Rényi against uniform", "no patches, Erdős–Rényi", "no patches"),
    ("Init: sparse against dense fan-in", "no patches", "no patches, original init"),
)
"""What is compared: title, first arm, second arm."""

HEADLINE: dict[str, dict[str, Any]] = {
    "original protocol, 784-256-128-10": {},
    "784-128-10, masks enforced": {"sizes": (784, 128, 10)},
    "784-128-10, masks in the scaffold phase only": {"sizes": (784, 128, 10), "mask_mode": "scaffold-phase"},
}
"""Runs of ``--protocol seed`` that reproduce the original's printed numbers (MNIST only)."""


@dataclass(frozen=True)
class Config:
    """The controls of the patched-density experiment, paired over seeds."""

    dataset: str = option("mnist", "data set by name, or path of an .npz file or a folder of IDX files")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: int = option(32, "networks in each arm of the controls")
    headline_seeds: int = option(8, "networks in each run of the original protocol; 0 leaves them out")
    scaffold_epochs: int = option(20, "epochs without patches", "epochs")
    patch_epochs: int = option(30, "epochs with patches", "epochs")
    kernel: str = option("auto", "sparse product: auto, dense or csr")
    doc: str | None = option(None, "also write the tables as Markdown to this file, a plot beside it")
    out: str = option("checkpoints/patched_density_controls", "folder for results, a run in a folder each")
    resume: bool = option(False, "keep what is in --out: finished arms are read, an unfinished one continued")
    overwrite: bool = option(False, "replace the runs in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if self.num_seeds < 2:
            raise InputError(f"--num-seeds must be at least 2 for an interval: {self.num_seeds}")
        if self.headline_seeds < 0:
            raise InputError(f"--headline-seeds must be 0 or more: {self.headline_seeds}")
        check_document(self.doc)


def arm_config(config: Config, name: str, changes: dict[str, Any], protocol: str) -> RunConfig:
    """The run of one arm."""
    values: dict[str, Any] = {
        **run_values(config, f"{protocol}--{name}"),
        "protocol": protocol,
        "num_seeds": config.num_seeds if protocol == "clean" else config.headline_seeds,
        "scaffold_epochs": config.scaffold_epochs,
        "patch_epochs": config.patch_epochs,
    }
    return RunConfig(**{**values, **changes})


SCAFFOLD_FIELDS = ("protocol", "sizes", "density", "allocation", "init", "num_seeds", "scaffold_epochs")


def run_arms(config: Config, arms: dict[str, dict[str, Any]], protocol: str) -> dict[str, dict[str, Any]]:
    """Runs every arm; arms of equal scaffolds train them once.

    Returns:
      The summary of each arm.
    """
    from experiments._patched_plots import draw_all
    from experiments._patched_run import Scaffolds, load, open_folder, prepare, run

    configs = {name: arm_config(config, name, changes, protocol) for name, changes in arms.items()}
    dataset = load(next(iter(configs.values())))
    configs = {name: prepare(arm, dataset) for name, arm in configs.items()}
    trained: dict[tuple[Any, ...], Scaffolds] = {}
    summaries = {}
    for name, arm in configs.items():
        with open_folder(arm, dataset) as folder:
            key = tuple(getattr(arm, field) for field in SCAFFOLD_FIELDS)
            outcome = run(arm, folder, dataset=dataset, scaffolds=trained.get(key))
            trained[key] = outcome.scaffolds
            draw_all(folder)
        summaries[name] = outcome.summary
    return summaries


def main(config: Config) -> None:
    """Runs all arms, compares them, prints and writes the tables."""
    from experiments._comparisons import compare, print_comparisons
    from experiments._controls_report import write_document
    from experiments._runtime import use_compilation_cache

    use_compilation_cache()
    controls = run_arms(config, ARMS, "clean")
    headline = {}
    if config.headline_seeds and config.dataset == "mnist":
        headline = run_arms(config, HEADLINE, "seed")
    comparisons = compare(controls, QUESTIONS, "patched_accuracy")
    print_comparisons(f"{config.dataset}, {config.num_seeds} paired seeds", comparisons)
    every = {**controls, **headline}
    line = diverged_line(diverged_in(every), sum(len(arm["seeds"]) for arm in every.values()))
    if line is not None:
        print(line)
    if config.doc is not None:
        write_document(user_path(config.doc), config, controls, headline, comparisons)


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.patched_density_controls", description=__doc__)
