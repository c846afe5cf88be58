"""Pictures of the tables of sweeps, in axes of matplotlib; for networks that have not diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.colors import LogNorm

from jaxnet.sweep.selection import pareto_front
from jaxnet.sweep.table import grouped, values


def accuracy(axes: Any, rows: pa.Table) -> None:
    """Accuracy of every architecture and density: box of the middle half, whiskers from 5 to 95 %."""
    architectures = [a for (a,) in grouped(rows, "architecture")]
    parts, percent = list(grouped(rows, "stage", "density")), 100 * values(rows, "accuracy")
    staged, width = len({stage for stage, _ in parts}) > 1, 0.8 / len(parts)
    style = {"orientation": "horizontal", "patch_artist": True, "manage_ticks": False, "whis": (5, 95)}
    style |= {"widths": 0.85 * width, "medianprops": {"color": "black", "lw": 1.2}}
    colors = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(parts)))
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
    style: Any = {"where": "post", "color": "#c44e52", "marker": "o", "ms": 4, "label": "Pareto front"}
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
