"""What ``experiments.patched_density`` measures of every network, and its plots."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab.shown import NOTHING, left_out, number, percent, sizes_label, sound, span
from jaxnet.lab.summary import numbers as plain

SHOWN = 8
"""Of the patches ranked by contribution so many of both ends are printed."""


def measure(
    run: lab.Run[Any], task: Any, before: Any, after: Any, trained: Mapping[str, lab.Trained]
) -> list[dict[str, Any]]:
    """An entry per seed, of the states of its scaffold and of the patched network, leaves ``(seed, ...)``."""
    import jax

    from jaxnet.programs import ONCE

    seed, test, halves = run.config.protocol == "seed", run.split("test"), None
    structure, patched = before.net.structure, after.net.structure
    if seed:
        # as the original prints it: the last scaffold epoch, the best patched epoch
        last = {row["seed"]: row["accuracy"] for row in trained["scaffold"].rows}
        first, params = np.array([last[s] for s in run.seeds], float), after.net.params
        second = np.asarray(after.best_accuracy) if run.config.patch_epochs else first
        first, second = (lab.run.exact(accuracy, test.size) for accuracy in (first, second))
    else:
        first, _ = run.judge(task, before.best_params, structure, test)
        params = after.best_params
        second, halves = run.judge(task, params, patched, test)

    watched: dict[str, Any] = {}
    if run.config.watch_output:
        scaffold = before.net.params if seed else before.best_params
        samples = run.split("test" if seed else "train", slice(watched_samples(run.config)))
        watched = layers(run, task, scaffold, structure, samples)

    def count(params: Any, structure: Any) -> Any:
        sizes = jaxnet.patches.slot_sizes(structure.bank, params.patches)
        return jaxnet.count_nonzeros(params, structure), sizes

    counted = run.over_seeds("the count", count, params, patched, options=ONCE)
    lost, together, pruned = contributions(run, task, params, patched)
    alone, _ = run.judge(task, params, keeping(patched, pruned["kept"] & False), test)
    rows = trained["patch"].rows
    along = {name: curves(rows, name, len(run.seeds)) for name in ("patch_norm", "scaffold_drift")}
    counts, sizes, bank, found, before, after = jax.device_get(
        (*counted, patched.bank, trained["scaffold"].kept["found"], before, after)
    )
    # of a diverged network the best values are those of an earlier epoch, or of none
    first, second = np.where(before.diverged, np.nan, first), np.where(after.diverged, np.nan, second)
    gain = second - first
    lost[np.isnan(gain)] = np.nan
    if together is not None:
        together[np.isnan(gain)] = np.nan
    weights = counts["patch"]
    told: dict[str, Any] = {"without_patches": np.where(np.isnan(gain), np.nan, alone)}
    told["forgotten"] = first - told["without_patches"]
    if run.config.prune_patches is not None:
        fewer, _ = run.judge(task, params, keeping(patched, pruned["kept"]), test)
        told["pruned"] = {
            "accuracy": np.where(np.isnan(gain), np.nan, fewer),
            "num_patches": pruned["kept"].sum(axis=1),
            "patch_weights": np.where(pruned["kept"], np.asarray(counted[1]), 0).sum(axis=1),
        }
    extrema = {
        f"extrema_{kind}": np.stack([getattr(layer, kind).sum(axis=1) for layer in found], axis=1)
        for kind in ("high", "low", "nan")
    }
    banks = [jax.tree.map(operator.itemgetter(i), bank) for i in range(len(gain))]
    patches = [
        [
            {**at, "nonzeros": int(sizes[i, at["slot"]]), "contribution": float(lost[i, at["slot"]])}
            for at in jaxnet.patches.placed(bank)
        ]
        for i, bank in enumerate(banks)
    ]
    entries = lab.entries(
        run.seeds,
        ["patched"],
        diverged=np.isnan(gain),
        scaffold_accuracy=first,
        patched_accuracy=second,
        gain=gain,
        gain_per_1000_weights=np.where(weights > 0, 1000 * gain / np.maximum(weights, 1), None),
        **extrema,
        num_patches=[len(there) for there in patches],
        nonzeros={name: counts[name] for name in ("scaffold", "bias", "patch", "total")},
        # of the scaffold alone: a patch may lie where a weight of the scaffold could
        density=counts["scaffold"] / task.model.spec.dense_weights,
        patch_weights=weights,
        scaffold_epoch=before.epoch if seed else before.best_epoch,
        patched_epoch=after.best_epoch,
        patches=patches,
        patched_accuracy_halves=halves,
        **told,
        **along,
        **watched,
        redundancy=None if together is None else list(together),
    )
    return entries["patched"]


def watched_samples(config: Any) -> int | None:
    """Samples watched for extrema: what is asked for, all of training, or 1000 of test as in the original."""
    return config.extrema_samples or (1000 if config.protocol == "seed" else None)


def layers(run: lab.Run[Any], task: Any, params: Any, structure: Any, samples: Any) -> dict[str, Any]:
    """Extrema of the output layer; mean and deviation over the units of every layer, the output's last."""
    how = {"values": run.config.detect_on, "detector": run.config.detector}
    one = functools.partial(jaxnet.original.layer_log, task, **how)
    found = run.over_seeds("the layers", one, params, structure, samples)
    names = ("output_high", "output_low", "layer_means", "layer_deviations")
    return {name: np.asarray(values) for name, values in zip(names, found, strict=True)}


def keeping(structure: Any, keep: np.ndarray) -> Any:
    """The structures ``(network, ...)`` with those patches in use that ``keep``, ``(network, slot)``, has."""
    import jax
    import jax.numpy as jnp

    if not keep.shape[1]:
        return structure
    return structure.replace(bank=jax.vmap(jaxnet.patches.keep_patches)(structure.bank, jnp.asarray(keep)))


def curves(rows: Sequence[dict[str, Any]], name: str, seeds: int) -> list[list[float]] | None:
    """A column of the rows over the epochs, of every seed; None without epochs."""
    return np.array([row[name] for row in rows], float).reshape(-1, seeds).T.tolist() if rows else None


def contributions(
    run: lab.Run[Any], task: Any, params: Any, structure: Any
) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Contribution of every patch on the watched samples, redundancy and which are needed if asked for."""
    active = np.asarray(jaxnet.patches.active_slots(structure.bank)).reshape(len(run.seeds), -1)
    if not active.shape[1]:
        return np.zeros((len(run.seeds), 0)), None, {"kept": active}

    def measured(what: str, measure: Callable[..., Any]) -> np.ndarray:
        def one(params: Any, structure: Any, split: Any) -> Any:
            def accuracy(bank: Any) -> Any:
                return jaxnet.evaluate(task, params, structure.replace(bank=bank), split).accuracy

            return measure(accuracy, structure.bank)

        return np.array(run.over_seeds(what, one, params, structure, run.split(run.watched)))

    lost, kept = measured("contributions", jaxnet.contributions), active
    if (points := run.config.prune_patches) is not None:

        def needed(accuracy: Any, bank: Any) -> Any:
            return jaxnet.patches.needed(accuracy, bank, points / 100)

        kept = measured("patches that are needed", needed)
    return lost, measured("redundancy", jaxnet.redundancy) if run.config.redundancy else None, {"kept": kept}


def tables(summary: dict[str, Any]) -> list[Any]:
    """A row per seed, then the aggregates. Weights are all that exist; the density is the scaffold's."""
    columns = ["seed", "scaffold %", "patched %", "gain", "high", "low", "patches", "weights", "density %"]
    accuracies = {"scaffold_accuracy": ".2f", "patched_accuracy": ".2f", "gain": "+.2f"}
    counts = ("extrema_high", "extrema_low", "num_patches", "weights")
    rows: list[list[object]] = []
    for s in summary["seeds"]:
        here, shown = numbers(s), [percent(s[name], form) for name, form in accuracies.items()]
        rows.append([s["seed"], *shown, *(here[name] for name in counts), percent(s["density"])])
    a = summary["aggregate"]
    shown = [percent(a[name]["mean"], form) for name, form in accuracies.items()]
    means = [number(a[name]["mean"], ".1f") for name in counts]
    rows.append(["mean", *shown, *means, percent(a["density"]["mean"])])
    ends = [span(a[name]["ci95"], form) for name, form in accuracies.items()]
    rows.append(["95 %", *ends, *[NOTHING] * 5])
    config, sizes = summary["config"], sizes_label(summary["sizes"])
    title = f"{config['dataset']}, {sizes}, protocol {config['protocol']}, {summary['kernel']} kernel"
    return [(title, columns, rows), *patch_tables(summary["seeds"])]


def numbers(entry: dict[str, Any]) -> dict[str, float | None]:
    """What is aggregated: extrema over all layers, and all weights."""
    sums = {name: sum(entry[name]) for name in ("extrema_high", "extrema_low", "extrema_nan")}
    return {**plain(entry), **sums, "weights": entry["nonzeros"]["scaffold"] + entry["patch_weights"]}


def patch_tables(seeds: Sequence[dict[str, Any]]) -> list[Any]:
    """Patches ranked by what is lost without them; their kinds; norms, drift and what is forgotten."""
    every = [{**p, "seed": s["seed"]} for s in sound(seeds) for p in s["patches"]]
    if not every:
        return []
    ranked = sorted(every, key=lambda p: -p["contribution"])
    names = ["rank", "seed", "kind", "hidden layer", "unit", "weights", "points lost without it"]
    rows = [
        [k, p["seed"], p["kind"], p["hidden_layer"] + 1, p["unit"], p["nonzeros"], percent(p["contribution"])]
        for k, p in enumerate(ranked, 1)
    ]
    some = [*rows[:SHOWN], *rows[max(SHOWN, len(rows) - SHOWN) :]]
    kinds: list[list[object]] = []
    for kind, layer in sorted({(p["kind"], p["hidden_layer"]) for p in every}):
        lost = np.array([p["contribution"] for p in every if (p["kind"], p["hidden_layer"]) == (kind, layer)])
        useless = percent(float(np.mean(lost == 0)), ".0f")
        kinds.append(
            [kind, layer + 1, len(lost), percent(lost.mean()), percent(lost.sum() / len(seeds)), useless]
        )
    columns = ["kind", "hidden layer", "patches", "points each", "points a network", "without effect %"]
    tables = [
        (f"patches by contribution, the first and last {SHOWN} of {len(rows)}", names, some),
        ("contribution of kinds", columns, kinds),
    ]
    shown: list[list[object]] = []
    for s in sound(seeds) if "patch_norm" in seeds[0] else ():
        ends = [f"{s[name][at]:.4f}" for name in ("patch_norm", "scaffold_drift") for at in (0, -1)]
        told = [percent(s["without_patches"]), percent(s["forgotten"], "+.2f")]
        fewer = s.get("pruned")
        cells = [percent(fewer["accuracy"]), fewer["num_patches"], fewer["patch_weights"]] if fewer else []
        shown.append([s["seed"], *ends, *told, *cells])
    heads = ["seed", "patch norm, first epoch", "last", "drift of the scaffold, first", "last"]
    heads += ["without patches %", "forgotten"]
    heads += ["pruned %", "patches", "weights"] if "pruned" in seeds[0] else []
    return [*tables, ("patches and scaffold along training", heads, shown)]


def draw_accuracy(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy over the epochs of both phases: median, middle half and range of the seeds."""
    plots, gone, n = lab.plots, set(summary["diverged"]), len(summary["seeds"])
    with plots.picture(path) as axes:
        shift = 0
        for phase, color in (("scaffold", plots.SCAFFOLD), ("patch", plots.PATCH)):
            here = [row for row in rows if row["phase"] == phase and row["seed"] not in gone]
            label = f"{phase} phase (median, middle half, range)"
            last = plots.draw_curve(axes, here, color, label, shift=shift, whole=True)
            if shift and last:
                axes.axvline(shift + 0.5, color="0.6", lw=1, ls="--")
            shift += last
        axes.set(xlabel="epoch", ylabel=f"{rows[0]['split'] if rows else 'validation'} accuracy (%)")
        title = f"{_what(summary)}: accuracy of {n} seed{'s' if n > 1 else ''}{left_out(len(gone))}"
        plots.finish(axes, title, "" if len(gone) < n else plots.EVERY, loc="lower right")


def draw_extrema(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """High and low extrema per hidden layer: every seed a dot, the mean a bar."""
    plots, hidden, seeds = lab.plots, summary["sizes"][1:-1], sound(summary["seeds"])
    kinds = (-0.2, "high", plots.HIGH, "high (saturated)"), (0.2, "low", plots.LOW, "low (dead)")
    with plots.picture(path) as axes:
        for offset, kind, color, label in kinds if seeds else ():
            counts = np.array([s[f"extrema_{kind}"] for s in seeds])  # (seed, layer)
            x, means = np.arange(len(hidden)) + offset, counts.mean(axis=0)
            axes.bar(x, means, width=0.36, color=color, alpha=0.45, label=label)
            dots = x[None] + plots.jitter(len(counts), 0.1)[:, None]
            axes.plot(dots.ravel(), counts.ravel(), ".", color=color, ms=5)
            style: Any = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
            for xi, mean, top in zip(x, means, counts.max(axis=0), strict=True):
                axes.annotate(f"{mean:.1f}", (xi, top), (0, 5), **style)
        layers = [f"hidden layer {k + 1}\n{n} units" for k, n in enumerate(hidden)]
        axes.set_xticks(range(len(hidden)), layers)
        axes.set(ylabel="units")
        axes.margins(y=0.15)
        title = f"{_what(summary)}: extrema after the scaffold phase{left_out(len(summary['diverged']))}"
        plots.finish(axes, title, "" if seeds else plots.EVERY, "y")


def draw_contributions(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy lost without each patch, sorted; every patch of every seed a dot."""
    plots, seeds = lab.plots, sound(summary["seeds"])
    lost: dict[tuple[int, str], list[float]] = {}
    for patch in (p for s in seeds for p in s["patches"]):
        lost.setdefault((patch["hidden_layer"], patch["kind"]), []).append(100 * patch["contribution"])
    groups = sorted(lost)
    with plots.picture(path) as axes:
        for position, (layer, kind) in enumerate(groups):
            values, color = np.sort(lost[layer, kind]), plots.HIGH if kind == "high" else plots.LOW
            axes.plot(position + plots.jitter(len(values), 0.35), values, ".", color=color, ms=5, alpha=0.7)
            axes.hlines(np.median(values), position - 0.4, position + 0.4, color="0.2", lw=1.5)
        axes.axhline(0, color="0.5", lw=1)
        axes.set_xticks(range(len(groups)), [f"{kind}, hidden layer {layer + 1}" for layer, kind in groups])
        axes.set(ylabel="accuracy lost without the patch (points)")
        why = "" if groups else "no patches" if seeds else plots.EVERY
        plots.finish(axes, f"{_what(summary)}: what each patch contributes (line: median)", why, "y")


def _what(summary: dict[str, Any]) -> str:
    return f"{summary['provenance']['dataset']}, {sizes_label(summary['sizes'])}"
