"""What to change next: pure functions of how many extrema each hidden layer has.

A decision says what to change, where, by how much and why; who carries it out
does not matter here. Rules are chosen by name (:data:`RULES`), and so is the
place (:data:`PLACES`), so that following the extrema can be compared with the
same change elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from jaxnet.errors import check_choice

Change = Literal["insert", "widen", "rewire", "none"]
"""What happens to the scaffold: a layer behind another one, more units in a layer, as many
weights moved elsewhere (nothing is added), nothing."""

Place = Literal["worst", "share", "least", "random", "last"]
"""Where: at the layer with most extrema, with most of them per unit, with fewest, at one drawn at
random, at the last hidden layer."""

Counted = Literal["both", "high"]
"""Which extrema make a layer the worst, and say how many units it is given."""

PLACES: tuple[str, ...] = get_args(Place)
CHANGES: tuple[str, ...] = get_args(Change)


@dataclasses.dataclass(frozen=True)
class LayerCount:
    """Units of a hidden layer and how many of them are extrema."""

    units: int
    high: int
    low: int

    @property
    def extrema(self) -> int:
        """Of both kinds."""
        return self.high + self.low

    @property
    def share(self) -> float:
        """Extrema per unit."""
        return self.extrema / self.units

    def counted(self, by: Counted) -> int:
        """Of both kinds, or high ones only."""
        return self.high if by == "high" else self.extrema


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do after an iteration.

    Attributes:
      change: one of :data:`CHANGES`.
      layer: hidden layer, counted from 0, behind which or in which the change is; None without one.
      size: units of the new layer, or units added; 0 without a change.
      patches: whether patches are added around the extrema.
      reason: one line with the numbers behind it.
    """

    change: Change
    layer: int | None
    size: int
    patches: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json`` and checkpoints."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class DecisionRules:
    """How it is decided (static).

    Attributes:
      rule: one of :data:`RULES`.
      change: what is done where the rule says grow; ``rewire`` and ``none`` are
        controls that add nothing (``none`` trains longer).
      place: one of :data:`PLACES`.
      patches: whether every decision adds patches.
      min_ratio: extrema per hidden unit above which ``ratio`` grows.
      min_high: high extrema from which on ``count`` grows.
      per_extremum: units per extremum of the chosen layer.
      counted: which extrema make a layer the worst, and say how many units it is given: ``both`` (the
        original's code), or ``high`` ones (its description).
      max_size: most units of a change.
      size: units of every change, whatever the extrema; None for ``per_extremum``.
    """

    rule: str = "ratio"
    change: Change = "insert"
    place: Place = "worst"
    patches: bool = True
    min_ratio: float = 0.5
    min_high: int = 10
    per_extremum: int = 4
    counted: Counted = "both"
    max_size: int = 256
    size: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for value, allowed, what in (
            (self.rule, tuple(RULES), "rule"),
            (self.change, CHANGES, "change"),
            (self.place, PLACES, "place"),
            (self.counted, get_args(Counted), "counted"),
        ):
            check_choice(what, value, allowed)
        if not (math.isfinite(self.min_ratio) and self.min_ratio >= 0):
            raise ValueError(f"min_ratio must be 0 or more: {self.min_ratio}")
        if self.min_high < 0:
            raise ValueError(f"min_high must be 0 or more: {self.min_high}")
        for name in ("per_extremum", "max_size", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")

    @property
    def needs_extrema(self) -> bool:
        """Whether a network without extrema leaves nothing to decide by."""
        follows = self.place in ("worst", "share") and self.change in ("insert", "widen")
        return self.rule != "always" or follows


def by_ratio(layers: Sequence[LayerCount], rules: DecisionRules) -> tuple[bool, str]:
    """Grow where more than ``min_ratio`` of all hidden units are extrema: the original's code."""
    found, units = sum(c.extrema for c in layers), sum(c.units for c in layers)
    grow = found > rules.min_ratio * units
    return (
        grow,
        f"{found} extrema in {units} hidden units, {'above' if grow else 'not above'} {rules.min_ratio}",
    )


def by_count(layers: Sequence[LayerCount], rules: DecisionRules) -> tuple[bool, str]:
    """Grow from ``min_high`` high extrema on: the original's description in prose."""
    high = sum(c.high for c in layers)
    grow = high >= rules.min_high
    return grow, f"{high} high extrema, {'at least' if grow else 'fewer than'} {rules.min_high}"


def always(layers: Sequence[LayerCount], rules: DecisionRules) -> tuple[bool, str]:
    """Grow in every iteration."""
    del rules
    return True, f"{sum(c.extrema for c in layers)} extrema, growing in any case"


RULES: dict[str, Callable[[Sequence[LayerCount], DecisionRules], tuple[bool, str]]] = {
    "ratio": by_ratio,
    "count": by_count,
    "always": always,
}
"""When to grow, by name: ``rule(layers, rules) -> (grow, reason)``."""


def worst_layer(layers: Sequence[LayerCount], by: Counted = "both") -> int:
    """The layer with most extrema; the first of those that tie."""
    return max(range(len(layers)), key=lambda k: (layers[k].counted(by), -k))


def change_size(extrema: int, rules: DecisionRules) -> int:
    """Units of a change where there are so many extrema: at most ``max_size``, at least 1."""
    if rules.size is not None:
        return rules.size
    return max(1, min(rules.per_extremum * extrema, rules.max_size))


def decide(layers: Sequence[LayerCount], rules: DecisionRules, *, draw: int = 0) -> Decision:
    """Decides what to do with a network that does not do well enough.

    Args:
      layers: extrema of each hidden layer.
      rules: how to decide.
      draw: number from which ``place="random"`` draws its layer, uniformly.

    >>> decide([LayerCount(128, 9, 108)], DecisionRules())  # doctest: +NORMALIZE_WHITESPACE
    Decision(change='insert', layer=0, size=256, patches=True,
             reason='117 extrema in 128 hidden units, above 0.5; layer 1 has most (117)')

    Raises:
      ValueError: there is no hidden layer.
    """
    if not layers:
        raise ValueError("a network without hidden layers has no extrema to decide by")
    grow, reason = RULES[rules.rule](layers, rules)
    if not grow or rules.change == "none":
        only = "patches only" if rules.patches else "training on"
        return Decision("none", None, 0, rules.patches, f"{reason}; {only}")
    worst = worst_layer(layers, rules.counted)
    if rules.change == "rewire":
        return Decision("rewire", None, 0, rules.patches, f"{reason}; as many weights move")
    if rules.place == "random":
        layer = random.Random(draw).randrange(len(layers))
        where = f"layer {layer + 1} drawn at random"
    elif rules.place == "share":
        layer = max(range(len(layers)), key=lambda k: (layers[k].share, -k))
        where = f"layer {layer + 1} has the largest share ({layers[layer].share:.2f} of its units)"
    elif rules.place == "least":
        layer = min(range(len(layers)), key=lambda k: (layers[k].extrema, k))
        where = f"layer {layer + 1} has fewest ({layers[layer].extrema})"
    elif rules.place == "last":
        layer = len(layers) - 1
        where = f"layer {layer + 1} is the last"
    else:
        layer = worst
        where = f"layer {layer + 1} has most ({layers[layer].counted(rules.counted)})"
    # the size follows the worst layer wherever the change is: the controls differ in the place alone
    size = change_size(layers[worst].counted(rules.counted), rules)
    return Decision(rules.change, layer, size, rules.patches, f"{reason}; {where}")
