"""What a seed hunt trains: architectures, densities, and which of them share a compiled program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import jaxnet
from jaxnet.errors import InputError
from jaxnet.lab.shown import sizes_label

COARSE = (0.001, 0.01, 0.1)
"""Densities of the coarse part of ``--mode sweep``."""

RANGES = {"ultra": (0.0005, 0.005), "moderate": (0.005, 0.05), "dense": (0.05, 0.2)}
"""Densities searched finely where a coarse density within is promising."""

LEAST_DRAWN, DRAWN_PER_SEED = 100_000, 2_000
"""With ``--require-reach``: scaffolds of an architecture and density that are drawn before it is given up."""

ACTIVATION, PLAN = "relu", "plan.json"

Entry = dict[str, Any]
"""How a job is trained, as plan.json has it."""

Groups = Mapping[str, tuple[tuple[int, ...], ...]]
"""Architectures of equal depth that share a compiled program, by the name of the group."""


class Rules(NamedTuple):
    """How masks and values are drawn, and which samples rank networks."""

    mask: str
    init: str
    split: str


def rules_of(config: Any) -> Rules:
    """The original's ``seed`` protocol reads the test samples for every network."""
    if config.protocol == "seed":
        return Rules("bernoulli", "dense-fan-in", "test")
    mask = config.allocation if config.allocation == "constant-fan-in" else "uniform"
    return Rules(mask, "sparse-fan-in", "validation")


def settings(values: Mapping[str, Any]) -> Any:
    """A configuration from what JSON keeps of it."""
    return SimpleNamespace(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Stage(NamedTuple):
    """Densities trained for a number of epochs; with ``--halving`` each rung is a stage of its own."""

    name: str  # part of rows; the same for all rungs
    number: int  # place among the stages
    epochs: int  # passes over the training samples
    densities: tuple[float, ...]  # ascending
    start: int = 0  # passes that its networks have behind them, from the rung before
    last: bool = True  # no rung follows

    def rungs(self, factor: int | None) -> list[Stage]:
        """The rungs of successive halving, numbered on from this stage; without a factor the stage itself."""
        from jaxnet.sweep.halving import rung_epochs

        ends = rung_epochs(self.epochs, factor)
        every = enumerate(zip([0, *ends[:-1]], ends, strict=True), self.number)
        return [self._replace(number=n, epochs=e, start=s, last=e == self.epochs) for n, (s, e) in every]


class Job(NamedTuple):
    """The networks of one compiled program."""

    stage: Stage
    number: int  # place among the jobs of the stage
    group: str  # name of its architectures
    grid: jaxnet.sweep.Grid  # what can be drawn, with every seed
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
        from jaxnet.sweep.table import sizes_of

        return self.grid.find(sizes_of(row["architecture"]), row["density"], row["seed"])


def portfolio(features: int, classes: int) -> Groups:
    """The original's families: 28 architectures in 6 groups of equal depth and like widths."""
    hidden: dict[str, list[tuple[int, ...]]] = {
        "one-hidden": [(h,) for h in (16, 32, 64, 128, 256, 512)],
        "wide": [(1024,), (2048,)],
        "funnel": [(a, b) for a in (128, 256, 512) for b in (32, 64, 128) if b < a],
        "deep-funnel": [(a, b, c) for a in (256, 512) for b in (128, 256) for c in (32, 64) if b < a],
        "column": [(64,) * 5],
    }
    # outputs beyond the classes never are the right answer, but count in the softmax
    direct = tuple((features, k * classes) for k in (1, 2, 3, 4, 5))
    others = {name: tuple((features, *h, classes) for h in nets) for name, nets in hidden.items()}
    return {"direct": direct, **others}


def make_groups(config: Any, dataset: jaxnet.data.Dataset) -> Groups:
    """Architectures of a hunt; InputError where ``--sizes`` does not fit the data."""
    features, classes = dataset.num_features, dataset.num_classes
    sizes = config.sizes or (features, 128, classes)
    if sizes[0] != features or sizes[-1] < classes:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: it has {features} features "
            f"and {classes} classes, so give {features},...,{classes}"
        )
    groups: Groups = portfolio(features, classes) if config.portfolio else {"sizes": (tuple(sizes),)}
    if config.portfolio and config.method is not None:
        # what rewires networks must not find units that only pad them to the width of others
        return {sizes_label(a): (a,) for group in groups.values() for a in group}
    return groups


def make_jobs(
    stage: Stage, groups: Groups, seeds: range, config: Any
) -> tuple[list[Job], list[tuple[str, float]]]:
    """A job for each group that has anything to train.

    Beside them the architectures with densities at which exact counts would leave a layer without any weight.
    """
    jobs, left_out, mask = [], list[tuple[str, float]](), rules_of(config).mask
    for number, (group, architectures) in enumerate(groups.items()):
        members = []
        for architecture, density in ((a, d) for a in architectures for d in stage.densities):
            try:
                if mask != "bernoulli":
                    jaxnet.allocate(architecture, density, config.allocation)
                members.append((architecture, density))
            except ValueError:
                left_out.append((sizes_label(architecture), density))
        if members:
            grid = jaxnet.sweep.Grid(tuple(members), seeds, mask, config.allocation)
            jobs.append(Job(stage, number, group, grid))
    return jobs, left_out


def seeds_of(config: Any) -> range:
    """Seeds that networks are drawn from: with ``--require-reach`` as many as it takes."""
    if getattr(config, "require_reach", None) is None:
        return range(config.seed, config.seed + config.num_seeds)
    return range(config.seed, 2**32)


def check_reach(config: Any, jobs: Sequence[Job], classes: int) -> None:
    """Raises InputError where ``--require-reach`` asks for what no scaffold can have."""
    least = config.require_reach
    if least is None:
        return
    if least > classes:
        raise InputError(f"--require-reach must be at most {classes}, the classes there are: {least}")
    for job in jobs:
        for architecture, density in job.grid.members if job.grid.mask != "bernoulli" else ():
            last = jaxnet.allocate(architecture, density, config.allocation)[-1]
            if last < least:
                raise InputError(
                    f"--require-reach {least}: the last layer of {sizes_label(architecture)} has "
                    f"{last} weights at density {density:g}, so no scaffold reaches {least} classes"
                )


def reaching(config: Any, job: Job, classes: int) -> tuple[Job, int]:
    """The job with the networks that ``--require-reach`` leaves, and how many were drawn to find them.

    Raises:
      InputError: they are too few of those drawn.
    """
    rules, wanted = rules_of(config), config.num_seeds
    draw = jaxnet.sweep.DrawRules(rules.mask, rules.init, ACTIVATION)
    most = LEAST_DRAWN + DRAWN_PER_SEED * wanted
    try:
        found = jaxnet.sweep.reaching(job.grid, draw, config.require_reach, classes, wanted, most)
    except ValueError as error:
        raise InputError(f"--require-reach: {error}: lower it, or raise --densities") from None
    return job._replace(chosen=found.numbers), sum(found.drawn)


def first_densities(config: Any) -> tuple[float, ...]:
    """Densities that are trained first, ascending."""
    if config.mode == "range":
        lowest, highest = config.densities
        return spaced(lowest, highest, config.points or 5)
    return tuple(sorted(config.densities or (COARSE if config.mode == "sweep" else (0.02,))))


def epochs_of(config: Any, stage: str) -> int:
    """Epochs of the networks of a stage that train to the end."""
    if config.mode != "sweep":
        return int(config.epochs or 5)
    return int((config.coarse_epochs or 3) if stage == "coarse" else (config.fine_epochs or 7))


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
