"""Tables and pictures of what predicts what over networks (:mod:`jaxnet.prediction`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet import lab
from jaxnet.lab.shown import NOTHING, number, span, with_interval


def prediction_rows(predictors: Mapping[str, Any], *, intervals: bool = False) -> list[list[str]]:
    """A row per predictor: Spearman, R2 alone, increment over the base, each with what chance reaches."""
    rows = []
    for name, found in predictors.items():
        rank, alone, beyond = found["spearman"], found["alone"], found.get("beyond")
        row = [name, NOTHING]
        if rank:
            row[1] = with_interval(number(rank["rho"]), span(rank["ci95"], between=" .. ", scale=1))
        row += [
            number(alone[key], form) for key, form in (("r2", ".3f"), ("baseline95", ".3f"), ("p", ".2g"))
        ]
        if intervals:
            row[2] = with_interval(row[2], span(alone["ci95"], between=" .. ", scale=1))
        more = (("increment", "+.3f"), ("p", ".2g"))
        row += [number(beyond[key] if beyond else None, form) for key, form in more]
        rows.append([*row, str(alone["n"])])
    return rows


def draw_predictors(path: Path, panels: Mapping[str, Mapping[str, Any]]) -> None:
    """Cross-validated R2 of every predictor, a panel for each title, with what permuted ones reach."""
    plots, tall = lab.plots, max(len(found) for found in panels.values())
    figure, axes = plots.plt.subplots(
        1,
        len(panels),
        figsize=(4.4 * len(panels) + 1, 1.2 + 0.23 * tall),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for one, (title, found) in zip(axes[0], panels.items(), strict=True):
        r2 = [max(predictor["alone"]["r2"] or 0.0, -0.2) for predictor in found.values()]
        limit = [predictor["alone"]["baseline95"] or 0.0 for predictor in found.values()]
        one.barh(range(len(found)), r2, color="C0", label="alone")
        one.plot(limit, range(len(found)), "k|", ms=9, label="95 % of permutations stay below")
        one.set_yticks(range(len(found)), list(found), fontsize=8)
        one.set(title=title, xlabel="cross-validated R²")
        one.axvline(0, color="0.6", lw=0.8)
    axes[0][0].invert_yaxis()
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plots.save_figure(figure, path)
