"""What ``summary.json`` of ``experiments.optimal_bootstrap`` says of every seed, and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.statistics import aggregate, paired_difference

if TYPE_CHECKING:
    from experiments._bootstrap_run import Result, Stage
    from experiments.optimal_bootstrap import Config

QUESTIONS = (
    ("bootstrapped", "random"),
    ("bootstrapped", "shuffled"),
    ("bootstrapped", "fresh values"),
    ("fresh values", "random"),
    ("bootstrapped", "random, unequal"),
)
"""Which arms are compared at each scale: first minus second."""

MEASURES = ("test accuracy", "mean over the epochs")
"""What is compared besides the accuracy after single epochs (``after epoch k``)."""


def shown_epochs(epochs: int) -> list[int]:
    """After which epochs the accuracy is reported."""
    return [*(e for e in (1, 2, 5, 10, 20) if e < epochs), epochs]


def curves(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], np.ndarray]:
    """Accuracy on the watched samples, ``(epoch, seed)``, by stage and arm (``""`` where there are none).

    NaN where a network had diverged.
    """
    by_epoch: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        epochs = by_epoch.setdefault((row["phase"], row.get("arm", "")), {})
        epochs.setdefault(row["epoch"], []).append(row["accuracy"])
    return {key: np.array([epochs[e] for e in sorted(epochs)], float) for key, epochs in by_epoch.items()}


def summarise(
    config: Config, stages: Sequence[Stage], results: Mapping[str, Result], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Seeds, aggregates and comparisons.

    Args:
      config: of the run.
      stages: all of them.
      results: of each stage, as NumPy arrays.
      rows: of ``metrics.jsonl``.

    Returns:
      ``architectures`` (the search), ``smallest`` (the architecture that most
      seeds call the smallest that learns), ``scales`` with the arms of each,
      ``comparisons``, ``seeds`` and ``diverged`` (stage, arm, seed of networks that
      are in no mean and no comparison). Accuracies are fractions.
    """
    curve = curves(rows)
    searched = [stage for stage in stages if stage.name.startswith("search")]
    weights = np.stack([results[s.name].nonzeros.sum(axis=1) for s in searched])  # (architecture, seed)
    found = np.stack([results[s.name].watched for s in searched])
    learns = found > config.threshold  # a diverged one has not
    # per seed: of the architectures that learn, the one of the fewest weights; none is possible
    best = np.where(learns, weights, np.iinfo(np.int64).max).argmin(axis=0)
    smallest = [searched[b] if learns[b, i] else None for i, b in enumerate(best)]
    votes = [sum(s is stage for s in smallest) for stage in searched]
    architectures = [
        {
            "sizes": list(stage.sizes),
            "weights": int(weights[k, 0]),
            "learns": int(learns[k].sum()),
            "smallest": votes[k],
            "n": int(np.isfinite(found[k]).sum()),
            "watched": aggregate(results[stage.name].watched),
            "accuracy": aggregate(results[stage.name].accuracy),
        }
        for k, stage in enumerate(searched)
    ]
    scales: dict[str, dict[str, Any]] = {
        stage.name: {
            "sizes": list(stage.sizes),
            "arms": {
                arm: _arm(stage, results[stage.name], k, config.num_seeds, curve[stage.name, arm])
                for k, arm in enumerate(stage.arms or ("",))
            },
        }
        for stage in stages
        if stage not in searched
    }
    diverged = [
        {"stage": stage.name, "arm": arm, "seed": config.seed + i}
        for stage in stages
        for k, arm in enumerate(stage.arms or ("",))
        for i in range(config.num_seeds)
        if not np.isfinite(results[stage.name].accuracy[k * config.num_seeds + i])
    ]
    seeds = [
        {
            "seed": config.seed + i,
            "smallest": None if stage is None else list(stage.sizes),
            "searched": {s.name.removeprefix("search-"): float(results[s.name].watched[i]) for s in searched},
            "scales": {
                name: {arm: _entry(values, i) for arm, values in scale["arms"].items()}
                for name, scale in scales.items()
            },
        }
        for i, stage in enumerate(smallest)
    ]
    comparisons = [
        {"scale": name, "first": first, "second": second, "measure": measure, **_difference(a, b, measure)}
        for name, scale in scales.items()
        for first, second in QUESTIONS
        if first in scale["arms"]
        for a, b in [(scale["arms"][first], scale["arms"][second])]
        for measure in (*MEASURES, *a["after"])
    ]
    for scale in scales.values():
        for arm in scale["arms"].values():
            layers = np.where(np.isfinite(arm["accuracy"])[:, None], arm["nonzeros"], np.nan)
            arm.update({name: aggregate(arm[name]) for name in ("accuracy", "weights", *MEASURES[1:])})
            arm["after"] = {name: aggregate(values) for name, values in arm["after"].items()}
            arm["weights_per_layer"] = [aggregate(layer) for layer in layers.T]
            del arm["epoch"], arm["nonzeros"]
    return {
        "architectures": architectures,
        "smallest": architectures[int(np.argmax(votes))]["sizes"] if max(votes) else None,
        "scales": scales,
        "comparisons": comparisons,
        "seeds": seeds,
        "diverged": diverged,
    }


def _arm(stage: Stage, result: Result, k: int, num_seeds: int, curve: np.ndarray) -> dict[str, Any]:
    """Values of every seed of the ``k``-th arm."""
    mine = slice(k * num_seeds, (k + 1) * num_seeds)
    here = np.isfinite(result.accuracy[mine])
    # what a network was before it diverged is in no mean either
    curve = np.where(here, curve, np.nan)
    return {
        "accuracy": result.accuracy[mine].tolist(),
        "epoch": result.epoch[mine].tolist(),
        "nonzeros": result.nonzeros[mine].tolist(),
        "weights": np.where(here, result.nonzeros[mine].sum(axis=1), np.nan).tolist(),
        MEASURES[1]: curve.mean(axis=0).tolist(),
        "after": {f"after epoch {e}": curve[e - 1].tolist() for e in shown_epochs(stage.epochs)},
    }


def _entry(arm: dict[str, Any], i: int) -> dict[str, Any]:
    return {
        "accuracy": arm["accuracy"][i],
        "epoch": arm["epoch"][i],
        "nonzeros": arm["nonzeros"][i],
        "watched": {name: values[i] for name, values in arm["after"].items()},
    }


def _difference(a: dict[str, Any], b: dict[str, Any], measure: str) -> dict[str, Any]:
    if measure == MEASURES[0]:
        return dict(paired_difference(a["accuracy"], b["accuracy"]))
    left, right = (arm["after"].get(measure, arm.get(measure)) for arm in (a, b))
    return dict(paired_difference(left, right))
