"""Paired comparisons of arms in the documents of docs/results: the row, the table, the forest plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._cli import flag_name, print_table
from experiments._patched_plots import plt, save_figure
from experiments._shown import number, pairs_won, percent, span, with_interval
from jaxnet.records import MAY_DIFFER
from jaxnet.statistics import paired_difference

LEVEL = 0.05
"""A difference is called one where its 95 % interval excludes zero and its p is below this."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two arms on the same seeds; test accuracy in points, first minus second.

    ``n`` pairs are compared, ``not_finite`` are left out: one of the two networks diverged.
    """

    title: str
    first: str
    second: str
    mean: float
    low: float
    high: float
    wins: int
    n: int
    p: float
    not_finite: int = 0

    @property
    def shown(self) -> str:
        """The mean difference with its interval."""
        return with_interval(number(self.mean, "+.2f"), self.interval)

    @property
    def interval(self) -> str:
        """The 95 % interval."""
        return span((self.low, self.high), "+.2f", scale=1, between=" .. ")

    @property
    def won(self) -> str:
        """In how many of the pairs the first is better, and how many pairs are left out."""
        return pairs_won(self.wins, self.n, self.not_finite)

    @property
    def sign(self) -> int:
        """1 where the first is shown to be better, -1 where it is shown to be worse, else 0."""
        if not self.p < LEVEL:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def verdict(self) -> str:
        """What interval and test together allow to say."""
        if not self.n:
            return "no pair left to compare"
        if self.sign > 0:
            return f"better by {self.mean:.2f} points"
        if self.sign < 0:
            return f"**worse** by {-self.mean:.2f} points"
        return "no difference shown"


def comparison(title: str, first: str, second: str, difference: Mapping[str, Any]) -> Comparison:
    """The comparison that a paired difference in points stands for; NaN where a number does not exist."""
    low, high = difference["ci95"] or (float("nan"), float("nan"))
    mean, p = (float("nan") if difference[name] is None else difference[name] for name in ("mean", "p"))
    pairs = difference["wins"], difference["n"]
    return Comparison(title, first, second, mean, low, high, *pairs, p, difference["not_finite"])


def in_points(title: str, first: str, second: str, difference: Mapping[str, Any]) -> Comparison:
    """As :func:`comparison`, of a paired difference of fractions."""
    mean, interval = difference["mean"], difference["ci95"]
    points = {
        "mean": None if mean is None else 100 * mean,
        "ci95": interval and [100 * x for x in interval],
    }
    return comparison(title, first, second, {**difference, **points})


def compare(
    arms: Mapping[str, Mapping[str, Any]], questions: Sequence[tuple[str, str, str]], value: str
) -> list[Comparison]:
    """Paired differences in points of one entry of every seed.

    Args:
      arms: by name, each with its ``seeds`` in the same order.
      questions: title, first and second arm of each.
      value: name of the entry, a fraction; None or NaN of a diverged network.
    """
    comparisons = []
    for title, first, second in questions:
        a, b = (100 * np.array([s[value] for s in arms[name]["seeds"]], float) for name in (first, second))
        comparisons.append(comparison(title, first, second, paired_difference(a, b)))
    return comparisons


def command_line(program: str, config: Any) -> str:
    """The command that makes a document again: every flag that decides the results, and the document.

    Args:
      program: name of the module.
      config: its configuration, a dataclass with a field ``doc``.
    """
    always = ("dataset", "datasets", "num_seeds", "doc")
    flags = [
        f"{flag_name(field.name)} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for field in sorted(dataclasses.fields(config), key=lambda field: field.name == "doc")
        if field.name not in ("data_dir", *MAY_DIFFER)
        and ((value := getattr(config, field.name)) != field.default or field.name in always)
    ]
    return " ".join([f"python -m {program}", *flags])


def correction(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons there are, and how many differences withstand that (Bonferroni)."""
    n = len(comparisons)
    shown = [c for c in comparisons if c.sign]
    hold = sum(c.p * n < LEVEL for c in shown)
    return (
        f"{n} comparisons are made and the p-values not corrected for that; multiplied by {n} (Bonferroni), "
        f"{hold} of the {len(shown)} differences called better or worse stay below {LEVEL}."
    )


def print_comparisons(title: str, comparisons: Sequence[Comparison]) -> None:
    """Prints a row per comparison to the terminal."""
    columns = ["comparison", "difference (points)", "95 % interval", "wins", "p"]
    rows = [[c.title, number(c.mean, "+.2f"), c.interval, c.won, number(c.p, ".2g")] for c in comparisons]
    print_table(title, columns, rows)


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """A Markdown table, a row per comparison."""
    return [
        "| comparison (first minus second) | points | 95 % interval | wins | p | verdict |",
        "|---|---|---|---|---|---|",
        *(
            f"| {c.title} | {number(c.mean, '+.2f')} | {c.interval} | {c.won} | {number(c.p, '.2g')} | "
            f"{c.verdict} |"
            for c in comparisons
        ),
    ]


def draw_comparisons(axes: Any, comparisons: Sequence[Comparison]) -> None:
    """A forest plot: the mean paired difference of each comparison with its interval."""
    y = np.arange(len(comparisons))[::-1]
    for yi, c in zip(y, comparisons, strict=True):
        if not c.n:
            continue
        color = {1: "#2e7d4f", -1: "#c44e52", 0: "0.45"}[c.sign]
        axes.plot([c.low, c.high], [yi, yi], color=color, lw=2)
        axes.plot([c.mean], [yi], "o", color=color, ms=6)
        axes.annotate(
            f"{c.mean:+.2f}",
            (c.mean if np.isnan(c.high) else c.high, yi),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
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
    """Mean and 95 % interval of fractions, in per cent; ``-`` for what does not exist."""
    return with_interval(percent(aggregate["mean"]), span(aggregate["ci95"], between=" .. "))


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
