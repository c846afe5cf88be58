"""Tables and pictures of ``experiments.reasoning_circuits``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._reasoning_kinds import ARMS, CONTROL, HELD, MOVED, RULES, SOLVED
from jaxnet import lab
from jaxnet.lab.shown import NOTHING, number, percent


def mean(arm: Mapping[str, Any] | None, measure: str, form: str = ".2f", scale: float = 1.0) -> str:
    """The mean of a measure over the seeds of an arm; ``-`` where there is none."""
    found = (arm or {"aggregate": {}})["aggregate"].get(measure, {"mean": None})["mean"]
    return NOTHING if found is None else number(scale * found, form)


def rate(arm: Mapping[str, Any], measure: str) -> str:
    """In how many of the seeds something holds."""
    held = [bool(seed[measure]) for seed in arm["seeds"] if not seed["diverged"]]
    return f"{sum(held)}/{len(held)}"


def solved_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per suite: accuracy on samples and controls, what both can be, in how many seeds it is solved."""
    from jaxnet.suites import SUITES

    arms, rows = summary["arms"], []
    for name in summary["names"]:
        cells = [
            mean(arms[ARMS[0]], f"by_suite.{what}.{name}", ".1f", 100) for what in ("accuracy", "control")
        ]
        known = (percent(value, ".1f") for value in (CONTROL[name], SUITES[name].chance))
        rows.append([name, *cells, *known, rate(arms[ARMS[0]], f"solves {name}")])
    return rows


def circuit_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per suite: sizes in every arm, losses, share of attention, backups."""
    arms, rows = summary["arms"], []
    for name in summary["names"]:
        sizes = [mean(arms[arm], f"by_suite.size.{name}", ".2f", 100) for arm in ARMS]
        own = [mean(arms[ARMS[0]], f"by_suite.{what}.{name}", ".3f") for what in ("full", "empty")]
        rows.append(
            [
                *(name, *sizes, *own),
                mean(arms[ARMS[0]], f"by_suite.unseen.{name}", ".0f", 100),
                mean(arms[ARMS[0]], f"by_suite.attention.{name}", ".0f", 100),
                mean(arms[ARMS[0]], f"backups.{name}", ".1f", 100),
            ]
        )
    return rows


def moved_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per suite: the loss in another seed's network with what it is given."""
    arms = summary["arms"]
    if f"moved: {MOVED[0]}" not in arms:
        return []
    return [
        [name, *(mean(arms[f"moved: {what}"], f"by_suite.{name}", ".3f") for what in MOVED)]
        for name in summary["names"]
    ]


def bit_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per rule: at every budget accuracy, and the bits of attention and perceptrons."""
    budgets = summary["config"]["budgets"]
    rows = []
    for rule in RULES:
        row = [rule]
        for budget in budgets:
            arm = summary["arms"][f"{budget} bits: {rule}"]
            bits = " / ".join(mean(arm, f"bits.{kind}", ".1f") for kind in ("attention", "MLP"))
            row += [mean(arm, "accuracy", ".1f", 100), bits]
        rows.append(row)
    return rows


def bit_heads(summary: Mapping[str, Any]) -> list[str]:
    """Their columns but the first."""
    budgets = summary["config"]["budgets"]
    return [cell for b in budgets for cell in (f"accuracy % at {b} bits", "attention / MLP")]


def held_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per way to protect: the protected suite, the new one, the others."""
    rows = []
    for name in (*HELD, "beside all"):
        arm = summary["arms"][f"held: {name}"]
        rows.append([name, *(mean(arm, what, ".1f", 100) for what in ("kept", "learned", "others"))])
    return rows


def bridge_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row per layer: mean bridge score of heads and shares of the perceptron, over the mean of all."""
    arm = summary["arms"][ARMS[0]]
    layers = sum(name.startswith("heads ") for name in arm["seeds"][0]["bridge"])
    return [
        [str(layer), *(mean(arm, f"bridge.{kind} {layer}") for kind in ("heads", "MLP"))]
        for layer in range(1, layers + 1)
    ]


SOLVED_HEADS = [
    "suite",
    "accuracy %",
    "on controls %",
    "at most on controls %",
    "chance %",
    f"seeds with {100 * SOLVED:.0f} % or more",
]
CIRCUIT_HEADS = [
    *("suite", *(f"circuit, {arm}, % of weights" for arm in ARMS), "loss", "loss of nothing"),
    "gap recovered on unseen samples %",
    *("attention's share of the circuit %", "pairs of heads that are backups %"),
]


def tables(summary: dict[str, Any]) -> list[Any]:
    """For the terminal."""
    title = f"{summary['parameters']} parameters, {summary['config']['num_seeds']} seeds"
    held = ["way", "protected %", "new %", "others %"]
    return [
        (title, SOLVED_HEADS, solved_rows(summary)),
        ("circuits", CIRCUIT_HEADS, circuit_rows(summary)),
        ("bits", ["rule", *bit_heads(summary)], bit_rows(summary)),
        ("one suite protected while another is learned", held, held_rows(summary)),
    ]


def values(config: Any, groups: Any, comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the template has besides."""
    (summary,) = groups["run"].values()
    arm = summary["arms"][ARMS[0]]
    return {
        "summary": summary,
        "solved_heads": SOLVED_HEADS,
        "solved": solved_rows(summary),
        "circuit_heads": CIRCUIT_HEADS,
        "circuits": circuit_rows(summary),
        "moved": moved_rows(summary),
        "bit_heads": bit_heads(summary),
        "bits": bit_rows(summary),
        "held": held_rows(summary),
        "bridges": bridge_rows(summary),
        "truth_heads": ["program", *(summary["ground_truth"] or {"": {}}).get("reverse", {})],
        "truth": [
            [name, *(number(value) for value in row.values())]
            for name, row in (summary["ground_truth"] or {}).items()
        ],
        "dependencies": named_rows(summary, "dependencies"),
        "never": {name: mean(summary["arms"][name], "never", ".0f", 100) for name in ARMS},
        "own": {name: own_losses(summary, name) for name in ARMS},
        "trained": arm["aggregate"],
        "chance": summary["arms"]["random circuits"]["aggregate"]["overlap"],
    }


def own_losses(summary: Mapping[str, Any], arm: str) -> list[str]:
    """Mean losses over all suites with all weights, and with none."""
    found = summary["arms"][arm]["aggregate"]
    sides = ("full", "empty")
    losses = [[found[f"by_suite.{side}.{name}"]["mean"] for name in summary["names"]] for side in sides]
    return [number(None if None in side else float(np.mean(side)), ".2f") for side in losses]


def named_rows(summary: Mapping[str, Any], what: str) -> list[list[str]]:
    """A matrix ``(suite, suite)`` with the names of its rows."""
    rows = zip(summary["names"], summary[what], strict=True)
    return [[name, *(number(value) for value in row)] for name, row in rows]


def draw_sizes(path: Path, config: Any, groups: Any, comparisons: Any) -> None:
    """Sizes of circuits by suite, every seed of every arm."""
    (summary,) = groups["run"].values()
    plots, names = lab.plots, summary["names"]
    with plots.picture(path, size=(9, 4.4)) as axes:
        for shift, (arm, color) in enumerate(zip(ARMS, plots.COLORS[1:], strict=False)):
            for place, name in enumerate(names):
                of = [s["by_suite"]["size"][name] for s in summary["arms"][arm]["seeds"]]
                points = [100 * v for v in of if v is not None and np.isfinite(v)]
                x = place + 0.2 * (shift - 1) + plots.jitter(len(points), 0.06)
                axes.plot(x, points, "o", ms=4, color=color, label=None if place else arm)
        axes.set_yscale("log")
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
        axes.set(ylabel="weights in a circuit (%)")
        plots.finish(axes, "", fontsize=8)


def draw_overlaps(path: Path, config: Any, groups: Any, comparisons: Any) -> None:
    """Jaccard indices of the circuits of all suites, and of random masks of their sizes."""
    (summary,) = groups["run"].values()
    plots, names = lab.plots, summary["names"]
    figure, panels = plots.plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained", sharey=True)
    top = 0.0
    for what in ("overlaps", "chances"):
        matrix = np.array(summary[what], float)
        top = max(top, float(matrix[~np.eye(len(names), dtype=bool)].max()))
    for axes, what, title in zip(panels, ("overlaps", "chances"), ("circuits", "random masks"), strict=True):
        image = axes.imshow(np.array(summary[what], float), vmin=0, vmax=max(top, 1e-6), cmap="viridis")
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=panels, label="weights in both over weights in either", shrink=0.8)
    plots.save_figure(figure, path)
