"""What ``summary.json`` of ``experiments.patched_density`` says of every seed, and of all."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxnet import patches
from jaxnet.extrema import Extrema
from jaxnet.network import NetworkSpec, Params, Structure
from jaxnet.statistics import aggregate


def seed_entry(
    i: int,
    seed: int,
    scaffold_accuracy: np.ndarray,
    patched_accuracy: np.ndarray,
    counts: dict[str, np.ndarray],
    host: tuple[tuple[Extrema, ...], Any],
    spec: NetworkSpec,
) -> dict[str, Any]:
    """The entry of one seed: the ``i``-th of the run.

    Args:
      i: place among the seeds of the run.
      seed: its number.
      scaffold_accuracy: ``(seed,)``, fractions.
      patched_accuracy: ``(seed,)``, fractions.
      counts: of :func:`jaxnet.network.count_nonzeros`, each ``(seed,)``.
      host: extrema of each hidden layer, and the bank; leaves ``(seed, ...)``.
      spec: the network.
    """
    found, bank = host
    nonzeros: dict[str, Any] = {name: int(counts[name][i]) for name in ("scaffold", "bias", "patch", "total")}
    density = (nonzeros["scaffold"] + nonzeros["patch"]) / spec.dense_weights
    gain = float(patched_accuracy[i]) - float(scaffold_accuracy[i])
    return {
        "seed": seed,
        "scaffold_accuracy": float(scaffold_accuracy[i]),
        "patched_accuracy": float(patched_accuracy[i]),
        "gain": gain,
        "gain_per_1000_weights": 1000 * gain / nonzeros["patch"] if nonzeros["patch"] else None,
        "extrema_high": [int(e.high[i].sum()) for e in found],
        "extrema_low": [int(e.low[i].sum()) for e in found],
        "extrema_nan": [int(e.nan[i].sum()) for e in found],
        "num_patches": int(sum(p.active[i].sum() for p in bank.layers if p is not None)),
        "nonzeros": {**nonzeros, "density": density},
        "density": density,
    }


def patch_entries(
    i: int, bank: Any, params: Params, structure: Structure, lost: np.ndarray
) -> list[dict[str, Any]]:
    """A row per patch of seed ``i``."""
    assert structure.bank is not None
    one = jax.tree.map(lambda leaf: leaf[i], (structure.bank, params.patches))
    sizes = np.asarray(patches.slot_sizes(*one))
    entries, slot = [], 0
    for layer, placed in enumerate(bank.layers):
        if placed is None:
            continue
        for k in range(placed.active.shape[1]):
            if placed.active[i, k]:
                high = k < placed.num_high
                entries.append(
                    {
                        "slot": slot,
                        "kind": "high" if high else "low",
                        # hidden layers count from 0; a high patch sits in the layer below the one it feeds
                        "hidden_layer": layer - 1 if high else layer,
                        "unit": int(placed.unit[i, k]),
                        "nonzeros": int(sizes[slot]),
                        "contribution": float(lost[i, slot]),
                    }
                )
            slot += 1
    return entries


def aggregate_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation, median, range and interval of every number over the seeds."""
    columns: dict[str, list[float]] = {}
    for s in seeds:
        for name in ("scaffold_accuracy", "patched_accuracy", "gain", "num_patches", "density"):
            columns.setdefault(name, []).append(s[name])
        per_weight = s["gain_per_1000_weights"]
        columns.setdefault("gain_per_1000_weights", []).append(np.nan if per_weight is None else per_weight)
        for name in ("extrema_high", "extrema_low", "extrema_nan"):
            columns.setdefault(name, []).append(sum(s[name]))
        for name, value in s["nonzeros"].items():
            columns.setdefault(f"nonzeros.{name}", []).append(value)
    return {name: aggregate(values) for name, values in columns.items()}
