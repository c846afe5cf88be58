"""What ``experiments.patched_density`` measures of every network, and its plots."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab.shown import left_out, sizes_label, sound


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
    lost, together = contributions(run, task, params, patched)
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
        **watched,
        redundancy=None if together is None else list(together),
    )
    return entries["patched"]


def watched_samples(config: Any) -> int | None:
    """Samples watched for extrema: what is asked for, all of training, or 1000 of test as in the original."""
    return config.extrema_samples or (1000 if config.protocol == "seed" else None)


def layers(run: lab.Run[Any], task: Any, params: Any, structure: Any, samples: Any) -> dict[str, Any]:
    """Extrema of the output layer; mean and deviation over the units of every layer, the output's last."""
    import jax.numpy as jnp

    def one(params: Any, structure: Any, split: Any) -> Any:
        config = run.config
        stats = jaxnet.train.collect_stats(
            task, params, structure, split, values=config.detect_on, output=True
        )
        found = jaxnet.signals.detect(stats[-1], config.detector)
        means = [layer.mean for layer in stats]
        shape = [jnp.stack([part(mean) for mean in means]) for part in (jnp.mean, deviation)]
        return jnp.sum(found.high), jnp.sum(found.low), *shape

    def deviation(mean: Any) -> Any:
        return jnp.std(mean, ddof=1)

    names = ("output_high", "output_low", "layer_means", "layer_deviations")
    found = run.over_seeds("the layers", one, params, structure, samples)
    return {name: np.asarray(values) for name, values in zip(names, found, strict=True)}


def contributions(
    run: lab.Run[Any], task: Any, params: Any, structure: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """Contribution of every patch on the watched samples, and redundancy if asked for."""
    if not jaxnet.patches.active_slots(structure.bank).shape[-1]:
        return np.zeros((len(run.seeds), 0)), None

    def measured(what: str, measure: Callable[..., Any]) -> np.ndarray:
        def one(params: Any, structure: Any, split: Any) -> Any:
            def accuracy(bank: Any) -> Any:
                return jaxnet.evaluate(task, params, structure.replace(bank=bank), split).accuracy

            return measure(accuracy, structure.bank)

        return np.array(run.over_seeds(what, one, params, structure, run.split(run.watched)))

    lost = measured("contributions", jaxnet.contributions)
    return lost, measured("redundancy", jaxnet.redundancy) if run.config.redundancy else None


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
