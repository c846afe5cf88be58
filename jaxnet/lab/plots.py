"""Plots that studies share, each written whole or not at all."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from jaxnet.files import write_bytes
from jaxnet.lab.compare import Comparison

plt.switch_backend("Agg")

EVERY = "every network diverged"
"""What an empty plot says."""

HIGH, LOW, SCAFFOLD, PATCH = "#c44e52", "#4c72b0", "#55708c", "#dd8452"
"""Colours of high and low extrema, of a network before and after patches."""

_COLORS = ("0.45", "#4c72b0", "#c44e52", "#dd8452", "#55a868", "#8172b3", "#937860", "#da8bc3")
COLORS = 10 * (*_COLORS, "#64b5cd", "0")
"""Colours of arms, in order, again after ten; the first is that of the one others are compared with."""


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all, and closes it."""
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, dpi=130, format="png")
    finally:
        plt.close(figure)
    write_bytes(path, drawn.getvalue())


@contextlib.contextmanager
def picture(path: Path, *cells: int, size: tuple[float, float] = (7, 4.2), **more: Any) -> Iterator[Any]:
    """Axes, in so many rows and columns, of a picture that is written when they are left."""
    figure, axes = plt.subplots(*cells, figsize=size, layout="constrained", **more)
    yield axes
    save_figure(figure, path)


def finish(axes: Any, title: str, why: str = "", grid: Any = "both", **legend: Any) -> None:
    """Title, grid, a legend where anything has a name; ``why`` says why nothing is drawn."""
    axes.set_title(title)
    axes.grid(alpha=0.3, axis=grid)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **legend)
    if why:
        say(axes, why)


def say(axes: Any, text: str) -> None:
    """Says in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def jitter(number: int, width: float) -> np.ndarray:
    """Places of so many dots side by side, ``(number,)``, at most ``width`` to either side."""
    return np.linspace(-width, width, number) if number > 1 else np.zeros(number)


def draw_curve(
    axes: Any, rows: Sequence[Mapping[str, Any]], color: str, label: str, shift: int = 0, whole: bool = False
) -> int:
    """Accuracy over the epochs: median and middle half of the seeds, with ``whole`` their range too.

    Returns the last epoch, 0 where there is no row.
    """
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        if row["accuracy"] is not None and np.isfinite(row["accuracy"]):
            by_epoch.setdefault(row["epoch"], []).append(100 * row["accuracy"])
    if not by_epoch:
        return 0
    epochs = np.array(sorted(by_epoch))
    low, q1, median, q3, high = np.transpose([np.quantile(by_epoch[e], np.arange(5) / 4) for e in epochs])
    x = epochs + shift
    if whole:
        axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    axes.fill_between(x, q1, q3, color=color, alpha=0.25, lw=0)
    # a line of one point is not seen
    axes.plot(x, median, color=color, lw=2, marker="o" if len(x) == 1 else None, label=label)
    return int(epochs[-1])


def draw_differences(axes: Any, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """A forest plot of comparisons as ``summary.json`` has them: mean paired differences, intervals."""
    y = np.arange(len(comparisons))[::-1]
    colors = {"better": "#2e7d4f", "worse": "#c44e52"}
    for yi, c in zip(y, comparisons, strict=True):
        if c["difference"] is None:
            continue
        color, mean = colors.get(c["verdict"], "0.45"), 100 * c["difference"]
        low, high = (100 * end for end in c["ci95"] or [c["difference"]] * 2)
        axes.plot([low, high], [yi, yi], color=color, lw=2)
        axes.plot([mean], [yi], "o", color=color, ms=6)
        axes.annotate(f"{mean:+.2f}", (high, yi), (6, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(0, color="0.3", lw=1)
    axes.set_yticks(y, [c["title"] for c in comparisons], fontsize=8.5)
    axes.set_xlabel("difference in test accuracy (points)\npaired over seeds, 95 % interval")
    axes.margins(x=0.12)
    axes.grid(alpha=0.3, axis="x")


def save_comparisons(path: Path, config: Any, groups: Any, comparisons: Sequence[Comparison]) -> None:
    """Saves the forest plot: the picture of a document that has none of its own."""
    with picture(path, size=(8.2, 0.42 * len(comparisons) + 1.1)) as axes:
        draw_differences(axes, [{**c.as_dict(), "title": c.question.in_full} for c in comparisons])
