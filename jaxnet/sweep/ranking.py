"""What a hunt found: the best by every criterion, saved winners, and what halving did."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxnet.data.batches import Split
from jaxnet.files import disk_errors
from jaxnet.store import checkpoints
from jaxnet.sweep.halving import place_of_best, rank_correlation, rung
from jaxnet.sweep.selection import distribution
from jaxnet.sweep.table import CRITERIA, grouped, network_id, ranked, sound, where
from jaxnet.sweep.winner import save_winner, sort_units, winner_accuracy

Rankings = list[tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]]
"""Stage and density, None for any, and the rows of the best networks among these by every criterion."""


def rankings(rows: pa.Table, best: pa.Table, top_k: int, floor: float) -> Rankings:
    """The best of all networks, then of every density and stage.

    Args:
      rows: of all that trained to the end.
      best: those of them that are among the best by anything.
      top_k: by every criterion.
      floor: accuracy below which a network is ranked by accuracy only.
    """
    scopes = sorted(grouped(rows, "stage", "density"), key=lambda scope: (scope[1], scope[0]))
    found = []
    for stage, density in ((None, None), *scopes):
        among = where(best, stage=stage, density=density)
        by_criterion = {c: ranked(among, c, top_k, floor).to_pylist() for c in CRITERIA}
        found.append(({"stage": stage, "density": density}, by_criterion))
    return found


def titles_of(best: Rankings) -> dict[str, list[dict[str, Any]]]:
    """What every network among the best won, by name, the overall winners first."""
    titles: dict[str, list[dict[str, Any]]] = {}
    for scope, by_criterion in best:
        for criterion, rows in by_criterion.items():
            for rank, row in enumerate(rows, start=1):
                titles.setdefault(network_id(row), []).append({"criterion": criterion, "rank": rank, **scope})
    return titles


def save_winners(
    folder: Path,
    titles: Mapping[str, list[dict[str, Any]]],
    rows: Mapping[str, dict[str, Any]],
    networks: Mapping[str, Any],
    test: Split | None,
    *,
    sort: bool = False,
    meta: Mapping[str, Any],
    **how: Any,
) -> list[dict[str, Any]]:
    """Saves networks in place of the winners that lie in a folder.

    Args:
      folder: of the winners.
      titles: what each won.
      rows: of each.
      networks: parameters and structure of each.
      test: read here, for the first and only time; None where the accuracy is that on the test samples.
      sort: number hidden units by the norm of their incoming weights.
      meta: what else is told of each.
      how: they were trained, for :func:`jaxnet.sweep.save_winner`.

    Returns:
      For every winner its row, ``id``, ``path`` (relative to the folder above), ``titles`` and
      ``test_accuracy``.
    """
    with disk_errors(folder, "write"):
        for old in checkpoints(folder):
            # a folder half deleted must not look like a winner
            shutil.rmtree(old.path.rename(old.path.with_name(old.path.name + ".partial")))
    winners = []
    for name, won in titles.items():
        row, (params, structure) = rows[name], networks[name]
        if sort:
            params, structure = sort_units(params, structure)
        score = row["accuracy"]
        if test is not None:
            score = winner_accuracy(params, structure, how["activation"], test) if test.size else math.nan
        told = {**meta, "row": row, "test_accuracy": score, "sorted": sort}
        as_file = re.sub(r"[^A-Za-z0-9-]", "_", name)
        path = save_winner(folder, as_file, params, structure, density=row["density"], meta=told, **how)
        place = {"id": name, "path": path.relative_to(folder.parent).as_posix(), "titles": won}
        winners.append({**place, **row, "test_accuracy": score})
    return winners


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
