"""The winners of a hunt: what they won, their accuracy on the test samples, and their place on the disk."""

from __future__ import annotations

import re
import shutil
from typing import Any

from experiments._hunt_plan import ACTIVATION, network_id
from experiments._hunt_rows import scopes
from experiments._hunt_run import Hunt
from jaxnet.files import disk_errors
from jaxnet.lab.run import make_split
from jaxnet.store import checkpoints
from jaxnet.store.folder import SUMMARY
from jaxnet.sweep import save_winner, sort_units, winner_accuracy
from jaxnet.sweep.table import CRITERIA, ranked, where


def save_winners(hunt: Hunt) -> list[dict[str, Any]]:
    """Saves all networks among the best to ``OUT/winners``.

    Returns:
      For every winner its row, ``id``, ``path`` (relative to OUT), ``titles``
      and ``test_accuracy``. This is the first and only time that a ``clean``
      hunt reads the test samples.

    Raises:
      InputError: the disk is full or cannot be written.
    """
    config, out, rules, dataset = hunt.config, hunt.folder.path, hunt.trainer.rules, hunt.dataset
    folder, networks, winners = out / "winners", hunt.networks(), []
    with disk_errors(folder, "write"):
        (out / SUMMARY).unlink(missing_ok=True)  # it would name winners that are no longer there
        for old in checkpoints(folder):
            gone = old.path.with_name(old.path.name + ".partial")
            old.path.rename(gone)  # a folder half deleted must not look like a winner
            shutil.rmtree(gone)
    rows = {network_id(row): row for row in hunt.best.to_pylist()}
    test = make_split(dataset, "test") if rules.split != "test" else None
    for name, titles in find_titles(hunt).items():
        row, (params, structure) = rows[name], networks[name]
        if config.sort_units:
            params, structure = sort_units(params, structure)
        score = row["accuracy"]
        if test is not None:
            score = winner_accuracy(params, structure, ACTIVATION, test) if test.size else float("nan")
        meta = {"row": row, "test_accuracy": score, "sorted": config.sort_units, "dataset": dataset.name}
        how = {"density": row["density"], "init": rules.init, "activation": ACTIVATION}
        how |= {"allocation": config.allocation, "meta": {**meta, "data_fingerprint": dataset.fingerprint}}
        path = save_winner(folder, re.sub(r"[^A-Za-z0-9-]", "_", name), params, structure, **how)
        known = {"id": name, "path": path.relative_to(out).as_posix(), "titles": titles}
        winners.append({**known, **row, "test_accuracy": score})
    return winners


def find_titles(hunt: Hunt) -> dict[str, list[dict[str, Any]]]:
    """What every winner won, the overall winners first: criterion, rank, and the density or None."""
    titles: dict[str, list[dict[str, Any]]] = {}
    limits = hunt.config.top_k, hunt.config.min_accuracy
    for stage, density in ((None, None), *scopes(hunt.best)):
        for criterion in CRITERIA:
            best = ranked(where(hunt.best, stage=stage, density=density), criterion, *limits)
            for rank, row in enumerate(best.to_pylist(), start=1):
                title = {"criterion": criterion, "rank": rank, "stage": stage, "density": density}
                titles.setdefault(network_id(row), []).append(title)
    return titles
