"""One network of a hunt again, alone, compared with its row."""

from __future__ import annotations

from typing import Any

from experiments import _hunt_plan as plans
from experiments._hunt_rows import SCHEMA, table_of
from experiments._hunt_train import Trainer
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.store.folder import CONFIG
from jaxnet.sweep.calls import Call
from jaxnet.sweep.hunt import PLAN
from jaxnet.sweep.jobs import Stage, find_entries
from jaxnet.sweep.replayed import TOLERANCE, close, find_row, same


def replay(config: Any) -> dict[str, Any]:
    """Trains the network of one row once more; InputError where there is no such hunt or row.

    Returns:
      ``title``, ``compared`` (column -> both values), ``equal`` (to the last bit), ``agrees``
      (equal, or alone and within :data:`TOLERANCE`), ``verdict``.
    """
    out, alone = user_path(config.out), not config.same_program
    if not (out / CONFIG).exists() or not (out / PLAN).exists():
        raise InputError(f"{out}: there is no hunt here: give the folder that --out named")
    stored, plan = read_json(out / CONFIG), read_json(out / PLAN)["stages"]
    place = {"data_dir": config.data_dir, "dataset": config.dataset or stored["dataset"]}
    hunt = plans.settings({**stored, **place, "memory_budget": None})
    trainer, row = (
        Trainer(hunt, stored["data_fingerprint"]),
        find_row(table_of(out).read(), vars(config), out),
    )
    rung = next(s for s in plan if (s["name"], s["epochs"]) == (row["stage"], row["epochs"]))
    stage = Stage(rung["name"], 0, rung["epochs"], tuple(rung["densities"]))
    jobs, _ = plans.make_jobs(stage, plans.make_groups(hunt, trainer.dataset), plans.seeds_of(hunt), hunt)
    job = next(j for j in jobs if j.group == row["group"])
    entries = find_entries(plan, job)
    if alone:  # all epochs at one go
        entries = [{**entries[-1], "chunk": 1, "start": 0}]
    again = trainer.again(Call(job, [job.find(row)], entries))[0].to_pylist()[0]
    compared = {name: (row[name], again[name]) for name in SCHEMA.names}
    differ = ", ".join(name for name, both in compared.items() if not same(*both))
    diverged = row["diverged"] and again["diverged"]
    alike = alone and all(close(name, *both, diverged) for name, both in compared.items())
    how = f"({entries[-1]['kernel']} kernel, {'alone' if alone else 'the program of the hunt'})"
    shown = ", ".join(f"{name} {value:g}" for name, value in TOLERANCE.items())
    verdict = f"equal within {shown}, last bits differ in {differ}" if alike else f"different in {differ}"
    return {
        "title": f"{row['architecture']}, density {row['density']:g}, seed {row['seed']}, {row['stage']}",
        "compared": compared,
        "equal": not differ,
        "agrees": not differ or alike,
        "verdict": f"{verdict if differ else 'equal to the last bit'} {how}",
    }
