"""Tables and the picture of ``experiments.compress``, and the names in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import lab
from jaxnet.lab.shown import percent

SCORES = ("random", "magnitude", "weight x activation", "gradient x weight")
"""Of :data:`jaxnet.compress.SCORES`, known before JAX is loaded."""

RULES = ("uniform", "sensitivity", "size rule", "Hessian trace")
"""How bits are shared out."""


def shown(summary: dict[str, Any], name: str, form: str = ".1f") -> str:
    """A mean."""
    arm = summary["arms"].get(name)
    if arm is None:
        return "-"
    measure = "kept" if "kept" in arm["aggregate"] else "accuracy"
    return percent(arm["aggregate"][measure]["mean"], form)


def pruned_rows(summary: dict[str, Any]) -> list[list[str]]:
    """A row per way."""
    ratios = [f"{r:g}" for r in summary["config"]["ratios"]]
    names = dict.fromkeys(n.split(": ", 1)[1] for n in summary["arms"] if n.split(": ")[0] in ratios)
    return [[name, *(shown(summary, f"{r}: {name}") for r in ratios)] for name in names]


def bit_rows(summary: dict[str, Any]) -> list[list[str]]:
    """A row per rule."""
    budgets = [f"{b:g}" for b in summary["config"]["bits"]]
    return [[rule, *(shown(summary, f"{b} bits: {rule}") for b in budgets)] for rule in RULES]


def draw(path: Path, config: Any, groups: Any, comparisons: Any) -> None:
    """Accuracy by the share pruned."""
    (summary,) = groups["run"].values()
    plots = lab.plots
    lines = [*SCORES, *(f"{s} + refit" for s in SCORES), "small from scratch", "rigl from scratch"]
    with plots.picture(path, size=(8, 4.6)) as axes:
        for place, name in enumerate(lines):
            arms = [summary["arms"].get(f"{r:g}: {name}") for r in config.ratios]
            if any(arm is None for arm in arms):
                continue
            means = [arm["aggregate"]["accuracy"]["mean"] for arm in arms]
            means = [np.nan if m is None else 100 * m for m in means]
            style = "--" if "refit" in name else ":" if "scratch" in name else "-"
            color = (
                plots.COLORS[place % len(SCORES) + 1] if "scratch" not in name else plots.COLORS[place - 3]
            )
            axes.plot(
                [100 * r for r in config.ratios], means, style, marker="o", ms=4, color=color, label=name
            )
        axes.set(xlabel="weights pruned (%)", ylabel="test accuracy (%)")
        plots.finish(axes, "", fontsize=7, handlelength=3)
