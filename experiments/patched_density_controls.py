"""Is it the patches, the place, the rate, or just more training? Paired controls on the same seeds.

Every arm is a run of ``experiments.patched_density`` on the same seeds; arms that
start from the same scaffolds share them. Differences are taken seed by seed.

    python -m experiments.patched_density_controls --num-seeds 16 --doc docs/results/patched_density.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.patched_density import STUDY
from jaxnet import lab
from jaxnet.lab import changed, option
from jaxnet.lab.shown import NOTHING, number, percent, sound

NONE, NO_PATCHES = "no patches", {"max_patches": 0}

ARMS: dict[str, dict[str, Any]] = {
    "mlp, extrema": {},
    "mlp, random": {"placement": "random"},
    "mlp, least": {"placement": "least"},
    "mlp, single rate": {"lr_patch": 1e-4},
    "dense, extrema": {"patch_kind": "dense"},
    "dense, random": {"patch_kind": "dense", "placement": "random"},
    "dense, least": {"patch_kind": "dense", "placement": "least"},
    "dense, single rate": {"patch_kind": "dense", "lr_patch": 1e-4},
    NONE: NO_PATCHES,
    f"{NONE}, rate of the patches": {**NO_PATCHES, "lr_scaffold": 5e-4},
    f"{NONE}, 2.6 % from the start": {**NO_PATCHES, "density": 0.026},
    f"{NONE}, 3 % from the start": {**NO_PATCHES, "density": 0.03},
    f"{NONE}, dense": {**NO_PATCHES, "density": 1.0},
    f"{NONE}, Erdős–Rényi": {**NO_PATCHES, "allocation": "erdos-renyi"},
    f"{NONE}, original init": {**NO_PATCHES, "init": "dense-fan-in"},
}
"""What each arm changes in the defaults of ``experiments.patched_density`` (protocol clean)."""

HEADLINE: dict[str, dict[str, Any]] = {
    "original protocol, 784-256-128-10": {},
    "784-128-10, masks enforced": {"sizes": (784, 128, 10)},
    "784-128-10, masks in the scaffold phase only": {"sizes": (784, 128, 10), "mask_mode": "scaffold-phase"},
}
"""Runs of ``--protocol seed`` that reproduce the original's printed numbers (MNIST only)."""

RUN_A = {"sizes": (784, 128, 10)}
OLDER: dict[str, dict[str, Any]] = {
    "as the later code": RUN_A,
    "pixels / 255": {**RUN_A, "normalise": "pixels"},
    "5 epochs": {**RUN_A, "scaffold_epochs": 5},
    "5 epochs, pixels / 255": {**RUN_A, "scaffold_epochs": 5, "normalise": "pixels"},
    "extrema after the activation": {**RUN_A, "detect_on": "post"},
    "adaptive thresholds": {**RUN_A, "detector": "adaptive", "detect_on": "post"},
    "sparse fan-in": {**RUN_A, "init": "sparse-fan-in"},
}
"""Settings of the older code that may stand behind run A (55.09 %, 13 high and 3 low extrema)."""

PRUNED = 0.5
"""Points of validation accuracy that redundant patches may cost when they are dropped, all together."""

PRINTED_NORM = 4.9208
"""The constant "average patch norm" that run A prints."""

SCAFFOLD = ("protocol", "sizes", "density", "allocation", "init", "num_seeds", "scaffold_epochs")
"""Arms that agree in these share their scaffolds."""


QUESTIONS = [
    lab.Question(first, second, "patched_accuracy", title)
    for title, first, second in (
        ("Place: extrema against random, mlp patches", "mlp, extrema", "mlp, random"),
        ("Place: extrema against random, dense patches", "dense, extrema", "dense, random"),
        ("Place: extrema against the least extreme, mlp", "mlp, extrema", "mlp, least"),
        ("Place: extrema against the least extreme, dense", "dense, extrema", "dense, least"),
        ("Rate: dual against single, mlp patches", "mlp, extrema", "mlp, single rate"),
        ("Rate: dual against single, dense patches", "dense, extrema", "dense, single rate"),
        ("Patches against mere further training, mlp", "mlp, extrema", NONE),
        ("Patches against mere further training, dense", "dense, extrema", NONE),
        ("mlp patches against the scaffold at their rate", "mlp, extrema", f"{NONE}, rate of the patches"),
        ("mlp patches against more weights from the start", "mlp, extrema", f"{NONE}, 2.6 % from the start"),
        ("Allocation: Erdős–Rényi against uniform", f"{NONE}, Erdős–Rényi", NONE),
        ("Init: sparse against dense fan-in", NONE, f"{NONE}, original init"),
    )
]
"""What is compared."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """The controls of the patched-density experiment, paired over seeds."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    num_seeds: int = option(32, "networks in each arm of the controls; verdicts need 12", least=2)
    headline_seeds: int = option(8, "networks in each run of the original protocol; 0: none", least=0)
    scaffold_epochs: int = option(20, "epochs without patches", "epochs", least=1)
    patch_epochs: int = option(30, "epochs with patches", "epochs", least=0)
    out: str = option("checkpoints/patched_density_controls", "folder for results, a run in a folder each")


def run(config: Config) -> dict[str, Any]:
    """Runs every arm; arms of equal scaffolds train them once."""
    epochs = {"scaffold_epochs": config.scaffold_epochs, "patch_epochs": config.patch_epochs}
    common: dict[str, Any] = {"shared": SCAFFOLD, "prune_patches": PRUNED, **epochs}
    groups = {"controls": lab.run_arms(STUDY, ARMS, config, **common, num_seeds=config.num_seeds)}
    if config.headline_seeds and config.dataset == "mnist":
        common |= {"protocol": "seed", "num_seeds": config.headline_seeds}
        groups["headline"] = lab.run_arms(STUDY, HEADLINE, config, **common)
        older = {**common, "patch_epochs": 0, "shared": ()}
        groups["older"] = lab.run_arms(STUDY, {f"run A, {n}": v for n, v in OLDER.items()}, config, **older)
    return groups


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows besides arms and comparisons."""
    from jaxnet.original import untrained_norm

    headline = groups.get("headline", {})
    return {
        "lost": [row for name, arm in groups["controls"].items() if (row := _lost(name, arm))],
        "along": [row for name, arm in groups["controls"].items() if (row := _along(name, arm))],
        "untrained": untrained_norm(),
        "printed_norm": PRINTED_NORM,
        "first_epoch": {name: _first_epoch(arm) for name, arm in headline.items()},
    }


def _lost(name: str, arm: dict[str, Any]) -> list[str] | None:
    """What single patches of an arm contribute, by kind and layer; None without any."""
    patches = [p for s in sound(arm["seeds"]) for p in s["patches"]]
    if not patches:
        return None
    cells = [name]
    for place in (("high", 0), ("high", 1), ("low", 1)):
        lost = np.array([p["contribution"] for p in patches if (p["kind"], p["hidden_layer"]) == place])
        cells.append(f"{100 * lost.mean():+.2f} ({100 * np.mean(lost == 0):.0f} %)" if lost.size else NOTHING)
    return cells


def _along(name: str, arm: dict[str, Any]) -> list[str] | None:
    """Norm of the patches, drift of the scaffold, and what it has forgotten; None without epochs."""
    seeds = [s for s in sound(arm["seeds"]) if "patch_norm" in s]
    if not seeds:
        return None
    first, last = (np.mean([s["patch_norm"][at] for s in seeds]) for at in (0, -1))
    drift = float(np.mean([s["scaffold_drift"][-1] for s in seeds]))
    norms = [NOTHING, NOTHING] if not first else [f"{first:.3f}", f"{last:.3f}"]
    ends = [lab.report.mean_and_interval(arm["aggregate"][m]) for m in ("without_patches", "forgotten")]
    left = [NOTHING] * 3
    if first and "pruned" in seeds[0]:
        accuracy, *sizes = (arm["aggregate"][f"pruned.{n}"] for n in seeds[0]["pruned"])
        left = [lab.report.mean_and_interval(accuracy), *(number(size["mean"], ".1f") for size in sizes)]
    return [name, *norms, percent(drift, ".1f"), *ends, *left]


def _first_epoch(arm: dict[str, Any]) -> float | None:
    """Mean accuracy after the first epoch with patches."""
    pairs = zip(arm["seeds"], arm["first_patch_accuracy"], strict=False)
    found = [accuracy for seed, accuracy in pairs if not seed["diverged"]]
    return float(np.mean(found)) if found else None


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "patched_density.md", values)
CONTROLS = lab.Controls("patched_density_controls", Config, run, DOCUMENT, questions=QUESTIONS)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
