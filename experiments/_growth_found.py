"""What ``experiments.indefinite_growth`` tells of its networks: entries, lines, tables, plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab.shown import left_out, percent, sizes_label, sound
from jaxnet.lab.summary import numbers as plain
from jaxnet.statistics import exact_fraction

ARCHITECTURES = 24
"""So many of them are drawn."""

CHANGES = {
    "insert": "insert {size} units behind layer {layer}",
    "widen": "add {size} units to layer {layer}",
    "rewire": "move weights",
    "none": "scaffold stays",
}


def measure(
    run: lab.Run[Any], plan: jaxnet.growth.GrowthPlan, members: Sequence[jaxnet.growth.Member]
) -> list[dict[str, Any]]:
    """An entry per network."""
    if run.config.protocol == "seed":
        size = run.split("test").size
        return [seed_entry(m, exact_fraction(m.history[-1]["accuracy"], size), None) for m in members]
    return [seed_entry(m, *found) for m, found in zip(members, judged(run, plan, members), strict=True)]


def judged(
    run: lab.Run[Any], plan: jaxnet.growth.GrowthPlan, members: Sequence[jaxnet.growth.Member]
) -> list[tuple[float, list[float]]]:
    """Test accuracies, whole and on two halves of the samples, by networks of equal shape together."""
    from jaxnet.growth.member import by_shape
    from jaxnet.growth.training import stack_host

    by_seed = dict[int, tuple[float, list[float]]]()
    for group in by_shape(members):
        nets = stack_host([member.net for member in group])
        found = run.judge(plan.task(group[0].spec), nets.params, nets.structure, run.split("test"))
        by_seed |= {m.seed: (float(a), h.tolist()) for m, a, h in zip(group, *found, strict=True)}
    return [by_seed[member.seed] for member in members]


def seed_entry(member: jaxnet.growth.Member, accuracy: float, halves: list[float] | None) -> dict[str, Any]:
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
        "weights": last["weights"],
        # of the scaffold alone: a patch may lie where a weight of the scaffold could
        "density": counts["scaffold"] / member.spec.dense_weights,
        "patch_weights": counts["patch"],
        "stop_reason": member.stop,
        # the best epoch before a network diverged, or -1 where there was none
        "history": [{**h, "accuracy": np.nan} if h["diverged"] else h for h in member.history],
    }


def numbers(entry: dict[str, Any]) -> dict[str, float | None]:
    """What is aggregated: also hidden layers, their units, and all weights."""
    hidden = entry["architecture"][1:-1]
    return {**plain(entry), "depth": len(hidden), "hidden_units": sum(hidden)}


def iteration_line(member: jaxnet.growth.Member) -> str:
    """One line about the last iteration of a network."""
    entry = member.history[-1]
    decision, what = entry["decision"], f"stop: {member.stop}"
    if decision is not None:
        change = CHANGES[decision["change"]].format(size=decision["size"], layer=(decision["layer"] or 0) + 1)
        what = f"{change}{', add patches' if decision['patches'] else ''} ({decision['reason']})"
    accuracy = "diverged" if entry["diverged"] else f"{percent(entry['accuracy'])} %"
    high, low = sum(entry["extrema_high"]), sum(entry["extrema_low"])
    where = f"seed {member.seed}, iteration {entry['iteration']}: {sizes_label(entry['architecture'])}"
    counts = f"extrema {high} high {low} low, {entry['patches']} patches, {entry['weights']} weights"
    return f"{where}, {accuracy}, {counts}; {what}"


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per seed; weights are all that exist, patches included."""
    names = ["seed", "accuracy %", "iterations", "weights", "density %", "patches", "stop", "architecture"]
    rows: list[list[object]] = []
    for s in summary["seeds"]:
        found = [s["seed"], percent(s["accuracy"]), s["iterations"], s["weights"], percent(s["density"])]
        rows.append([*found, s["history"][-1]["patches"], s["stop_reason"], sizes_label(s["architecture"])])
    config, reached = summary["config"], sum(s["stop_reason"] == "target" for s in summary["seeds"])
    what = f"{config['dataset']}, recipe {config['recipe']}, protocol {config['protocol']}"
    many = f"{reached} of {len(rows)} reached {100 * config['target']:g} %"
    return [(f"{what}, {summary['kernel']} kernel: {many}", names, rows)]


def draw_growth(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy against non-zeros: a line per seed, a dot per iteration."""
    plots, seeds, config = lab.plots, sound(summary["seeds"]), summary["config"]
    with plots.picture(path) as axes:
        for s in seeds:
            weights = [h["weights"] for h in s["history"]]
            accuracy = [100 * h["accuracy"] for h in s["history"]]
            axes.plot(weights, accuracy, ".-", color=plots.SCAFFOLD, lw=1, ms=5, alpha=0.6)
            mark = "o" if s["stop_reason"] == "target" else "x"
            axes.plot(weights[-1:], accuracy[-1:], mark, color=plots.PATCH)
        target, watched = 100 * config["target"], "test" if config["protocol"] == "seed" else "validation"
        axes.axhline(target, color="0.4", lw=1, ls="--", label=f"target {target:g} %")
        axes.set(xlabel="weights that exist, patches included", ylabel=f"{watched} accuracy (%)")
        title = _title(summary, f"growth of {len(seeds)} networks (circle: target reached)")
        plots.finish(axes, title, "" if seeds else plots.EVERY, loc="lower right")


def draw_architectures(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Units of the hidden layers of every grown network, the most frequent architecture first."""
    plots, seeds = lab.plots, sound(summary["seeds"])
    grown = Counter(tuple(s["architecture"][1:-1]) for s in seeds)
    ranked = sorted(grown.items(), key=lambda item: (-item[1], item[0]))[:ARCHITECTURES]
    colors = plots.plt.get_cmap("viridis")(np.linspace(0.15, 0.85, max((len(a) for a in grown), default=1)))
    wide = 0.04 * max((sum(a) for a, _ in ranked), default=0)
    with plots.picture(path, size=(7, 0.34 * len(ranked) + 1.3)) as axes:
        for y, (hidden, _) in enumerate(ranked):
            style: Any = {"left": np.cumsum((0, *hidden[:-1])), "color": colors, "edgecolor": "white"}
            bars = axes.barh([y] * len(hidden), hidden, height=0.7, **style)
            shown = [str(units) if units > wide else "" for units in hidden]
            axes.bar_label(bars, shown, label_type="center", color="white", fontsize=8)
        axes.set_yticks(range(len(ranked)), [f"{times} ×" for _, times in ranked])
        axes.invert_yaxis()
        axes.set_xlabel("hidden units, first layer to the left")
        more = f" (the first {ARCHITECTURES} of {len(grown)})" if len(grown) > len(ranked) else ""
        axes.set_title(_title(summary, f"architectures of {len(seeds)} grown networks{more}"))
        if not seeds:
            plots.say(axes, plots.EVERY)


def _title(summary: dict[str, Any], what: str) -> str:
    where = f"{summary['provenance']['dataset']}, recipe {summary['config']['recipe']}"
    return f"{where}: {what}{left_out(len(summary['diverged']))}"
