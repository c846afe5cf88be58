"""Plots and the document of ``experiments.optimal_bootstrap``, drawn from what is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments._bootstrap_summary import QUESTIONS, curves, shown_epochs
from experiments._comparisons import (
    Comparison,
    command_line,
    comparison_table,
    draw_comparisons,
    in_points,
    mean_and_interval,
    provenance_lines,
)
from experiments._patched_plots import EVERY, plt, save_figure, say
from experiments._shown import diverged_line, left_out, number, percent, span
from experiments.optimal_bootstrap import num_networks
from jaxnet.files import disk_errors
from jaxnet.records import RunFolder

if TYPE_CHECKING:
    from experiments.optimal_bootstrap import Config

PLOTS = ("search.png", "bootstrap.png")
"""Names of the files drawn."""

COLORS = {
    "bootstrapped": "#c44e52",
    "random": "#4c72b0",
    "shuffled": "#dd8452",
    "fresh values": "#55a868",
    "random, unequal": "0.55",
}


def draw_all(folder: RunFolder) -> None:
    """Draws all plots of a finished run into its folder."""
    summary = folder.read_json("summary.json")
    draw_search(summary, folder.path / PLOTS[0])
    draw_scales(summary, folder.read_rows(), folder.path / PLOTS[1])


def draw_search(summary: dict[str, Any], path: Path) -> None:
    """Best accuracy of every seed and architecture against the threshold: a dot for each seed."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    found = summary["architectures"]
    for k, architecture in enumerate(found):
        name = "-".join(map(str, architecture["sizes"]))
        values = 100 * np.array([s["searched"][name] for s in summary["seeds"]], float)
        values = np.sort(values[np.isfinite(values)])
        if not values.size:
            continue
        x = k + (np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else np.zeros(1))
        axes.plot(x, values, ".", color="#4c72b0", ms=5)
        axes.hlines(values.mean(), k - 0.4, k + 0.4, color="0.2", lw=1.5)
    threshold = 100 * summary["config"]["threshold"]
    axes.axhline(threshold, color="#c44e52", lw=1, ls="--", label=f"learns: above {threshold:g} %")
    labels = [f"{'-'.join(map(str, a['sizes']))}\n{a['weights']} weights" for a in found]
    axes.set_xticks(range(len(found)), labels, fontsize=9)
    axes.set(ylabel=f"best {_watched(summary)} accuracy (%)", ylim=(0, 100))
    n, searched = len(summary["seeds"]), {f"search-{'-'.join(map(str, a['sizes']))}" for a in found}
    gone = left_out(sum(one["stage"] in searched for one in summary["diverged"]))
    axes.set_title(f"{summary['provenance']['dataset']}: {n} seed{'s' if n > 1 else ''} (line: mean){gone}")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_scales(summary: dict[str, Any], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """For each scale the curves of its arms (median, middle half), and below the paired differences."""
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 7.4), layout="constrained", gridspec_kw={"height_ratios": [3, 2]}
    )
    all_curves, seeds = curves(rows), [s["seed"] for s in summary["seeds"]]
    gone = {(one["stage"], one["arm"], one["seed"]) for one in summary["diverged"]}
    for column, scale in enumerate(("medium", "fine")):
        top, bottom = axes[:, column]
        for arm, values in summary["scales"][scale]["arms"].items():
            here = [(scale, arm, seed) not in gone for seed in seeds]
            if not any(here):
                continue
            q1, median, q3 = np.quantile(100 * all_curves[scale, arm][:, here], [0.25, 0.5, 0.75], axis=1)
            x = np.arange(1, len(median) + 1)
            label = f"{arm} ({number(values['weights']['mean'], '.0f')} weights)"
            top.fill_between(x, q1, q3, color=COLORS[arm], alpha=0.2, lw=0)
            top.plot(x, median, color=COLORS[arm], lw=2, marker="." if len(x) < 3 else None, label=label)
        top.set(xlabel="epoch", ylabel=f"{_watched(summary)} accuracy (%)")
        top.set_title(f"{scale}: {'-'.join(map(str, summary['scales'][scale]['sizes']))}")
        top.grid(alpha=0.3)
        if top.get_legend_handles_labels()[0]:
            top.legend(loc="center right", frameon=False, fontsize=9)
        else:
            say(top, EVERY)
        draw_comparisons(bottom, compare(summary, scale))
        bottom.set_xlabel("test accuracy, paired difference (points), 95 %")
    n, lost = len(seeds), left_out(sum(stage in ("medium", "fine") for stage, _, _ in gone))
    figure.suptitle(
        f"{summary['provenance']['dataset']}, {n} seed{'s' if n > 1 else ''} (median, middle half){lost}"
    )
    save_figure(figure, path)


def compare(summary: dict[str, Any], scale: str, measure: str = "test accuracy") -> list[Comparison]:
    """The paired differences of one scale in one measure, in points."""
    found = []
    for c in summary["comparisons"]:
        if (c["scale"], c["measure"]) == (scale, measure):
            found.append(in_points(f"{c['first']} − {c['second']}", c["first"], c["second"], c))
    return found


def write_document(
    path: Path, config: Config, summary: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> None:
    """Writes the Markdown file and the plot beside it."""
    picture = path.with_suffix(".png")
    draw_scales(summary, rows, picture)
    reading = (
        "the best epoch is chosen on validation samples, the test set is read once at the end of a stage"
        if config.protocol == "clean"
        else "the accuracy is that of the best of all epochs on the test set, as in the original"
    )
    lines = [
        "# Optimal bootstrap",
        "",
        "Generated by",
        "",
        "```",
        command_line("experiments.optimal_bootstrap", config),
        "```",
        "",
        f"{summary['provenance']['dataset']}, {config.num_seeds} seeds in every arm, protocol "
        f"`{config.protocol}`: {reading}. Adam at {config.lr:g}, batches of {config.batch_size}, "
        f"{config.epochs} epochs at every scale. Accuracies are in per cent, intervals are 95 % Student-t "
        "intervals over seeds. All arms of a seed see the samples in one order, common to all seeds, so the "
        "intervals do not include the variation of the order.",
        "",
        *_diverged(summary),
        *_search(summary),
        *_scales(summary),
        f"![Curves of all arms, and paired differences of the test accuracy]({picture.name})",
        "",
        *_differences(config, summary),
        *_unequal(summary),
        *_verdict(summary),
        *provenance_lines(summary),
    ]
    with disk_errors(path, "write"):
        path.write_text("\n".join(lines), encoding="utf-8")


def _diverged(summary: dict[str, Any]) -> list[str]:
    line = diverged_line(summary["diverged"], num_networks(summary))
    if line is None:
        return []
    return [f"{line[0].upper()}{line[1:]}. What is built from a diverged network counts as diverged.", ""]


def _search(summary: dict[str, Any]) -> list[str]:
    threshold = f"{100 * summary['config']['threshold']:g} %"
    lines = [
        "## The smallest network that learns",
        "",
        f"A network has learned if its best {_watched(summary)} accuracy of "
        f"{summary['config']['search_epochs']} epochs is above {threshold}. The smallest is, of those of a "
        "seed that have, the one of the fewest weights.",
        "",
        f"| architecture | weights | best {_watched(summary)} accuracy | worst seed .. best seed | learns | "
        "smallest |",
        "|---|---|---|---|---|---|",
    ]
    for a in summary["architectures"]:
        watched = a["watched"]
        lines.append(
            f"| {'-'.join(map(str, a['sizes']))} | {a['weights']} | {mean_and_interval(watched)} | "
            f"{span((watched['min'], watched['max']), '.1f', between=' .. ')} | {a['learns']}/{a['n']} | "
            f"{a['smallest']}/{len(summary['seeds'])} |"
        )
    smallest = summary["smallest"]
    name = "No architecture" if smallest is None else "-".join(map(str, smallest))
    return [*lines, "", f"Most often the smallest: **{name}**.", ""]


def _scales(summary: dict[str, Any]) -> list[str]:
    lines = [
        "## What each arm reaches",
        "",
        "`bootstrapped` is built from the trained network of the scale before (the rule is in "
        "`jaxnet/bootstrap.py`). `random` has as many weights in every layer, at random places with random "
        "values; `shuffled` has the bootstrapped positions, the bootstrapped values permuted within each "
        "layer; `fresh values` has the bootstrapped positions and random values; `random, unequal` lacks the "
        "weights that the features add, as in the original's comparison.",
        "",
        "| scale | arm | weights by layer: mean (range over seeds) | test accuracy | after 1 epoch | "
        "mean over the epochs |",
        "|---|---|---|---|---|---|",
    ]
    for scale, found in summary["scales"].items():
        for arm, values in found["arms"].items():
            layers = " + ".join(map(_count, values["weights_per_layer"]))
            lines.append(
                f"| {scale} ({'-'.join(map(str, found['sizes']))}) | {arm or '-'} | {layers} | "
                f"{mean_and_interval(values['accuracy'])} | "
                f"{percent(values['after']['after epoch 1']['mean'])} | "
                f"{percent(values['mean over the epochs']['mean'])} |"
            )
    return [*lines, "", f"The last two columns are {_watched(summary)} accuracies.", ""]


def _count(layer: dict[str, Any]) -> str:
    low, high = layer["min"], layer["max"]
    return number(low, ".0f") if low == high else f"{layer['mean']:.1f} ({low:.0f} .. {high:.0f})"


def _differences(config: Config, summary: dict[str, Any]) -> list[str]:
    lines = ["## Paired differences", ""]
    for scale in ("medium", "fine"):
        lines += [f"### {scale}: test accuracy", "", *comparison_table(compare(summary, scale)), ""]
        measures = [*(f"after epoch {e}" for e in shown_epochs(config.epochs)), "mean over the epochs"]
        columns = [compare(summary, scale, measure) for measure in measures]
        lines += [
            f"Learning speed at scale {scale}: difference in {_watched(summary)} accuracy, points.",
            "",
            f"| comparison | {' | '.join(measures)} |",
            "|---" * (1 + len(measures)) + "|",
        ]
        for row in zip(*columns, strict=True):
            lines.append(f"| {row[0].title} | {' | '.join(c.shown for c in row)} |")
        lines.append("")
    number = len(summary["comparisons"])
    return [*lines, f"{number} differences are computed; the p-values are not corrected for that.", ""]


def _unequal(summary: dict[str, Any]) -> list[str]:
    lines = ["## How an unequal comparison misleads", ""]
    for scale in ("medium", "fine"):
        by_arms = {(c.first, c.second): c for c in compare(summary, scale)}
        fair, unfair = (by_arms["bootstrapped", second] for second in ("random", "random, unequal"))
        arms = summary["scales"][scale]["arms"]
        most, least = (arms[arm]["weights"]["mean"] for arm in ("random", "random, unequal"))
        lines.append(
            f"- {scale}: against a random network of the plain density, the bootstrapped one seems "
            f"{number(unfair.mean, '+.2f')} points ({unfair.interval}) better, but it has "
            f"{number(most, '.0f')} weights against {number(least, '.0f')}. Against a random network of "
            f"equal size {number(fair.mean, '+.2f')} points ({fair.interval}) are left."
        )
    return [*lines, ""]


def _verdict(summary: dict[str, Any]) -> list[str]:
    lines = ["## Verdict", ""]
    for scale in ("medium", "fine"):
        final = compare(summary, scale)
        speed = compare(summary, scale, "after epoch 1")
        for last, first in zip(final[: len(QUESTIONS) - 1], speed, strict=False):
            lines.append(
                f"- {scale}, {last.title}: {last.verdict} ({last.interval}, {last.n} pairs); after the first "
                f"epoch {first.verdict} ({first.interval})."
            )
    return [
        *lines,
        "",
        "A bootstrapped network has the training of the smaller ones behind it; the controls have not.",
        "",
    ]


def _watched(summary: dict[str, Any]) -> str:
    return "test" if summary["config"]["protocol"] == "seed" else "validation"
