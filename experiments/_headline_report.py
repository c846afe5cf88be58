"""What the document of ``experiments.headline`` shows: lines, ablations, the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import _headline_lines as table
from jaxnet import lab
from jaxnet.lab.compare import values_of
from jaxnet.lab.shown import NOTHING, number, percent, sizes_label, span, with_interval
from jaxnet.statistics import paired_difference

COLUMNS = ("line", "network", "counted", "weights", "most at any step", "augmented", "taught", "epochs")
RESULT = ("test accuracy", "n", "at least", "aim", "reached", "best published at as many weights or fewer")


def only_arm(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one arm of a run."""
    (arm,) = summary["arms"].values()
    found: Mapping[str, Any] = arm
    return found


def marks(summary: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether training images were augmented, and whether teachers taught."""
    return bool(summary["config"].get("augment")), bool(summary["config"].get("taught"))


def line_row(name: str, summary: Mapping[str, Any], mnist: bool) -> list[str]:
    """A row of the table of lines."""
    line, arm = table.LINES[name.removeprefix("line ")], only_arm(summary)
    found = arm["aggregate"]["accuracy"]
    weights = max(seed["weights"] for seed in arm["seeds"])
    shown = ["yes" if mark else "no" for mark in marks(summary)]
    row = [line.name, sizes_label(summary["sizes"]), line.counted, f"{weights:,}"]
    row += [f"{summary['most_weights']:,}", *shown, str(summary["epochs"])]
    row += [lab.report.mean_and_interval(found), str(found["n"])]
    if not mnist:
        return [*row, *[NOTHING] * 4]
    known = table.best_published(weights)
    published = f"{known.accuracy:.2f} ({known.name}, {known.weights:,.0f})" if known else NOTHING
    return [*row, f"{line.at_least:.1f}", f"{line.aim:.1f}", reached(found["mean"], line), published]


def reached(mean: float | None, line: table.Line) -> str:
    """What of a line's bars the mean reaches."""
    if mean is None:
        return NOTHING
    return "aim" if 100 * mean >= line.aim else "at least" if 100 * mean >= line.at_least else "**neither**"


def claims(groups: Mapping[str, Any]) -> list[str]:
    """A sentence per line on MNIST: above what is published, or not."""
    told = []
    for name, summary in groups.get("lines", {}).items():
        arm = only_arm(summary)
        found, weights = arm["aggregate"]["accuracy"], max(seed["weights"] for seed in arm["seeds"])
        known = table.best_published(weights)
        if known is None or found["mean"] is None:
            continue
        ends = found["ci95"] or [found["mean"]] * 2
        above = 100 * ends[0] > known.accuracy
        with_them = [w for w, m in zip(("augmentation", "distillation"), marks(summary), strict=True) if m]
        how = (
            f"with {' and '.join(with_them)}, which that has not" if with_them else "without either, like it"
        )
        what = "the interval lies above it" if above else "no record is claimed"
        told.append(f"{name}: {known.name} has {known.accuracy:.2f} % ({how}): {what}.")
    return told


def ablation_tables(groups: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """By line: every variant, on validation samples, against the whole recipe."""
    tables: dict[str, list[list[str]]] = {}
    runs = groups.get("ablations", {})
    for name, summary in runs.items():
        line, what = name.split(": ", 1)
        arm, whole = only_arm(summary), only_arm(runs[f"{line}: whole"])
        found = arm["aggregate"]["watched"]
        row = [what, lab.report.mean_and_interval(found)]
        both = paired_difference(values_of(arm["seeds"], "watched"), values_of(whole["seeds"], "watched"))
        minus = with_interval(percent(both["mean"], "+.2f"), span(both["ci95"], "+.2f", between=" .. "))
        row += [NOTHING if what == "whole" else minus, number(arm["aggregate"]["weights"]["mean"], ",.0f")]
        tables.setdefault(line, []).append([*row, f"{summary['most_weights']:,}", str(summary["epochs"])])
    return tables


def values(config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows besides what all have."""
    first = next(iter(groups["lines"].values()))
    mnist = first["provenance"]["dataset"] == "mnist"
    runs = {name: run for group in groups.values() for name, run in group.items()}
    return {
        "columns": [*COLUMNS, *RESULT],
        "rows": [line_row(name, summary, mnist) for name, summary in groups["lines"].items()],
        "claims": claims(groups) if mnist else [],
        "ablations": ablation_tables(groups),
        "recipes": recipe_rows(groups),
        "arms": {name: only_arm(run) for name, run in runs.items()},
        "seconds": sum(r["timing"]["run_seconds"] + r["timing"]["compile_seconds"] for r in runs.values()),
    }


def recipe_rows(groups: Mapping[str, Any]) -> list[list[str]]:
    """How the networks of every line are trained."""
    from experiments._method_arms import ARMS

    rows = []
    for name, summary in groups["lines"].items():
        flags = summary["config"]
        rows.append(
            [
                name.removeprefix("line "),
                f"`{flags['arm']}`: {ARMS[flags['arm']].what}",
                *(number(flags.get(key) or 0, "g") for key in ("weight_decay", "average", "taught")),
                ",".join(flags.get("augment") or ()) or "none",
                number(flags["rates"][0], "g"),
                number(summary["seconds_per_network"], ".0f"),
            ]
        )
    return rows


def points(
    groups: Mapping[str, Any],
) -> list[tuple[str, float, float, tuple[float, float], tuple[bool, bool]]]:
    """Ours: name, weights, accuracy in per cent with its interval, and the marks."""
    found = []
    for group in ("lines", "curve"):
        for name, summary in groups.get(group, {}).items():
            arm = only_arm(summary)
            accuracy = arm["aggregate"]["accuracy"]
            if accuracy["mean"] is None:
                continue
            ends = accuracy["ci95"] or [accuracy["mean"]] * 2
            weights = arm["aggregate"]["weights"]["mean"]
            interval = (100 * ends[0], 100 * ends[1])
            found.append((name, weights, 100 * accuracy["mean"], interval, marks(summary)))
    return found


MARKS = {
    (False, False): ("#4c72b0", "o", "ours, neither augmented nor taught"),
    (True, False): ("#55a868", "s", "ours, augmented"),
    (False, True): ("#dd8452", "D", "ours, taught"),
    (True, True): ("#c44e52", "*", "ours, augmented and taught"),
}
"""Colour, marker and legend by what a recipe has."""


def draw_curve(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Accuracy against weights: every line, the curve with neither, the literature."""
    plots, ours = lab.plots, points(groups)
    mnist = next(iter(groups["lines"].values()))["provenance"]["dataset"] == "mnist"
    figure, axes = plots.plt.subplots(figsize=(8.6, 5.6), layout="constrained")
    for p in table.PUBLISHED if mnist else ():
        axes.plot(p.weights, p.accuracy, "x", color="0.45", ms=5)
        axes.annotate(p.name, (p.weights, p.accuracy), (4, -3), textcoords="offset points", fontsize=6)
    if mnist:
        axes.plot([], [], "x", color="0.45", label="published, neither augmented nor taught")
    for mark, (color, marker, label) in MARKS.items():
        here = [p for p in ours if p[4] == mark]
        for name, weights, mean, (low, high), _ in here:
            axes.errorbar(weights, mean, [[mean - low], [high - mean]], color=color, marker=marker, ms=7)
            axes.annotate(name, (weights, mean), (5, 4), textcoords="offset points", fontsize=8, color=color)
        if here:
            axes.plot([], [], marker, color=color, label=label)
    plain = sorted(
        (p[1], p[2]) for p in ours if p[4] == (False, False) and p[0].startswith(("c'", "line c'"))
    )
    if plain:
        axes.plot(*zip(*plain, strict=True), "-", color=MARKS[False, False][0], lw=1.2, alpha=0.7)
    axes.set(xscale="log", xlabel="weights that are counted", ylabel="test accuracy (%)")
    if mnist:
        axes.set_ylim(bottom=96)
    plots.finish(axes, "accuracy against weights, mean and 95 % interval", fontsize=8, loc="lower right")
    plots.save_figure(figure, path)
