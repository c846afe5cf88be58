"""Small runs of ``experiments.seed_hunt`` and how their results are read back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments._hunt_rows import SCHEMA
from experiments.seed_hunt import STUDY, Config
from jaxnet.kernels import PRODUCTS
from jaxnet.store import checkpoints
from jaxnet.sweep import load_winner
from tests.experiments.patched import compiling_once, read_json

SMALL: dict[str, Any] = {
    "sizes": (64, 24, 10),
    "densities": (0.1, 0.3),
    "num_seeds": 7,
    "epochs": 2,
    "chunk": 4,
    "top_k": 2,
    # not auto: what is measured as the fastest may change, and the last bits with it
    "kernel": "csr" if "csr" in PRODUCTS else "dense",
}
"""Digits, in seconds: 14 networks in 4 calls, the last one incomplete."""


class Hunted:
    """A finished hunt: what it printed and what lies in its folder."""

    def __init__(self, folder: Path, config: Config, lines: list[str]) -> None:
        self.folder, self.config, self.lines = folder, config, lines

    @property
    def summary(self) -> dict[str, Any]:
        """``summary.json``."""
        return read_json(self.folder / "summary.json")

    @property
    def table(self) -> list[dict[str, Any]]:
        """All rows, read by plain pyarrow as one data set."""
        return table(self.folder)

    def results(self) -> dict[str, Any]:
        """Everything that must be the same, bit for bit, whenever and wherever the hunt is done."""
        return results(self.folder)


class Hunter:
    """Runs hunts in this process, in folders below ``root``."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache

    def __call__(self, name: str, **changes: Any) -> Hunted:
        """Runs the small configuration with ``changes`` in the folder ``name``."""
        folder = Path(changes.pop("out", self.root / name))
        config = Config(**{**SMALL, "out": str(folder), **changes})
        lines: list[str] = []
        with compiling_once(self.cache):
            STUDY.main(config, lines.append)
        return Hunted(folder, config, lines)


def table(folder: Path) -> list[dict[str, Any]]:
    """See :attr:`Hunted.table`."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "table").to_pylist()
    return rows


def results(folder: Path) -> dict[str, Any]:
    """See :meth:`Hunted.results`."""
    summary = read_json(folder / "summary.json")
    same = ("ranking", "winners", "distribution", "selection", "aggregate", "complete", "networks")
    return {
        "table": table(folder),
        "parts": sorted(path.name for path in (folder / "table").iterdir()),
        **{name: summary[name] for name in same},
        "networks on disk": {
            found.name: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_winner(found.path)[1:])]
            for found in checkpoints(folder / "winners")
        },
    }


def row(seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    """A row of a table, made up."""
    known = {
        "architecture": "3-2",
        "group": "g",
        "density": 0.1,
        "stage": "s",
        "epochs": 1,
        "mask": "uniform",
    }
    measured = dict.fromkeys(("loss", "extrema_score", "dead", "saturated"), 0.5)
    counts = {**dict.fromkeys(("high", "low", "hidden", "biases"), 1), "nonzeros": 6}
    scores = {"patchability": 0.5 * (1 - accuracy), "efficiency": accuracy, "split": "validation"}
    layers = {"high_by_layer": [1], "low_by_layer": [1], "diverged": math.isnan(accuracy)}
    return {**known, **measured, **counts, **scores, **layers, "seed": seed, "accuracy": accuracy, **more}


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a hunt keeps them."""
    return pa.Table.from_pylist(rows, SCHEMA)


def as_flags(changes: dict[str, Any]) -> list[str]:
    """The command line of the small configuration."""
    flags: list[str] = []
    for name, value in {**SMALL, **changes}.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return flags
