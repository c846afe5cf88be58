"""Plots of ``experiments.indefinite_growth``, drawn from what is on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from experiments._patched_plots import EVERY, PATCH, SCAFFOLD, plt, save_figure, say
from experiments._shown import left_out, sound
from jaxnet.records import RunFolder

PLOTS = ("growth.png", "architectures.png")
"""Names of the files drawn."""


def draw_all(folder: RunFolder) -> None:
    """Draws all plots of a finished run into its folder."""
    summary = folder.read_json("summary.json")
    draw_growth(summary, folder.path / "growth.png")
    draw_architectures(summary, folder.path / "architectures.png")


def draw_growth(summary: dict[str, Any], path: Path) -> None:
    """Accuracy against non-zeros: a line per seed, a dot per iteration."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    seeds = sound(summary["seeds"])
    for s in seeds:
        weights = [h["nonzeros"]["scaffold"] + h["nonzeros"]["patch"] for h in s["history"]]
        accuracy = [100 * h["accuracy"] for h in s["history"]]
        axes.plot(weights, accuracy, "-", color=SCAFFOLD, lw=1, alpha=0.6)
        axes.plot(weights[:-1], accuracy[:-1], ".", color=SCAFFOLD, ms=5)
        axes.plot(weights[-1:], accuracy[-1:], "o" if s["stop_reason"] == "target" else "x", color=PATCH)
    target = 100 * summary["config"]["target"]
    axes.axhline(target, color="0.4", lw=1, ls="--")
    axes.annotate(
        f"target {target:g} %",
        (1, target),
        (-4, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="0.3",
    )
    watched = "test" if summary["config"]["protocol"] == "seed" else "validation"
    axes.set(xlabel="weights that exist, patches included", ylabel=f"{watched} accuracy (%)")
    gone = left_out(len(summary["diverged"]))
    axes.set_title(f"{_what(summary)}: growth of {len(seeds)} networks (circle: target reached){gone}")
    axes.grid(alpha=0.3)
    if not seeds:
        say(axes, EVERY)
    save_figure(figure, path)


def draw_architectures(summary: dict[str, Any], path: Path) -> None:
    """Units of the hidden layers of every grown network, the most frequent architecture first."""
    seeds = sound(summary["seeds"])
    grown = Counter(tuple(s["architecture"]) for s in seeds)
    ranked = sorted(grown.items(), key=lambda item: (-item[1], item[0]))[:24]
    figure, axes = plt.subplots(figsize=(7, 0.34 * len(ranked) + 1.3), layout="constrained")
    colors = plt.get_cmap("viridis")(np.linspace(0.15, 0.85, max((len(a) - 2 for a, _ in ranked), default=1)))
    for y, (sizes, number) in enumerate(ranked):
        left = 0
        for units, color in zip(sizes[1:-1], colors, strict=False):
            axes.barh(y, units, left=left, height=0.7, color=color, edgecolor="white", lw=1.5)
            if units > 0.04 * max(sum(a[1:-1]) for a, _ in ranked):
                axes.annotate(
                    str(units), (left + units / 2, y), ha="center", va="center", color="white", fontsize=8
                )
            left += units
        axes.annotate(
            f"{number} ×", (0, y), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=9
        )
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_xlabel("hidden units, first layer to the left")
    more = f" (the first 24 of {len(grown)})" if len(grown) > len(ranked) else ""
    gone = left_out(len(summary["diverged"]))
    axes.set_title(f"{_what(summary)}: architectures of {len(seeds)} grown networks{more}{gone}")
    if not seeds:
        say(axes, EVERY)
    save_figure(figure, path)


def _what(summary: dict[str, Any]) -> str:
    return f"{summary['provenance']['dataset']}, recipe {summary['config']['recipe']}"
