"""Paired comparisons of arms in the documents of docs/results: the row, the table, the forest plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._patched_plots import plt, save_figure


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two arms on the same seeds; test accuracy in points, first minus second."""

    title: str
    first: str
    second: str
    mean: float
    low: float
    high: float
    wins: int
    n: int
    p: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low > 0:
            return f"better by {self.mean:.2f} points"
        if self.high < 0:
            return f"**worse** by {-self.mean:.2f} points"
        return "no difference shown"


def comparison(title: str, first: str, second: str, difference: Mapping[str, Any]) -> Comparison:
    """The comparison that a paired difference in points stands for; NaN where a number does not exist."""
    low, high = difference["ci95"] or (float("nan"), float("nan"))
    mean, p = (float("nan") if difference[name] is None else difference[name] for name in ("mean", "p"))
    return Comparison(title, first, second, mean, low, high, difference["wins"], difference["n"], p)


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """A Markdown table, a row per comparison."""
    return [
        "| comparison (first minus second) | points | 95 % interval | wins | p | verdict |",
        "|---|---|---|---|---|---|",
        *(
            f"| {c.title} | {c.mean:+.2f} | {c.low:+.2f} .. {c.high:+.2f} | {c.wins}/{c.n} | {c.p:.2g} | "
            f"{c.verdict} |"
            for c in comparisons
        ),
    ]


def draw_comparisons(axes: Any, comparisons: Sequence[Comparison]) -> None:
    """A forest plot: the mean paired difference of each comparison with its interval."""
    y = np.arange(len(comparisons))[::-1]
    for yi, c in zip(y, comparisons, strict=True):
        clear = c.low > 0 or c.high < 0
        color = ("#2e7d4f" if c.mean > 0 else "#c44e52") if clear else "0.45"
        axes.plot([c.low, c.high], [yi, yi], color=color, lw=2)
        axes.plot([c.mean], [yi], "o", color=color, ms=6)
        axes.annotate(
            f"{c.mean:+.2f}", (c.high, yi), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(0, color="0.3", lw=1)
    axes.set_yticks(y, [c.title for c in comparisons], fontsize=8.5)
    axes.set_xlabel("difference in test accuracy (points), paired over seeds, 95 % interval")
    axes.margins(x=0.12)
    axes.grid(alpha=0.3, axis="x")


def save_comparisons(comparisons: Sequence[Comparison], path: Path) -> None:
    """Saves the forest plot as a picture of its own."""
    figure, axes = plt.subplots(figsize=(8.2, 0.42 * len(comparisons) + 1.1), layout="constrained")
    draw_comparisons(axes, comparisons)
    save_figure(figure, path)


def mean_and_interval(aggregate: Mapping[str, Any]) -> str:
    """Mean and 95 % interval of fractions, in per cent."""
    low, high = aggregate["ci95"] or (float("nan"), float("nan"))
    return f"{100 * aggregate['mean']:.2f} ({100 * low:.2f} .. {100 * high:.2f})"


def provenance_lines(summary: Mapping[str, Any]) -> list[str]:
    """The last section of a document: device, versions, data."""
    p = summary["provenance"]
    versions = ", ".join(f"{k} {v}" for k, v in p["versions"].items() if v)
    return [
        "## Provenance",
        "",
        f"{p['device']['platform']} ({p['device'].get('cpu_cores', '?')} cores), {summary['kernel']} kernel; "
        f"{versions}; data fingerprint {p['data_fingerprint']}; {p['time_utc']}.",
        "",
    ]
