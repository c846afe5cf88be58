"""The arms of ``experiments.method_comparison``: how their networks start, and what changes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxnet.allocation import dense_counts
from jaxnet.errors import InputError

EXCHANGED_UNTIL = 0.75
"""Share of the training after which no weight is exchanged any more (as RigL's authors have it)."""

PRUNED_FROM, PRUNED_UNTIL = 0.05, 0.6
"""Shares of the training between which networks that start dense are pruned."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to get a sparse network.

    Attributes:
      what: it is, for readers.
      method: in :data:`jaxnet.methods.METHODS`, or None.
      options: of the method, besides those that its schedule decides.
      schedule: which of these it takes: ``exchange`` (every, until), ``prune`` (density, begin, end,
        every), ``both``, ``once`` (density), or none.
      allocation: how the density is shared out at the start; None: as ``--allocation`` says.
      start: ``sparse``, ``dense`` (all weights exist and are masked), ``half`` of them, ``small`` (a
        dense network of as many weights), ``chosen`` (among all weights, before the first step),
        ``rewound`` (several trainings, each but the first of the largest weights of the one before).
      wiring: which layers are wired by the correlation of the pixels: none for ``random``, the first
        for ``correlated``, all but the last for ``local``.
      taught: by a dense network.
      gradients: dense gradients that a change asks for.
    """

    what: str
    method: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    schedule: Literal["exchange", "prune", "both", "once", "none"] = "none"
    allocation: str | None = None
    start: Literal["sparse", "dense", "half", "small", "chosen", "rewound"] = "sparse"
    wiring: Literal["random", "correlated", "local"] = "random"
    taught: bool = False
    gradients: int = 0


def _exchange(what: str, method: str, gradients: int = 0, **options: Any) -> Arm:
    return Arm(what, method, tuple(options.items()), "exchange", gradients=gradients)


def _prune(what: str, method: str, gradients: int = 0, **options: Any) -> Arm:
    schedule: Any = "prune" if method == "magnitude" else "both"
    start: Any = "half" if "start" in options else "dense"
    return Arm(what, method, tuple(options.items()), schedule, start=start, gradients=gradients)


SPARSE = {
    "static": Arm("never changed"),
    "static-uniform": Arm("the same density in every layer", allocation="uniform"),
    "static-fan-in": Arm("as many inputs for every unit", allocation="constant-fan-in"),
    "static-dense-output": Arm("a dense output layer, the rest evenly", allocation="dense-output"),
    "static-output-0.3": Arm("an output layer of density 0.3, the rest evenly", allocation="output=0.3"),
    "static-correlated": Arm("first layer wired by the correlation of the pixels", wiring="correlated"),
    "snip": Arm("pruned at once by |gradient x weight|", "snip", (), "once", start="chosen", gradients=1),
    "set": _exchange("the smallest go, random ones come", "set"),
    "rigl": _exchange("the smallest go, those of the largest gradient come", "rigl", 1),
    "sparse-momentum": _exchange("by momentum, shared out anew over the layers", "sparse-momentum", 10),
    "chts": _exchange("Cannistraci-Hebb training, soft", "chts"),
    "extrema": _exchange("from high extrema to low ones", "extrema"),
    "extrema-gradient": _exchange("the same times the gradient", "extrema", 1, gradient="product"),
    "revive": _exchange("dead units drawn anew", "revive"),
    "rigl-taught": dataclasses.replace(_exchange("RigL, taught by a dense network", "rigl", 1), taught=True),
    "small-dense": Arm("a dense network of as many weights", start="small"),
}
"""What starts sparse."""

DENSE = {
    "magnitude": _prune("gradual pruning, all layers together", "magnitude", scope="global"),
    "lamp": _prune("gradual pruning by layer-adaptive magnitude", "magnitude", scope="lamp"),
    "granet": _prune("pruned and regrown by the gradient", "granet", gradients=1),
    "chtss": _prune("Cannistraci-Hebb training, density falling from one half", "chtss", start=0.5),
    "rewind": Arm("pruned by magnitude after every training, what is left rewound", start="rewound"),
    "dense": Arm("every weight, to the end", start="dense"),
}
"""What has more weights on the way."""

_LOCAL = "hidden layers wired by correlation, every unit to what is near"
_WIRINGS: dict[Any, str] = {"correlated": "first layer wired by correlation", "local": _LOCAL}

WIRED = {
    f"{name}-{wiring}": dataclasses.replace(SPARSE[name], what=f"{SPARSE[name].what}; {what}", wiring=wiring)
    for wiring, what in _WIRINGS.items()
    for name in ("static", "set", "rigl", "chts", "sparse-momentum")
    if f"{name}-{wiring}" not in SPARSE
}
"""What starts sparse in networks that are wired by the correlation of the pixels; by name only."""

ARMS = {**SPARSE, **DENSE, **WIRED}


PUBLISHED: dict[tuple[str, tuple[int, ...]], dict[str, float]] = {
    ("mnist", (784, 1568, 1568, 1568, 10)): {
        **{"set": 98.14, "rigl": 98.61, "chts": 98.81, "chtss": 98.83, "dense": 98.78},
    },
    ("cifar10", (3072, 3072, 3072, 3072, 10)): {
        **{"set": 62.70, "rigl": 63.90, "granet": 69.31, "chts": 69.97, "chtss": 71.29, "dense": 62.85},
    },
}
"""Test accuracies (%) of the authors of Cannistraci-Hebb training (arXiv 2501.19107) by data set,
sizes and arm: 1 % of the weights and a dense output layer, 100 epochs, of which the best on the test
samples counts."""


def published(dataset: str, sizes: Sequence[int]) -> Mapping[str, float]:
    """What is published of a network on a data set, by arm; nothing of most."""
    return PUBLISHED.get((dataset, tuple(sizes)), {})


def names_of(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The arms that ``--methods`` names; ``all``, ``sparse-start`` and ``dense-start`` stand for several.

    Raises:
      InputError: there is no such arm, or one is named twice.
    """
    groups = {"all": {**SPARSE, **DENSE}, "sparse-start": SPARSE, "dense-start": DENSE}
    names = [name for one in asked for name in groups.get(one, (one,))]
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        choice = ", ".join((*groups, *ARMS))
        raise InputError(f"--methods: unknown method {unknown[0]!r}: choose from {choice}")
    if len(set(names)) < len(names):
        raise InputError("--methods names a method twice")
    return tuple(names)


def make_method(arm: Arm, density: float, steps: int, every: int) -> Any:
    """The method of an arm for so many steps of training; None without one.

    Raises:
      InputError: the training is too short for it.
    """
    from jaxnet import methods

    if arm.method is None:
        return None
    begin, end = (max(1, round(share * steps)) for share in (PRUNED_FROM, PRUNED_UNTIL))
    until = max(1, int(EXCHANGED_UNTIL * steps))
    values: dict[str, dict[str, Any]] = {
        "exchange": {"every": every, "until": until},
        "prune": {"density": density, "every": every, "begin": begin, "end": end},
        "both": {"density": density, "every": every, "begin": begin, "end": end, "until": until},
        "once": {"density": density},
        "none": {},
    }
    if arm.schedule in ("exchange", "both") and until <= every:
        raise InputError(
            f"{arm.method} changes weights every {every} steps, and {steps} are too few: train longer"
        )
    try:
        return methods.make(arm.method, **values[arm.schedule], **dict(arm.options))
    except ValueError as error:
        raise InputError(f"{arm.method}: {error}") from None


def check_time(name: str, method: Any, spec: Any, steps: int, epochs: int) -> None:
    """Raises InputError where a network is as small as it should be in its last epoch only, or never."""
    if method is None:
        return
    layers = [(i * o, i * o) for i, o in zip(spec.sizes[:-1], spec.sizes[1:], strict=True)]
    wanted, there = (method.budget(step, layers) for step in (10**9, steps - steps // epochs))
    if there > wanted:
        raise InputError(
            f"{name}: {there} weights are left before the last epoch instead of {wanted}: train longer, "
            "or lower --every"
        )


def small_sizes(sizes: tuple[int, ...], weights: int) -> tuple[int, ...]:
    """Hidden layers in the same proportions, of a dense network with at most so many weights.

    None is narrower than both the first and the output: a bottleneck would be to blame, not the size.

    Raises:
      InputError: not even one unit per layer is possible.
    """
    best = None
    for first in range(1, sizes[1] + 1):
        hidden = (max(round(first * size / sizes[1]), min(first, sizes[-1])) for size in sizes[1:-1])
        found = (sizes[0], *hidden, sizes[-1])
        if sum(dense_counts(found)) > weights:
            break
        best = found
    if best is None:
        raise InputError(f"{weights} weights are too few for a dense network from {sizes[0]} to {sizes[-1]}")
    return best


def flops(arm: Arm, method: Any, existed: list[int], positions: int, batch: int) -> float:
    """Multiplications and additions of the products of a training run of one network.

    Six per weight, sample and step: forward, and back to the inputs and to the weights; the same
    for all positions where a change asks for the dense gradient. What the bookkeeping of a
    method costs besides is in the time only.

    Args:
      arm: of the network.
      method: what changes it.
      existed: weights before the first step, after it, and so on: :func:`budgets`.
      positions: of all layers.
      batch: samples per step.
    """
    changes = 0
    if method is not None:
        steps = np.arange(1, len(existed))
        changes = 1 if arm.schedule == "once" else int(np.sum(np.asarray(method.due(steps))))
    return 6.0 * batch * (sum(existed[:-1]) + changes * arm.gradients * positions)


def budgets(method: Any, layers: list[tuple[int, int]], steps: int) -> list[int]:
    """Weights of a network before the first step, after it, and so on."""
    if method is None:
        return [sum(there for there, _ in layers)] * (steps + 1)
    return [method.budget(step, layers) for step in range(steps + 1)]
