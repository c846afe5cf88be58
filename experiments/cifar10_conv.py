"""A convolutional base with a sparse head on CIFAR-10: what sparsity, patches, growth and RigL contribute.

An ordinary Flax base (convolution, max-pooling, batch normalisation, ReLU) with a sparse perceptron on top;
base and head share a number of non-zeros. Every arm is a run of its own, all of them on the same seeds: some
with --arms, any can be killed and continued with --resume. A smaller base with more seeds says whether the
extrema of channels and of hidden units are better places than others.

    python -m experiments.cifar10_conv --arms sparse,rigl --place-seeds 0
    python -m experiments.cifar10_conv --place-seeds 0 --resume --doc docs/results/cifar10_conv.md
    python -m experiments.cifar10_conv --arms none --doc docs/results/cifar10_conv_places.md
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments._conv_run import ARM, MOST, SHARED, ArmConfig, settle
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.compare import LEAST_PAIRS
from jaxnet.lab.shown import number, percent

ARMS: dict[str, dict[str, Any]] = {
    "dense": {"start": "dense"},
    "small": {"start": "small"},
    "sparse": {},
    "set": {"method": "set"},
    "rigl": {"method": "rigl"},
    "pruned": {"start": "dense", "method": "magnitude"},
    "dense-base": {"base_share": 1.0},
    "fewer": {"adds": "nothing"},
    "frozen": {"adds": "nothing", "base": "frozen"},
    "patches": {"adds": "patches"},
    "channels": {"adds": "channels"},
    "growing": {"adds": "growth"},
}
"""What each arm changes."""

WHAT = {
    "dense": "every weight of base and head, none is masked",
    "small": "a dense network of as many weights, fewer channels and units in the same proportions",
    "sparse": "never changed",
    "set": "the smallest weights go, random ones come, in base and head",
    "rigl": "the smallest go, those of the largest gradient come, in base and head",
    "pruned": "dense at first, then pruned by magnitude, base and head together (LAMP's scores)",
    "dense-base": "every weight of the base, the head sparser",
    "fewer": "sparse, without the weights that others add for the second phase",
    "frozen": "the same, the base not trained in the second phase",
    "patches": "dense patches at extrema of the head's hidden units for the second phase, drawn at random",
    "channels": "weights into low channels and out of high ones for the second phase, zero at first",
    "growing": "16 hidden units more for the second phase, their weights to the outputs zero at first",
}
"""The arms in words."""

CONTRIBUTIONS = (
    ("sparse", "small", "sparsity"),
    ("rigl", "sparse", "RigL"),
    ("set", "sparse", "SET"),
    ("pruned", "sparse", "pruning from dense"),
    ("patches", "fewer", "patches"),
    ("patches", "sparse", "patches, against as many weights from the start"),
    ("channels", "sparse", "weights at channels, against as many from the start"),
    ("growing", "sparse", "growth, against as many weights from the start"),
    ("fewer", "frozen", "training the base to the end"),
    ("sparse", "dense-base", "a sparse base, against a dense one below a sparser head"),
    ("sparse", "dense", "sparse against dense"),
)
"""First arm, second arm, and what the difference is called."""

KINDS = ("patches", "channels")
SITES = ("extrema", "random", "least")
PLACES = {
    f"{kind}, {site}": {"adds": kind, "placement": site} for kind, site in itertools.product(KINDS, SITES)
}
"""Where it is added, on the smaller base."""

NOTHING_ADDED = "nothing added"


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """A convolutional base with a sparse head, arm by arm, and places on a smaller base."""

    dataset: str = changed(lab.DataFlags, "dataset", "cifar10")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    normalise: Literal["channels"] | None = changed(lab.DataFlags, "normalise", "channels")
    augment: tuple[str, ...] | None = changed(lab.BatchFlags, "augment", ("crop", "flip"))
    arms: tuple[str, ...] | None = option(tuple(ARMS), f"some of {', '.join(ARMS)}; none: places alone")
    blocks: tuple[str, ...] = changed(ArmConfig, "blocks")
    hidden: tuple[int, ...] = changed(ArmConfig, "hidden")
    weights: int = changed(ArmConfig, "weights")
    base_share: float = changed(ArmConfig, "base_share")
    added: int = changed(ArmConfig, "added")
    every: int = changed(ArmConfig, "every")
    epochs: int = changed(ArmConfig, "epochs")
    more_epochs: int = changed(ArmConfig, "more_epochs")
    batch_size: int = changed(ArmConfig, "batch_size")
    lr: float | None = changed(ArmConfig, "lr")
    num_seeds: int = changed(ArmConfig, "num_seeds")
    place_blocks: tuple[str, ...] = option(("6", "12", "24-24"), "of the smaller base")
    place_hidden: tuple[int, ...] = option((64,), "hidden layers on it")
    place_weights: int = option(8_000, "of base, head and what is added", least=1)
    place_base_share: float = option(0.3, "of these, in the base", fraction=True)
    place_added: int = option(600, "weights that are added", least=1)
    place_epochs: int = option(3, "of the first phase there", "epochs", least=1)
    place_more: int = option(2, "of the second phase there", "epochs", least=1)
    place_seeds: int = option(12, "networks in each arm there; verdicts need 12; 0: none", least=0)
    out: str = option("checkpoints/cifar10_conv", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for arms that do not exist, or nothing to run."""
        arms = self.arms or ()
        if set(arms) - set(ARMS) or len(set(arms)) < len(arms):
            raise InputError(f"--arms must be some of {', '.join(ARMS)}, each once: {','.join(arms)}")
        if not self.arms and not self.place_seeds:
            raise InputError("--arms names none and --place-seeds is 0: there is nothing to run")
        for one in (self.of_arms(), self.of_places()):
            ArmConfig(adds="nothing", **{**one, "num_seeds": max(1, one["num_seeds"])})
        super().check()

    def of_arms(self) -> dict[str, Any]:
        """What all arms have."""
        names = ("blocks", "hidden", "weights", "base_share", "added", "every", "epochs", "more_epochs")
        return {name: getattr(self, name) for name in (*names, "batch_size", "lr", "num_seeds")}

    def of_places(self) -> dict[str, Any]:
        """What all arms on the smaller base have."""
        own = {n: getattr(self, f"place_{n}") for n in ("blocks", "hidden", "weights", "base_share")}
        own |= {"added": self.place_added, "epochs": self.place_epochs, "more_epochs": self.place_more}
        return {**self.of_arms(), **own, "num_seeds": self.place_seeds}


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Runs the arms, then the places."""
    below: Any = replace(config, out=f"{config.out}/places")
    some = {name: ARMS[name] for name in config.arms or ()}
    places = {NOTHING_ADDED: {"adds": "nothing"}, **PLACES} if config.place_seeds else {}
    wanted = {"arms": (some, config, config.of_arms()), "places": (places, below, config.of_places())}
    wanted = {group: one for group, one in wanted.items() if one[0]}
    each = [
        ArmConfig(**{**lab.run.arm_values(where, name), **given, **changes})
        for arms, where, given in wanted.values()
        for name, changes in arms.items()
    ]
    dataset = lab.run.load(each[0])
    for one in each:  # what cannot work is refused before anything is trained
        settle(one, dataset)
    return {
        group: lab.run_arms(ARM, arms, where, shared=SHARED, **given)
        for group, (arms, where, given) in wanted.items()
    }


def questions(config: Config) -> list[lab.Question]:
    """What every part contributes, judged where there are pairs enough for a verdict; places, judged.

    Questions that no number of wins could answer would only make Holm's correction of the others harder.
    """
    enough = config.num_seeds >= LEAST_PAIRS
    asked = [
        lab.Question(first, second, "accuracy", what, primary=enough, where="arms")
        for first, second, what in CONTRIBUTIONS
        if {first, second} <= set(config.arms or ())
    ]
    if config.place_seeds:
        for kind in KINDS:
            best = f"{kind}, {SITES[0]}"
            others = [f"{kind}, {site}" for site in SITES[1:]] + [NOTHING_ADDED]
            asked += [lab.Question(best, other, "accuracy", where="places") for other in others]
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows: a table of the arms, one of the places."""
    tables = {group: [row(name, arm) for name, arm in runs.items()] for group, runs in groups.items()}
    first = next(iter(next(iter(groups.values())).values()))
    return {
        "tables": tables,
        "what": {name: WHAT[name] for name in config.arms or ()},
        "of": {w: [c for c in comparisons if c.question.where == w] for w in ("arms", "places")},
        "most": MOST,
        "looked": bool(config.arms) and (config.blocks, config.lr) == (Config.blocks, Config.lr),
        "percent_base": f"{100 * config.base_share:g}",
        "first": first,
        "all_arms": {name: run for runs in groups.values() for name, run in runs.items()},
    }


def row(name: str, run: Mapping[str, Any]) -> list[str]:
    """An arm in the table."""
    (arm,) = run["arms"].values()
    a, n = arm["aggregate"], len(arm["seeds"])
    counts = [number(a[c]["mean"], ".0f") for c in ("weights", "base_weights", "patch_weights", "others")]
    cells = [
        name,
        lab.report.mean_and_interval(a["accuracy"]),
        str(n),
        percent(a["watched"]["mean"]),
        *counts,
    ]
    return [*cells, number(run["multiply_adds"] / 1e6, ".2f"), number(run["seconds"] / 60, ".1f")]


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "cifar10_conv.md", values)
CONTROLS = lab.Controls("cifar10_conv", Config, run_all, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
