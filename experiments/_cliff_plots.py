"""Plots of ``experiments.cliff_rescue``, of a run and of its document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import lab
from jaxnet.lab.shown import left_out, sound


def alone(draw: Callable[..., None]) -> Callable[..., None]:
    """A plot as a picture of its own."""

    def save(path: Path, *found: Any) -> None:
        figure, axes = lab.plots.plt.subplots(figsize=(7, 4.4), layout="constrained")
        draw(axes, *found)
        lab.plots.save_figure(figure, path)

    return save


def draw_epochs(axes: Any, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy over the epochs: median and middle half of the seeds of every arm."""
    plots, gone = lab.plots, {(one["arm"], one["seed"]) for one in summary["diverged"]}
    for name, color in zip(summary["arms"], plots.COLORS, strict=False):
        of_arm = [row for row in rows if row["arm"] == name and (name, row["seed"]) not in gone]
        plots.draw_curve(axes, of_arm, color, name)
    axes.axhline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set(xlabel="epoch", ylabel=f"{rows[0]['split'] if rows else ''} accuracy (%)")
    axes.set_title(f"{_what(summary)}: median and middle half{left_out(len(gone))}")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    else:
        plots.say(axes, plots.EVERY)


def draw_final(axes: Any, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Test accuracy at the end: every seed a dot, the mean a line, how many were rescued."""
    arms: Mapping[str, Any] = summary["arms"]
    for y, (arm, color) in enumerate(zip(arms.values(), lab.plots.COLORS, strict=False)):
        accuracy = np.sort([100 * s["accuracy"] for s in sound(arm["seeds"])])
        axes.plot(
            accuracy, y + 0.25 * np.sin(2.4 * np.arange(len(accuracy))), ".", color=color, ms=5, alpha=0.7
        )
        if accuracy.size:
            axes.vlines(accuracy.mean(), y - 0.38, y + 0.38, color=color, lw=2)
        rate, place = arm["aggregate"]["rescued"], {"xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(f"{rate['successes']}/{rate['n']}", (1.01, y), fontsize=9, **place)
    axes.axvline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%); line: mean; dashed: target; right: rescued")
    axes.set_title(_what(summary) + left_out(len(summary["diverged"])))
    axes.grid(alpha=0.3, axis="x")


def _what(summary: dict[str, Any]) -> str:
    sizes, n = "-".join(map(str, summary["sizes"])), summary["config"]["num_seeds"]
    return f"{summary['provenance']['dataset']}, {sizes}, {n} seeds"
