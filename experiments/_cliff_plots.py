"""Plots of ``experiments.cliff_rescue``, drawn from what is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments._patched_plots import EVERY, plt, save_figure, say
from experiments._shown import left_out, sound
from jaxnet.records import RunFolder

PLOTS = ("accuracy.png", "rescued.png")
"""Names of the files drawn."""

COLORS = ("0.45", "#4c72b0", "#c44e52", "#dd8452", "#55a868", "#8172b3", "#937860", "#da8bc3")


def draw_all(folder: RunFolder) -> None:
    """Draws all plots of a finished run into its folder."""
    summary = folder.read_json("summary.json")
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    draw_epochs(axes, summary, folder.read_rows())
    save_figure(figure, folder.path / "accuracy.png")
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(summary["arms"]) + 1.4), layout="constrained")
    draw_final(axes, summary)
    save_figure(figure, folder.path / "rescued.png")


def draw_epochs(axes: Any, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Accuracy over the epochs: median and middle half of the seeds of every arm."""
    gone = {(one["arm"], one["seed"]) for one in summary["diverged"]}
    for number, name in enumerate(summary["arms"]):
        of_arm = [row for row in rows if row["arm"] == name and (name, row["seed"]) not in gone]
        if not of_arm:
            continue
        epochs = sorted({row["epoch"] for row in of_arm})
        values = np.array([[100 * r["accuracy"] for r in of_arm if r["epoch"] == e] for e in epochs])
        q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        color = COLORS[number % len(COLORS)]
        axes.fill_between(epochs, q1, q3, color=color, alpha=0.15, lw=0)
        axes.plot(epochs, median, color=color, lw=1.8, label=name)
    axes.axhline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set(xlabel="epoch", ylabel=f"{rows[0]['split'] if rows else ''} accuracy (%)")
    axes.set_title(f"{_what(summary)}: median and middle half{left_out(len(gone))}")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    else:
        say(axes, EVERY)


def draw_final(axes: Any, summary: dict[str, Any]) -> None:
    """Test accuracy at the end: every seed a dot, the mean a line, how many were rescued."""
    arms: Mapping[str, Any] = summary["arms"]
    for number, arm in enumerate(arms.values()):
        y = len(arms) - 1 - number
        accuracy = np.sort([100 * s["accuracy"] for s in sound(arm["seeds"])])
        jitter = 0.25 * np.sin(2.4 * np.arange(len(accuracy)))
        color = COLORS[number % len(COLORS)]
        axes.plot(accuracy, y + jitter, ".", color=color, ms=5, alpha=0.7)
        if accuracy.size:
            axes.vlines(accuracy.mean(), y - 0.38, y + 0.38, color=color, lw=2)
        rate = arm["rescued"]
        axes.annotate(
            f"{rate['successes']}/{rate['n']}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    axes.axvline(100 * summary["target"], color="0.3", lw=1, ls="--")
    axes.set_yticks(range(len(arms))[::-1], list(arms))
    axes.set(xlabel="test accuracy (%); line: mean; dashed: target; right: rescued")
    axes.set_title(_what(summary) + left_out(len(summary["diverged"])))
    axes.grid(alpha=0.3, axis="x")


def _what(summary: dict[str, Any]) -> str:
    n = len(summary["arms"]["static"]["seeds"])
    return f"{summary['provenance']['dataset']}, {'-'.join(map(str, summary['sizes']))}, {n} seeds"
