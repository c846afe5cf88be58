"""Train without forgetting: every way to keep old tasks, on the same seeds and streams.

All methods learn as many tasks with as many samples, after an equal number of tuning trials on two other
streams, and are compared where they learn new tasks equally well.

    python -m experiments.forgetting
    python -m experiments.forgetting --methods naive,ewc --dials naive=1,ewc=100
    python -m experiments.forgetting --dataset mnist --tasks 10 --num-seeds 12 --methods all
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments._forgetting_arms import ARM, METHODS, ArmConfig, Streams, settle_arm
from experiments._forgetting_shown import draw_curves, draw_matrices
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import NOTHING, number, percent

BASELINE = "naive"


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """Every way to keep old tasks, on the same seeds and streams."""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features,100,100,classes", none="auto"
    )
    stream: Streams = option("permuted", "how tasks are made: pixels permuted, images rotated, classes split")
    tasks: int = option(3, "in a stream")
    methods: tuple[str, ...] = option(("naive", "ewc", "replay"), f"all, or names: {', '.join(METHODS)}")
    densities: tuple[float, ...] = option((1.0, 0.1), "fractions of the weights that exist", fraction=True)
    num_seeds: int = option(
        2, "networks of every method, each with a stream of its own; verdicts need 12", least=1
    )
    epochs: int = option(1, "of every task", "epochs", least=1)
    optimizer: Literal["adam", "sgd"] = option("adam", "of all methods")
    bias: bool = option(True, "layers have biases")
    look: int = option(500, "samples looked at after a task (Fisher information, bases)", "samples", least=1)
    buffer: int = option(200, "most samples of a task that a replay keeps", "samples", least=1)
    dials: tuple[str, ...] | None = option(
        None,
        "values of the dial of every method, or METHOD=value; one value: no trials; auto: its own four",
        none="auto",
    )
    trial_seeds: int = option(2, "other streams and networks, for the trials", least=1)
    match: float = option(
        0.005, "how far the learning accuracy of two methods may differ to be compared", above=0
    )
    out: str = changed(lab.RunFlags, "out", "checkpoints/forgetting")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        names_of(self.methods)
        check_sizes(self.sizes, 3)
        if self.tasks < 2:
            raise InputError(f"--tasks must be at least 2: {self.tasks}")
        if not self.densities or len(set(self.densities)) < len(self.densities):
            raise InputError(f"--densities must be different numbers, at least one: {list(self.densities)}")
        if self.dials is not None and not dials_of(self.dials):
            raise InputError("--dials must be one or more numbers above 0, or METHOD=number")
        super().check()


def dials_of(given: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """By method the values of its dial that are asked for; those of all methods under ``""``."""
    found: dict[str, tuple[float, ...]] = {}
    for one in given:
        method, _, text = one.rpartition("=")
        if method and method not in METHODS:
            raise InputError(f"--dials: unknown method {method!r}: choose from {', '.join(METHODS)}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError(f"--dials must be numbers above 0, or METHOD=number: {one}")
        found[method] = (*found.get(method, ()), value)
    return found


def names_of(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The methods that are asked for, the naive one first; InputError for one that is not known."""
    names = [name for one in asked for name in (METHODS if one == "all" else (one,))]
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: unknown method {name!r}: choose from all, {', '.join(METHODS)}")
    return tuple(sorted(dict.fromkeys(names), key=METHODS.index))


def arm_config(config: Config, name: str, density: float, dials: Sequence[float], **more: Any) -> ArmConfig:
    """The run of one method at one density."""
    shared = {f.name for f in dataclasses.fields(ArmConfig)} & {f.name for f in dataclasses.fields(Config)}
    values = {field: getattr(config, field) for field in shared}
    folder = f"density {density:g} {name}{' trials' if len(dials) > 1 else ''}"
    values |= lab.run.arm_values(config, folder)
    return ArmConfig(**{**values, "arm": name, "density": density, "dials": tuple(dials), **more})


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Tries the dials, then trains, method by method; by density, every method's summary."""
    from jaxnet.continual import LEARNERS

    names, dataset = names_of(config.methods), lab.run.load(config)
    given = dials_of(config.dials or ())
    values = {name: given.get(name) or given.get("") or LEARNERS[name].values for name in names}
    other = {"num_seeds": config.trial_seeds, "seed": config.seed + config.num_seeds, "judged": False}
    runs = [(density, name) for density in config.densities for name in names]
    for density, name in runs:  # wrong input leaves nothing behind
        settle_arm(arm_config(config, name, density, values[name]), dataset)
    found: dict[str, dict[str, Any]] = {}
    aims: dict[float, float | None] = {}
    rates: dict[float, float] = {}  # what the naive method learns best with, all others have
    for density, name in runs:
        dials = values[name]

        def one(dials: Sequence[float], **more: Any) -> dict[str, Any]:
            if density in rates:  # noqa: B023
                more["lr"] = rates[density]  # noqa: B023
            arm = arm_config(config, name, density, dials, **more)  # noqa: B023
            return ARM.compute(arm, report=lambda line: None, dataset=dataset)[0]

        dial, matched, tried = dials[0], False, list[dict[str, Any]]()
        if len(dials) > 1:
            tried = trials_of(one(dials, **other))
            dial, matched = choose(name, tried, aims.get(density), config.match)
        done = {**one([dial]), "dial": dial, "matched": matched or name == BASELINE, "tried": tried}
        if name == BASELINE and tried:
            aims[density] = next(t["learning"] for t in tried if t["dial"] == dial)
            rates[density] = float(config.lr or 1e-3) * dial
        found.setdefault(f"{density:g}", {})[f"{density:g}: {name}"] = done
        (arm,) = done["arms"].values()
        mean, learned = (percent(arm["aggregate"][m]["mean"]) for m in ("accuracy", "learning"))
        print(
            f"density {density:g}, {name}: {mean} % of all tasks, {learned} % when learned, dial {dial:g}",
            flush=True,
        )
    return found


def trials_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every dial: its means on the tuning streams, on validation samples."""
    return [
        {
            "dial": float(dial),
            **{m: arm["aggregate"][m]["mean"] for m in ("accuracy", "learning", "forgetting")},
        }
        for dial, arm in summary["arms"].items()
    ]


def choose(
    name: str, tried: Sequence[Mapping[str, Any]], aim: float | None, match: float
) -> tuple[float, bool]:
    """The dial, and whether it learns as well as the naive method (``aim``).

    The naive method: the one that learns best. Others: of those within ``match``, else of all, the highest
    accuracy at the end.
    """
    sound = [t for t in tried if t["accuracy"] is not None] or list(tried)
    by = "learning" if name == BASELINE else "accuracy"
    near = [
        t
        for t in sound
        if aim is not None and t["learning"] is not None and abs(t["learning"] - aim) <= match
    ]
    if name in (BASELINE, "joint"):
        near = []
    best = max(near or sound, key=lambda t: -1.0 if t[by] is None else t[by])
    return float(best["dial"]), bool(near)


def questions(config: Config) -> list[lab.Question]:
    """Every method against the naive one; those that do not learn as well get no verdict."""
    asked = []
    for density in config.densities:
        for name in names_of(config.methods):
            if name != BASELINE and BASELINE in names_of(config.methods):
                pair = f"{density:g}: {name}", f"{density:g}: {BASELINE}"
                asked.append(lab.Question(*pair, "accuracy", f"{name} at {density:g}", where=f"{density:g}"))
    return asked


def judged(config: Config, groups: Mapping[str, Any], asked: Sequence[lab.Question]) -> list[lab.Question]:
    """The questions, without verdict for arms that are not matched, and for joint training."""
    runs = {name: run for group in groups.values() for name, run in group.items()}
    return [
        dataclasses.replace(q, primary=bool(runs[q.first]["matched"]) and not q.first.endswith("joint"))
        for q in asked
    ]


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows."""
    from jaxnet.continual import LEARNERS

    by_key = {c.question.first: c for c in comparisons}
    tables: dict[str, dict[str, list[list[str]]]] = {}
    for density, runs in groups.items():
        for name, run in runs.items():
            short = name.split(": ")[1]
            (arm,) = run["arms"].values()
            a, asked = arm["aggregate"], by_key.get(name)
            cells = [lab.report.mean_and_interval(a[m]) for m in ("accuracy", "learning", "forgetting")]
            row = [short, f"{run['dial']:g}", *cells, "yes" if run["matched"] else "no"]
            row += [asked.shown() if asked else NOTHING, number(asked.p_holm, ".2g") if asked else NOTHING]
            row += [asked.said() if asked else NOTHING, number(a["interference"]["mean"])]
            row += [
                number(run["stored"][0] / 1e3, ".0f"),
                number(run["timing"]["seconds_per_network"], ".1f"),
            ]
            kind = "known" if LEARNERS[short].knows_task else "unknown"
            tables.setdefault(density, {"unknown": [], "known": []})[kind].append(row)
    first = next(iter(next(iter(groups.values())).values()))
    return {
        "tables": tables,
        "columns": [
            *("method", "dial", "all tasks at the end %", "when learned %", "forgotten %", "matched"),
            *("− naive (points)", "p (Holm)", "verdict", "interference", "kB kept", "s per network"),
        ],
        "methods": {name: LEARNERS[name] for name in names_of(config.methods)},
        "sizes": first["sizes"],
        "matrices": {name: run["matrix"] for runs in groups.values() for name, run in runs.items()},
        "seconds": sum(
            r["timing"]["run_seconds"] + r["timing"]["compile_seconds"]
            for g in groups.values()
            for r in g.values()
        ),
    }


class Forgetting(lab.Controls[Config]):
    """The comparison; what is judged depends on what was matched."""

    def main(self, config: Config) -> dict[str, Any]:
        """Runs all arms, compares them, prints and writes what came out."""
        groups = self.run(config)
        asked = judged(config, groups, questions(config))
        return lab.Controls.main(dataclasses.replace(self, run=lambda _: groups, questions=asked), config)


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "forgetting.md",
    values,
    {"": draw_curves, "_matrices": draw_matrices, "_differences": lab.draw_comparisons},
)
CONTROLS = Forgetting("forgetting", Config, run_all, DOCUMENT)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
