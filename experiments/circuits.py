"""Circuits: which few weights carry a class, and do sparser networks have smaller ones?

Circuits are found in trained networks, and by the same search in networks trained on shuffled labels and in
untrained ones, at an equal fraction of each network's own loss gap: what nonsense has, too, shows nothing.

    python -m experiments.circuits --num-seeds 4
    python -m experiments.circuits --dataset mnist --densities 0.01,0.02,0.05,0.1,1
    python -m experiments.circuits --dataset mnist --from-checkpoint checkpoints/hunt/winners/000001.*
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _winner
from experiments._circuit_arms import ARM, ArmConfig, FindFlags, settle_arm
from experiments._circuit_kinds import AGAIN, ARMS
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.compare import compare
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import number, percent, span
from jaxnet.statistics import aggregate

HALF, WITHIN = 0.5, 1.1
"""Of a faithful circuit: largest size over that of a nonsense one, and loss over the target."""


@dataclass(frozen=True)
class Config(FindFlags, lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """Which few weights carry a class, and do sparser networks have smaller circuits?"""

    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: 256,128 hidden ones, for small images 32,24", none="auto"
    )
    densities: tuple[float, ...] = option((0.1, 1.0), "fractions of the weights that exist", fraction=True)
    from_checkpoint: str | None = _winner.flag("look into")
    lr: float = changed(lab.TrainFlags, "lr", 3e-3)
    out: str = changed(lab.RunFlags, "out", "checkpoints/circuits")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_sizes(self.sizes, 3)
        if not self.densities or len(set(self.densities)) < len(self.densities):
            raise InputError(f"--densities must be different numbers, at least one: {list(self.densities)}")
        super().check()


def arm_config(config: Config, density: float | None) -> ArmConfig:
    """The run of one density, or of the checkpoint."""
    shared = {f.name for f in dataclasses.fields(ArmConfig)} & {f.name for f in dataclasses.fields(Config)}
    given = {field: getattr(config, field) for field in shared}
    given |= lab.run.arm_values(config, "checkpoint" if density is None else f"density {density:g}")
    if density is None:
        given |= {"allocation": None, "activation": None}
    return ArmConfig(**{**given, "density": density})


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Runs density by density; their summaries."""
    dataset = lab.run.load(config)
    densities = config.densities if config.from_checkpoint is None else (None,)
    arms = {("checkpoint" if d is None else f"{d:g}"): arm_config(config, d) for d in densities}
    for arm in arms.values():  # wrong input leaves nothing behind
        settle_arm(arm, dataset)
    found: dict[str, dict[str, Any]] = {"circuits": {}}
    for name, arm in arms.items():
        summary = ARM.compute(arm, report=lambda line: None, dataset=dataset)[0]
        found["circuits"][name] = summary
        print(f"{name}: {said(summary)}", flush=True)
    return found


def faithful(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The rule: sizes over those of nonsense by seed, loss with half of the rest resampled over the target.

    It holds where the upper ends of the 95 % intervals of the means do. Sizes are compared over the classes
    whose fraction both networks reach; a nonsense network that reaches it in none is no pass.
    """
    seeds = {name: summary["arms"][name]["seeds"] for name in ARMS}
    found: dict[str, Any] = {
        "never": {name: aggregate([s["never"] for s in rows])["mean"] for name, rows in seeds.items()}
    }
    passed = True
    for name in ARMS[1:]:
        pairs = [ratio_of(a, b) for a, b in zip(seeds[ARMS[0]], seeds[name], strict=True)]
        ratio = aggregate(pairs)
        found[name] = ratio
        ends = ratio["ci95"]
        passed &= ends is not None and ratio["n"] == len(pairs) and ends[1] <= HALF
    found["held"] = held = aggregate([None if s["diverged"] else s["held"] for s in seeds[ARMS[0]]])
    found["faithful"] = passed and held["ci95"] is not None and held["ci95"][1] <= WITHIN
    return found


def ratio_of(mine: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """Mean size over that of another network, of the classes that both reach; None without any."""
    if mine["diverged"] or other["diverged"]:
        return None
    both = [
        (a, b) for a, b in zip(mine["by_class"], other["by_class"], strict=True) if finite(a) and finite(b)
    ]
    return sum(a for a, _ in both) / sum(b for _, b in both) if both else None


def finite(value: float | None) -> bool:
    """Whether there is a number."""
    return value is not None and bool(np.isfinite(value))


def said(summary: Mapping[str, Any]) -> str:
    """One line of a density."""
    rule, arm = faithful(summary), summary["arms"][ARMS[0]]["aggregate"]
    ratios = ", ".join(f"{number(rule[name]['mean'])} of {name}" for name in ARMS[1:])
    word = "faithful" if rule["faithful"] else "not shown to be faithful"
    return (
        f"circuits of {percent(arm['size']['mean'], '.1f')} % of the weights ({ratios}); loss with half of "
        f"the rest resampled {number(rule['held']['mean'])} of the target: {word}"
    )


def questions(config: Config) -> list[lab.Question]:
    """Sparser against the densest: share of the weights; against nonsense; bridges against rivals."""
    if config.from_checkpoint is not None:
        return []
    names, asked = [f"{d:g}" for d in sorted(config.densities)], list[lab.Question]()
    for name in names[:-1]:
        pair = f"{name}: {ARMS[0]}", f"{names[-1]}: {ARMS[0]}"
        title = f"share of the weights in a circuit, {name} − {names[-1]}"
        asked.append(lab.Question(*pair, "size", title, higher_is_better=False))
    for name in names:
        title = "accuracy of a circuits' mask − a random mask, retrained"
        again = f"{name}: {AGAIN[0]}", f"{name}: {AGAIN[1]}"
        asked.append(lab.Question(*again, "accuracy", title, where=name))
        for rival in ARMS[1:]:
            title = f"size, trained − {rival}"
            pair = f"{name}: {ARMS[0]}", f"{name}: {rival}"
            asked.append(lab.Question(*pair, "size", title, where=name, higher_is_better=False))
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows."""
    runs, tables, scores, units = groups["circuits"], [], {}, []
    show = lambda a, form=".1f", scale=100.0: number(None if a["mean"] is None else scale * a["mean"], form)  # noqa: E731
    for name, run in runs.items():
        for arm in ARMS:
            a = run["arms"][arm]["aggregate"]
            tables.append(
                [name, arm, *(show(a[m]) for m in ("accuracy", "size")), show(a["weights"], ".0f", 1)]
                + [show(a[m], ".3f", 1) for m in ("full", "empty")]
                + [show(a["never"]), show(a["held"], ".2f", 1), show(a["error"], ".2f")]
            )
        a = run["arms"][ARMS[0]]["aggregate"]
        tried = run["arms"][ARMS[0]]["seeds"][0]["scores"]
        scores[name] = [
            [
                s.replace("|", "\\|"),
                *(
                    show(a[f"scores.{s}.{m}"], ".2f" if m != "size" else ".1f", 1 if m != "size" else 100)
                    for m in ("size", "cpr", "cmd")
                ),
            ]
            for s in tried
        ]
        for damage in ("noise", "rounding"):
            found = [
                show(a[f"units.{p} {damage}"], ".2f", 1) for p in ("bridge", "norm", "fisher", "activation")
            ]
            units.append([name, damage, *found])
    first = next(iter(runs.values()))
    rules = {name: faithful(run) for name, run in runs.items()}
    return {
        "rules": rules,
        "said": {name: said(run) for name, run in runs.items()},
        "rows": tables,
        "scores": scores,
        "unit_rows": units,
        "bridges": bridge_verdicts(runs),
        "sizes": first["sizes"],
        "again": {name: [run["arms"][arm]["aggregate"] for arm in AGAIN] for name, run in runs.items()},
        "trained": {name: run["arms"][ARMS[0]]["aggregate"] for name, run in runs.items()},
        "likeness": {name: run["likeness"] for name, run in runs.items()},
        "locked": {name: run["locked"] for name, run in runs.items()},
        "half": HALF,
        "within": WITHIN,
    }


def bridge_verdicts(runs: Mapping[str, Any]) -> list[list[str]]:
    """Of every density: does the bridge score predict damage better than norm and Fisher information?"""
    arms: dict[str, Any] = {}
    asked = []
    for name, run in runs.items():
        seeds = run["arms"][ARMS[0]]["seeds"]
        for damage in ("noise", "rounding"):
            of = {p: f"{name}: {p} {damage}" for p in ("bridge", "norm", "fisher")}
            for p, arm in of.items():
                found = [{"diverged": s["diverged"], "r": s["units"][f"{p} {damage}"]} for s in seeds]
                arms[arm] = {"seeds": found}
            for rival in ("norm", "fisher"):
                question = lab.Question(of["bridge"], of[rival], "r", f"bridge − {rival}", where=name)
                asked.append((damage, question))
    answers = compare(arms, [question for _, question in asked])
    return [
        [
            *(c.question.where, damage, c.question.shown, number(c.difference, "+.2f")),
            *(span(c.ci95, "+.2f", between=" .. ", scale=1), number(c.p_holm, ".2g"), c.verdict),
        ]
        for (damage, _), c in zip(asked, answers, strict=True)
    ]


def draw_images(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """The circuits of the first seed on the image plane, a row per density, a column per class."""
    runs, plots = groups["circuits"], lab.plots
    wide = len(next(iter(runs.values()))["images"])
    figure, panels = plots.plt.subplots(
        len(runs), wide, figsize=(1.1 * wide, 1.25 * len(runs) + 0.3), layout="constrained", squeeze=False
    )
    for row, (name, run) in zip(panels, runs.items(), strict=True):
        for k, (axes, image) in enumerate(zip(row, run["images"], strict=True)):
            values = np.array(image, float)
            side = round(len(values) ** 0.5)
            shape = (side, side) if side * side == len(values) else (1, len(values))
            limit = max(np.abs(values).max(), 1e-12)
            axes.imshow(values.reshape(shape), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.set_title(str(k) if row is panels[0] else "", fontsize=8)
        row[0].set_ylabel(name, fontsize=8)
    plots.save_figure(figure, path)


def draw_sizes(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Sizes of circuits by density, every seed."""
    runs, plots = groups["circuits"], lab.plots
    with plots.picture(path, 1, 2, size=(11, 4.2)) as panels:
        for axes, measure, label in zip(
            panels, ("size", "weights"), ("share of the weights (%)", "weights in a circuit"), strict=True
        ):
            for arm, color in zip(ARMS, plots.COLORS[1:], strict=False):
                for place, run in enumerate(runs.values()):
                    points = [s[measure] for s in run["arms"][arm]["seeds"] if s[measure] is not None]
                    points = [(100 if measure == "size" else 1) * v for v in points]
                    x = place + plots.jitter(len(points), 0.15)
                    axes.plot(x, points, "o", ms=4, color=color, label=None if place else arm)
            axes.set_yscale("log")
            axes.set_xticks(range(len(runs)), list(runs))
            axes.set(xlabel="density", ylabel=label)
            plots.finish(axes, "", fontsize=8)


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "circuits.md",
    values,
    {"": draw_sizes, "_images": draw_images, "_differences": lab.draw_comparisons},
)
CONTROLS = lab.Controls("circuits", Config, run_all, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
