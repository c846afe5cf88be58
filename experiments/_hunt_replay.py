"""One network of a hunt again, alone, compared with its row."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._hunt_kept import Row
from experiments._hunt_plan import Job, Stage, make_jobs, network_id
from experiments._hunt_run import PLAN
from experiments._hunt_setup import (
    Rules,
    find_entries,
    make_groups,
    make_rows,
    make_splits,
    train_again,
)
from experiments._hunt_table import SCHEMA, HuntTable
from experiments._population import load
from experiments.seed_hunt import Config, ReplayConfig
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.records import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

TOLERANCE = {"accuracy": 0.02, "loss": 0.05, "extrema_score": 0.05, "dead": 0.05, "saturated": 0.05}
"""How far a network trained alone may differ from its row (the loss relatively, where it is above 1).

XLA may take sums in another order in a program for one network than in one for many, and training
makes more of the last bit. In the hunt's own program the bits are the same. What exists is equal always."""

_DERIVED = ("high", "low", "patchability", "efficiency")  # follow from the others


def replay(config: ReplayConfig) -> dict[str, Any]:
    """Trains the network of one row once more.

    Returns:
      ``title``, ``compared`` (column -> both values), ``equal`` (to the last
      bit), ``agrees`` (equal, or alone and within :data:`TOLERANCE`),
      ``verdict``.

    Raises:
      InputError: there is no such hunt or row, or the data have changed.
    """
    out = user_path(config.out)
    stored = read_config(out)
    hunt = dataclasses.replace(
        stored[0], data_dir=config.data_dir, dataset=config.dataset or stored[0].dataset
    )
    dataset = load(hunt)
    if dataset.fingerprint != stored[1]:
        raise InputError(
            f"{out}: the hunt was on other samples (fingerprint {stored[1]}) than {hunt.dataset} holds now "
            f"({dataset.fingerprint}): give the right --data-dir or --dataset"
        )
    row = find_row(HuntTable(out).read()[0], config, out)
    plan = read_json(out / PLAN)["stages"]
    rung = next(s for s in plan if (s["name"], s["epochs"]) == (row["stage"], row["epochs"]))
    stage = Stage(rung["name"], 0, rung["epochs"], tuple(rung["densities"]))
    seeds = range(hunt.seed, hunt.seed + hunt.num_seeds)
    jobs, _ = make_jobs(stage, make_groups(hunt, dataset), seeds, Rules.of(hunt.protocol).mask)
    job: Job = next(j for j in jobs if j.group.name == row["group"])
    entries = find_entries(plan, row["stage"], row["group"], row["epochs"])
    entry = entries[-1]
    if not config.same_program:  # alone, all epochs at one go
        entries = [{**entry, "chunk": 1, "start": 0}]
    splits = make_splits(hunt, dataset)
    indices = [job.find(row)]
    trained = train_again(hunt, job, indices, entries, splits)
    again = make_rows(job, indices, trained, row["split"], splits[1].size)[0]
    compared = {name: (row[name], again[name]) for name in SCHEMA.names}
    differ = ", ".join(name for name, (a, b) in compared.items() if not _same(a, b))
    both = row["diverged"] and again["diverged"]
    close = not config.same_program and all(_close(name, a, b, both) for name, (a, b) in compared.items())
    how = f"{entry['kernel']} kernel, {'the program of the hunt' if config.same_program else 'alone'}"
    if not differ:
        verdict = f"equal to the last bit ({how})"
    elif close:
        verdict = f"equal within {_shown(TOLERANCE)}, last bits differ in {differ} ({how})"
    else:
        verdict = f"different in {differ} ({how})"
    title = f"{row['architecture']}, density {row['density']:g}, seed {row['seed']}, {row['stage']}"
    return {
        "title": title,
        "compared": compared,
        "equal": not differ,
        "agrees": not differ or close,
        "verdict": verdict,
    }


def read_config(out: Path) -> tuple[Config, str]:
    """The configuration of the hunt in a folder, and the fingerprint of its data.

    Raises:
      InputError: there is no hunt.
    """
    if not (out / CONFIG).exists() or not (out / PLAN).exists():
        raise InputError(f"{out}: there is no hunt here: give the folder that --out named")
    stored = read_json(out / CONFIG)
    fields = {f.name for f in dataclasses.fields(Config)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in fields
    }
    return Config(**values, out=str(out)), str(stored["data_fingerprint"])


def find_row(rows: Sequence[Row], config: ReplayConfig, out: Path) -> Row:
    """The one row that is meant.

    Raises:
      InputError: there is none, or more than one.
    """
    wanted = {
        "seed": config.seed,
        "architecture": config.architecture,
        "density": config.density,
        "stage": config.stage,
    }
    found = [row for row in rows if all(v is None or row[k] == v for k, v in wanted.items())]
    # of a network that went through several rungs of --halving the last row
    found = list({network_id(row): row for row in sorted(found, key=lambda r: int(r["epochs"]))}.values())
    asked = ", ".join(f"{k} {v}" for k, v in wanted.items() if v is not None)
    if not found:
        seeds = [row["seed"] for row in rows]
        there = f"seeds {min(seeds)} to {max(seeds)}" if seeds else "no row at all"
        names = "; ".join(
            f"{k} {_some({str(row[k]) for row in rows})}"
            for k in ("architecture", "density", "stage")
            if rows
        )
        raise InputError(
            f"{out}: no row of {asked}: the table holds {there}" + (f"; {names}" if names else "")
        )
    if len(found) > 1:
        many = [k for k in ("architecture", "density", "stage") if len({row[k] for row in found}) > 1]
        choices = "; ".join(f"--{k} {_some({str(row[k]) for row in found})}" for k in many)
        raise InputError(f"{out}: {len(found)} rows of {asked}: say which by {choices}")
    return found[0]


def _some(values: set[str]) -> str:
    """``a|b|c|...``"""
    return "|".join(sorted(values)[:5]) + ("|..." if len(values) > 5 else "")


def _same(a: Any, b: Any) -> bool:
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or bool(a == b)


def _close(name: str, a: Any, b: Any, diverged: bool) -> bool:
    if name in _DERIVED or _same(a, b):
        return True
    if name not in TOLERANCE:
        return False
    if diverged:  # of what is not finite nothing is alike but that
        return True
    scale = max(1.0, abs(a)) if name == "loss" else 1.0
    return bool(abs(a - b) <= TOLERANCE[name] * scale)


def _shown(tolerance: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in tolerance.items())
