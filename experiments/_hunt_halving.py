"""What a hunt with ``--halving`` stopped, what that saved, and how far the early rungs can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments._hunt_kept import Row
from experiments._hunt_plan import network_id
from experiments._shown import number, percent, sound


def describe_halving(
    rows: Sequence[Row],
    plan: Sequence[dict[str, Any]],
    factor: int,
    distribution: Callable[[Sequence[Row]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """One entry per stage, for ``summary.json``.

    Args:
      rows: of all rungs.
      plan: stages of plan.json, each rung one.
      factor: of the halving.
      distribution: describes the accuracy of some rows.

    Returns:
      ``rungs``: networks, how many of them went on and were stopped (None as
      long as it is not known), how many diverged (none of these goes on, is ranked
      or correlated), distribution of the accuracy. ``epochs_trained``
      of all networks together, and ``epochs_without`` halving.
      ``rank_correlation``: Spearman's, of the accuracies after two rungs that
      follow each other, of the networks that went on, within architecture and
      density, mean over these groups. It is measured on survivors, whose
      accuracies lie close together, so it is lower than among all. ``best``:
      where the finally best of each group stood in the earlier rungs, as a
      median over groups: the closer to the last place that went on, the likelier
      a better one was stopped.
    """
    found = []
    for name in dict.fromkeys(stage["name"] for stage in plan):
        rungs = sorted((s for s in plan if s["name"] == name), key=lambda s: int(s["epochs"]))
        by_rung = [[r for r in rows if (r["stage"], r["epochs"]) == (name, rung["epochs"])] for rung in rungs]
        entries = []
        for rung, here, after in zip(rungs, by_rung, [*rungs[1:], None], strict=True):
            went_on = None if after is None else int(after["networks"])
            entries.append(
                {
                    "epochs": rung["epochs"],
                    "networks": len(here),
                    "went_on": went_on,
                    "stopped": None if went_on is None else len(here) - went_on,
                    "diverged": len(here) - len(sound(here)),
                    "distribution": distribution(here) if here else None,
                }
            )
        pairs = list(zip(by_rung, by_rung[1:], strict=False))
        found.append(
            {
                "stage": name,
                "factor": factor,
                "rungs": entries,
                "epochs_trained": sum(
                    (rung["epochs"] - rung["start"]) * len(here)
                    for rung, here in zip(rungs, by_rung, strict=True)
                ),
                "epochs_without": len(by_rung[0]) * max(int(rung["epochs"]) for rung in rungs),
                "rank_correlation": [rank_correlation(early, late) for early, late in pairs],
                "best": [best_before(here, by_rung[-1]) for here in by_rung[:-1]],
            }
        )
    return found


def rank_correlation(early: Sequence[Row], late: Sequence[Row]) -> float | None:
    """Spearman's, of the accuracy in two rungs, mean over groups of three or more; None without any."""
    before = {network_id(row): row["accuracy"] for row in early}
    found = []
    for group in _groups(sound(late)).values():
        ranks = [
            rankdata(values)
            for values in ([before[network_id(r)] for r in group], [r["accuracy"] for r in group])
        ]
        if len(group) > 2 and all(np.ptp(r) > 0 for r in ranks):
            found.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(found)) if found else None


def best_before(early: Sequence[Row], last: Sequence[Row]) -> dict[str, float] | None:
    """Place of the finally best of each group in an earlier rung, from 1: median, worst; None without any."""
    groups, places = _groups(early), []
    for key, group in _groups(sound(last)).items():
        best = network_id(min(group, key=_order))
        places.append([network_id(r) for r in sorted(sound(groups[key]), key=_order)].index(best) + 1)
    return {"median_place": float(np.median(places)), "worst_place": max(places)} if places else None


def halving_lines(summary: dict[str, Any]) -> list[str]:
    """What stands in the terminal."""
    lines = []
    for stage in summary["halving"] or ():
        rungs = stage["rungs"]
        steps = ", ".join(f"{r['networks']} to epoch {r['epochs']}" for r in rungs)
        saved = 1 - stage["epochs_trained"] / stage["epochs_without"] if stage["epochs_without"] else 0.0
        lines.append(
            f"{stage['stage']}, halving by {stage['factor']}: trained {steps}; "
            f"{stage['epochs_trained']} epochs instead of {stage['epochs_without']} "
            f"({100 * saved:.0f} % saved)"
        )
        for rung in rungs[:-1]:
            if rung["distribution"] is not None:
                q = rung["distribution"]["quantiles"]
                lines.append(
                    f"  epoch {rung['epochs']}: {percent(q['0.05'])} to {percent(q['0.95'])} % "
                    f"(5 to 95 % of {rung['distribution']['n']}), median {percent(q['0.5'])}"
                )
        for rung, after, r, best in zip(
            rungs, rungs[1:], stage["rank_correlation"], stage["best"], strict=False
        ):
            shown = "unknown" if r is None else number(r)
            place = "" if best is None else f"; the finally best stood at place {best['median_place']:g}"
            lines.append(
                f"  rank correlation of epochs {rung['epochs']} and {after['epochs']} among those that "
                f"went on: {shown}{place}"
            )
    return lines


def _order(row: Row) -> tuple[float, int]:
    return -row["accuracy"], row["seed"]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["architecture"], row["density"]), []).append(row)
    return groups
