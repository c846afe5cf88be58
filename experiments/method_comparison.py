"""Methods at equal size: every rule of the field on the same seeds, in batched programs.

Every method trains as many networks of the same number of weights, on the same seeds, for as many
epochs, after an equal number of tuning trials on other seeds.

    python -m experiments.method_comparison --methods sparse-start
    python -m experiments.method_comparison --methods static,dense-start --densities 0.02,0.05 --num-seeds 12
    python -m experiments.method_comparison --preset headline --num-seeds 12
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from experiments import _method_arms as methods
from experiments import _presets as presets
from experiments._method_run import ARM, ArmConfig, settle_arm
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Activation, Allocation, check_sizes
from jaxnet.lab.shown import NOTHING, number, percent

ORDER = (("rigl", "set"), ("set", "static"), ("rigl", "static"))
"""What the field knows: the first is no worse than the second."""

OURS = (
    *(("extrema", "set"), ("extrema-gradient", "rigl"), ("static-local", "static-correlated")),
    *((f"{name}-local", name) for name in ("set", "rigl", "chts", "sparse-momentum")),
)
"""What extrema add to a rule of the field, and local wiring; judged."""


@dataclass(frozen=True)
class Config(
    presets.PresetFlags, lab.DocumentFlags, lab.RunFlags, lab.BatchFlags, lab.SeedFlags, lab.DataFlags
):
    """Every method at every density, compared on the same seeds."""

    PRESETS: ClassVar = presets.METHODS

    sizes: tuple[int, ...] | None = changed(lab.NetworkFlags, "sizes")
    allocation: Allocation = changed(
        lab.NetworkFlags,
        "allocation",
        "erdos-renyi",
        "how the density is shared out over the layers, where the name of a method does not say it",
    )
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = changed(lab.NetworkFlags, "init")
    activation: Activation = changed(lab.NetworkFlags, "activation")

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    methods: tuple[str, ...] = option(
        ("all",), f"all, sparse-start, dense-start, or names: {', '.join(methods.ARMS)}"
    )
    baseline: str = option("static", "the method that the others are compared with")
    densities: tuple[float, ...] = option(
        (0.01, 0.02, 0.05, 0.1), "fractions of the weights that exist at the end", "in (0, 1]", fraction=True
    )
    num_seeds: int = option(16, "networks of every method and density; verdicts need 12", least=2)
    epochs: int = option(20, "of training", "epochs", least=1)
    every: int = option(100, "steps between two changes", "steps", least=1)
    rounds: int = option(5, "prunings of rewind, each after --epochs epochs", "prunings", least=1)
    batch_size: int = changed(lab.BatchFlags, "batch_size", 128)
    rates: tuple[float, ...] = option(
        (3e-3, 1e-2, 3e-2), "Adam's learning rates to choose from, on validation; one rate: no trials"
    )
    weight_decay: float = option(0.0, "decoupled decay of the weights", least=0)
    average: float = changed(ArmConfig, "average")
    taught: int = option(0, "dense networks of the same sizes that together teach every method", least=0)
    trial_epochs: int | None = option(None, "of the trials; auto: as many", "epochs", none="auto", least=1)
    trial_seeds: int = option(2, "networks of every rate in the trials, other seeds", least=1)
    peers: bool = option(False, "also show the best epoch on the test samples, as peers select")
    out: str = changed(lab.RunFlags, "out", "checkpoints/method_comparison")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        names = methods.names_of(self.methods)
        if self.baseline not in names:
            raise InputError(f"--baseline must be one of the methods: {self.baseline!r} is not in --methods")
        for flag, found in (("--densities", self.densities), ("--rates", self.rates)):
            if not found or len(set(found)) < len(found) or min(found) <= 0:
                raise InputError(f"{flag} must be different numbers above 0, at least one: {list(found)}")
        check_sizes(self.sizes, 3)
        super().check()


def arm_config(config: Config, name: str, density: float, rates: Sequence[float], **more: Any) -> ArmConfig:
    """The run of one method at one density."""
    shared = {f.name for f in dataclasses.fields(ArmConfig)} & {f.name for f in dataclasses.fields(Config)}
    values = {field: getattr(config, field) for field in shared}
    folder = f"density {density:g} {name}{' trials' if len(rates) > 1 else ''}"
    values |= lab.run.arm_values(config, folder)
    return ArmConfig(**{**values, "arm": name, "density": density, "rates": tuple(rates), "lr": None, **more})


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Tries the rates, then trains, method by method; by density, every method's summary."""
    names, found = methods.names_of(config.methods), dict[str, dict[str, Any]]()
    dataset = lab.run.load(config)
    runs = [(density, name) for density in config.densities for name in names]
    for density, name in runs:  # wrong input leaves nothing behind
        settle_arm(arm_config(config, name, density, config.rates), dataset)
    teachers = None
    if config.taught or any(methods.ARMS[name].taught for name in names):
        alone: Any = {"num_seeds": max(1, config.taught), "taught": 0, "average": 0.0}
        teaching = arm_config(config, "dense", 1.0, config.rates[:1], seed=trial_seed(config), **alone)
        teachers = ARM.compute(teaching, report=print, dataset=dataset)[1].shared
    unpruned: dict[str, Any] = {}  # the same at every density
    for density, name in runs:
        if name in unpruned:
            found[f"{density:g}"][f"{density:g}: {name}"] = unpruned[name]
            continue
        given = teachers if config.taught or methods.ARMS[name].taught else None

        def one(rates: Sequence[float], **more: Any) -> dict[str, Any]:
            arm = arm_config(config, name, density, rates, **more)  # noqa: B023
            done = ARM.compute(arm, report=lambda line: None, dataset=dataset, given=given)  # noqa: B023
            return done[0]

        rate = config.rates[0]
        if len(config.rates) > 1:
            other = {"num_seeds": config.trial_seeds, "seed": trial_seed(config), "judged": False}
            trials = one(config.rates, epochs=config.trial_epochs or config.epochs, **other)
            rate = best_rate(trials, config.rates)
        summary = {**one([rate]), "rate": rate}
        found.setdefault(f"{density:g}", {})[f"{density:g}: {name}"] = summary
        if name == "dense":
            unpruned[name] = summary
        (arm,) = summary["arms"].values()
        mean = percent(arm["aggregate"]["accuracy"]["mean"])
        print(f"density {density:g}, {name}: {mean} % at rate {rate:g}", flush=True)
    write_table(config, found)
    return found


def trial_seed(config: Config) -> int:
    """The first seed of the trials, beyond those that are compared."""
    return config.seed + config.num_seeds


def best_rate(trials: Mapping[str, Any], rates: Sequence[float]) -> float:
    """Of the highest mean validation accuracy; of equal ones the first."""
    means = [arm["aggregate"]["watched"]["mean"] for arm in trials["arms"].values()]
    return rates[int(np.argmax([-1.0 if mean is None else mean for mean in means]))]


def write_table(config: Config, found: Mapping[str, Mapping[str, Any]]) -> None:
    """``networks.parquet``: a row per network."""
    import io

    import pyarrow as pa
    from pyarrow import parquet

    from jaxnet.files import write_bytes

    rows = [
        {"density": float(density), "method": name.split(": ")[1], "rate": run["rate"], **plain(seed)}
        for density, runs in found.items()
        for name, run in runs.items()
        for (arm,) in [run["arms"].values()]
        for seed in arm["seeds"]
    ]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    write_bytes(user_path(config.out) / "networks.parquet", buffer.getvalue())


def plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a network, one per column."""
    return {name: value for name, value in entry.items() if not isinstance(value, list)}


def questions(config: Config) -> list[lab.Question]:
    """Every method against the baseline at every density; what is ours adds; the field's order, unjudged."""
    names = methods.names_of(config.methods)
    asked = [
        lab.Question(
            f"{d:g}: {name}", f"{d:g}: {config.baseline}", "accuracy", f"{name} at {d:g}", where=f"{d:g}"
        )
        for d in config.densities
        for name in names
        if name != config.baseline
    ]
    known = {(q.first, q.second) for q in asked}
    for d, (a, b) in itertools.product(config.densities, (*OURS, *ORDER)):
        first, second = f"{d:g}: {a}", f"{d:g}: {b}"
        if {a, b} <= set(names) and (first, second) not in known:
            title, judged = f"{a} − {b} at {d:g}", (a, b) in OURS
            asked.append(lab.Question(first, second, "accuracy", title, primary=judged, where=f"{d:g}"))
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows: a table per density, and the field's order."""
    by_key = {(c.question.first, c.question.second): c for c in comparisons}
    tables: dict[str, list[list[str]]] = {}
    for density, runs in groups.items():
        for name, run in runs.items():
            (arm,) = run["arms"].values()
            a, asked = arm["aggregate"], by_key.get((name, f"{density}: {config.baseline}"))
            known = asked if asked is not None and asked.question.primary else None
            row = [name.split(": ")[1], lab.report.mean_and_interval(a["accuracy"])]
            row += [f"{percent(known.difference, '+.2f')} ({known.interval()})" if known else NOTHING]
            row += [number(known.p_holm, ".2g") if known else NOTHING, known.said() if known else NOTHING]
            row += [number(a["weights"]["mean"], ".0f"), str(run["most_weights"]), str(run["epochs"])]
            row += [f"{run['rate']:g}", lab.report.agreement(arm), number(run["flops"] / 1e9, ".0f")]
            row += [number(run["seconds_per_network"], ".1f")]
            if config.peers:
                peers = a.get("accuracy_peers")
                row += [lab.report.mean_and_interval(peers) if peers else NOTHING]
                known = methods.published(config.dataset, run["sizes"])
                row += [number(known.get(name.split(": ")[1]), ".2f")]
            tables.setdefault(density, []).append(row)
    order = [
        f"{first} − {second} at {c.question.where}: {percent(c.difference, '+.2f')} points "
        f"({c.interval()}, {c.n} pairs)" + (f": {c.said()}" if c.question.primary else "")
        for c in comparisons
        for first, second in [(n.split(": ")[1] for n in (c.question.first, c.question.second))]
        if (first, second) in (*ORDER, *OURS)
    ]
    first = next(iter(next(iter(groups.values())).values()))
    names = methods.names_of(config.methods)
    return {
        "tables": tables,
        "columns": ["best test epoch", "published"] if config.peers else [],
        "order": order or ["not asked: the methods are not all there"],
        "sizes": config.sizes or first["sizes"],
        "methods": {name: methods.ARMS[name].what for name in names},
        "arms": {name: run for runs in groups.values() for name, run in runs.items()},
    }


def draw_accuracy(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Accuracy against weights, a line per method, the best on top; errors on a logarithmic axis."""
    plots, lines = lab.plots, {}
    for name in methods.names_of(config.methods):
        points = []
        for density, runs in groups.items():
            (arm,) = runs[f"{density}: {name}"]["arms"].values()
            a = arm["aggregate"]
            if a["accuracy"]["mean"] is not None:
                ends = a["accuracy"]["ci95"] or [a["accuracy"]["mean"]] * 2
                wrong = [max(100 - 100 * share, 0.01) for share in (a["accuracy"]["mean"], *ends)]
                points.append((a["weights"]["mean"], *wrong))
        if points:
            lines[name] = np.array(sorted(points)).T
    figure, axes = plots.plt.subplots(figsize=(8.4, 5.2), layout="constrained")
    for k, name in enumerate(sorted(lines, key=lambda name: float(np.log(lines[name][1]).mean()))):
        (x, wrong, low, high), color = lines[name], plots.plt.get_cmap("tab20")(k % 20)
        x = x * (1.01 ** (k - (len(lines) - 1) / 2) if len(x) == 1 else 1)  # beside each other
        dash, marker = "--" if name in methods.DENSE else "-", "osD^v"[k % 5]
        axes.plot(x, wrong, dash, marker=marker, ms=4, color=color, label=name, lw=1.4)
        axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        if len(x) == 1:  # no line, no band
            axes.vlines(x, low, high, color=color, lw=1)
    beside = any(len(x) == 1 for x, *_ in lines.values())
    label = "weights at the end" + (" (single points beside one another)" if beside else "")
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="test accuracy (%)")
    worst, best = axes.get_ylim()[1], axes.get_ylim()[0]
    ticks = [100 - a for a in (20, 50, 70, 80, 90, 95, 96, 97, 98, 98.5, 99) if best <= 100 - a <= worst]
    if len(ticks) < 3:
        ticks = [100 - a for a in range(5, 100, 5) if best <= 100 - a <= worst]
    axes.set_yticks(ticks, [f"{100 - tick:g}" for tick in ticks])
    axes.minorticks_off()
    weights = sorted({float(x) for line in lines.values() for x in np.round(line[0])})
    shown = [w for w, after in zip(weights, [*weights[1:], np.inf], strict=True) if after > 1.2 * w]
    axes.set_xticks(shown, [f"{w:,.0f}" for w in shown])
    axes.invert_yaxis()
    each = (
        "1 seed each" if config.num_seeds == 1 else f"{config.num_seeds} seeds each, mean and 95 % interval"
    )
    axes.set_title(f"{config.dataset}, {each}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    plots.save_figure(figure, path)


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "methods.md",
    values,
    {"": draw_accuracy, "_differences": partial(lab.draw_comparisons, judged=True)},
)
CONTROLS = lab.Controls("method_comparison", Config, run_all, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
