"""How ``experiments.level_transformer`` shows what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.lab.shown import number, percent, span, with_interval

UNITS = {
    "loss": ("nats per token", 1.0, "+.4f"),
    "loss_at_equal_flops": ("nats per token", 1.0, "+.4f"),
    "steps_share": ("% of the steps", 100.0, "+.1f"),
    "suites": ("points", 100.0, "+.2f"),
    "disagreement": ("points", 100.0, "+.2f"),
}
"""Of measures: the unit of a difference, by what it is multiplied, its format."""

TITLES = {
    "loss": "loss at equal steps",
    "loss_at_equal_flops": "loss at equal FLOPs",
    "steps_share": "steps to the baseline's loss at three quarters",
    "suites": "accuracy on the suites",
    "disagreement": "disagreement on overlaps",
}


def reached(curve: Sequence[float], goal: float, looks: int) -> tuple[float, bool]:
    """After which share of ``looks`` a curve of losses is first at the goal or below; whether it ever is.

    Between two looks the loss is taken for linear; before the first, nothing is known. A curve that never
    is there counts as all of its looks: at least as many it would need.

    >>> reached([3.0, 2.0, 1.0, 1.0], 1.5, 4)
    (0.625, True)
    """
    values = np.asarray(curve, float)
    below = np.flatnonzero(values <= goal)
    if not below.size:
        return len(values) / looks, False
    k = int(below[0])
    before = (values[k - 1] - goal) / (values[k - 1] - values[k]) if k else 1.0
    return (k + float(before)) / looks, True


def add_steps(found: Mapping[str, Any], baseline: str, looks: int) -> None:
    """Adds to every seed how many steps it needs to the loss that the baseline's seed has at three quarters.

    In shares of these steps. At the end the baseline is there, and an arm that is as good by chance is not
    in half of the cases and would count with all its steps: so the goal lies before the end of both.
    """
    from jaxnet.lab.summary import arm_summary

    goals, looks = {}, max(1, 3 * looks // 4)
    for seed in found[baseline]["arms"][baseline]["seeds"]:
        goals[seed["seed"]] = None if seed["diverged"] else seed["curve"][looks - 1]
    for name, summary in found.items():
        seeds = []
        for seed in summary["arms"][name]["seeds"]:
            goal = goals[seed["seed"]]
            share, there = (
                (None, None) if seed["diverged"] or goal is None else reached(seed["curve"], goal, looks)
            )
            seeds.append({**seed, "steps_share": share, "reached": there})
        summary["arms"][name] = arm_summary(seeds, rates=("reached",))


def claimed_steps(comparisons: Sequence[Any], claim: float = -0.1) -> dict[str, list[str]]:
    """Arms by what is known of the claim that they need at least a tenth of the steps less."""
    found: dict[str, list[str]] = {"shown": [], "refuted": [], "open": []}
    for c in comparisons:
        if c.question.measure == "steps_share" and c.question.primary:
            low, high = c.ci95 or (-np.inf, np.inf)
            found["shown" if high <= claim else "refuted" if low > claim else "open"].append(c.question.first)
    return found


def tuning_table(arms: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the trials of every arm, the best marked, with a star where it ends the rates."""
    rows = []
    for name, s in arms.items():
        rates = [t["rate"] for t in s["tried"]]
        cells = []
        for t in s["tried"]:
            best = [t["rate"], t["strength"]] == list(s["point"])
            end = "*" if best and len(set(rates)) > 1 and t["rate"] in (min(rates), max(rates)) else ""
            dial = "" if t["strength"] == 1 else f" x {t['strength']:g}"
            cell = f"{t['rate']:g}{dial}: {number(t['loss'], '.4f')}{end}"
            cells.append(f"**{cell}**" if best else cell)
        if cells:
            rows.append([name, ", ".join(cells)])
    return ["arm", "rate (x dial): validation loss of the trials"], rows


def arm_line(name: str, summary: Mapping[str, Any]) -> str:
    """What is said of an arm as soon as it is done."""
    a = summary["arms"][name]["aggregate"]
    losses = (number(a[m]["mean"], ".4f") for m in ("loss", "loss_at_equal_flops"))
    rate, strength = summary["point"]
    said = "loss {} nats at equal steps, {} at equal FLOPs".format(*losses)
    return f"{name}: {said}; rate {rate:g}, strength {strength:g}, {summary['cost']['params']} parameters"


def arm_table(arms: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what every arm has and costs."""
    columns = ["arm", "parameters", "MFLOPs per step", "kB kept", "1,000 tokens per s", "rate", "dial"]
    columns += ["loss", "at equal FLOPs", "steps %", "reached", "suites %", "controls %", "disagreement %"]
    rows = []
    for name, s in arms.items():
        a, cost, speed = s["arms"][name]["aggregate"], s["cost"], s["timing"].get("tokens_per_second")
        row = [
            name,
            str(cost["params"]),
            number(cost["flops"] / 1e6, ".1f"),
            number(cost["kept"] / 1e3, ".0f"),
        ]
        row += [number(None if speed is None else speed / 1e3, ".1f"), *(f"{p:g}" for p in s["point"])]
        row += [number(a[m]["mean"], ".4f") for m in ("loss", "loss_at_equal_flops")]
        row += [percent(a["steps_share"]["mean"], ".1f"), f"{a['reached']['successes']}/{a['reached']['n']}"]
        row += [percent(a[m]["mean"], ".1f") for m in ("suites", "controls", "disagreement")]
        rows.append(row)
    return columns, rows


def difference_table(comparisons: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: every question with its answer, in the unit of its measure."""
    columns = ["arm", "rival", "measure", "difference", "unit", "with more", "p", "p (Holm)", "verdict"]
    rows = []
    for c in comparisons:
        q, (unit, scale, form) = c.question, UNITS[c.question.measure]
        mean = number(None if c.difference is None else scale * c.difference, form)
        size = with_interval(mean, span(c.ci95, form, scale=scale, between=" .. "))
        verdict = c.verdict if c.verdict != "no verdict" else f"no verdict ({c.n} pairs)"
        p = [number(value, ".2g") for value in (c.p, c.p_holm)]
        rows.append([q.first, q.second, TITLES[q.measure], size, unit, c.won, *p, verdict])
    return columns, rows


def suite_table(arms: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: accuracy on held-out sentences, suite by suite."""
    first = next(iter(arms))
    names = list(arms[first]["arms"][first]["seeds"][0]["suite"])
    rows = []
    for name, s in arms.items():
        a = s["arms"][name]["aggregate"]
        rows.append([name, *(percent(a[f"suite.{suite}"]["mean"], ".1f") for suite in names)])
    return ["arm", *names], rows


def search_tables(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows: what searches found, how well predictors rank, the candidates."""
    rows = []
    for name, arm in summary["arms"].items():
        cells = [arm["aggregate"][measure] for measure in ("loss", "regret")]
        rows.append([name, *(with_interval(number(a["mean"], ".4f"), _nats(a["ci95"])) for a in cells)])
    tau = [
        [name, with_interval(number(t["tau"]), span(t["ci95"], scale=1, between=" .. "))]
        for name, t in summary["tau"].items()
    ]
    candidates = [
        [c["name"], str(c["width"]), number(c["loss"], ".4f"), number(c["score"], ".3f")]
        for c in summary["candidates"]
    ]
    return [
        ("search", ["way", "validation loss", "above the best candidate"], rows),
        ("predictors", ["predictor", "Kendall's tau"], tau),
        ("candidates", ["candidate", "width", "validation loss", "structural score"], candidates),
    ]


def compression_table(summary: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: test loss, way by ratio."""
    ratios = list(dict.fromkeys(name.split(": ")[0] for name in summary["arms"]))
    ways = list(dict.fromkeys(name.split(": ")[1] for name in summary["arms"]))
    rows = []
    for way in ways:
        found = [summary["arms"][f"{ratio}: {way}"]["aggregate"]["loss"] for ratio in ratios]
        rows.append([way, *(with_interval(number(a["mean"], ".4f"), _nats(a["ci95"])) for a in found)])
    columns = ["test loss after", *(f"{100 * float(ratio):g} % gone" for ratio in ratios)]
    return "smaller decoders", columns, rows


def answers(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the questions of an extra, in nats."""
    rows = []
    for c in summary["comparisons"]:
        size = with_interval(number(c["difference"], "+.4f"), _nats(c["ci95"], "+.4f"))
        rows.append([c["title"], size, f"{c['wins']}/{c['n']}", number(c["p_holm"], ".2g"), c["verdict"]])
    return ["first minus second", "nats per token", "with more", "p (Holm)", "verdict"], rows


def _nats(ends: Any, form: str = ".4f") -> str:
    return span(ends, form, scale=1, between=" .. ")


def extra_tables(groups: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """All tables of the extras, with their answers."""
    found = []
    if "search" in groups:
        found += [*search_tables(groups["search"]["search"])]
        found.append(("search, paired seeds", *answers(groups["search"]["search"])))
    if "compression" in groups:
        found.append(compression_table(groups["compression"]["compression"]))
        found.append(("smaller decoders, paired seeds", *answers(groups["compression"]["compression"])))
    return found


def values(config: Any, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows."""
    from experiments._level_arm import LOOKED
    from experiments._level_extra import FITTED, LEARNING
    from jaxnet.levels import ARMS, NEAR

    arms = groups["arms"]
    judged = [c for c in comparisons if c.question.primary]
    return {
        "arm_columns": arm_table(arms)[0],
        "arm_rows": arm_table(arms)[1],
        "difference_columns": difference_table(judged)[0],
        "difference_rows": difference_table(judged)[1],
        "aside_rows": difference_table([c for c in comparisons if not c.question.primary])[1],
        "suite_columns": suite_table(arms)[0],
        "suite_rows": suite_table(arms)[1],
        "what": {name: ARMS[name].what for name in arms},
        "spec": next(iter(arms.values()))["spec"],
        "fair": {name: s["fair"] for name, s in arms.items()},
        "near": NEAR,
        "looked": LOOKED,
        "fitted": (FITTED, LEARNING),
        "seconds": sum(
            s["timing"]["run_seconds"] + s["timing"]["compile_seconds"]
            for g in groups.values()
            for s in g.values()
        ),
        "claimed": claimed_steps(comparisons),
        "told": {
            f"{name}: {key.removeprefix('told.')}": a["mean"]
            for name, s in arms.items()
            for key, a in s["arms"][name]["aggregate"].items()
            if key.startswith("told.")
        },
        "tuning": tuning_table(arms),
        "scores": len({round(c["score"], 6) for c in groups["search"]["search"]["candidates"]})
        if "search" in groups
        else 0,
        "verdicts": {v: [c for c in judged if c.verdict == v] for v in ("better", "worse")},
        "extras": {title: (columns, rows) for title, columns, rows in extra_tables(groups)},
    }


def draw_curves(path: Path, config: Any, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Loss on the validation text by steps, less that of the plain decoder's seed: mean over seeds."""
    from jaxnet.lab import plots

    arms, every = groups["arms"], config.steps // config.looks
    base = next(iter(arms))

    def curves(name: str) -> dict[int, np.ndarray]:
        seeds = arms[name]["arms"][name]["seeds"]
        return {s["seed"]: np.asarray(s["curve"][: config.looks], float) for s in seeds if not s["diverged"]}

    plain = curves(base)
    with plots.picture(path, size=(8.5, 4.8)) as axes:
        axes.axhline(0, color="0.3", lw=1)
        for k, name in enumerate(n for n in arms if n != base):
            found = curves(name)
            both = [found[seed] - plain[seed] for seed in found if seed in plain]
            if both:
                steps = every * (1 + np.arange(config.looks))
                axes.plot(steps, np.mean(both, 0), color=plots.plt.get_cmap("tab20")(k), lw=1.5, label=name)
        axes.set(xlabel="steps", ylabel=f"loss − {base} (nats per token)")
        plots.finish(axes, "validation text, paired seeds", fontsize=8)
