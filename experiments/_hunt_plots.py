"""Plots of ``experiments.seed_hunt``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from experiments._hunt_kept import Row
from experiments._patched_plots import EVERY, plt, save_figure, say
from experiments._shown import left_out, sound

PLOTS = ("accuracy.png", "extrema.png", "pareto.png")
"""Names of the files drawn."""

FRONT = "#c44e52"


def draw_all(rows: Sequence[Row], summary: dict[str, Any], out: Path) -> None:
    """Draws all plots of a hunt into its folder; networks that diverged are not shown."""
    gone = left_out(len(rows) - len(sound(rows)))
    title = f"{summary['provenance']['dataset']}, {len(rows)} networks{gone}"
    draw_accuracy(rows, title, out / "accuracy.png")
    draw_extrema(rows, title, out / "extrema.png")
    draw_pareto(rows, title, out / "pareto.png")


def draw_accuracy(rows: Sequence[Row], title: str, path: Path) -> None:
    """Accuracy of every architecture and density: box of the middle half, whiskers from 5 to 95 %."""
    if not (rows := sound(rows)):
        return draw_nothing(title, path)
    architectures = list(dict.fromkeys(row["architecture"] for row in rows))
    parts = list(dict.fromkeys((row["stage"], row["density"]) for row in rows))
    staged = len({stage for stage, _ in parts}) > 1
    height = 1.6 + 0.22 * len(architectures) * max(1, len(parts) * 0.6)
    figure, axes = plt.subplots(figsize=(8, min(height, 40)), layout="constrained")
    colors = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(parts)))
    width = 0.8 / len(parts)
    for k, (stage, density) in enumerate(parts):
        by: dict[int, list[float]] = {}
        for row in rows:
            if (row["stage"], row["density"]) == (stage, density):
                by.setdefault(architectures.index(row["architecture"]), []).append(100 * row["accuracy"])
        places = [place - 0.4 + (k + 0.5) * width for place in by]
        axes.boxplot(
            list(by.values()),
            positions=places,
            widths=0.85 * width,
            whis=(5, 95),
            orientation="horizontal",
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": colors[k], "alpha": 0.6, "lw": 0.5},
            medianprops={"color": "black", "lw": 1.2},
            whiskerprops={"lw": 0.7},
            capprops={"lw": 0.7},
            flierprops={"marker": ".", "ms": 3, "mec": colors[k], "alpha": 0.7},
        )
        name = f"{stage} {density:g}" if staged else f"density {density:g}"
        axes.plot([], [], color=colors[k], lw=6, alpha=0.6, label=name)
    axes.set_yticks(range(len(architectures)), architectures, fontsize=8)
    axes.set_ylim(len(architectures) - 0.5, -0.5)
    axes.set(xlabel=f"{rows[0]['split']} accuracy (%)", title=f"{title}: accuracy")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", frameon=False, ncols=min(5, len(parts)), fontsize=8)
    save_figure(figure, path)


def draw_extrema(rows: Sequence[Row], title: str, path: Path) -> None:
    """Accuracy against extrema score, coloured by density."""
    if not (rows := sound(rows)):
        return draw_nothing(title, path)
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    _scatter(figure, axes, rows, [row["extrema_score"] for row in rows])
    axes.set(
        xlabel="extrema per hidden unit (0 without hidden units)",
        ylabel=f"{rows[0]['split']} accuracy (%)",
        title=f"{title}: accuracy against extrema",
    )
    save_figure(figure, path)


def draw_pareto(rows: Sequence[Row], title: str, path: Path) -> None:
    """Accuracy against the number of weights, with the networks that no other beats in both."""
    if not (rows := sound(rows)):
        return draw_nothing(title, path)
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    weights = [max(row["nonzeros"], 1) for row in rows]
    _scatter(figure, axes, rows, weights)
    front = pareto_front(weights, [row["accuracy"] for row in rows])
    axes.step(
        [weights[i] for i in front],
        [100 * rows[i]["accuracy"] for i in front],
        where="post",
        color=FRONT,
        lw=1.5,
        marker="o",
        ms=4,
        label="Pareto front",
    )
    axes.set_xscale("log")
    axes.set(
        xlabel="weights that exist",
        ylabel=f"{rows[0]['split']} accuracy (%)",
        title=f"{title}: accuracy against weights",
    )
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)


def draw_nothing(title: str, path: Path) -> None:
    """A plot that says that there is nothing to show."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    axes.set_title(title)
    say(axes, EVERY)
    save_figure(figure, path)


def pareto_front(weights: Sequence[int], accuracy: Sequence[float]) -> list[int]:
    """Indices of the networks that no other beats: fewer weights and at least the accuracy, or vice versa.

    Ordered by weights; of equal networks the first. None has an accuracy that is NaN.
    """
    front: list[int] = []
    best = -1.0
    judged = (i for i in range(len(weights)) if math.isfinite(accuracy[i]))
    for i in sorted(judged, key=lambda i: (weights[i], -accuracy[i], i)):
        if accuracy[i] > best:
            front.append(i)
            best = accuracy[i]
    return front


def _scatter(figure: Any, axes: Any, rows: Sequence[Row], x: Sequence[float]) -> None:
    densities = np.array([row["density"] for row in rows])
    low, high = float(densities.min()), float(densities.max())
    norm = LogNorm(low, high) if low < high else LogNorm(low / 2, min(1.0, high * 2))
    y = [100 * row["accuracy"] for row in rows]
    size = 14 if len(rows) <= 500 else 5
    points = axes.scatter(x, y, c=densities, norm=norm, cmap="viridis", s=size, alpha=0.6, lw=0)
    bar = figure.colorbar(points, ax=axes, label="density")
    shown = sorted(set(densities.tolist()))
    shown = shown if len(shown) <= 8 else shown[:: -(-len(shown) // 8)]
    bar.ax.minorticks_off()
    bar.set_ticks(shown, labels=[f"{density:g}" for density in shown])
    axes.grid(alpha=0.3)
