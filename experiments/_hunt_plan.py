"""What a seed hunt trains: architectures, densities, and which of them share a compiled program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from experiments._shown import sound
from jaxnet.masks import allocate
from jaxnet.sweep import Family, make_family

COARSE = (0.001, 0.01, 0.1)
"""Densities of the coarse part of ``--mode sweep``."""

RANGES = {"ultra": (0.0005, 0.005), "moderate": (0.005, 0.05), "dense": (0.05, 0.2)}
"""Densities searched finely where a coarse density within is promising."""

PROMISING_ACCURACY, PROMISING_PATCHABILITY = 0.15, 0.2
"""A coarse density is promising if one of its networks reaches both."""

Architecture = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Architectures of equal depth that share one compiled program."""

    name: str
    architectures: tuple[Architecture, ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Densities trained for a number of epochs; with ``--halving`` each rung is a stage of its own.

    Attributes:
      name: part of rows; the same for all rungs.
      number: place among the stages.
      epochs: passes over the training samples.
      densities: ascending.
      start: passes that its networks have behind them, from the rung before.
      last: whether no rung follows.
    """

    name: str
    number: int
    epochs: int
    densities: tuple[float, ...]
    start: int = 0
    last: bool = True

    @property
    def passes(self) -> int:
        """Passes over the training samples in this stage itself."""
        return self.epochs - self.start

    def rungs(self, factor: int | None) -> tuple[Stage, ...]:
        """The rungs of successive halving, numbered on from this stage; without a factor the stage itself."""
        ends = rung_epochs(self.epochs, factor)
        return tuple(
            dataclasses.replace(
                self, number=self.number + k, epochs=end, start=start, last=end == self.epochs
            )
            for k, (start, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True))
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """The networks of one compiled program: every member with every seed, a seed's members together.

    Attributes:
      stage: densities and epochs.
      number: place among the jobs of the stage.
      group: name and architectures.
      members: architecture and density of what can be drawn.
      seeds: their numbers.
      mask: rule of the masks.
      chosen: numbers, ascending, in the grid of seeds and members, of the networks that
        are left in a rung; None: all.
    """

    stage: Stage
    number: int
    group: Group
    members: tuple[tuple[Architecture, float], ...]
    seeds: range
    mask: str
    chosen: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of networks."""
        return len(self.members) * len(self.seeds) if self.chosen is None else len(self.chosen)

    @property
    def key(self) -> str:
        """Name within the hunt."""
        return f"{self.stage.name}/{self.group.name}"

    def grid(self, index: int) -> int:
        """Number of network ``index`` in the grid of seeds and members."""
        return index if self.chosen is None else self.chosen[index]

    def network(self, index: int) -> tuple[Architecture, float, int]:
        """Architecture, density and seed of network ``index``."""
        seed, member = divmod(self.grid(index), len(self.members))
        return (*self.members[member], self.seeds[seed])

    def place(self, row: dict[str, Any]) -> int:
        """Number of the network of a row in the grid of seeds and members."""
        architecture = tuple(int(units) for units in row["architecture"].split("-"))
        member = self.members.index((architecture, row["density"]))
        return self.seeds.index(row["seed"]) * len(self.members) + member

    def find(self, row: dict[str, Any]) -> int:
        """Index of the network of a row."""
        place = self.place(row)
        return place if self.chosen is None else self.chosen.index(place)

    def narrowed(self, rows: Sequence[dict[str, Any]]) -> Job:
        """The job with the networks of these rows only."""
        return dataclasses.replace(self, chosen=tuple(sorted(self.place(row) for row in rows)))

    def family(self) -> Family:
        """The padded shapes that all members fit into."""
        densities = sorted({density for _, density in self.members})
        return make_family(list(dict.fromkeys(a for a, _ in self.members)), densities, self.mask)


def portfolio(features: int, classes: int) -> tuple[Group, ...]:
    """The original's families: 28 architectures in 6 groups of equal depth and like widths."""

    def nets(*hidden: tuple[int, ...]) -> tuple[Architecture, ...]:
        return tuple((features, *h, classes) for h in hidden)

    funnels = [(h1, h2) for h1 in (128, 256, 512) for h2 in (32, 64, 128) if h2 < h1]
    deep = [(a, b, c) for a in (256, 512) for b in (128, 256) for c in (32, 64) if c < b < a]
    return (
        # outputs beyond the classes never are the right answer, but count in the softmax
        Group("direct", tuple((features, k * classes) for k in (1, 2, 3, 4, 5))),
        Group("one-hidden", nets(*((h,) for h in (16, 32, 64, 128, 256, 512)))),
        Group("wide", nets((1024,), (2048,))),
        Group("funnel", nets(*funnels)),
        Group("deep-funnel", nets(*deep)),
        Group("column", nets((64,) * 5)),
    )


def make_jobs(
    stage: Stage, groups: Sequence[Group], seeds: range, mask: str
) -> tuple[list[Job], list[tuple[Architecture, float]]]:
    """The jobs of a stage, and what cannot be drawn.

    Returns:
      One job per group that has anything to train, and the architectures with
      densities at which exact counts would leave a layer without any weight.
    """
    jobs, left_out = [], []
    for number, group in enumerate(groups):
        members = []
        for architecture in group.architectures:
            for density in stage.densities:
                if mask == "bernoulli" or _drawable(architecture, density):
                    members.append((architecture, density))
                else:
                    left_out.append((architecture, density))
        if members:
            jobs.append(Job(stage, number, group, tuple(members), seeds, mask))
    return jobs, left_out


def rung_epochs(epochs: int, factor: int | None) -> tuple[int, ...]:
    """Epochs after which networks are compared: ``epochs`` divided by the factor again and again.

    >>> rung_epochs(9, 3), rung_epochs(20, 4), rung_epochs(9, None)
    ((1, 3, 9), (1, 5, 20), (9,))
    """
    ends = [epochs]
    while factor is not None and ends[0] >= factor:
        ends.insert(0, ends[0] // factor)
    return tuple(ends)


def survivors(rows: Sequence[dict[str, Any]], factor: int, keep: int | None = None) -> list[dict[str, Any]]:
    """Rows of the networks that go on: of every architecture and density the best by accuracy.

    One in ``factor`` goes on, rounded up, or ``keep``; of the diverged none. Only
    networks of one architecture and density are compared: after few epochs a large
    network is often behind a small one that it will overtake. Equal networks go on
    in the order of their seeds.
    """
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["architecture"], row["density"]), []).append(row)
    found = []
    for group in groups.values():
        number = -(-len(group) // factor) if keep is None else keep
        found += sorted(sound(group), key=lambda r: (-r["accuracy"], r["seed"]))[:number]
    return found


def spaced(low: float, high: float, points: int) -> tuple[float, ...]:
    """``points`` densities from ``low`` to ``high`` in equal ratios, rounded to three digits."""
    ratio = math.log(high / low)
    between = (low * math.exp(ratio * k / (points - 1)) for k in range(points)) if points > 1 else (low,)
    return tuple(dict.fromkeys(float(f"{density:.3g}") for density in between))


def promising_ranges(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of :data:`RANGES` to search finely after the coarse rows."""
    found = {
        row["density"]
        for row in rows
        if row["accuracy"] >= PROMISING_ACCURACY and row["patchability"] >= PROMISING_PATCHABILITY
    }
    names = []
    for density in sorted(found):
        within = [n for n, (low, high) in RANGES.items() if low <= density <= high]
        # 0.005 and 0.05 belong to the denser range
        names += within[-1:]
    return list(dict.fromkeys(names))


def label(architecture: Sequence[int]) -> str:
    """``784-128-10``."""
    return "-".join(map(str, architecture))


def network_id(row: dict[str, Any]) -> str:
    """What names a network within a hunt."""
    return f"{row['stage']}/{row['architecture']}/{row['density']!r}/{row['seed']}"


def _drawable(architecture: Architecture, density: float) -> bool:
    try:
        allocate(architecture, density)
    except ValueError:
        return False
    return True
