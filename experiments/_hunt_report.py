"""What a hunt found: ranking and winners, distributions, and what selection is worth."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments._hunt_plan import ACTIVATION
from experiments._hunt_rows import final_rows
from jaxnet.allocation import dense_counts
from jaxnet.files import disk_errors
from jaxnet.lab.report import render
from jaxnet.lab.run import make_split
from jaxnet.lab.shown import NOTHING, percent
from jaxnet.store import checkpoints
from jaxnet.store.folder import SUMMARY
from jaxnet.sweep import save_winner, sort_units, winner_accuracy
from jaxnet.sweep.halving import place_of_best, rank_correlation, rung
from jaxnet.sweep.selection import aggregates, distribution, selection
from jaxnet.sweep.table import CRITERIA, NAME, grouped, network_id, ranked, sizes_of, sound, where

Rankings = list[tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]]
"""Stage and density, None for any, and the rows of the best networks among these by every criterion."""


MOST = 10_000  # networks that summary.json lists one by one; those of a larger hunt stand in its table alone


def rankings(hunt: Any, rows: pa.Table) -> Rankings:
    """The best of all networks, then of every density and stage."""
    scopes = sorted(grouped(rows, "stage", "density"), key=lambda scope: (scope[1], scope[0]))
    limits, found = (hunt.config.top_k, hunt.config.min_accuracy), []
    for stage, density in ((None, None), *scopes):
        among = where(hunt.best, stage=stage, density=density)
        best = {c: ranked(among, c, *limits).to_pylist() for c in CRITERIA}
        found.append(({"stage": stage, "density": density}, best))
    return found


def save_winners(hunt: Any, best: Rankings) -> list[dict[str, Any]]:
    """Saves all networks among the best to ``OUT/winners``, the overall winners first.

    Returns:
      For every winner its row, ``id``, ``path`` (relative to OUT), ``titles`` (what it won) and
      ``test_accuracy``: a ``clean`` hunt reads the test samples here, for the first and only time.
    """
    config, out, rules, dataset = hunt.config, hunt.folder.path, hunt.trainer.rules, hunt.dataset
    folder, networks, winners = out / "winners", hunt.networks(), []
    with disk_errors(folder, "write"):
        (out / SUMMARY).unlink(missing_ok=True)  # it would name winners that are no longer there
        for old in checkpoints(folder):
            # a folder half deleted must not look like a winner
            shutil.rmtree(old.path.rename(old.path.with_name(old.path.name + ".partial")))
    titles: dict[str, list[dict[str, Any]]] = {}
    for scope, by_criterion in best:
        for criterion, rows in by_criterion.items():
            for rank, row in enumerate(rows, start=1):
                titles.setdefault(network_id(row), []).append({"criterion": criterion, "rank": rank, **scope})
    known = {network_id(row): row for row in hunt.best.to_pylist()}
    test = make_split(dataset, "test") if rules.split != "test" else None
    for name, won in titles.items():
        row, (params, structure) = known[name], networks[name]
        if config.sort_units:
            params, structure = sort_units(params, structure)
        score = row["accuracy"]
        if test is not None:
            score = winner_accuracy(params, structure, ACTIVATION, test) if test.size else math.nan
        meta = {"row": row, "test_accuracy": score, "sorted": config.sort_units, "dataset": dataset.name}
        meta |= {"protocol": config.protocol, "pixels": rules.described}
        how = {"density": row["density"], "init": rules.init, "activation": ACTIVATION}
        how |= {"allocation": config.allocation, "meta": {**meta, "data_fingerprint": dataset.fingerprint}}
        path = save_winner(folder, re.sub(r"[^A-Za-z0-9-]", "_", name), params, structure, **how)
        place = {"id": name, "path": path.relative_to(out).as_posix(), "titles": won}
        winners.append({**place, **row, "test_accuracy": score})
    return winners


def arms_of(rows: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Entries by architecture, and by density and stage where these differ; none where there are too many."""
    differ = [name for name in ("density", "stage") if len(rows[name].unique()) > 1]
    entries = rows.select(["seed", "diverged", "accuracy", "extrema_score", "dead", "nonzeros"])
    places = grouped(rows, "architecture", *differ) if len(rows) <= MOST else {}
    return {", ".join(map(str, name)): entries.take(at).to_pylist() for name, at in places.items()}


def describe(hunt: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Saves the winners; arms, what ``summary.json`` holds beside what every study's does, and seconds."""
    config, plan, table = hunt.config, list(hunt.plan.values()), hunt.table.read()
    rows = final_rows(config, table)
    judged, best = (hunt.trainer.splits[1].size, len(hunt.dataset.y_test)), rankings(hunt, rows)
    winners = save_winners(hunt, best)
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
    return arms_of(rows), extra, {**seconds, "networks_per_second": started / run if run else math.nan}


def describe_halving(rows: pa.Table, plan: Sequence[Mapping[str, Any]], factor: int) -> list[dict[str, Any]]:
    """One entry per stage: its rungs, the epochs that all networks were trained, and would have been without.

    ``went_on`` and ``stopped`` are None as long as they are not known; ``rank_correlation`` is that of rungs
    that follow each other, ``best`` says where the finally best stood (:mod:`jaxnet.sweep.halving`).
    """
    found = []
    for name in dict.fromkeys(stage["name"] for stage in plan):
        stages = sorted((s for s in plan if s["name"] == name), key=lambda s: int(s["epochs"]))
        tables = [where(rows, stage=name, epochs=stage["epochs"]) for stage in stages]
        rungs, entries = [rung(table) for table in tables], []
        for stage, here, after in zip(stages, tables, [*stages[1:], None], strict=True):
            on = None if after is None else int(after["networks"])
            entry = {"epochs": stage["epochs"], "networks": len(here), "went_on": on}
            entry |= {
                "stopped": None if on is None else len(here) - on,
                "diverged": len(here) - len(sound(here)),
            }
            entries.append({**entry, "distribution": distribution(here) if len(here) else None})
        trained = sum((s["epochs"] - s["start"]) * len(t) for s, t in zip(stages, tables, strict=True))
        told = {"stage": name, "factor": factor, "rungs": entries, "epochs_trained": trained}
        told["epochs_without"] = len(tables[0]) * int(stages[-1]["epochs"])
        told["rank_correlation"] = [rank_correlation(*pair) for pair in zip(rungs, rungs[1:], strict=False)]
        found.append({**told, "best": [place_of_best(here, rungs[-1]) for here in rungs[:-1]]})
    return found


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
