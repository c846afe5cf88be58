"""What ``experiments.optimal_bootstrap`` measures, its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab.shown import left_out, number, percent, sizes_label, span
from jaxnet.lab.summary import numbers as plain
from jaxnet.statistics import aggregate

MEAN = "mean_over_epochs"
"""Mean accuracy on the watched samples over all epochs."""

COLORS = {"bootstrapped": "#c44e52", "random": "#4c72b0", "shuffled": "#dd8452"}
COLORS |= {"fresh values": "#55a868", "random, unequal": "0.55"}


def shown_epochs(epochs: int) -> list[int]:
    """After which epochs the accuracy is reported."""
    return [*(e for e in (1, 2, 5, 10, 20) if e < epochs), epochs]


def entries(
    run: lab.Run[Any], scale: Any, kept: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """An entry per seed of every arm of a scale, of what was kept on the host and the rows of the epochs."""
    size, halves = run.split("test").size, None
    if kept["right"] is None:  # the best of all epochs on the test set, as in the original
        accuracy = lab.run.exact(kept["best"], size)
    else:
        accuracy, halves = lab.run.fractions(kept["right"], size)
    gone = kept["diverged"] | ~np.isfinite(accuracy)
    epochs = np.array([row["accuracy"] for row in rows], float).reshape(-1, len(accuracy))
    curves = np.ascontiguousarray(epochs.T)  # (network, epoch)
    return lab.entries(
        run.seeds,
        scale.arms or ("",),
        diverged=gone,
        accuracy=np.where(gone, np.nan, accuracy),
        watched=np.where(gone, np.nan, kept["best"]),
        epoch=kept["epoch"],
        weights=kept["nonzeros"].sum(axis=1),
        nonzeros=kept["nonzeros"],
        **{MEAN: curves.mean(axis=1)},
        after={str(e): curves[:, e - 1] for e in shown_epochs(scale.epochs)},
        accuracy_halves=halves,
    )


def numbers(entry: dict[str, Any]) -> dict[str, float | None]:
    """What is aggregated: the weights of every layer too."""
    return plain(entry) | {f"nonzeros.{k}": n for k, n in enumerate(entry["nonzeros"])}


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
    learns, best, votes = elected(found, weights, config.threshold)
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
    rest = {s.name: {"sizes": list(s.sizes), "arms": list(s.arms)} for s in scales if s not in searched}
    smallest = [list(searched[k].sizes) if learns[k, i] else None for i, k in enumerate(best)]
    columns = {s.name.removeprefix("search-"): found[k] for k, s in enumerate(searched)}
    seeds = [
        {"seed": config.seed + i, "smallest": sizes, "searched": {n: c[i] for n, c in columns.items()}}
        for i, sizes in enumerate(smallest)
    ]
    first = architectures[int(np.argmax(votes))]["sizes"] if max(votes) else None
    return {"architectures": architectures, "smallest": first, "scales": rest, "seeds": seeds}


def elected(
    found: np.ndarray, weights: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Which architectures learn, ``(architecture, seed)``, the smallest of every seed, votes for each."""
    learns = found > threshold  # a diverged one has not
    # per seed: of the architectures that learn, the one of the fewest weights; none is possible
    best = np.where(learns, weights, np.iinfo(np.int64).max).argmin(axis=0)
    return learns, best, [int(np.sum(learns[k] & (best == k))) for k in range(len(found))]


def smallest(run: lab.Run[Any], searched: Sequence[Any]) -> tuple[int, ...] | None:
    """The sizes that most seeds find smallest, by the rows of the search; None where nothing learns."""
    config, rows = run.config, run.folder.read_rows()
    found = np.zeros((len(searched), len(run.seeds)))
    for k, scale in enumerate(searched):
        here = [row["accuracy"] for row in rows if row["phase"] == scale.name]
        # max passes over what is not finite; a network that diverged at last has not learned
        epochs = np.array(here, float).reshape(-1, len(run.seeds))
        found[k] = np.where(np.isfinite(epochs[-1]), np.nanmax(np.nan_to_num(epochs, nan=-1.0), axis=0), -1)
    weights = [sum(jaxnet.allocate(scale.sizes, config.density)) for scale in searched]
    _, _, votes = elected(found, np.array(weights)[:, None], config.threshold)
    return searched[int(np.argmax(votes))].sizes if max(votes) else None


def at_scale(summary: dict[str, Any], scale: str) -> dict[str, dict[str, Any]]:
    """Aggregates of the arms of a scale by their name."""
    names = summary["scales"][scale]["arms"] or [""]
    return {n: summary["arms"][f"{scale}: {n}" if n else scale]["aggregate"] for n in names}


def tables(summary: dict[str, Any]) -> list[Any]:
    """The search, the arms and the differences."""

    def interval(of: dict[str, Any]) -> list[str]:
        return [percent(of["mean"]), span(of["ci95"])]

    search, arms = list[list[object]](), list[list[object]]()
    for a in summary["architectures"]:
        votes = [f"{a['learns']}/{a['n']}", f"{a['smallest']}/{len(summary['seeds'])}"]
        reached = [*interval(a["watched"]), percent(a["watched"]["min"])]
        search.append([sizes_label(a["sizes"]), a["weights"], *reached, *votes])
    for scale in summary["scales"]:
        for arm, a in at_scale(summary, scale).items():
            reached = [*interval(a["accuracy"]), percent(a["after.1"]["mean"])]
            arms.append([scale, arm, number(a["weights"]["mean"], ".0f"), *reached])
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
    plots, found = lab.plots, summary["architectures"]
    with plots.picture(path) as axes:
        for k, sizes in enumerate(sizes_label(a["sizes"]) for a in found):
            every = 100 * np.array([s["searched"][sizes] for s in summary["seeds"]], float)
            if (values := np.sort(every[np.isfinite(every)])).size:
                axes.plot(k + plots.jitter(len(values), 0.3), values, ".", color=plots.LOW, ms=5)
                axes.hlines(values.mean(), k - 0.4, k + 0.4, color="0.2", lw=1.5)
        least = 100 * summary["config"]["threshold"]
        axes.axhline(least, color=plots.HIGH, lw=1, ls="--", label=f"learns: above {least:g} %")
        labels = [f"{sizes_label(a['sizes'])}\n{a['weights']} weights" for a in found]
        axes.set_xticks(range(len(found)), labels, fontsize=9)
        axes.set(ylabel=f"best {watched(summary)} accuracy (%)", ylim=(0, 100))
        gone = left_out(sum(one["arm"].startswith("search") for one in summary["diverged"]))
        plots.finish(axes, f"{_what(summary, ':')} (line: mean){gone}", grid="y")


def draw_scales(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """For each scale the curves of its arms (median, middle half), and below the paired differences."""
    plots, gone = lab.plots, {(one["arm"], one["seed"]) for one in summary["diverged"]}
    with plots.picture(path, 2, 2, size=(11, 7.4), height_ratios=[3, 2]) as axes:
        for (top, bottom), scale in zip(axes.T, ("medium", "fine"), strict=True):
            here = [row for row in rows if row["phase"] == scale]
            here = [row for row in here if (f"{scale}: {row['arm']}", row["seed"]) not in gone]
            for arm, a in at_scale(summary, scale).items():
                label = f"{arm} ({number(a['weights']['mean'], '.0f')} weights)"
                plots.draw_curve(top, [row for row in here if row["arm"] == arm], COLORS[arm], label)
            top.set(xlabel="epoch", ylabel=f"{watched(summary)} accuracy (%)")
            title = f"{scale}: {sizes_label(summary['scales'][scale]['sizes'])}"
            plots.finish(top, title, "" if here else plots.EVERY, loc="center right", fontsize=9)
            asked = [c for c in summary["comparisons"] if c["where"] == scale and c["measure"] == "accuracy"]
            plots.draw_differences(bottom, asked)
            bottom.set_xlabel("test accuracy, paired difference (points), 95 %")
        lost = left_out(sum(arm.startswith(("medium", "fine")) for arm, _ in gone))
        axes[0, 0].figure.suptitle(f"{_what(summary, ',')} (median, middle half){lost}")


def _what(summary: dict[str, Any], between: str) -> str:
    n = len(summary["seeds"])
    return f"{summary['provenance']['dataset']}{between} {n} seed{'s' if n > 1 else ''}"


def draw_document(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> None:
    """The picture of the document."""
    from jaxnet.files import user_path
    from jaxnet.store import read_rows

    draw_scales(path, groups["run"][""], read_rows(user_path(config.out) / "metrics.jsonl"))


def layers(aggregate: Mapping[str, Any]) -> str:
    """Weights of every layer of an arm: the mean, and the range where seeds differ."""
    found = []
    for of in (of for name, of in aggregate.items() if name.startswith("nonzeros.")):
        low, high = (number(of[end], ".0f") for end in ("min", "max"))
        found.append(low if low == high else f"{number(of['mean'], '.1f')} ({low} .. {high})")
    return " + ".join(found)


def values(config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows: searched architectures, weights by layer, speed of learning."""
    summary = groups["run"][""]
    shown = {(c.question.shown, c.question.measure): c.shown() for c in comparisons}
    measures = [*(f"after.{e}" for e in shown_epochs(config.epochs)), MEAN]
    titles = dict.fromkeys((c.question.where, c.question.shown) for c in comparisons)
    speed: dict[str, list[list[str]]] = {"medium": [], "fine": []}
    for where, title in titles:
        speed[where].append([title, *(shown[title, measure] for measure in measures)])
    return {
        "watched": watched(summary),
        "scales": {scale: at_scale(summary, scale) for scale in summary["scales"]},
        "layers": layers,
        "measures": ["mean over the epochs" if m == MEAN else f"after epoch {m[6:]}" for m in measures],
        "speed": speed,
    }


def watched(summary: dict[str, Any]) -> str:
    """What is looked at after every epoch."""
    return "test" if summary["config"]["protocol"] == "seed" else "validation"
