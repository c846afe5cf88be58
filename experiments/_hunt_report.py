"""What a hunt found: ranking, distributions, and what selection is worth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments._hunt_halving import describe_halving, halving_lines
from experiments._hunt_kept import CRITERIA, Row
from experiments._hunt_plan import network_id
from experiments._hunt_run import Hunt
from experiments._hunt_winners import in_order
from experiments._shown import diverged_line, percent, sound
from jaxnet.files import json_safe
from jaxnet.statistics import aggregate

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MEASURED = (
    "accuracy",
    "loss",
    "extrema_score",
    "patchability",
    "efficiency",
    "dead",
    "saturated",
    "nonzeros",
)


def summarise(hunt: Hunt, rows: Sequence[Row], winners: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything ``summary.json`` holds."""
    _, seconds = hunt.table.read()
    every_rung, rows = rows, finalists(hunt, rows)
    factor, plan = hunt.config.halving, list(hunt.plan.values())
    started = len({network_id(row) for row in every_rung})
    diverged = list(dict.fromkeys(network_id(row) for row in every_rung if row["diverged"]))
    test = {w["id"]: w["test_accuracy"] for w in winners}
    paths = {w["id"]: w["path"] for w in winners}

    def entry(row: Row) -> dict[str, Any]:
        name = network_id(row)
        return {**row, "test_accuracy": test[name], "winner": paths[name]}

    def ranking(stage: str | None = None, density: float | None = None) -> dict[str, Any]:
        return {c: [entry(row) for row in hunt.kept.best(c, stage, density)] for c in CRITERIA}

    every = in_order({(row["stage"], row["density"]) for row in rows})

    def of(stage: str, density: float) -> list[Row]:
        return [row for row in rows if (row["stage"], row["density"]) == (stage, density)]

    judged = (hunt.splits[1].size, len(hunt.dataset.y_test))
    summary: dict[str, Any] = json_safe(
        {
            "experiment": "seed_hunt",
            "config": {**dataclasses.asdict(hunt.config), "data_dir": None},
            "provenance": hunt.provenance(),
            "plan": plan,
            "complete": hunt.complete,
            "networks": {
                "planned": sum(s["networks"] for s in plan if not s["start"]),
                "trained": started,
            },
            "diverged": diverged,
            # all that follows is about the networks that trained to the end
            "halving": None if factor is None else describe_halving(every_rung, plan, factor, distribution),
            "ranking": {
                "overall": ranking(),
                "by_density": [{"stage": s, "density": d, **ranking(s, d)} for s, d in every],
            },
            "winners": list(winners),
            "distribution": {
                "overall": distribution(rows),
                "by_density": [{"stage": s, "density": d, **distribution(of(s, d))} for s, d in every],
            },
            "selection": {
                "overall": selection(rows, ranking()["accuracy"], judged),
                "by_density": [
                    {"stage": s, "density": d, **selection(of(s, d), ranking(s, d)["accuracy"], judged)}
                    for s, d in every
                ],
            },
            "aggregate": groups(every_rung),
            "timing": {
                "compile_seconds": seconds["compile"],
                "run_seconds": seconds["run"],
                "networks_per_second": started / seconds["run"] if seconds["run"] else None,
            },
        }
    )
    return summary


def finalists(hunt: Hunt, rows: Sequence[Row]) -> list[Row]:
    """Rows of the networks that trained to the end; of the furthest rung where there is none yet."""
    furthest = max(row["epochs"] for row in rows)
    return hunt.finalists(rows) or [row for row in rows if row["epochs"] == furthest]


def distribution(rows: Sequence[Row]) -> dict[str, Any]:
    """Quantiles of the accuracy of all ``n`` networks that have not diverged, selected or not."""
    values = np.asarray([row["accuracy"] for row in sound(rows)])
    found = np.quantile(values, QUANTILES).tolist() if values.size else [None] * len(QUANTILES)
    return {
        "n": int(values.size),
        "diverged": len(rows) - int(values.size),
        "split": rows[0]["split"],
        "mean": float(values.mean()) if values.size else None,
        "quantiles": {f"{q:g}": value for q, value in zip(QUANTILES, found, strict=True)},
    }


def selection(rows: Sequence[Row], best: Sequence[dict[str, Any]], judged: tuple[int, int]) -> dict[str, Any]:
    """What picking the best of many is worth, and how much of it is luck.

    Args:
      rows: all networks that were trained; candidates are those that have not diverged.
      best: the best by accuracy, with ``test_accuracy``.
      judged: samples behind a row's accuracy, and test samples.

    Returns:
      ``best_minus_mean``: how far the best lies above the average candidate on
      the samples it was selected on. ``selection_effect``: its accuracy there
      minus its test accuracy, with the standard error that the finite numbers
      of samples alone give it; part of it may be that one set is harder than
      the other. ``None`` where selection was on the test samples themselves:
      then no unbiased reading is left.
    """
    candidates = sound(rows)
    if not best:  # no network has trained to the end yet, or every one diverged
        names = ("best_accuracy", "mean_accuracy", "best_minus_mean", "best_test_accuracy")
        nothing = dict.fromkeys((*names, "selection_effect", "selection_effect_standard_error"))
        return {"candidates": len(candidates), "selected_on": rows[0]["split"], **nothing}
    first = best[0]
    mean = float(np.mean([row["accuracy"] for row in candidates]))
    on_test = first["split"] == "test"
    found = {
        "candidates": len(candidates),
        "selected_on": first["split"],
        "best_accuracy": first["accuracy"],
        "mean_accuracy": mean,
        "best_minus_mean": first["accuracy"] - mean,
        "best_test_accuracy": first["test_accuracy"],
        "selection_effect": None,
        "selection_effect_standard_error": None,
    }
    if not on_test and math.isfinite(first["test_accuracy"]):
        p, q = first["accuracy"], first["test_accuracy"]
        found["selection_effect"] = p - q
        variance = p * (1 - p) / judged[0] + q * (1 - q) / judged[1]
        found["selection_effect_standard_error"] = math.sqrt(variance)
    return found


def groups(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean, deviation, range and interval of every measure per stage, architecture, density and rung.

    Of a diverged network no measure counts.
    """
    by_group: dict[tuple[str, str, float, int], list[Row]] = {}
    for row in rows:
        key = row["stage"], row["architecture"], row["density"], row["epochs"]
        by_group.setdefault(key, []).append(row)
    return [
        {
            "stage": stage,
            "architecture": architecture,
            "density": density,
            "epochs": epochs,
            **{
                name: aggregate([math.nan if row["diverged"] else row[name] for row in members])
                for name in MEASURED
            },
        }
        for (stage, architecture, density, epochs), members in by_group.items()
    ]


def table_rows(summary: dict[str, Any]) -> tuple[str, list[str], list[list[object]]]:
    """Title, columns and rows of the ranking in the terminal."""
    split = summary["distribution"]["overall"]["split"]
    staged = len({stage["name"] for stage in summary["plan"]}) > 1
    columns = ["by", "among", *(["stage"] if staged else []), "architecture", "density", "seed", f"{split} %"]
    clean = split != "test"
    columns += ["test %"] if clean else []
    columns += ["extrema score", "patchability", "per 1,000", "weights"]
    rows: list[list[object]] = []

    def add(among: str, by: str, entry: dict[str, Any]) -> None:
        test = entry["test_accuracy"]
        shown = [percent(test)] if clean else []
        rows.append(
            [
                by,
                among,
                *([entry["stage"]] if staged else []),
                entry["architecture"],
                f"{entry['density']:g}",
                entry["seed"],
                percent(entry["accuracy"]),
                *shown,
                f"{entry['extrema_score']:.3f}",
                f"{entry['patchability']:.4f}",
                f"{entry['efficiency']:.4f}",
                entry["nonzeros"],
            ]
        )

    for criterion in CRITERIA:
        for entry in summary["ranking"]["overall"][criterion]:
            add("all", criterion, entry)
    per_density = summary["ranking"]["by_density"]
    # the best of each only; summary.json has all
    for scope in per_density if len(per_density) > 1 else ():
        for criterion in CRITERIA:
            for entry in scope[criterion][:1]:
                add(f"{scope['density']:g}", criterion, entry)
    number, protocol = summary["networks"]["trained"], summary["config"]["protocol"]
    title = f"{summary['provenance']['dataset']}, {number} networks, protocol {protocol}"
    return title, columns, rows


def report_lines(summary: dict[str, Any]) -> list[str]:
    """What stands below the ranking: distribution, selection, time."""
    everything, chosen = summary["distribution"]["overall"], summary["selection"]["overall"]
    timing, networks = summary["timing"], summary["networks"]
    q = {name: percent(value) for name, value in everything["quantiles"].items()}
    halved = summary["halving"] is not None
    who = f"all {everything['n']} networks"
    if halved or everything["diverged"]:
        who = f"the {everything['n']} networks left" + (" at the end" if halved else "")
    line = diverged_line(summary["diverged"], networks["trained"])
    lines = [
        *halving_lines(summary),
        *([] if line is None else [line]),
        f"{everything['split']} accuracy of {who}: "
        f"mean {percent(everything['mean'])} %, 5 % {q['0.05']}, median {q['0.5']}, "
        f"95 % {q['0.95']}, best {q['1']}",
    ]
    lead = percent(chosen["best_minus_mean"])
    of = f"{chosen['candidates']}" + (f" left of {networks['trained']}" if halved else "")
    above = f"the best of {of} lies {lead} points above their mean"
    if chosen["best_accuracy"] is None and everything["n"]:
        lines.append("selection: none yet, no network has trained to the end")
    elif chosen["best_accuracy"] is None:
        lines.append("selection: none, no network is left that has not diverged")
    elif chosen["selection_effect"] is not None:
        lines.append(
            f"selection: {above} on {chosen['selected_on']}; it reaches "
            f"{percent(chosen['best_test_accuracy'])} % on test, a difference of "
            f"{percent(chosen['selection_effect'])} points "
            f"(± {percent(chosen['selection_effect_standard_error'])} from the numbers of samples)"
        )
    elif chosen["selected_on"] == "test":
        lines.append(f"selection: on the test samples themselves; {above}, and no unbiased reading is left")
    if not summary["complete"]:
        lines.append(
            f"stopped by --budget after {networks['trained']} of {networks['planned']} networks: "
            "the same command with --resume continues"
        )
    rate = timing["networks_per_second"]
    lines.append(
        f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s"
        + (f" ({rate:.2f} networks/s)" if rate else "")
    )
    return lines
