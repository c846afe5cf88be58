"""What a hunt trains: portfolios of architectures, stages, and the networks of every compiled program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnet.allocation import allocate
from jaxnet.sweep.grid import Grid
from jaxnet.sweep.halving import rung_epochs
from jaxnet.sweep.table import sizes_of

Entry = dict[str, Any]
"""How a job is trained, JSON-like; see :data:`jaxnet.sweep.bench.Entry`."""

Groups = Mapping[str, tuple[tuple[int, ...], ...]]
"""Architectures of equal depth that share a compiled program, by the name of the group."""

_LATER: Mapping[str, Sequence[tuple[int, ...]]] = {
    "one-hidden": [(h,) for h in (16, 32, 64, 128, 256, 512)],
    "wide": [(1024,), (2048,)],
    "funnel": [(a, b) for a in (128, 256, 512) for b in (32, 64, 128) if b < a],
    "deep-funnel": [(a, b, c) for a in (256, 512) for b in (128, 256) for c in (32, 64) if b < a],
    "column": [(64,) * 5],
}

_DESCRIBED: Mapping[str, Sequence[tuple[int, ...]]] = {
    "one-hidden": [(h,) for h in (16, 32, 64, 128, 256)],
    "two-hidden": [(a, b) for a in (128, 256) for b in (64, 128)],
    **{f"depth-{depth}": [tuple(max(10, 512 >> i) for i in range(depth))] for depth in (1, 2, 3, 4)},
}

PORTFOLIOS = {"later": _LATER, "described": _DESCRIBED}
"""Hidden layers of the original's architectures: the 28 of its later code, the 18 of the texts on it. Both
begin with five networks without hidden layers, of 1 to 5 times as many outputs as there are classes."""


def portfolio(name: str, features: int, classes: int) -> Groups:
    """The architectures of one of the :data:`PORTFOLIOS`, in groups of equal depth and like widths."""
    # outputs beyond the classes never are the right answer, but count in the softmax
    direct = tuple((features, k * classes) for k in (1, 2, 3, 4, 5))
    others = {
        group: tuple((features, *hidden, classes) for hidden in nets)
        for group, nets in PORTFOLIOS[name].items()
    }
    return {"direct": direct, **others}


class Stage(NamedTuple):
    """Densities trained for a number of epochs; with halving each rung is a stage of its own."""

    name: str  # part of rows; the same for all rungs
    number: int  # place among the stages
    epochs: int  # passes over the training samples
    densities: tuple[float, ...]  # ascending
    start: int = 0  # passes that its networks have behind them, from the rung before
    last: bool = True  # no rung follows

    def rungs(self, factor: int | None) -> list[Stage]:
        """The rungs of successive halving, numbered on from this stage; without a factor the stage itself."""
        ends = rung_epochs(self.epochs, factor)
        every = enumerate(zip([0, *ends[:-1]], ends, strict=True), self.number)
        return [self._replace(number=n, epochs=e, start=s, last=e == self.epochs) for n, (s, e) in every]


class Job(NamedTuple):
    """The networks of one compiled program."""

    stage: Stage
    number: int  # place among the jobs of the stage
    group: str  # name of its architectures
    grid: Grid  # what can be drawn, with every seed
    chosen: tuple[int, ...] | None = None  # numbers, ascending, of those left in a rung; None: all

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers of the networks in the grid."""
        return range(len(self.grid)) if self.chosen is None else self.chosen

    @property
    def key(self) -> str:
        """Name within the hunt."""
        return f"{self.stage.name}/{self.group}"

    @property
    def place(self) -> tuple[int, int]:
        """What the names of its parts begin with."""
        return self.stage.number, self.number

    def find(self, row: Mapping[str, Any]) -> int:
        """Number of the network of a row."""
        return self.grid.find(sizes_of(row["architecture"]), row["density"], row["seed"])


def make_jobs(
    stage: Stage, groups: Groups, seeds: range, mask: str, allocation: str
) -> tuple[list[Job], list[tuple[str, float]]]:
    """A job for each group that has anything to train.

    Beside them the architectures with densities at which exact counts would leave a layer without any weight.
    """
    jobs, left_out = [], list[tuple[str, float]]()
    for number, (group, architectures) in enumerate(groups.items()):
        members = []
        for architecture, density in ((a, d) for a in architectures for d in stage.densities):
            try:
                if mask != "bernoulli":
                    allocate(architecture, density, allocation)
                members.append((architecture, density))
            except ValueError:
                left_out.append(("-".join(map(str, architecture)), density))
        if members:
            jobs.append(Job(stage, number, group, Grid(tuple(members), seeds, mask, allocation)))
    return jobs, left_out


def find_entries(plan: Iterable[Mapping[str, Any]], job: Job) -> list[Entry]:
    """How a hunt trains a job's networks, rung by rung up to its own, as far as it is planned."""
    rungs = [s for s in plan if s["name"] == job.stage.name and s["epochs"] <= job.stage.epochs]
    return [
        {**program, "start": rung["start"], "epochs": rung["epochs"]}
        for rung in sorted(rungs, key=lambda s: int(s["epochs"]))
        for program in rung["programs"]
        if program["group"] == job.group
    ]


def spaced(low: float, high: float, points: int) -> tuple[float, ...]:
    """``points`` densities from ``low`` to ``high`` in equal ratios, rounded to three digits."""
    return tuple(dict.fromkeys(float(f"{density:.3g}") for density in np.geomspace(low, high, points)))
