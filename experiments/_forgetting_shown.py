"""The pictures of ``experiments.forgetting``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import lab


def draw_curves(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Any) -> None:
    """What every dial gives on the tuning streams: accuracy at the end against accuracy when learned."""
    from jaxnet.continual import LEARNERS

    plots = lab.plots
    figure, panels = plots.plt.subplots(
        1, len(groups), figsize=(5.6 * len(groups) + 1.6, 4.8), layout="constrained", squeeze=False
    )
    for axes, (density, runs) in zip(panels[0], groups.items(), strict=True):
        for k, (name, run) in enumerate(runs.items()):
            short = name.split(": ")[1]
            (arm,) = run["arms"].values()
            points = [(t["learning"], t["accuracy"]) for t in run["tried"]]
            points = points or [(arm["aggregate"]["learning"]["mean"], arm["aggregate"]["accuracy"]["mean"])]
            x, y = np.array([p for p in points if None not in p], float).reshape(-1, 2).T * 100
            axes.plot(
                x,
                y,
                "o--" if LEARNERS[short].knows_task else "o-",
                ms=4,
                lw=1.2,
                color=plots.plt.get_cmap("tab20")(k),
                label=short,
            )
        for axis in (axes.xaxis, axes.yaxis):  # what differs by less than a point or two looks alike
            low, high = axis.get_view_interval()
            more = max(0, 2 - (high - low)) / 2
            axis.set_view_interval(low - more, high + more, ignore=True)
        axes.set(xlabel="accuracy when learned (%)", ylabel="accuracy on all tasks at the end (%)")
        axes.set_title(f"density {density}")
        axes.grid(alpha=0.3)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False
    )
    plots.save_figure(figure, path)


def draw_matrices(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Accuracy on every task after every task, of the first density."""
    plots, runs = lab.plots, next(iter(groups.values()))
    wide = min(5, len(runs))
    tall = -(-len(runs) // wide)
    figure, panels = plots.plt.subplots(
        tall, wide, figsize=(2.3 * wide + 1, 2.4 * tall), layout="constrained", squeeze=False
    )
    for axes in panels.ravel()[len(runs) :]:
        axes.set_axis_off()
    for axes, (name, run) in zip(panels.ravel(), runs.items(), strict=False):
        image = axes.imshow(100 * np.array(run["matrix"], float), vmin=0, vmax=100, cmap="viridis")
        axes.set_title(name.split(": ")[1], fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=panels, label="accuracy (%)\nrow: after task\ncolumn: on task", shrink=0.8)
    plots.save_figure(figure, path)
