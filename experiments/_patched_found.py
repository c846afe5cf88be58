"""What ``experiments.patched_density`` measures of every network, and its plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxnet
from jaxnet import lab
from jaxnet.lab.shown import left_out, sound


def measure(
    run: lab.Run[Any], task: Any, before: Any, after: Any, trained: Mapping[str, lab.Trained]
) -> list[dict[str, Any]]:
    """An entry per seed.

    Args:
      run: of the study.
      task: what evaluation needs to know.
      before: states of the scaffolds, leaves ``(seed, ...)``.
      after: states of the patched networks.
      trained: both stages.
    """
    import jax

    from jaxnet.nn.params import count_nonzeros
    from jaxnet.programs import ONCE

    config, seed = run.config, run.config.protocol == "seed"
    structure, patched = before.net.structure, after.net.structure
    halves = None
    if seed:
        # as the original prints it: the last scaffold epoch, the best patched epoch
        last = {row["seed"]: row["accuracy"] for row in trained["scaffold"].rows}
        accuracies = [np.asarray([last[s] for s in run.seeds], float)]
        final = after.net.params
        accuracies.append(np.asarray(after.best_accuracy) if config.patch_epochs else accuracies[0])
        accuracies = [lab.run.exact(a, run.split("test").size) for a in accuracies]
    else:
        test, final = run.split("test"), after.best_params
        scaffold, _ = run.judge(task, before.best_params, structure, test)
        patches, halves = run.judge(task, final, patched, test)
        accuracies = [scaffold, patches]
    # of a diverged network the best values are those of an earlier epoch, or of none
    gone = jax.device_get((before.diverged, after.diverged))
    accuracies = [np.where(g, np.nan, a) for g, a in zip(gone, accuracies, strict=True)]

    def count(params: Any, structure: Any) -> Any:
        return count_nonzeros(params, structure), jaxnet.patches.slot_sizes(structure.bank, params.patches)

    counted = run.over_seeds("the count", count, final, patched, options=ONCE)
    lost, together = contributions(run, task, final, patched)
    counts, sizes, bank, found, epochs = jax.device_get(
        (*counted, patched.bank, trained["scaffold"].kept["found"], (before, after))
    )
    seeds = []
    for i, number in enumerate(run.seeds):
        first, second = (float(a[i]) for a in accuracies)
        gain = second - first
        nonzeros = {name: int(counts[name][i]) for name in ("scaffold", "bias", "patch", "total")}
        entry = {
            "seed": number,
            "diverged": not np.isfinite(gain),
            "scaffold_accuracy": first,
            "patched_accuracy": second,
            "gain": gain,
            "gain_per_1000_weights": 1000 * gain / nonzeros["patch"] if nonzeros["patch"] else None,
            "extrema_high": [int(e.high[i].sum()) for e in found],
            "extrema_low": [int(e.low[i].sum()) for e in found],
            "extrema_nan": [int(e.nan[i].sum()) for e in found],
            "num_patches": int(sum(p.active[i].sum() for p in bank.layers if p is not None)),
            "nonzeros": nonzeros,
            # of the scaffold alone: a patch may lie where a weight of the scaffold could
            "density": nonzeros["scaffold"] / task.model.spec.dense_weights,
            "patch_weights": nonzeros["patch"],
            "scaffold_epoch": int((epochs[0].epoch if seed else epochs[0].best_epoch)[i]),
            "patched_epoch": int(epochs[1].best_epoch[i]),
            "patches": patch_entries(i, bank, sizes, np.where(np.isfinite(gain), lost, np.nan)),
        }
        if halves is not None:
            entry["patched_accuracy_halves"] = halves[i].tolist()
        if together is not None:
            entry["redundancy"] = together[i] if np.isfinite(gain) else np.full_like(together[i], np.nan)
        seeds.append(entry)
    return seeds


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

        return np.asarray(run.over_seeds(what, one, params, structure, run.split(run.watched)))

    lost = measured("contributions", jaxnet.contributions)
    return lost, measured("redundancy", jaxnet.redundancy) if run.config.redundancy else None


def patch_entries(i: int, bank: Any, sizes: np.ndarray, lost: np.ndarray) -> list[dict[str, Any]]:
    """A row per patch of the ``i``-th network.

    Args:
      i: place among the seeds of the run.
      bank: on the host, leaves ``(seed, ...)``.
      sizes: ``(seed, slot)``, values of each patch.
      lost: ``(seed, slot)``, accuracy lost without it.
    """
    entries, slot = [], 0
    for layer, placed in enumerate(bank.layers):
        for k in range(0 if placed is None else placed.active.shape[1]):
            if placed.active[i, k]:
                high = k < placed.num_high
                entries.append(
                    {
                        "slot": slot,
                        "kind": "high" if high else "low",
                        # hidden layers count from 0; a high patch sits in the layer below the one it feeds
                        "hidden_layer": layer - 1 if high else layer,
                        "unit": int(placed.unit[i, k]),
                        "nonzeros": int(sizes[i, slot]),
                        "contribution": float(lost[i, slot]),
                    }
                )
            slot += 1
    return entries


def draw_accuracy(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy over the epochs of both phases: median, middle half and range of the seeds."""
    plots, gone = lab.plots, set(summary["diverged"])
    figure, axes = plots.plt.subplots(figsize=(7, 4.2), layout="constrained")
    shift = 0
    for phase, color in (("scaffold", plots.SCAFFOLD), ("patch", plots.PATCH)):
        here = [row for row in rows if row["phase"] == phase and row["seed"] not in gone]
        label = f"{phase} phase (median, middle half, range)"
        last = plots.draw_curve(axes, here, color, label, shift=shift, whole=True)
        if shift and last:
            axes.axvline(shift + 0.5, color="0.6", lw=1, ls="--")
        shift += last
    axes.set(xlabel="epoch", ylabel=f"{rows[0]['split'] if rows else 'validation'} accuracy (%)")
    n = len(summary["seeds"])
    axes.set_title(f"{_what(summary)}: accuracy of {n} seed{'s' if n > 1 else ''}{left_out(len(gone))}")
    axes.grid(alpha=0.3)
    if len(gone) < n:
        axes.legend(loc="lower right", frameon=False)
    else:
        plots.say(axes, plots.EVERY)
    plots.save_figure(figure, path)


def draw_extrema(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """High and low extrema per hidden layer: every seed a dot, the mean a bar."""
    plots, hidden, seeds = lab.plots, summary["sizes"][1:-1], sound(summary["seeds"])
    figure, axes = plots.plt.subplots(figsize=(7, 4.2), layout="constrained")
    for offset, name, color in ((-0.2, "extrema_high", plots.HIGH), (0.2, "extrema_low", plots.LOW)):
        if not seeds:
            break
        counts = np.array([s[name] for s in seeds])  # (seed, layer)
        x = np.arange(len(hidden)) + offset
        label = "high (saturated)" if offset < 0 else "low (dead)"
        axes.bar(x, counts.mean(axis=0), width=0.36, color=color, alpha=0.45, label=label)
        dots = x[None] + plots.jitter(len(counts), 0.1)[:, None]
        axes.plot(dots.ravel(), counts.ravel(), ".", color=color, ms=5)
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
        plots.say(axes, plots.EVERY)
    plots.save_figure(figure, path)


def draw_contributions(path: Path, summary: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy lost without each patch, sorted; every patch of every seed a dot."""
    plots = lab.plots
    figure, axes = plots.plt.subplots(figsize=(7, 4.2), layout="constrained")
    lost: dict[tuple[int, str], list[float]] = {}
    for patch in (p for s in sound(summary["seeds"]) for p in s["patches"]):
        lost.setdefault((patch["hidden_layer"], patch["kind"]), []).append(100 * patch["contribution"])
    groups = sorted(lost)
    for position, (layer, kind) in enumerate(groups):
        values = np.sort(lost[layer, kind])
        color = plots.HIGH if kind == "high" else plots.LOW
        axes.plot(position + plots.jitter(len(values), 0.35), values, ".", color=color, ms=5, alpha=0.7)
        axes.hlines(np.median(values), position - 0.4, position + 0.4, color="0.2", lw=1.5)
    axes.axhline(0, color="0.5", lw=1)
    axes.set_xticks(range(len(groups)), [f"{kind}, hidden layer {layer + 1}" for layer, kind in groups])
    axes.set(ylabel="accuracy lost without the patch (points)")
    axes.set_title(f"{_what(summary)}: what each patch contributes (line: median)")
    axes.grid(alpha=0.3, axis="y")
    if not groups:
        plots.say(axes, "no patches" if sound(summary["seeds"]) else plots.EVERY)
    plots.save_figure(figure, path)


def _what(summary: dict[str, Any]) -> str:
    return f"{summary['provenance']['dataset']}, {'-'.join(map(str, summary['sizes']))}"
