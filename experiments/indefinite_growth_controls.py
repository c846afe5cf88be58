"""Does growth follow the extrema for a reason? Paired controls on the same seeds, at equal non-zeros.

Every arm is a run of ``experiments.indefinite_growth --recipe lean`` with a
target that is never reached, so that all arms train for as many epochs, and all
but one end with as many weights. Differences are taken seed by seed.

    python -m experiments.indefinite_growth_controls --dataset mnist --doc docs/results/growth.md
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import indefinite_growth as growth
from jaxnet import allocation, lab
from jaxnet.lab import changed, option
from jaxnet.lab.shown import NOTHING, number, percent, sizes_label, sound, span
from jaxnet.statistics import aggregate

LEAN = growth.RECIPES["lean"]

SMALL = {"density": None}
"""Begins with the weights of the start; other arms have those of the end from the start."""

ARMS: dict[str, dict[str, Any]] = {
    "extrema": SMALL,
    "extrema per unit": {**SMALL, "place": "share"},
    "random layer": {**SMALL, "place": "random"},
    "last layer": {**SMALL, "place": "last"},
    "fewest extrema": {**SMALL, "place": "least"},
    "train longer": {**SMALL, "change": "none"},
    "RigL": {"change": "none"},
    "static Erdős–Rényi": {"change": "none", "exchange": "none"},
    "SET between iterations": {"change": "rewire", "exchange": "none"},
    "extrema, without RigL": {**SMALL, "exchange": "none"},
    "extrema, RigL and revival": {**SMALL, "exchange": "revive"},
    "static and revival": {"change": "none", "exchange": "revive-alone"},
}
"""What each arm changes in the recipe ``lean``."""

STATIC = "static Erdős–Rényi"
QUESTIONS = [
    lab.Question(first, second, "accuracy", title)
    for title, first, second in (
        ("Place: most extrema against a random layer", "extrema", "random layer"),
        ("Place: most extrema against the last layer", "extrema", "last layer"),
        ("Place: most extrema against fewest", "extrema", "fewest extrema"),
        ("Place: most extrema per unit against a random layer", "extrema per unit", "random layer"),
        ("Place: most extrema per unit against fewest", "extrema per unit", "fewest extrema"),
        ("Growth against training on without new weights", "extrema", "train longer"),
        ("Growth against RigL with all weights from the start", "extrema", "RigL"),
        ("Growth with RigL against static Erdős–Rényi", "extrema", STATIC),
        ("Growth without RigL against static Erdős–Rényi", "extrema, without RigL", STATIC),
        ("RigL against static Erdős–Rényi", "RigL", STATIC),
        ("SET between iterations against static", "SET between iterations", STATIC),
        ("Revival of dead units, in growth", "extrema, RigL and revival", "extrema"),
        ("Revival of dead units, static", "static and revival", STATIC),
    )
]

AS = "as described"
DESCRIBED: dict[str, dict[str, Any]] = {
    AS: {"prune": (0.25, 0.5, 0.75, 0.9)},
    f"{AS}, without patches": {"max_patches": 0},
    f"{AS}, without layers": {"change": "none"},
    f"{AS}, random place": {"place": "random"},
    f"{AS}, sizes by high and low": {"counted": "both"},
}
"""The recipe ``described``, and what each arm leaves out or changes."""

APART = "gains apart"
"""The recipe ``described`` from 512 units, enough for 10 high extrema; layers and patches measured apart."""

QUESTIONS_DESCRIBED = [
    lab.Question(AS, f"{AS}, {other}", "accuracy", f"As described against {other}")
    for other in ("without patches", "without layers", "random place", "sizes by high and low")
]

HEADLINE: dict[str, dict[str, Any]] = {
    "lean to 95 %": {},
    "lean to 97 %": {"target": 0.97, "density": 0.1, "added": 1200, "max_nonzeros": 12_000},
    "original, protocol seed, to 95 %": {"recipe": "original", "protocol": "seed", "num_seeds": 8},
}
"""Runs until a target is reached (MNIST only)."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """The controls of indefinite growth, paired over seeds."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    num_seeds: int = option(16, "networks in each arm of the controls", least=2)
    described_seeds: int = option(16, "networks in each arm of the recipe described; 0: none", least=0)
    described_iterations: int = option(
        10, "of that recipe, at most; layers and patches apart in four", least=2
    )
    headline_seeds: int = option(10, "networks in each run to a target; 0 leaves these out", least=0)
    sizes: tuple[int, ...] | None = option(None, "units per layer at the start", none="auto")
    density: float = option(LEAN["density"], "at the start", "in (0, 1]", fraction=True)
    added: int = option(LEAN["added"], "weights that a change adds", least=2)
    iterations: int = option(4, "of training, with a change between two of them", least=2)
    epochs: int = option(10, "of an iteration", "epochs", least=1)
    out: str = changed(lab.RunFlags, "out", "checkpoints/indefinite_growth_controls")


def run_all(config: Config) -> dict[str, dict[str, dict[str, Any]]]:
    """Runs all arms, and on MNIST the runs to a target."""

    def one(name: str, changes: dict[str, Any], **values: Any) -> dict[str, Any]:
        arm = lab.run_arms(growth.STUDY, {name: {"recipe": "lean", **changes}}, config, **values)[name]
        print(f"{name}: {percent(arm['aggregate']['accuracy']['mean'])} %", flush=True)
        return arm

    dataset = lab.run.load(growth.Config(dataset=config.dataset, data_dir=config.data_dir))
    sizes = config.sizes or (dataset.num_features, *LEAN["hidden"], dataset.num_classes)
    dense = sum(allocation.dense_counts(sizes))
    end = (int(config.density * dense) + (config.iterations - 1) * config.added + 0.5) / dense
    values = {name: getattr(config, name) for name in ("num_seeds", "iterations", "epochs", "added")}
    values |= {"target": 1.0, "sizes": sizes}
    arms = {
        name: one(name, {**arm, "density": config.density if "density" in arm else end}, **values)
        for name, arm in ARMS.items()
    }
    targets = HEADLINE if config.headline_seeds and config.dataset == "mnist" else {}
    headline = {name: one(name, arm, num_seeds=config.headline_seeds) for name, arm in targets.items()}
    described: dict[str, Any] = {}
    if config.described_seeds:
        given: dict[str, Any] = {"recipe": "described", "num_seeds": config.described_seeds}
        given["iterations"] = config.described_iterations
        described = {name: one(name, {**given, **arm}) for name, arm in DESCRIBED.items()}
        few = {**given, "apart": True, "iterations": min(4, config.described_iterations), "target": 1.0}
        described[APART] = one(APART, {**few, "sizes": (dataset.num_features, 512, dataset.num_classes)})
    return {"arms": arms, "headline": headline, "described": described}


def questions(config: Config) -> list[lab.Question]:
    """Of the recipe lean, and of the described one where it is run."""
    return [*QUESTIONS, *(QUESTIONS_DESCRIBED if config.described_seeds else ())]


def pattern_rows(growth: dict[str, Any]) -> list[list[str]]:
    """A row for every iteration: what networks are then, and gains over training on alone, in points."""
    rows = []
    for one in growth["iterations"]:
        shown = [str(one["iteration"]), str(one["networks"]), lab.report.mean_and_interval(one["accuracy"])]
        shown += [number(one["weights"]["mean"], ".0f")]
        shown += [lab.report.mean_and_interval(one[kind]) for kind in ("high", "low")]
        gains = (one.get(f"gain_{name}") for name in ("layers", "patches", "both"))
        rows.append(
            [*shown, *(NOTHING if gain is None else lab.report.mean_and_interval(gain) for gain in gains)]
        )
    return rows


def pruned_rows(seeds: list[dict[str, Any]]) -> list[list[str]]:
    """What is left of grown networks that lose their smallest weights and are trained on."""
    pairs = {"grown": [(s["accuracy"], s["nonzeros"]["scaffold"]) for s in seeds]}
    for fraction in seeds[0]["pruned"] if seeds else ():
        pairs[fraction] = [
            (s["pruned"][fraction]["accuracy"], s["pruned"][fraction]["scaffold"]) for s in seeds
        ]
    ends = {name: list(map(aggregate, zip(*both, strict=True))) for name, both in pairs.items() if both}
    interval = lab.report.mean_and_interval
    return [
        [name, interval(right), number(weights["mean"], ".0f")] for name, (right, weights) in ends.items()
    ]


def values(config: Config, groups: dict[str, Any], comparisons: list[lab.Comparison]) -> dict[str, Any]:
    """Which architectures came out, where growth took place, and what that says of following extrema."""
    architectures, where = {}, []
    for name, run in groups["arms"].items():
        seeds = sound(run["seeds"])
        grown = Counter(sizes_label(s["architecture"]) for s in seeds).most_common()
        ranked = [f"{sizes} ({times})" for sizes, times in grown[:6]]
        more = [f"and {len(grown) - 6} more"] if len(grown) > 6 else []
        architectures[name] = ", ".join(ranked + more) or NOTHING
        decisions = [h["decision"] for s in seeds for h in s["history"]]
        chosen = Counter(d["layer"] + 1 for d in decisions if d and d["change"] in ("insert", "widen"))
        if chosen:
            layers = ", ".join(f"layer {layer}: {times}" for layer, times in sorted(chosen.items()))
            ends = [extrema_shares([s["history"][at] for s in seeds]) for at in (0, -1)]
            where.append([name, layers, *ends])
    places = [c.sign for c in comparisons if c.question.shown.startswith("Place")]
    told: dict[str, Any] = {"architectures": architectures, "where": where, "places": places}
    if described := groups.get("described"):
        predicted = described[AS]["growth"]["predicted"]
        told["patterns"] = {name: pattern_rows(described[name]["growth"]) for name in (AS, APART)}
        told["pruned"] = pruned_rows(sound(described[AS]["seeds"]))
        told["predicted"] = [
            [name, number(found["rho"]), span(found["ci95"], scale=1, between=" .. "), str(found["n"])]
            for name, found in predicted.items()
        ]
    return told


def extrema_shares(entries: list[dict[str, Any]]) -> str:
    """Share of extrema in every hidden layer of iterations, in per cent: means over the seeds."""
    counts = [zip(e["extrema_high"], e["extrema_low"], e["architecture"][1:-1], strict=True) for e in entries]
    shares = [[(high + low) / units for high, low, units in layers] for layers in counts]
    if len({len(layers) for layers in shares}) > 1:
        return "layers differ"
    return ", ".join(percent(share, ".0f") + " %" for share in np.mean(shares, axis=0))


REPORT = Path(__file__).parent / "reports" / "growth.md"
DOCUMENT = lab.Document(REPORT, values)
CONTROLS = lab.Controls("indefinite_growth_controls", Config, run_all, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
