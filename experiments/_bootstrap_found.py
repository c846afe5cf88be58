"""What ``experiments.optimal_bootstrap`` measures, its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import lab
from jaxnet.lab.shown import left_out, number, percent, span, with_interval
from jaxnet.lab.summary import numbers as plain
from jaxnet.statistics import aggregate

MEAN = "mean_over_epochs"
"""Mean accuracy on the watched samples over all epochs."""

COLORS = {
    "bootstrapped": "#c44e52",
    "random": "#4c72b0",
    "shuffled": "#dd8452",
    "fresh values": "#55a868",
    "random, unequal": "0.55",
}


def shown_epochs(epochs: int) -> list[int]:
    """After which epochs the accuracy is reported."""
    return [*(e for e in (1, 2, 5, 10, 20) if e < epochs), epochs]


def entries(
    run: lab.Run[Any], scale: Any, kept: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """An entry per network of a scale, arm after arm.

    Args:
      run: of the study.
      scale: its networks.
      kept: of its stage, on the host, leaves ``(network, ...)``.
      rows: of its epochs.
    """
    from jaxnet.lab.run import exact, fractions

    if kept["right"] is None:  # the best of all epochs on the test set, as in the original
        accuracy, halves = exact(kept["best"], run.split("test").size), None
    else:
        accuracy, halves = fractions(kept["right"], run.split("test").size)
    curves: dict[Any, list[float]] = {}
    for row in rows:
        value = row["accuracy"]
        curves.setdefault((row.get("arm"), row["seed"]), []).append(np.nan if value is None else value)
    found = []
    for i, (arm, seed) in enumerate((a, s) for a in scale.arms or (None,) for s in run.seeds):
        diverged = bool(kept["diverged"][i]) or not np.isfinite(accuracy[i])
        curve = np.array(curves[arm, seed])
        entry = {
            "seed": seed,
            "diverged": diverged,
            "accuracy": np.nan if diverged else float(accuracy[i]),
            "watched": np.nan if diverged else float(kept["best"][i]),
            "epoch": int(kept["epoch"][i]),
            "weights": int(kept["nonzeros"][i].sum()),
            "nonzeros": kept["nonzeros"][i].tolist(),
            MEAN: float(curve.mean()),
            "after": {str(e): float(curve[e - 1]) for e in shown_epochs(scale.epochs)},
        }
        found.append(entry if halves is None else {**entry, "accuracy_halves": halves[i].tolist()})
    return found


def numbers(entry: dict[str, Any]) -> dict[str, float | None]:
    """What is aggregated: the weights of every layer too."""
    layers = {f"nonzeros.{k}": n for k, n in enumerate(entry["nonzeros"])}
    return {**plain(entry), **layers}


def summarise(
    config: Any, scales: Sequence[Any], arms: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """The search: which architecture of a seed is the smallest that learns.

    Returns:
      ``architectures``, ``smallest`` (the architecture that most seeds call so), ``scales``
      (sizes and arms of each), and ``seeds`` with what was searched.
    """
    searched = [scale for scale in scales if scale.name.startswith("search")]
    weights = np.array([[e["weights"] for e in arms[s.name]] for s in searched])  # (architecture, seed)
    found = np.array([[e["watched"] for e in arms[s.name]] for s in searched])
    learns = found > config.threshold  # a diverged one has not
    # per seed: of the architectures that learn, the one of the fewest weights; none is possible
    best = np.where(learns, weights, np.iinfo(np.int64).max).argmin(axis=0)
    smallest = [searched[b] if learns[b, i] else None for i, b in enumerate(best)]
    votes = [sum(s is scale for s in smallest) for scale in searched]
    architectures = [
        {
            "sizes": list(scale.sizes),
            "weights": int(weights[k, 0]),
            "learns": int(learns[k].sum()),
            "smallest": votes[k],
            "n": int(np.isfinite(found[k]).sum()),
            "watched": aggregate(found[k]),
            "accuracy": aggregate([e["accuracy"] for e in arms[scale.name]]),
        }
        for k, scale in enumerate(searched)
    ]
    return {
        "architectures": architectures,
        "smallest": architectures[int(np.argmax(votes))]["sizes"] if max(votes) else None,
        "scales": {
            s.name: {"sizes": list(s.sizes), "arms": list(s.arms)} for s in scales if s not in searched
        },
        "seeds": [
            {
                "seed": config.seed + i,
                "smallest": None if scale is None else list(scale.sizes),
                "searched": {s.name.removeprefix("search-"): found[k, i] for k, s in enumerate(searched)},
            }
            for i, scale in enumerate(smallest)
        ],
    }


def at_scale(summary: dict[str, Any], scale: str) -> dict[str, dict[str, Any]]:
    """Aggregates of the arms of a scale by their name."""
    names = summary["scales"][scale]["arms"] or [""]
    return {n: summary["arms"][f"{scale}: {n}" if n else scale]["aggregate"] for n in names}


def tables(summary: dict[str, Any]) -> list[Any]:
    """The search, the arms and the differences."""

    def interval(of: dict[str, Any]) -> list[str]:
        return [percent(of["mean"]), span(of["ci95"])]

    search = [
        [
            "-".join(map(str, a["sizes"])),
            a["weights"],
            *interval(a["watched"]),
            percent(a["watched"]["min"]),
            f"{a['learns']}/{a['n']}",
            f"{a['smallest']}/{len(summary['seeds'])}",
        ]
        for a in summary["architectures"]
    ]
    arms = [
        [
            scale,
            arm,
            number(a["weights"]["mean"], ".0f"),
            *interval(a["accuracy"]),
            percent(a["after.1"]["mean"]),
        ]
        for scale in summary["scales"]
        for arm, a in at_scale(summary, scale).items()
    ]
    differences = [
        [c["title"], c["measure"], percent(c["difference"], "+.2f"), span(c["ci95"], "+.2f"), c["verdict"]]
        for c in summary["comparisons"]
        if c["measure"] in ("accuracy", "after.1")
    ]
    columns = ["architecture", "weights", "mean %", "95 %", "worst %", "learns", "smallest"]
    return [
        ("search for the smallest network that learns", columns, search),
        ("scales", ["scale", "arm", "weights", "accuracy %", "95 %", "watched, after epoch 1 %"], arms),
        ("paired differences", ["arms", "measure", "points", "95 %", "verdict"], differences),
    ]


def draw_search(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Best accuracy of every seed and architecture against the threshold: a dot for each seed."""
    plots = lab.plots
    figure, axes = plots.plt.subplots(figsize=(7, 4.2), layout="constrained")
    for k, architecture in enumerate(summary["architectures"]):
        name = "-".join(map(str, architecture["sizes"]))
        values = 100 * np.array([s["searched"][name] for s in summary["seeds"]], float)
        values = np.sort(values[np.isfinite(values)])
        if values.size:
            axes.plot(k + plots.jitter(len(values), 0.3), values, ".", color=plots.LOW, ms=5)
            axes.hlines(values.mean(), k - 0.4, k + 0.4, color="0.2", lw=1.5)
    threshold = 100 * summary["config"]["threshold"]
    axes.axhline(threshold, color=plots.HIGH, lw=1, ls="--", label=f"learns: above {threshold:g} %")
    found = summary["architectures"]
    labels = [f"{'-'.join(map(str, a['sizes']))}\n{a['weights']} weights" for a in found]
    axes.set_xticks(range(len(found)), labels, fontsize=9)
    axes.set(ylabel=f"best {watched(summary)} accuracy (%)", ylim=(0, 100))
    gone = left_out(sum(one["arm"].startswith("search") for one in summary["diverged"]))
    n = len(summary["seeds"])
    axes.set_title(f"{summary['provenance']['dataset']}: {n} seed{'s' if n > 1 else ''} (line: mean){gone}")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(frameon=False)
    plots.save_figure(figure, path)


def draw_scales(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """For each scale the curves of its arms (median, middle half), and below the paired differences."""
    plots = lab.plots
    figure, axes = plots.plt.subplots(
        2, 2, figsize=(11, 7.4), layout="constrained", gridspec_kw={"height_ratios": [3, 2]}
    )
    gone = {(one["arm"], one["seed"]) for one in summary["diverged"]}
    for (top, bottom), scale in zip(axes.T, ("medium", "fine"), strict=True):
        for arm, a in at_scale(summary, scale).items():
            name = f"{scale}: {arm}"
            here = [
                r for r in rows if r["phase"] == scale and r["arm"] == arm and (name, r["seed"]) not in gone
            ]
            label = f"{arm} ({number(a['weights']['mean'], '.0f')} weights)"
            plots.draw_curve(top, here, COLORS[arm], label)
        top.set(xlabel="epoch", ylabel=f"{watched(summary)} accuracy (%)")
        top.set_title(f"{scale}: {'-'.join(map(str, summary['scales'][scale]['sizes']))}")
        top.grid(alpha=0.3)
        if top.get_legend_handles_labels()[0]:
            top.legend(loc="center right", frameon=False, fontsize=9)
        else:
            plots.say(top, plots.EVERY)
        asked = [c for c in summary["comparisons"] if c["where"] == scale and c["measure"] == "accuracy"]
        plots.draw_differences(bottom, asked)
        bottom.set_xlabel("test accuracy, paired difference (points), 95 %")
    n, lost = len(summary["seeds"]), left_out(sum(arm.startswith(("medium", "fine")) for arm, _ in gone))
    figure.suptitle(
        f"{summary['provenance']['dataset']}, {n} seed{'s' if n > 1 else ''} (median, middle half){lost}"
    )
    plots.save_figure(figure, path)


def draw_document(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> None:
    """The picture of the document."""
    from jaxnet.files import user_path
    from jaxnet.store import read_rows

    draw_scales(path, groups["run"][""], read_rows(user_path(config.out) / "metrics.jsonl"))


def values(config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows: searched architectures, weights by layer, speed of learning."""
    summary = groups["run"][""]

    def layers(a: dict[str, Any]) -> str:
        found = [v for k, v in a.items() if k.startswith("nonzeros.")]
        return " + ".join(
            number(v["min"], ".0f")
            if v["min"] == v["max"]
            else f"{v['mean']:.1f} ({v['min']:.0f} .. {v['max']:.0f})"
            for v in found
        )

    by_key = {(c.question.first, c.question.second, c.question.measure): c for c in comparisons}
    measures = [*(f"after.{e}" for e in shown_epochs(config.epochs)), MEAN]
    speed = {
        scale: [
            [first.question.shown, *(by_key[*pair, m].shown() for m in measures)]
            for pair in dict.fromkeys((c.question.first, c.question.second) for c in comparisons)
            for first in [by_key[*pair, "accuracy"]]
            if first.question.where == scale
        ]
        for scale in ("medium", "fine")
    }
    return {
        "summary": summary,
        "watched": watched(summary),
        "scales": {scale: at_scale(summary, scale) for scale in summary["scales"]},
        "layers": layers,
        "measures": [
            m.replace("after.", "after epoch ").replace(MEAN, "mean over the epochs") for m in measures
        ],
        "speed": speed,
        "by_key": by_key,
        "with_interval": with_interval,
    }


def watched(summary: dict[str, Any]) -> str:
    """What is looked at after every epoch."""
    return "test" if summary["config"]["protocol"] == "seed" else "validation"
