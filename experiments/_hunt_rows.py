"""The table of a hunt, and what is looked for in it column by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments._hunt_plan import RANGES, Job, epochs_of, label, sizes_of
from jaxnet.store import Table
from jaxnet.sweep.halving import Rung, best_first
from jaxnet.sweep.table import MEASURES, grouped, measured, values, where

SCHEMA = pa.schema(
    [
        *(("seed", pa.int64()), ("architecture", pa.string()), ("group", pa.string())),
        *(("density", pa.float64()), ("stage", pa.string()), ("epochs", pa.int32())),
        *(("mask", pa.string()), ("split", pa.string()), *MEASURES),
    ]
)
"""Columns. ``group``: architectures that share a program. ``density``: as asked for. ``split``: samples
behind ``accuracy``; extrema are those on training samples. With ``--halving`` a network has a row for
every rung that it reached, which ``epochs`` tells apart."""

PROMISING = {"accuracy": 0.15, "patchability": 0.2}
"""A coarse density is promising if one of its networks reaches both."""


def make_rows(job: Job, numbers: Sequence[int], row: Any, split: str, judged: int) -> pa.Table:
    """One row per network, of their :class:`jaxnet.sweep.Row`; ``judged`` samples are behind the accuracy."""
    networks, stage = [job.grid.network(n) for n in numbers], job.stage
    known = {"group": job.group, "stage": stage.name, "epochs": stage.epochs, "mask": job.grid.mask}
    columns = {name: [value] * len(networks) for name, value in {**known, "split": split}.items()}
    columns |= {
        "seed": [seed for _, _, seed in networks],
        "architecture": [label(architecture) for architecture, _, _ in networks],
        "density": [density for _, density, _ in networks],
        **measured(row, judged),
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def table_of(out: Path) -> Table:
    """The rows of the hunt in a folder, a part per call."""
    return Table(out, SCHEMA)


def finalists(config: Any, rows: pa.Table) -> pa.Table:
    """Rows of networks that trained to the end: only these are ranked."""
    stages = pc.unique(rows["stage"]).to_pylist()
    found = [where(rows, stage=name, epochs=epochs_of(config, name)) for name in stages]
    return pa.concat_tables([rows.slice(0, 0), *found])


def scopes(table: pa.Table) -> list[tuple[str, float]]:
    """Stages and densities, ascending by density, then stage."""
    return sorted(grouped(table, "stage", "density"), key=lambda scope: (scope[1], scope[0]))


def rung(table: pa.Table) -> Rung:
    """Seeds and accuracies of the networks that may be compared: of one architecture and density."""
    seeds, accuracy = values(table, "seed"), values(table, "accuracy")
    return {key: (seeds[at], accuracy[at]) for key, at in grouped(table, "architecture", "density").items()}


def surviving(table: pa.Table, factor: int, keep: int | None = None) -> np.ndarray:
    """Places of the networks that go on: of every architecture and density the best by accuracy.

    One in ``factor`` goes on, rounded up, or ``keep``; of the diverged none; equal ones by seed.
    """
    groups = zip(rung(table).values(), grouped(table, "architecture", "density").values(), strict=True)
    found = [at[best_first(*here)][: -(-len(at) // factor) if keep is None else keep] for here, at in groups]
    return np.concatenate([np.zeros(0, np.int64), *found])


def numbers_in(job: Job, table: pa.Table) -> tuple[int, ...]:
    """Numbers, ascending, of the networks of some rows in the grid of their job."""
    members, start = job.grid.members, job.grid.seeds.start
    found = [
        (seeds - start) * len(members) + members.index((sizes_of(architecture), density))
        for (architecture, density), (seeds, _) in rung(table).items()
    ]
    return tuple(np.sort(np.concatenate(found)).tolist()) if found else ()


def promising_ranges(table: pa.Table) -> list[str]:
    """Names of :data:`RANGES` to search finely after the coarse rows."""
    for name, least in PROMISING.items():
        table = table.filter(pc.greater_equal(table[name], least))
    names = []
    for density in sorted(pc.unique(table["density"]).to_pylist()):
        within = [n for n, (low, high) in RANGES.items() if low <= density <= high]
        # 0.005 and 0.05 belong to the denser range
        names += within[-1:]
    return list(dict.fromkeys(names))
