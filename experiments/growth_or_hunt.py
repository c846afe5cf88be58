"""Growth or hunt: one network that grows against a hunt over architectures, at equal compute and weights.

Growth (the recipe ``lean`` without RigL) costs so many multiplications; the hunt may spend as many on
architectures that have the weights of the grown network from the start.

    python -m experiments.growth_or_hunt --dataset mnist --doc docs/results/growth_or_hunt.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _growth_or_hunt_run as hunting
from experiments import indefinite_growth as growth
from jaxnet import allocation, lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.shown import number, percent, sizes_label, sound

LEAN = growth.RECIPES["lean"]

GROWN = {"grown": {}, "grown at random": {"place": "random"}}
"""Where growth follows extrema, and where it does not."""

FLOPS = 6
"""Floating-point operations of a weight for a sample in training: a multiplication and an addition each,
forward, for the gradient of the values below, and for its own."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """One network that grows against a hunt over architectures, at equal compute and weights."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    num_seeds: int = option(16, "networks in each arm; verdicts need 12", least=2)
    density: float = option(
        LEAN["density"], "of the growing network at the start", "in (0, 1]", fraction=True
    )
    added: int = option(LEAN["added"], "weights that a growth adds", least=2)
    iterations: int = option(4, "of training, with a growth between two of them", least=2)
    epochs: int = option(10, "of an iteration", "epochs", least=1)
    hidden: tuple[str, ...] = option(
        ("64-32", "32", "64", "128", "256", "512", "64-64", "128-64", "256-128", "128-64-32"),
        "hidden layers of the architectures that are hunted; growth starts with the first",
    )
    out: str = changed(lab.RunFlags, "out", "checkpoints/growth_or_hunt")

    def check(self) -> None:
        """Raises InputError for hidden layers that are no sizes."""
        for name in self.hidden:
            hunting.hidden_sizes(name)
        if not self.hidden:
            raise InputError("--hidden must be different hidden layers, at least two: none is named")
        super().check()


@dataclass(frozen=True)
class Cost:
    """What growth costs, which is known before it begins: every change adds as many weights.

    Attributes:
      sizes: of the network at the start.
      weights: in every iteration.
      epochs: of an iteration.
    """

    sizes: tuple[int, ...]
    weights: tuple[int, ...]
    epochs: int

    @property
    def epochs_at_the_end(self) -> int:
        """Whole epochs that a network with all weights from the start may train for as much."""
        return sum(self.weights) * self.epochs // self.weights[-1]

    def flops(self, samples: int) -> int:
        """Of growth, for so many training samples."""
        return FLOPS * sum(self.weights) * self.epochs * samples


def cost_of(config: Config, features: int, classes: int) -> Cost:
    """Weights and epochs of growth."""
    sizes = (features, *hunting.hidden_sizes(config.hidden[0]), classes)
    first = sum(allocation.allocate(sizes, config.density, LEAN["allocation"]))
    return Cost(sizes, tuple(first + k * config.added for k in range(config.iterations)), config.epochs)


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Grows, and hunts for as much."""
    dataset = lab.run.load(growth.Config(dataset=config.dataset, data_dir=config.data_dir))
    try:
        cost = cost_of(config, dataset.num_features, dataset.num_classes)
    except ValueError as error:
        raise InputError(str(error)) from None
    hunt: dict[str, Any] = {
        "hidden": config.hidden,
        "weights": cost.weights[-1],
        "budget": cost.epochs_at_the_end,
    }
    hunting.HUNT.settle(
        hunting.HuntConfig(**hunt, dataset=config.dataset), dataset
    )  # before anything is written
    values: dict[str, Any] = {
        name: getattr(config, name) for name in ("num_seeds", "iterations", "epochs", "added", "density")
    }
    values |= {"recipe": "lean", "exchange": "none", "target": 1.0, "sizes": cost.sizes}
    grown = lab.run_arms(growth.STUDY, GROWN, config, **values)
    hunted = lab.run_arms(hunting.HUNT, {"hunt": {}}, config, **hunt, num_seeds=config.num_seeds)
    return {"grown": grown, "hunted": {"": hunted["hunt"]}}


QUESTIONS = [
    lab.Question("grown", hunting.EQUAL, "accuracy", "growth − a hunt that trains all equally long"),
    lab.Question("grown", hunting.HALVED, "accuracy", "growth − a hunt by successive halving"),
    lab.Question("grown", hunting.ONE, "accuracy", "growth − one network, all weights from the start"),
    lab.Question("grown", "grown at random", "accuracy", "growth at extrema − growth at random layers"),
    lab.Question(
        hunting.HALVED, hunting.ONE, "accuracy", "a hunt by successive halving − one network", primary=False
    ),
]


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows: cost, weights and accuracy of every arm."""
    grown, hunt = groups["grown"], groups["hunted"][""]
    first = next(iter(grown.values()))
    ends = first["seeds"][0]["architecture"]
    cost, samples = cost_of(config, ends[0], ends[-1]), samples_of(config)
    whole, rows = cost.weights[-1], []
    for name, run in grown.items():
        arm = run["aggregate"]
        spent = [spent_on(s, samples) for s in sound(run["seeds"])]
        shown = number(arm["weights"]["mean"], ".0f"), number(max(spent, default=None), ".3g")
        rows.append([name, lab.report.mean_and_interval(arm["accuracy"]), *shown])
    for name, arm in hunt["arms"].items():
        spent = FLOPS * whole * hunt["epochs_spent"][name] * samples
        accuracy = lab.report.mean_and_interval(arm["aggregate"]["accuracy"])
        rows.append([name, accuracy, str(whole), number(spent, ".3g")])
    architectures = Counter(sizes_label(s["architecture"]) for s in sound(first["seeds"])).most_common(6)
    return {
        "rows": rows,
        "cost": cost,
        "flops": number(cost.flops(samples), ".3g"),
        "hunt": hunt,
        "grown_to": ", ".join(f"{sizes} ({times})" for sizes, times in architectures),
        "chosen": {
            arm: ", ".join(f"{name} ({times})" for name, times in Counter(found).most_common())
            for arm, found in hunt["chosen"].items()
        },
        "hunted_rows": [
            [name, str(hunt["weights"][name]), percent(means["each"]), percent(means["longest"])]
            for name, means in hunt["means"].items()
        ],
    }


def samples_of(config: Config) -> int:
    """Training samples."""
    return len(lab.run.load(growth.Config(dataset=config.dataset, data_dir=config.data_dir)).y_train)


def spent_on(seed: Mapping[str, Any], samples: int) -> int:
    """Floating-point operations that went into a grown network."""
    trained = sum(h["nonzeros"]["scaffold"] * h["epochs"] for h in seed["history"])
    return int(FLOPS * trained * samples)


DOCUMENT = lab.Document(Path(__file__).parent / "reports" / "growth_or_hunt.md", values)
CONTROLS = lab.Controls("growth_or_hunt", Config, run_all, DOCUMENT, questions=QUESTIONS)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
