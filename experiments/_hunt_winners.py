"""The winners of a hunt: their accuracy on the test samples, and their place on the disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments._hunt_kept import CRITERIA, Kept, Network, Row
from experiments._hunt_plan import network_id
from experiments._hunt_run import Hunt
from experiments._hunt_setup import ACTIVATION
from experiments._population import make_split
from jaxnet.activations import activation
from jaxnet.checkpoint import checkpoints
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.files import disk_errors
from jaxnet.losses import num_correct
from jaxnet.records import SUMMARY
from jaxnet.statistics import exact_fraction
from jaxnet.sweep import save_winner, sort_units, to_scipy
from jaxnet.types import Array, PyTree, Scalar

WINNERS = "winners"


def save_winners(hunt: Hunt) -> list[dict[str, Any]]:
    """Saves all networks among the best to ``OUT/winners``.

    Returns:
      For every winner its row, ``id``, ``path`` (relative to OUT), ``titles``
      and ``test_accuracy``. This is the first and only time that a ``clean``
      hunt reads the test samples.

    Raises:
      InputError: the disk is full or cannot be written.
    """
    config, out, dataset = hunt.config, hunt.folder.path, hunt.dataset
    titles = find_titles(hunt.kept)
    rows = {network_id(row): row for row in best_rows(hunt.kept)}
    folder = out / WINNERS
    with disk_errors(folder, "write"):
        (out / SUMMARY).unlink(missing_ok=True)  # it would name winners that are no longer there
        for old in checkpoints(folder):
            gone = old.path.with_name(old.path.name + ".partial")
            old.path.rename(gone)  # a folder half deleted must not look like a winner
            shutil.rmtree(gone)
    test = make_split(dataset, "test") if config.protocol == "clean" else None
    names = list(titles)
    chosen = [hunt.kept.networks[name] for name in names]
    if config.sort_units:
        chosen = [sort_units(*network) for network in chosen]
    scores = [rows[name]["accuracy"] for name in names]
    if test is not None:
        scores = accuracies(chosen, test) if test.size else [float("nan")] * len(names)
    winners = []
    for name, network, score in zip(names, chosen, scores, strict=True):
        row = rows[name]
        meta = {"row": row, "test_accuracy": score, "sorted": config.sort_units, "dataset": dataset.name}
        path = save_winner(
            folder,
            re.sub(r"[^A-Za-z0-9-]", "_", name),
            *network,
            density=row["density"],
            init=hunt.rules.init,
            activation=ACTIVATION,
            meta={**meta, "data_fingerprint": dataset.fingerprint},
        )
        winners.append(
            {
                "id": name,
                "path": path.relative_to(out).as_posix(),
                "titles": titles[name],
                **row,
                "test_accuracy": score,
            }
        )
    return winners


def best_rows(kept: Kept) -> list[Row]:
    """Rows among the best by anything anywhere, each once."""
    rows = {network_id(row): row for scope in scopes(kept) for c in CRITERIA for row in kept.best(c, *scope)}
    return list(rows.values())


def scopes(kept: Kept) -> list[tuple[str, float]]:
    """Stages and densities that have a ranking, in order."""
    return in_order({(stage, density) for _, stage, density in kept.scopes()})


def in_order(scopes: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Stages and densities, ascending by density, then stage."""
    return sorted(scopes, key=lambda s: (s[1], s[0]))


def find_titles(kept: Kept) -> dict[str, list[dict[str, Any]]]:
    """What every winner won, the overall winners first: criterion, rank, and the density or None."""
    titles: dict[str, list[dict[str, Any]]] = {}
    every: list[tuple[str | None, float | None]] = [(None, None), *scopes(kept)]
    for stage, density in every:
        for criterion in CRITERIA:
            for rank, row in enumerate(kept.best(criterion, stage, density), start=1):
                title = {"criterion": criterion, "rank": rank, "stage": stage, "density": density}
                titles.setdefault(network_id(row), []).append(title)
    return titles


def accuracies(networks: Sequence[Network], split: Split) -> list[float]:
    """Accuracy of every network, exact fractions; one compilation per architecture.

    NaN where a logit is not finite.
    """
    found = []
    for network in networks:
        layers = tuple((matrix.toarray(), bias) for matrix, bias in to_scipy(*network))
        correct = float(_count_correct(layers, split))
        found.append(exact_fraction(correct / split.size, split.size))
    return found


@jax.jit
def _count_correct(layers: PyTree, split: Split) -> Scalar:
    # layers: matrix (out, in) and bias (out,) of each
    act = activation(ACTIVATION)

    def step(correct: Scalar, batch: tuple[Array, Array]) -> tuple[Scalar, None]:
        index, weight = batch
        x, y = split.batch(index)
        x = x.T  # (unit, batch)
        for k, (matrix, bias) in enumerate(layers):
            x = matrix @ (x if k == 0 else act(x)) + bias[:, None]
        finite = jnp.all(jnp.isfinite(x) | (weight == 0))
        return correct + jnp.where(finite, num_correct(x, y, weight, axis=0), jnp.nan), None

    index, weight = epoch_batches(split.size, min(1000, split.size), None)
    return jax.lax.scan(step, jnp.zeros(()), (index, weight))[0]
