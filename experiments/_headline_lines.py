"""The lines of ``experiments.headline``: networks, recipes, bars, and what others have published."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxnet.allocation import dense_counts
from jaxnet.errors import InputError
from jaxnet.lab.shown import sizes_label

AUGMENT = ("jitter",)
"""What training images go through, where a recipe augments."""


@dataclass(frozen=True)
class Recipe:
    """How the networks of a line are trained.

    Attributes:
      arm: one of ``experiments.method_comparison``.
      epochs: of training.
      augment: training images are changed at random.
      taught: dense networks teach.
      average: decay per step of a running mean of the weights; 0 for none.
      rate: AdamW's at the start; it falls along a cosine.
      weight_decay: decoupled.
      allocation: how the density is shared out, where the arm does not say it.
    """

    arm: str
    epochs: int
    augment: bool = True
    taught: bool = True
    average: float = 0.999
    rate: float = 2e-3
    weight_decay: float = 1e-4
    allocation: Literal["uniform", "erdos-renyi", "dense-output", "constant-fan-in"] = "erdos-renyi"


ALWAYS = Recipe("sparse-momentum-correlated", 160)
"""Never more weights than are counted."""

PRUNED = Recipe("lamp", 160, weight_decay=0.05)
"""Begins with all weights. Line c after 60 epochs, two networks on validation samples: 98.50 % with a decay
of 1e-4, 98.68 with 0.05."""

PLAIN: dict[str, Any] = {"augment": False, "taught": False}
"""Neither augmentation nor distillation."""

ALONE = dataclasses.replace(PRUNED, **PLAIN, weight_decay=0.2)
"""Pruned with neither. After 60 epochs, two networks on validation samples: 97.73 % with a decay of 1e-4,
97.73 with 0.01, 97.97 with 0.05, 98.09 with 0.2, 97.90 with 0.5, 97.55 with 1; after 160: 97.56 (of five)
with 1e-4, 98.09 with 0.3."""


@dataclass(frozen=True)
class Line:
    """A network and what is asked of it.

    Attributes:
      name: of the line.
      hidden: units of the hidden layers.
      share: of all weights, that may exist.
      counted: when they are counted.
      recipe: how it is trained.
      at_least: per cent of test accuracy.
      aim: likewise.
      bar: what stands behind ``at_least``.
    """

    name: str
    hidden: tuple[int, ...]
    share: float
    counted: Literal["at every step", "at the end"]
    recipe: Recipe
    at_least: float
    aim: float
    bar: str

    def sizes(self, features: int, classes: int) -> tuple[int, ...]:
        """Units per layer, for a data set."""
        return (features, *self.hidden, classes)

    def weights(self, sizes: tuple[int, ...], asked: int | None = None) -> int:
        """Weights that may exist: the line's share of all, or as many as are asked for.

        Raises:
          InputError: they are fewer than units need (one each), or more than there are.
        """
        full, units = sum(dense_counts(sizes)), sum(sizes[1:])
        weights = int(self.share * full + 1e-6) if asked is None else asked
        if weights < units:
            raise InputError(
                f"line {self.name}: {weights} weights are fewer than the {units} units of "
                f"{sizes_label(sizes)} need, one each: raise --weights, or leave it out"
            )
        if weights > full:
            raise InputError(f"line {self.name}: {sizes_label(sizes)} has {full} weights, not {weights}")
        return weights


_THREE, _LENET = (256, 128), (300, 100)

LINES = {
    line.name: line
    for line in (
        Line("a", _THREE, 0.03, "at every step", ALWAYS, 98.1, 98.6, "the original claims 97.67"),
        Line("b", _THREE, 0.02, "at every step", ALWAYS, 97.7, 98.3, ""),
        Line("c", _THREE, 0.02, "at the end", PRUNED, 98.5, 98.9, "published 98.08 at 3.9k, without either"),
        Line(
            "c'",
            _THREE,
            0.02,
            "at the end",
            ALONE,
            98.0,
            98.3,
            "published 98.08 at 3.9k",
        ),
        Line("d", _LENET, 3060 / 266_200, "at the end", PRUNED, 98.0, 98.6, "lottery ticket 97.87"),
        Line("e 1 %", _LENET, 0.01, "at every step", ALWAYS, 97.2, 97.7, "published 97.64"),
        Line("e 2 %", _LENET, 0.02, "at every step", ALWAYS, 98.1, 98.5, "published 98.21"),
        Line("e 5 %", _LENET, 0.05, "at every step", ALWAYS, 98.5, 98.9, "published 98.47"),
    )
}

ALIASES = {
    "all": tuple(LINES),
    "c-plain": ("c'",),
    "e": ("e 1 %", "e 2 %", "e 5 %"),
    "e1": ("e 1 %",),
    "e2": ("e 2 %",),
    "e5": ("e 5 %",),
}
"""Names for a command line."""


def names_of(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The lines that ``--lines`` names; InputError for one that there is not, or none."""
    found: dict[str, None] = {}
    for one in asked:
        names = ALIASES.get(one, (one,))
        if names[0] not in LINES:
            choice = ", ".join((*LINES, *ALIASES))
            raise InputError(f"--lines: unknown line {one!r}: choose from {choice}")
        found |= dict.fromkeys(names)
    if not found:
        raise InputError("--lines names no line")
    return tuple(sorted(found, key=list(LINES).index))


def ablations(line: Line) -> dict[str, Recipe]:
    """The recipe of a line, whole and without each of its ingredients."""
    whole = line.recipe
    changes: dict[str, dict[str, Any]] = {
        "whole": {},
        "without augmentation": {"augment": False},
        "without teachers": {"taught": False},
        "without either": PLAIN,
        "without the running mean": {"average": 0.0},
        "without weight decay": {"weight_decay": 0.0},
        "half as long": {"epochs": max(1, whole.epochs // 2)},
    }
    if line.counted == "at every step":
        changes |= {
            "first layer wired at random": {"arm": "sparse-momentum"},
            "RigL": {"arm": "rigl-correlated"},
            "SNIP": {"arm": "snip"},
            "never rewired": {"arm": "static-correlated"},
            "evenly sparse": {"allocation": "uniform"},
        }
    else:
        changes |= {
            "pruned by magnitude, all layers together": {"arm": "magnitude"},
            "pruned and regrown (GraNet)": {"arm": "granet"},
        }
    return {name: dataclasses.replace(whole, **change) for name, change in changes.items()}


@dataclass(frozen=True)
class Published:
    """A point of the literature: MNIST, a perceptron, without augmentation and distillation.

    Attributes:
      name: of the method.
      weights: kept.
      accuracy: on test samples, per cent.
    """

    name: str
    weights: float
    accuracy: float


PUBLISHED = (
    Published("Sparse Momentum", 2662, 97.64),
    Published("Sparse Momentum", 5324, 98.01),
    Published("Sparse Momentum, second table", 5324, 98.20),
    Published("DEEP-R", 5324, 98.21),
    Published("Dynamic Sparse", 5324, 98.14),
    Published("SET", 5324, 97.74),
    Published("SNIP", 5324, 97.6),
    Published("Targeted Dropout", 5324, 96.2),
    Published("Sparse Momentum", 13_310, 98.47),
    Published("SNIP", 13_310, 98.4),
    Published("dense LeNet-300-100", 266_200, 98.69),
    Published("Sparse VD", 3900, 98.08),
    Published("Dynamic network surgery", 4800, 98.01),
    Published("Lottery ticket", 3060, 97.87),
    Published("Lottery ticket", 9400, 98.22),
    Published("Lottery ticket, fresh weights", 3060, 96.52),
    Published("Lottery ticket, fresh weights", 9400, 97.76),
    Published("L-OBS", 4000, 98.0),
    Published("LC", 2700, 96.8),
    Published("DST", 6600, 97.69),
    Published("CHTs", 77_000, 98.81),
    Published("CHTss", 77_000, 98.83),
    Published("RigL, four layers", 77_000, 98.61),
    Published("SET, four layers", 77_000, 98.14),
)
"""Results of TimDettmers/sparse_learning, the papers of each method, and arXiv 2501.19107 (77k weights, best
test epoch)."""


def best_published(weights: float) -> Published | None:
    """The most accurate published network with so many weights or fewer."""
    return max((p for p in PUBLISHED if p.weights <= weights), key=lambda p: p.accuracy, default=None)
