"""What a hunt found: ranking and winners, distributions, and what selection is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments._hunt_plan import ACTIVATION, settings
from experiments._hunt_rows import final_rows, table_of
from jaxnet.allocation import dense_counts
from jaxnet.files import disk_errors, read_json
from jaxnet.lab.report import render
from jaxnet.lab.run import make_split
from jaxnet.lab.shown import NOTHING, left_out, percent
from jaxnet.provenance import peak_memory
from jaxnet.store.folder import SUMMARY
from jaxnet.sweep.ranking import Rankings, describe_halving, rankings, save_winners, titles_of
from jaxnet.sweep.selection import aggregates, distribution, selection
from jaxnet.sweep.table import CRITERIA, NAME, grouped, network_id, sizes_of, sound, where

MOST = 10_000  # networks that summary.json lists one by one; those of a larger hunt stand in its table alone


def winners_of(hunt: Any, best: Rankings) -> list[dict[str, Any]]:
    """Saves all networks among the best to ``OUT/winners``; see :func:`jaxnet.sweep.ranking.save_winners`."""
    config, out, rules, dataset = hunt.config, hunt.folder.path, hunt.rules, hunt.dataset
    networks, known = hunt.networks(), {network_id(row): row for row in hunt.best.to_pylist()}
    with disk_errors(out, "write"):
        (out / SUMMARY).unlink(missing_ok=True)  # it would name winners that are no longer there
    meta = {"dataset": dataset.name, "data_fingerprint": dataset.fingerprint}
    meta |= {"protocol": config.protocol, "pixels": rules.described}
    how = {"init": rules.init, "activation": ACTIVATION, "allocation": config.allocation}
    test = make_split(dataset, "test") if rules.split != "test" else None
    given = out / "winners", titles_of(best), known, networks, test
    return save_winners(*given, sort=config.sort_units, meta=meta, **how)


def arms_of(rows: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Entries by architecture, and by density and stage where these differ; none where there are too many."""
    differ = [name for name in ("density", "stage") if len(rows[name].unique()) > 1]
    entries = rows.select(["seed", "diverged", "accuracy", "extrema_score", "dead", "nonzeros"])
    places = grouped(rows, "architecture", *differ) if len(rows) <= MOST else {}
    return {", ".join(map(str, name)): entries.take(at).to_pylist() for name, at in places.items()}


def describe(hunt: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Saves the winners; arms, what ``summary.json`` holds beside what every study's does, and seconds."""
    config, plan, table = hunt.config, list(hunt.plan.values()), hunt.table.read()
    peak = peak_bytes(hunt.folder.path)  # what is saved next takes the summary away
    rows = final_rows(config, table)
    judged, best = (
        (hunt.splits[1].size, len(hunt.dataset.y_test)),
        rankings(rows, hunt.best, config.top_k, config.min_accuracy),
    )
    winners = winners_of(hunt, best)
    more = {w["id"]: {"test_accuracy": w["test_accuracy"], "winner": w["path"]} for w in winners}
    for row in (row for _, found in best for ranking in found.values() for row in ranking):
        row |= more[network_id(row)]

    def scoped(find: Callable[[pa.Table, Any], dict[str, Any]]) -> dict[str, Any]:
        overall, *found = (find(where(rows, **scope), first) for scope, first in best)
        scopes = (scope for scope, _ in best[1:])
        return {"overall": overall, "by_density": [{**s, **f} for s, f in zip(scopes, found, strict=True)]}

    started = table.group_by(NAME).aggregate([]).num_rows  # a row for every rung, with --halving
    gone = where(table, diverged=True).select(NAME).to_pylist()
    planned = sum(stage["networks"] for stage in plan if not stage["start"])
    drawn = sum(stage.get("drawn", 0) for stage in plan)
    extra = {
        "plan": plan,
        "kernel": plan[0]["programs"][0]["kernel"],
        "complete": hunt.complete,
        "networks": {"planned": planned, "trained": started, **({"drawn": drawn} if drawn else {})},
        "diverged": list(dict.fromkeys(map(network_id, gone))),
        # all that follows is about the networks that trained to the end
        "halving": config.halving and describe_halving(table, plan, config.halving),
        "ranking": scoped(lambda among, first: first),
        "winners": winners,
        "distribution": scoped(lambda among, first: distribution(among)),
        "selection": scoped(lambda among, first: selection(among, first["accuracy"], judged)),
        "aggregate": aggregates(table, "stage", "architecture", "density", "epochs"),
    }
    seconds = {f"{name}_seconds": hunt.table.seconds(name) for name in ("compile", "run")}
    run = seconds["run_seconds"]
    if drawn:
        seconds["drawing_seconds"] = hunt.drawing_seconds
    told = {
        "networks_per_second": started / run if run else math.nan,
        "peak_bytes": peak,
    }
    return arms_of(rows), extra, {**seconds, **told}


def peak_bytes(folder: Path) -> float:
    """Most memory that this process has held so far, samples and compiler included; NaN where none tells.

    A hunt that was complete before is told of as it was then: nothing is trained any more.
    """
    before = math.nan
    if (path := folder / SUMMARY).exists():
        before = float(read_json(path)["timing"].get("peak_bytes") or math.nan)
    return float(np.fmax(peak_memory() or math.nan, before))


def tables(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[object]]]]:
    """The ranking in the terminal; of each density the best only."""
    split, ranking = summary["distribution"]["overall"]["split"], summary["ranking"]
    staged, clean = len({stage["name"] for stage in summary["plan"]}) > 1, split != "test"
    columns = ["by", "among", *["stage"] * staged, "architecture", "density", "seed", f"{split} %"]
    columns += [*["test %"] * clean, "high + low by layer", "extrema score", "patchability", "per 1,000"]
    columns += ["weights", "density at the end %"]

    def line(criterion: str, among: str, e: Mapping[str, Any]) -> list[object]:
        name = [criterion, among, *[e["stage"]] * staged, e["architecture"], f"{e['density']:g}", e["seed"]]
        scores = [percent(e["accuracy"]), *[percent(e["test_accuracy"])] * clean]
        rest = [f"{e['extrema_score']:.3f}", f"{e['patchability']:.4f}", f"{e['efficiency']:.4f}"]
        pairs = zip(e["high_by_layer"], e["low_by_layer"], strict=True)
        layers = ", ".join(f"{high} + {low}" for high, low in pairs)
        share = e["nonzeros"] / sum(dense_counts(sizes_of(e["architecture"])))
        return [*name, *scores, layers or NOTHING, *rest, e["nonzeros"], percent(share)]

    rows = [line(c, "all", entry) for c in CRITERIA for entry in ranking["overall"][c]]
    scopes = ranking["by_density"] if len(ranking["by_density"]) > 1 else ()
    rows += [line(c, f"{s['density']:g}", entry) for s in scopes for c in CRITERIA for entry in s[c][:1]]
    number, protocol = summary["networks"]["trained"], summary["config"]["protocol"]
    return [(f"{summary['provenance']['dataset']}, {number} networks, protocol {protocol}", columns, rows)]


def lines(template: str, values: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    return [*filter(None, render(Path(__file__).parent / "reports" / template, values).splitlines())]


def draw(path: Path, summary: Mapping[str, Any]) -> None:
    """Draws the plot that a file of a hunt's folder is named by, from its table."""
    last = final_rows(settings(summary["config"]), table_of(path.parent).read())
    draw_rows(path, last, f"{summary['provenance']['dataset']}, {len(last)} networks")


def draw_rows(path: Path, rows: pa.Table, title: str) -> None:
    """Draws the plot that a file is named by, of some rows."""
    from jaxnet.lab.plots import EVERY, picture, say
    from jaxnet.sweep.pictures import PLOTS, accuracy

    shown, plot = sound(rows), PLOTS[path.stem]
    boxes = len(grouped(shown, "architecture")) * max(1.0, 0.6 * len(grouped(shown, "stage", "density")))
    size = (8.0, min(1.6 + 0.22 * boxes, 40.0)) if plot is accuracy else (7.0, 4.6)
    with picture(path, size=size) as axes:
        axes.set_title(f"{title}{left_out(len(rows) - len(shown))}")
        if len(shown):
            plot(axes, shown)
        else:
            say(axes, EVERY)
