"""Small runs of ``experiments.cliff_rescue`` and how their results are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.cliff_rescue import ARMS, STUDY, Config
from tests.experiments.patched import compiling_once, read_json

SMALL: dict[str, Any] = {
    "dataset": "digits",
    "sizes": (64, 12, 8, 10),
    "density": 0.2,
    "num_seeds": 3,
    "epochs": 5,
    "grow_every": 2,
    "grow_fraction": 0.1,
    "batch_size": 64,
    "kernel": "dense",
}
"""Digits, in seconds, every arm."""


def run(cache: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Runs the small configuration with ``changes``; its summary as it lies on disk."""
    with compiling_once(cache):
        STUDY.main(Config(**{**SMALL, "out": str(out), **changes}), lambda line: None)
    return read_json(out / "summary.json")


def as_flags(changes: dict[str, Any]) -> list[str]:
    """The command line of the small configuration."""
    flags: list[str] = []
    for name, value in {**SMALL, **changes}.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return flags


def same(folder: Path) -> tuple[bytes, Any]:
    """What must be the same whenever the run is done."""
    return (folder / "metrics.jsonl").read_bytes(), read_json(folder / "summary.json")["arms"]


__all__ = ["ARMS", "SMALL", "as_flags", "run", "same"]
