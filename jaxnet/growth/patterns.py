"""What grown networks have in common, by their histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jaxnet.prediction import spearman
from jaxnet.statistics import aggregate


def patterns(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What grown networks have in common: why they stop, how large, and gains in every iteration.

    Returns:
      ``stops`` and ``architectures``, how many networks each; ``iterations``, an entry for each: networks,
      means of accuracy, weights and the share of hidden units that are extrema (high and low), and, where
      they were measured apart, gains over training on alone: of ``both``, ``layers``, ``patches``;
      ``predicted``: what is known after the first iteration against the accuracy and weights of the end.
    """
    told: list[dict[str, Any]] = []
    for number in range(max((len(s["history"]) for s in seeds), default=0)):
        here = [s["history"][number] for s in seeds if len(s["history"]) > number]
        on = [s["history"] for s in seeds if len(s["history"]) > number + 1]
        pairs = [(h[number]["apart"], h[number + 1]["accuracy"]) for h in on if h[number].get("apart")]
        units = [sum(h["architecture"][1:-1]) for h in here]
        one: dict[str, Any] = {"iteration": number + 1, "networks": len(here)}
        one["accuracy"] = aggregate([h["accuracy"] for h in here])
        one["weights"] = aggregate([h["weights"] for h in here])
        for kind in ("high", "low"):
            one[kind] = aggregate([sum(h[f"extrema_{kind}"]) / n for h, n in zip(here, units, strict=True)])
        # where nothing but patches was decided, what was done is what patches give
        gains = {
            "both": [done - apart["neither"] for apart, done in pairs],
            "layers": [apart["layers"] - apart["neither"] for apart, _ in pairs if "layers" in apart],
            "patches": [apart.get("patches", done) - apart["neither"] for apart, done in pairs],
        }
        one |= {f"gain_{name}": aggregate(found) for name, found in gains.items() if found}
        told.append(one)
    first = [s["history"][0] for s in seeds]
    known = {
        "accuracy": [h["accuracy"] for h in first],
        "high extrema": [sum(h["extrema_high"]) for h in first],
        "low extrema": [sum(h["extrema_low"]) for h in first],
    }
    ends = {
        "accuracy": [s["accuracy"] for s in seeds],
        "weights": [s["history"][-1]["weights"] for s in seeds],
    }
    return {
        "stops": dict(Counter(s["stop_reason"] for s in seeds)),
        "architectures": dict(Counter("-".join(map(str, s["architecture"])) for s in seeds).most_common()),
        "iterations": told,
        "predicted": {
            f"{name} of the first iteration, {end} of the end": spearman(column, ends[end])
            for name, column in known.items()
            for end in ends
        },
    }
