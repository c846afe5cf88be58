"""What a hunt found: ranking, distributions, and what selection is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments._hunt_plan import network_id
from experiments._hunt_rows import finalists, rung, scopes
from jaxnet.lab.report import render
from jaxnet.lab.shown import diverged_line, percent
from jaxnet.sweep.halving import place_of_best, rank_correlation
from jaxnet.sweep.selection import aggregates, distribution, selection
from jaxnet.sweep.table import CRITERIA, NAME, ranked, sound, where


def describe(hunt: Any, winners: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """What ``summary.json`` holds besides what every study's does, and the seconds."""
    config, plan, table = hunt.config, list(hunt.plan.values()), hunt.table.read()
    started = table.group_by(NAME).aggregate([]).num_rows  # a row for every rung, with --halving
    gone = where(table, diverged=True).select(NAME).to_pylist()
    more = {w["id"]: {"test_accuracy": w["test_accuracy"], "winner": w["path"]} for w in winners}
    rows = final_rows(finalists(config, table), table)
    judged = hunt.trainer.splits[1].size, len(hunt.dataset.y_test)

    def ranking(**scope: Any) -> dict[str, Any]:
        among, limits = where(hunt.best, **scope), (config.top_k, config.min_accuracy)
        best = {c: ranked(among, c, *limits).to_pylist() for c in CRITERIA}
        return {c: [{**row, **more[network_id(row)]} for row in found] for c, found in best.items()}

    every: list[tuple[dict[str, Any], Any]] = [
        ({"stage": s, "density": d}, where(rows, stage=s, density=d)) for s, d in scopes(rows)
    ]
    best = [ranking(**scope) for scope, _ in every]
    first = [selection(found, b["accuracy"], judged) for (_, found), b in zip(every, best, strict=True)]
    extra = {
        "plan": plan,
        "complete": hunt.complete,
        "networks": {
            "planned": sum(s["networks"] for s in plan if not s["start"]),
            "trained": started,
        },
        "diverged": list(dict.fromkeys(map(network_id, gone))),
        # all that follows is about the networks that trained to the end
        "halving": config.halving and describe_halving(table, plan, config.halving),
        "ranking": {"overall": ranking(), "by_density": by_density(every, best)},
        "winners": list(winners),
        "distribution": {
            "overall": distribution(rows),
            "by_density": by_density(every, [distribution(found) for _, found in every]),
        },
        "selection": {
            "overall": selection(rows, ranking()["accuracy"], judged),
            "by_density": by_density(every, first),
        },
        "aggregate": aggregates(table, "stage", "architecture", "density", "epochs"),
    }
    seconds = {f"{name}_seconds": hunt.table.seconds(name) for name in ("compile", "run")}
    run = seconds["run_seconds"]
    return extra, {**seconds, "networks_per_second": started / run if run else math.nan}


def by_density(every: Any, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found of each stage and density, under their names."""
    return [{**scope, **one} for (scope, _), one in zip(every, found, strict=True)]


def final_rows(finalists: pa.Table, table: pa.Table) -> pa.Table:
    """Rows of the networks that trained to the end; of the furthest rung where there is none yet."""
    return finalists if len(finalists) else where(table, epochs=pc.max(table["epochs"]))


def describe_halving(rows: pa.Table, plan: Sequence[Mapping[str, Any]], factor: int) -> list[dict[str, Any]]:
    """One entry per stage, for ``summary.json``.

    Returns:
      ``rungs``: networks, how many of them went on and were stopped (None as
      long as it is not known), how many diverged, distribution of the accuracy.
      ``epochs_trained`` of all networks together, and ``epochs_without`` halving.
      ``rank_correlation`` of rungs that follow each other, and where the finally
      ``best`` stood in the earlier ones: see :mod:`jaxnet.sweep.halving`.
    """
    found = []
    for name in dict.fromkeys(stage["name"] for stage in plan):
        stages = sorted((s for s in plan if s["name"] == name), key=lambda s: int(s["epochs"]))
        tables = [where(rows, stage=name, epochs=stage["epochs"]) for stage in stages]
        rungs, trained = [rung(table) for table in tables], 0
        entries = []
        for stage, here, after in zip(stages, tables, [*stages[1:], None], strict=True):
            trained += (stage["epochs"] - stage["start"]) * len(here)
            entries.append(
                {
                    "epochs": stage["epochs"],
                    "networks": len(here),
                    "went_on": after and int(after["networks"]),
                    "stopped": after and len(here) - int(after["networks"]),
                    "diverged": len(here) - len(sound(here)),
                    "distribution": distribution(here) if len(here) else None,
                }
            )
        told = {"stage": name, "factor": factor, "rungs": entries, "epochs_trained": trained}
        told["epochs_without"] = len(tables[0]) * int(stages[-1]["epochs"])
        told["rank_correlation"] = [rank_correlation(*pair) for pair in zip(rungs, rungs[1:], strict=False)]
        found.append({**told, "best": [place_of_best(here, rungs[-1]) for here in rungs[:-1]]})
    return found


def tables(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[object]]]]:
    """The ranking in the terminal."""
    split = summary["distribution"]["overall"]["split"]
    staged, clean = len({stage["name"] for stage in summary["plan"]}) > 1, split != "test"
    columns = ["by", "among", *["stage"] * staged, "architecture", "density", "seed", f"{split} %"]
    columns += [*["test %"] * clean, "extrema score", "patchability", "per 1,000", "weights"]

    def line(criterion: str, among: str, e: Mapping[str, Any]) -> list[object]:
        name = [criterion, among, *[e["stage"]] * staged, e["architecture"], f"{e['density']:g}", e["seed"]]
        scores = [percent(e["accuracy"]), *[percent(e["test_accuracy"])] * clean]
        rest = [f"{e['extrema_score']:.3f}", f"{e['patchability']:.4f}", f"{e['efficiency']:.4f}"]
        return [*name, *scores, *rest, e["nonzeros"]]

    ranking = summary["ranking"]
    rows = [line(c, "all", entry) for c in CRITERIA for entry in ranking["overall"][c]]
    if len(ranking["by_density"]) > 1:  # the best of each only; summary.json has all
        rows += [
            line(c, f"{scope['density']:g}", entry)
            for scope in ranking["by_density"]
            for c in CRITERIA
            for entry in scope[c][:1]
        ]
    number, protocol = summary["networks"]["trained"], summary["config"]["protocol"]
    return [(f"{summary['provenance']['dataset']}, {number} networks, protocol {protocol}", columns, rows)]


def lines(template: str, values: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    text = render(Path(__file__).parent / "reports" / template, values)
    return [line for line in text.splitlines() if line]


def report_lines(summary: Mapping[str, Any]) -> list[str]:
    """What stands below the ranking: distribution, selection, time."""
    gone = diverged_line(summary["diverged"], summary["networks"]["trained"])
    return lines("hunt_lines.txt", {**summary, "gone": gone})
