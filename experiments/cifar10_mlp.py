"""Sparse multi-layer perceptrons on CIFAR-10: the methods of the field and ours at equal size.

The comparison of methods (``experiments.method_comparison``) with crops and flips, for 100 epochs:
3072-1024-512-10 as Nerva trains it, and the network of Cannistraci-Hebb training, 3072 x 4 - 10 at 1 %
besides a dense output layer (314k weights). Some of the methods and densities are a run of their own;
any can be killed and continued with --resume.

    python -m experiments.cifar10_mlp --densities 0.01 --methods static,chts-local
    python -m experiments.cifar10_mlp --sizes 3072,3072,3072,3072,10 --allocation dense-output \
        --densities 0.011073 --num-seeds 1 --methods set,chts-local --baseline set --peers

A run of all methods and densities with --resume takes over what parts have trained: parts of the same
--num-seeds and --epochs, and ``dense``, which no density changes, from the part of the first density.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments import method_comparison as comparison
from experiments._method_arms import published
from jaxnet import lab
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Activation
from jaxnet.lab.shown import number

WIDE = 3072, 3072, 3072, 3072, 10
"""The network of Cannistraci-Hebb training, of which levels are published."""

_WIDE = {name: f"{value:.2f}" for name, value in published("cifar10", WIDE).items()}
_TITLES = {"set": "SET", "rigl": "RigL", "granet": "GraNet", "chts": "CHTs", "chtss": "CHTss"}

PUBLISHED = (
    ("3072-1024-512-10, 0.5 %", "Nerva 53.3, masked PyTorch 46.6"),
    ("3072-1024-512-10, 1 %", "Nerva 56.2, masked PyTorch 54.0"),
    ("3072-1024-512-10, 5 %", "Nerva 61.4, masked PyTorch 62.3"),
    ("3072-1024-512-10, dense", "Nerva 64.4, PyTorch 65.3"),
    (
        "3072-3072-3072-3072-10, 314k weights",
        ", ".join(f"{title} {_WIDE[name]}" for name, title in _TITLES.items()),
    ),
    ("3072-3072-3072-3072-10, dense", _WIDE["dense"]),
)
"""Test accuracies of the best epoch, chosen on the test samples (wiegerw/nerva; Zhang et al. 2025)."""

TRIED = ((2e-3,), 0.0), ((2e-3,), 0.05), ((1e-3,), 0.05)
"""Rates and decays that trials of one method led to: a document with one of them says so."""


@dataclass(frozen=True)
class Config(comparison.Config):
    """Methods on CIFAR-10 with crops and flips, compared on the same seeds."""

    PRESETS: ClassVar = {}

    dataset: str = changed(lab.DataFlags, "dataset", "cifar10")
    normalise: Literal["channels"] | None = changed(lab.DataFlags, "normalise", "channels")
    sizes: tuple[int, ...] | None = changed(
        lab.NetworkFlags, "sizes", (3072, 1024, 512, 10), "units per layer; auto: features,256,128,classes"
    )
    activation: Activation = changed(lab.NetworkFlags, "activation", "gelu")
    augment: tuple[str, ...] | None = changed(lab.BatchFlags, "augment", ("crop", "flip"))
    methods: tuple[str, ...] = changed(
        comparison.Config, "methods", ("static", "set", "rigl", "chts", "chts-local")
    )
    densities: tuple[float, ...] = changed(comparison.Config, "densities", (0.005, 0.01, 0.02))
    num_seeds: int = option(2, "networks of every method and density; verdicts need 12", least=1)
    epochs: int = changed(comparison.Config, "epochs", 100)
    every: int = changed(comparison.Config, "every", 300)
    rates: tuple[float, ...] = changed(comparison.Config, "rates", (2e-3,))
    out: str = changed(lab.RunFlags, "out", "checkpoints/cifar10_mlp")


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the comparison of methods shows, seconds, and what others have published."""
    runs = {name: run for runs in groups.values() for name, run in runs.items()}
    seconds = []
    for name, run in runs.items():
        (arm,), spent = run["arms"].values(), run["seconds_per_network"]
        each = number(spent / run["epochs"], ".2f"), number(spent / 60, ".1f")
        together = len(arm["seeds"])
        seconds.append([name, run["kernel"], *each, str(together), number(together * spent / 60, ".1f")])
    more = {"seconds": seconds, "published": PUBLISHED, "tried": (config.rates, config.weight_decay) in TRIED}
    return {**comparison.values(config, groups, comparisons), **more}


REPORT = Path(__file__).parent / "reports" / "cifar10_mlp.md"
DOCUMENT = dataclasses.replace(comparison.DOCUMENT, template=REPORT, values=values)
CONTROLS = dataclasses.replace(comparison.CONTROLS, name="cifar10_mlp", config=Config, document=DOCUMENT)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
