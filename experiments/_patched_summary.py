"""What ``summary.json`` of ``experiments.patched_density`` says of every seed, and of all."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnet.nn.mlp import NetworkSpec
from jaxnet.statistics import aggregate
from jaxnet.units import Extrema


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
      scaffold_accuracy: ``(seed,)``, fractions; NaN of a network that diverged.
      patched_accuracy: ``(seed,)``, fractions; NaN of a network that diverged.
      counts: of :func:`jaxnet.nn.params.count_nonzeros`, each ``(seed,)``.
      host: extrema of each hidden layer, and the bank; leaves ``(seed, ...)``.
      spec: the network.
    """
    found, bank = host
    nonzeros = {name: int(counts[name][i]) for name in ("scaffold", "bias", "patch", "total")}
    gain = float(patched_accuracy[i]) - float(scaffold_accuracy[i])
    return {
        "seed": seed,
        "diverged": not np.isfinite(gain),
        "scaffold_accuracy": float(scaffold_accuracy[i]),
        "patched_accuracy": float(patched_accuracy[i]),
        "gain": gain,
        "gain_per_1000_weights": 1000 * gain / nonzeros["patch"] if nonzeros["patch"] else None,
        "extrema_high": [int(e.high[i].sum()) for e in found],
        "extrema_low": [int(e.low[i].sum()) for e in found],
        "extrema_nan": [int(e.nan[i].sum()) for e in found],
        "num_patches": int(sum(p.active[i].sum() for p in bank.layers if p is not None)),
        "nonzeros": nonzeros,
        # of the scaffold alone: a patch may lie where a weight of the scaffold could
        "density": nonzeros["scaffold"] / spec.dense_weights,
        "patch_weights": nonzeros["patch"],
    }


def patch_entries(i: int, bank: Any, sizes: np.ndarray, lost: np.ndarray) -> list[dict[str, Any]]:
    """A row per patch of seed ``i``.

    Args:
      i: place among the seeds of the run.
      bank: on the host, leaves ``(seed, ...)``.
      sizes: ``(seed, slot)``, values of each patch.
      lost: ``(seed, slot)``, accuracy lost without it.
    """
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
                        "nonzeros": int(sizes[i, slot]),
                        "contribution": float(lost[i, slot]),
                    }
                )
            slot += 1
    return entries


def aggregate_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation, median, range and interval of every number over the seeds that have not diverged."""
    columns: dict[str, list[float]] = {}
    for s in seeds:
        numbers = {
            name: s[name]
            for name in ("scaffold_accuracy", "patched_accuracy", "gain", "gain_per_1000_weights")
        }
        numbers |= {name: s[name] for name in ("num_patches", "density", "patch_weights")}
        numbers |= {name: sum(s[name]) for name in ("extrema_high", "extrema_low", "extrema_nan")}
        numbers |= {f"nonzeros.{name}": value for name, value in s["nonzeros"].items()}
        for name, value in numbers.items():
            columns.setdefault(name, []).append(np.nan if s["diverged"] or value is None else value)
    return {name: aggregate(values) for name, values in columns.items()}
