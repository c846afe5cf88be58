"""Plots of ``experiments.seed_hunt``; networks that diverged are not shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.colors import LogNorm

from experiments._hunt_plan import settings
from experiments._hunt_rows import final_rows, table_of
from jaxnet.lab.plots import EVERY, HIGH, picture, plt, say
from jaxnet.lab.shown import left_out
from jaxnet.sweep.selection import pareto_front
from jaxnet.sweep.table import grouped, sound, values


def draw(path: Path, summary: dict[str, Any], rows: Any) -> None:
    """Draws the plot that a file of a hunt's folder is named by, from its table."""
    last = final_rows(settings(summary["config"]), table_of(path.parent).read())
    draw_rows(path, last, f"{summary['provenance']['dataset']}, {len(last)} networks")


def draw_rows(path: Path, rows: pa.Table, title: str) -> None:
    """Draws the plot that a file is named by, of some rows."""
    shown, plot = sound(rows), PLOTS[path.stem]
    boxes = len(grouped(shown, "architecture")) * max(1.0, 0.6 * len(grouped(shown, "stage", "density")))
    size = (8.0, min(1.6 + 0.22 * boxes, 40.0)) if plot is accuracy else (7.0, 4.6)
    with picture(path, size=size) as axes:
        axes.set_title(f"{title}{left_out(len(rows) - len(shown))}")
        if len(shown):
            plot(axes, shown)
        else:
            say(axes, EVERY)


def accuracy(axes: Any, rows: pa.Table) -> None:
    """Accuracy of every architecture and density: box of the middle half, whiskers from 5 to 95 %."""
    architectures = [a for (a,) in grouped(rows, "architecture")]
    parts, percent = list(grouped(rows, "stage", "density")), 100 * values(rows, "accuracy")
    staged, width = len({stage for stage, _ in parts}) > 1, 0.8 / len(parts)
    style = {"orientation": "horizontal", "patch_artist": True, "manage_ticks": False, "whis": (5, 95)}
    style |= {"widths": 0.85 * width, "medianprops": {"color": "black", "lw": 1.2}}
    colors = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(parts)))
    for k, ((stage, density), color) in enumerate(zip(parts, colors, strict=True)):
        boxes = {
            architectures.index(a) - 0.4 + (k + 0.5) * width: percent[places]
            for (a, *part), places in grouped(rows, "architecture", "stage", "density").items()
            if part == [stage, density]
        }
        box = {"facecolor": color, "alpha": 0.6, "lw": 0.5}
        fliers = {"marker": ".", "ms": 3, "mec": color, "alpha": 0.7}
        axes.boxplot([*boxes.values()], positions=[*boxes], boxprops=box, flierprops=fliers, **style)
        name = f"{stage} {density:g}" if staged else f"density {density:g}"
        axes.plot([], [], color=color, lw=6, alpha=0.6, label=name)
    axes.set_yticks(range(len(architectures)), architectures, fontsize=8)
    axes.set_ylim(len(architectures) - 0.5, -0.5)
    axes.set_xlabel(f"{rows['split'][0]} accuracy (%)")
    axes.grid(alpha=0.3, axis="x")
    axes.figure.legend(loc="outside lower center", frameon=False, ncols=min(5, len(parts)), fontsize=8)


def extrema(axes: Any, rows: pa.Table) -> None:
    """Accuracy against extrema score, coloured by density."""
    _scatter(axes, rows, values(rows, "extrema_score"))
    axes.set_xlabel("extrema per hidden unit (0 without hidden units)")


def pareto(axes: Any, rows: pa.Table) -> None:
    """Accuracy against the number of weights, with the networks that no other beats in both."""
    weights, right = np.maximum(values(rows, "nonzeros"), 1), values(rows, "accuracy")
    _scatter(axes, rows, weights)
    front = pareto_front(weights, right)
    style: Any = {"where": "post", "color": HIGH, "marker": "o", "ms": 4, "label": "Pareto front"}
    axes.step(weights[front], 100 * right[front], **style)
    axes.set(xscale="log", xlabel="weights that exist")
    axes.legend(frameon=False, loc="lower right")


def _scatter(axes: Any, rows: pa.Table, x: np.ndarray) -> None:
    densities, y = values(rows, "density"), 100 * values(rows, "accuracy")
    low, high = float(densities.min()), float(densities.max())
    norm = LogNorm(low, high) if low < high else LogNorm(low / 2, min(1.0, high * 2))
    style: Any = {"cmap": "viridis", "s": 14 if len(rows) <= 500 else 5, "alpha": 0.6, "lw": 0}
    bar = axes.figure.colorbar(axes.scatter(x, y, c=densities, norm=norm, **style), ax=axes, label="density")
    shown = np.unique(densities)
    shown = shown[:: -(-len(shown) // 8)]
    bar.ax.minorticks_off()
    bar.set_ticks(shown, labels=[f"{density:g}" for density in shown])
    axes.set_ylabel(f"{rows['split'][0]} accuracy (%)")
    axes.grid(alpha=0.3)


PLOTS: dict[str, Callable[..., None]] = {"accuracy": accuracy, "extrema": extrema, "pareto": pareto}
