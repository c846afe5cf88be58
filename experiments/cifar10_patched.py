"""Patched density on CIFAR-10: the original's run, and what its suggested architectures gain by patches.

First the original ([3072, 64, 10] at 0.02, extrema over five test batches, the output layer watched) beside
the same with patches at random places and without any, then the controls of
``experiments.patched_density_controls`` on the architectures that it suggests, with 20 patches in all. Any
run can be killed and continued with --resume; a part is ``--hidden 512 --headline-seeds 0``.

    python -m experiments.cifar10_patched --doc docs/results/cifar10_patched.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import patched_density_controls as controls
from experiments.patched_density import STUDY
from jaxnet import allocation, lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option

BATCH = 64
"""Samples of a batch of the original."""

MORE = f"{controls.NONE}, as many weights from the start"

_ELSEWHERE = ("% from the start", ", dense", "rate of the patches", "original init")
ARMS = {name: arm for name, arm in controls.ARMS.items() if not name.endswith(_ELSEWHERE)} | {
    MORE: controls.NO_PATCHES
}
"""Those on MNIST but for the questions of rate and init, which MNIST answers, and the dense network, which
is an arm of ``experiments.cifar10_mlp``; as many weights as with patches are counted here."""

ORIGINAL: dict[str, dict[str, Any]] = {
    "original": {},
    "original, adaptive thresholds": {"detector": "adaptive"},
    "original, random places": {"placement": "random"},
    "original, no patches": {"max_patches": 0},
}
"""Runs of ``--protocol seed``: the original, as its bug analysis wants it, and what its patches add."""

ORIGINAL_SHARED = (*controls.SCAFFOLD, "detector")
"""Those that agree in these share scaffolds and the extrema found in them."""


def hidden_sizes(name: str) -> tuple[int, ...]:
    """Hidden layers by their name, for instance ``256-128``; InputError where it names none."""
    sizes = name.split("-")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--hidden must be sizes joined by '-', for instance 256-128: {name!r}")
    return tuple(map(int, sizes))


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """The patched-density experiment and its controls on CIFAR-10."""

    dataset: str = changed(lab.DataFlags, "dataset", "cifar10")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    augment: tuple[str, ...] | None = changed(lab.BatchFlags, "augment")
    hidden: tuple[str, ...] = option(("256-128", "512"), "hidden layers of the networks with controls")
    density: float = option(0.05, "of their scaffolds", "in (0, 1]", fraction=True)
    total_patches: int = option(20, "patches in all of a network with controls", least=1)
    num_seeds: int = option(16, "networks in each arm of the controls; verdicts need 12", least=2)
    headline_seeds: int = option(16, "networks of each run of the original; 0: none", least=0)
    headline_hidden: int = option(64, "hidden units of the original", least=1)
    test_batches: int = option(5, "test batches of 64 by which the original finds extrema", least=1)
    scaffold_epochs: int = option(20, "epochs without patches", "epochs", least=1)
    patch_epochs: int = option(30, "epochs with patches", "epochs", least=0)
    out: str = option("checkpoints/cifar10_patched", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for hidden layers that are no sizes, or fewer units than patches."""
        for name in self.hidden:
            if self.total_patches > (units := sum(hidden_sizes(name))):
                raise InputError(f"--total-patches {self.total_patches}: {name} has {units} units")
        if not self.hidden or len(set(self.hidden)) < len(self.hidden):
            raise InputError(f"--hidden must be different hidden layers, at least one: {list(self.hidden)}")
        super().check()


def run(config: Config) -> dict[str, Any]:
    """Runs the original, then every arm of every architecture; arms of equal scaffolds train them once."""
    dataset = lab.run.load(config_of_data(config))
    ends = dataset.num_features, dataset.num_classes
    there = len(dataset.y_test)
    if BATCH * config.test_batches > there:
        what = f"{BATCH * config.test_batches} samples, and {dataset.name} has {there} test samples"
        raise InputError(f"--test-batches {config.test_batches} are {what}: give at most {there // BATCH}")
    epochs = {"scaffold_epochs": config.scaffold_epochs, "patch_epochs": config.patch_epochs}
    groups: dict[str, Any] = {}
    if config.headline_seeds:
        original: dict[str, Any] = {
            "shared": ORIGINAL_SHARED,
            "protocol": "seed",
            "sizes": (ends[0], config.headline_hidden, ends[1]),
            "extrema_samples": BATCH * config.test_batches,
            "watch_output": True,
            "num_seeds": config.headline_seeds,
        }
        plain = replace(config, augment=None)  # the original has none here
        groups["original"] = lab.run_arms(STUDY, ORIGINAL, plain, **{**original, **epochs})
    for name in config.hidden:
        sizes = (ends[0], *hidden_sizes(name), ends[1])
        place = replace(config, out=f"{config.out}/{name}")
        values: dict[str, Any] = {"sizes": sizes, "num_seeds": config.num_seeds, "shared": controls.SCAFFOLD}
        values |= {"max_patches": min(config.total_patches, max(sizes[1:-1])), **epochs}
        values |= {"total_patches": config.total_patches, "density": config.density}

        def arms(some: Mapping[str, Any], **more: Any) -> dict[str, Any]:
            given: Any = {**values, **more}  # noqa: B023
            return lab.run_arms(STUDY, some, place, **given)  # noqa: B023

        found = arms({arm: flags for arm, flags in ARMS.items() if arm != MORE})
        first = next(iter(found.values()))
        dense = sum(allocation.dense_counts(sizes))
        found |= arms({MORE: ARMS[MORE]}, density=min(1.0, first["aggregate"]["weights"]["mean"] / dense))
        groups[name] = {f"{name}: {arm}": summary for arm, summary in found.items()}
    return groups


def config_of_data(config: Config) -> Any:
    """The flags of the data, as the study has them."""
    return STUDY.config(dataset=config.dataset, data_dir=config.data_dir, augment=config.augment)


def questions(config: Config) -> list[lab.Question]:
    """What the original's patches add; those on MNIST, of every architecture."""
    asked = []
    if config.headline_seeds:
        for second, what in (("random places", "patches at random places"), ("no patches", "training on")):
            title = f"The original against {what}"
            asked.append(lab.Question("original", f"original, {second}", "patched_accuracy", title))
    for name in config.hidden:
        for q in controls.QUESTIONS:
            first, second = (MORE if "2.6 %" in arm else arm for arm in (q.first, q.second))
            if not {first, second} <= set(ARMS):
                continue
            asked.append(replace(q, first=f"{name}: {first}", second=f"{name}: {second}", where=name))
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """The controls of every architecture, and the layers of the original."""
    return {
        "controls": {name: groups[name] for name in config.hidden},
        "originals": groups.get("original", {}),
        "arms": {name: arm for group in groups.values() for name, arm in group.items()},
    }


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "cifar10_patched.md", values)
CONTROLS = lab.Controls("cifar10_patched", Config, run, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
