"""Plots of ``experiments.patched_density``, drawn from what is on disk."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments._shown import left_out, sound
from jaxnet.files import disk_errors
from jaxnet.records import RunFolder

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLOTS = ("accuracy.png", "extrema.png", "contributions.png")
"""Names of the files drawn."""

EVERY = "every network diverged"

HIGH, LOW, SCAFFOLD, PATCH = "#c44e52", "#4c72b0", "#55708c", "#dd8452"


def draw_all(folder: RunFolder) -> None:
    """Draws all plots of a finished run into its folder."""
    summary = folder.read_json("summary.json")
    draw_accuracy(summary, folder.read_rows(), folder.path / "accuracy.png")
    draw_extrema(summary, folder.path / "extrema.png")
    draw_contributions(summary, folder.path / "contributions.png")


def draw_accuracy(summary: dict[str, Any], rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over the epochs of both phases: median, middle half and range of the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    shift, gone = 0, set(summary["diverged"])
    split = rows[0]["split"] if rows else "validation"
    for phase, color in (("scaffold", SCAFFOLD), ("patch", PATCH)):
        by_epoch: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row["phase"] == phase and row["seed"] not in gone:
                by_epoch[row["epoch"]].append(100 * row["accuracy"])
        if not by_epoch:
            continue
        epochs = np.array(sorted(by_epoch))
        values = np.array([by_epoch[e] for e in epochs])  # (epoch, seed)
        low, q1, median, q3, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1], axis=1)
        x = epochs + shift
        axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        axes.fill_between(x, q1, q3, color=color, alpha=0.3, lw=0)
        marker = "o" if len(x) == 1 else None  # a line of one point is not seen
        label = f"{phase} phase (median, middle half, range)"
        axes.plot(x, median, color=color, lw=2, marker=marker, label=label)
        if shift:
            axes.axvline(shift + 0.5, color="0.6", lw=1, ls="--")
        shift += int(epochs[-1])
    axes.set(xlabel="epoch", ylabel=f"{split} accuracy (%)")
    n = len(summary["seeds"])
    axes.set_title(f"{_what(summary)}: accuracy of {n} seed{'s' if n > 1 else ''}{left_out(len(gone))}")
    axes.grid(alpha=0.3)
    if len(gone) < n:
        axes.legend(loc="lower right", frameon=False)
    else:
        say(axes, EVERY)
    save_figure(figure, path)


def draw_extrema(summary: dict[str, Any], path: Path) -> None:
    """High and low extrema per hidden layer: every seed a dot, the mean a bar."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    hidden, seeds = summary["sizes"][1:-1], sound(summary["seeds"])
    for offset, name, color in ((-0.2, "extrema_high", HIGH), (0.2, "extrema_low", LOW)):
        if not seeds:
            break
        counts = np.array([s[name] for s in seeds])  # (seed, layer)
        x = np.arange(len(hidden)) + offset
        label = "high (saturated)" if offset < 0 else "low (dead)"
        axes.bar(x, counts.mean(axis=0), width=0.36, color=color, alpha=0.45, label=label)
        jitter = np.linspace(-0.1, 0.1, len(counts)) if len(counts) > 1 else np.zeros(1)
        axes.plot((x[None] + jitter[:, None]).ravel(), counts.ravel(), ".", color=color, ms=5)
        for xi, mean, top in zip(x, counts.mean(axis=0), counts.max(axis=0), strict=True):
            axes.annotate(
                f"{mean:.1f}", (xi, top), (0, 5), textcoords="offset points", ha="center", fontsize=9
            )
    axes.set_xticks(range(len(hidden)), [f"hidden layer {k + 1}\n{n} units" for k, n in enumerate(hidden)])
    axes.set(ylabel="units")
    axes.margins(y=0.15)
    axes.set_title(f"{_what(summary)}: extrema after the scaffold phase{left_out(len(summary['diverged']))}")
    axes.grid(alpha=0.3, axis="y")
    if seeds:
        axes.legend(frameon=False)
    else:
        say(axes, EVERY)
    save_figure(figure, path)


def draw_contributions(summary: dict[str, Any], path: Path) -> None:
    """Accuracy lost without each patch, sorted; every patch of every seed a dot."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    entries = [p for s in sound(summary["seeds"]) for p in s["patches"]]
    groups = sorted({(p["hidden_layer"], p["kind"]) for p in entries})
    for position, (layer, kind) in enumerate(groups):
        lost = np.sort(
            [100 * p["contribution"] for p in entries if (p["hidden_layer"], p["kind"]) == (layer, kind)]
        )
        x = position + (np.linspace(-0.35, 0.35, len(lost)) if len(lost) > 1 else np.zeros(1))
        axes.plot(x, lost, ".", color=HIGH if kind == "high" else LOW, ms=5, alpha=0.7)
        axes.hlines(np.median(lost), position - 0.4, position + 0.4, color="0.2", lw=1.5)
    axes.axhline(0, color="0.5", lw=1)
    axes.set_xticks(range(len(groups)), [f"{kind}, hidden layer {layer + 1}" for layer, kind in groups])
    axes.set(ylabel="accuracy lost without the patch (points)")
    axes.set_title(f"{_what(summary)}: what each patch contributes (line: median)")
    axes.grid(alpha=0.3, axis="y")
    if not groups:
        say(axes, "no patches" if sound(summary["seeds"]) else EVERY)
    save_figure(figure, path)


def say(axes: Any, text: str) -> None:
    """Says in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")


def _what(summary: dict[str, Any]) -> str:
    return f"{summary['provenance']['dataset']}, {'-'.join(map(str, summary['sizes']))}"


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all, and closes it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(path, "write"):
            figure.savefig(partial, dpi=130, format="png")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        plt.close(figure)
