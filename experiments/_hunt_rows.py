"""The table of a hunt, and what is looked for in it column by column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments._hunt_plan import RANGES, epochs_of
from jaxnet.lab.shown import percent
from jaxnet.store import Table
from jaxnet.sweep.table import MEASURES, leading, sound, where

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


def table_of(out: Path) -> Table:
    """The rows of the hunt in a folder, a part per call."""
    return Table(out, SCHEMA)


def finalists(config: Any, rows: pa.Table) -> pa.Table:
    """Rows of networks that trained to the end: only these are ranked."""
    stages = pc.unique(rows["stage"]).to_pylist()
    found = [where(rows, stage=name, epochs=epochs_of(config, name)) for name in stages]
    return pa.concat_tables([rows.slice(0, 0), *found])


def final_rows(config: Any, rows: pa.Table) -> pa.Table:
    """The :func:`finalists`; networks of the furthest rung where there is none yet."""
    found = finalists(config, rows)
    return found if len(found) else where(rows, epochs=pc.max(rows["epochs"]))


def leaders(config: Any, rows: pa.Table) -> np.ndarray:
    """Places of the rows that are among the best of their stage and density by anything."""
    return leading(rows, config.top_k, config.min_accuracy, "stage", "density")


def promising_lines(rows: pa.Table, least: float | None) -> list[str]:
    """A line for every network of more patchability than asked for, the most patchable first."""
    if least is None:
        return []
    found = rows.filter(pc.greater(rows["patchability"], least)).sort_by([("patchability", "descending")])
    return [
        f"promising: {row['architecture']}, density {row['density']:g}, seed {row['seed']}: patchability "
        f"{row['patchability']:.3f}, accuracy {percent(row['accuracy'])} %"
        for row in sound(found).to_pylist()
    ]


def promising_ranges(table: pa.Table) -> list[str]:
    """Names of :data:`RANGES` to search finely after the coarse rows."""
    for name, least in PROMISING.items():
        table = table.filter(pc.greater_equal(table[name], least))
    names = []
    for density in sorted(pc.unique(table["density"]).to_pylist()):
        within = [n for n, (low, high) in RANGES.items() if low <= density <= high]
        names += within[-1:]  # 0.005 and 0.05 belong to the denser range
    return list(dict.fromkeys(names))
