"""What ``experiments.indefinite_growth`` tells of its networks: entries, lines, tables, plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet import lab
from jaxnet.lab.shown import left_out, percent, sound
from jaxnet.lab.summary import numbers as plain
from jaxnet.statistics import exact_fraction

if TYPE_CHECKING:
    from jaxnet.growth import GrowthPlan, Member

ARCHITECTURES = 24
"""So many of them are drawn."""

CHANGES = {
    "insert": "insert {size} units behind layer {layer}",
    "widen": "add {size} units to layer {layer}",
    "rewire": "move weights",
    "none": "scaffold stays",
}


def sizes_of(entry: dict[str, Any]) -> str:
    """The architecture of a network or an iteration."""
    return "-".join(map(str, entry["architecture"]))


def measure(run: lab.Run[Any], plan: GrowthPlan, members: Sequence[Member]) -> list[dict[str, Any]]:
    """An entry per network; the test samples are read here, by networks of equal shape together."""
    from jaxnet.growth.member import shape_of
    from jaxnet.growth.training import stack_host

    halves: dict[int, list[float]] = {}
    if run.config.protocol == "seed":
        watched = run.split("test").size
        accuracy = {m.seed: exact_fraction(m.history[-1]["accuracy"], watched) for m in members}
    else:
        accuracy, groups = {}, {}  # type: ignore[var-annotated]
        for member in members:
            groups.setdefault((member.spec.sizes, shape_of(member.net)), []).append(member)
        for group in groups.values():
            nets = stack_host([member.net for member in group])
            judged = run.judge(plan.task(group[0].spec), nets.params, nets.structure, run.split("test"))
            for member, whole, parts in zip(group, *judged, strict=True):
                accuracy[member.seed], halves[member.seed] = float(whole), parts.tolist()
    return [seed_entry(m, accuracy[m.seed], halves.get(m.seed)) for m in members]


def seed_entry(member: Member, accuracy: float, halves: list[float] | None) -> dict[str, Any]:
    """What is known of one network; accuracies of a diverged one are NaN."""
    last, counts = member.history[-1], member.history[-1]["nonzeros"]
    diverged = member.stop == "diverged" or not np.isfinite(accuracy)
    return {
        "seed": member.seed,
        "diverged": diverged,
        "iterations": len(member.history),
        "architecture": last["architecture"],
        "accuracy": np.nan if diverged else accuracy,
        **({} if halves is None else {"accuracy_halves": halves}),
        "nonzeros": counts,
        # of the scaffold alone: a patch may lie where a weight of the scaffold could
        "density": counts["scaffold"] / member.spec.dense_weights,
        "patch_weights": counts["patch"],
        "stop_reason": member.stop,
        # the best epoch before a network diverged, or -1 where there was none
        "history": [{**h, "accuracy": np.nan} if h["diverged"] else h for h in member.history],
    }


def numbers(entry: dict[str, Any]) -> dict[str, float | None]:
    """What is aggregated: also hidden layers, their units, and all weights."""
    hidden, weights = entry["architecture"][1:-1], entry["nonzeros"]["scaffold"] + entry["patch_weights"]
    return {**plain(entry), "depth": len(hidden), "hidden_units": sum(hidden), "weights": weights}


def iteration_line(member: Member) -> str:
    """One line about the last iteration of a network."""
    entry = member.history[-1]
    decision, counts, what = entry["decision"], entry["nonzeros"], f"stop: {member.stop}"
    if decision is not None:
        layer = (decision["layer"] or 0) + 1
        change = CHANGES[decision["change"]].format(size=decision["size"], layer=layer)
        what = f"{change}{', add patches' if decision['patches'] else ''} ({decision['reason']})"
    accuracy = "diverged" if entry["diverged"] else f"{percent(entry['accuracy'])} %"
    return (
        f"seed {member.seed}, iteration {entry['iteration']}: {sizes_of(entry)}, {accuracy}, extrema "
        f"{sum(entry['extrema_high'])} high {sum(entry['extrema_low'])} low, {entry['patches']} patches, "
        f"{counts['scaffold'] + counts['patch']} weights; {what}"
    )


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per seed; weights are all that exist, patches included."""
    names = ["seed", "accuracy %", "iterations", "weights", "density %", "patches", "stop", "architecture"]
    rows: list[list[object]] = []
    for s in summary["seeds"]:
        weights, patches = s["nonzeros"]["scaffold"] + s["patch_weights"], s["history"][-1]["patches"]
        found = [s["seed"], percent(s["accuracy"]), s["iterations"], weights, percent(s["density"])]
        rows.append([*found, patches, s["stop_reason"], sizes_of(s)])
    config, reached = summary["config"], sum(s["stop_reason"] == "target" for s in summary["seeds"])
    what = f"{config['dataset']}, recipe {config['recipe']}, protocol {config['protocol']}"
    many = f"{reached} of {len(rows)} reached {100 * config['target']:g} %"
    return [(f"{what}, {summary['kernel']} kernel: {many}", names, rows)]


def draw_growth(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy against non-zeros: a line per seed, a dot per iteration."""
    plots, seeds = lab.plots, sound(summary["seeds"])
    figure, axes = plots.plt.subplots(figsize=(7, 4.2), layout="constrained")
    for s in seeds:
        weights = [h["nonzeros"]["scaffold"] + h["nonzeros"]["patch"] for h in s["history"]]
        accuracy = [100 * h["accuracy"] for h in s["history"]]
        axes.plot(weights, accuracy, ".-", color=plots.SCAFFOLD, lw=1, ms=5, alpha=0.6)
        mark = "o" if s["stop_reason"] == "target" else "x"
        axes.plot(weights[-1:], accuracy[-1:], mark, color=plots.PATCH)
    target = 100 * summary["config"]["target"]
    axes.axhline(target, color="0.4", lw=1, ls="--", label=f"target {target:g} %")
    watched = "test" if summary["config"]["protocol"] == "seed" else "validation"
    axes.set(xlabel="weights that exist, patches included", ylabel=f"{watched} accuracy (%)")
    axes.set_title(_title(summary, f"growth of {len(seeds)} networks (circle: target reached)"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    if not seeds:
        plots.say(axes, plots.EVERY)
    plots.save_figure(figure, path)


def draw_architectures(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Units of the hidden layers of every grown network, the most frequent architecture first."""
    plots, seeds = lab.plots, sound(summary["seeds"])
    grown = Counter(tuple(s["architecture"][1:-1]) for s in seeds)
    ranked = sorted(grown.items(), key=lambda item: (-item[1], item[0]))[:ARCHITECTURES]
    figure, axes = plots.plt.subplots(figsize=(7, 0.34 * len(ranked) + 1.3), layout="constrained")
    colors = plots.plt.get_cmap("viridis")(np.linspace(0.15, 0.85, max((len(a) for a in grown), default=1)))
    for y, (hidden, _) in enumerate(ranked):
        lefts = np.cumsum((0, *hidden[:-1]))
        bars = axes.barh([y] * len(hidden), hidden, left=lefts, height=0.7, color=colors, edgecolor="white")
        wide = 0.04 * max(sum(a) for a, _ in ranked)
        shown = [str(units) if units > wide else "" for units in hidden]
        axes.bar_label(bars, shown, label_type="center", color="white", fontsize=8)
    axes.set_yticks(range(len(ranked)), [f"{times} ×" for _, times in ranked])
    axes.invert_yaxis()
    axes.set_xlabel("hidden units, first layer to the left")
    more = f" (the first {ARCHITECTURES} of {len(grown)})" if len(grown) > len(ranked) else ""
    axes.set_title(_title(summary, f"architectures of {len(seeds)} grown networks{more}"))
    if not seeds:
        plots.say(axes, plots.EVERY)
    plots.save_figure(figure, path)


def _title(summary: dict[str, Any], what: str) -> str:
    where = f"{summary['provenance']['dataset']}, recipe {summary['config']['recipe']}"
    return f"{where}: {what}{left_out(len(summary['diverged']))}"
