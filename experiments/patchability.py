"""Patchability: can the gain of a network by patches be told before it is patched?

Scaffolds are trained as in a hunt, looked at, and all of them patched, and trained on without patches
beside. What of a scaffold (accuracy, extrema, activations, live inputs, ranks) predicts what patches give
it? Do hunts that rank by patchability take better candidates than chance?

    python -m experiments.patchability --dataset mnist --doc docs/results/patchability.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _patchability_run as runs
from experiments._structure_predictors import draw_predictors, prediction_rows
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Allocation, check_sizes
from jaxnet.lab.shown import number, percent, sound, span

MOST = 8
"""Predictors that the table of importance names."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """What of a scaffold predicts its gain by patches."""

    dataset: str = changed(lab.DataFlags, "dataset", "mnist")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    sizes: tuple[int, ...] | None = changed(lab.NetworkFlags, "sizes")
    density: float = option(0.02, "fraction of the weights that exist", "in (0, 1]", fraction=True)
    allocations: tuple[Allocation, ...] = option(
        ("uniform", "erdos-renyi"), "how the density is shared out over the layers, a run each"
    )
    patch_kinds: tuple[str, ...] = option(("mlp",), "mlp, dense, or both, a run each")
    num_seeds: int = option(256, "scaffolds of every run", least=4)
    hunt_size: int = changed(runs.PatchedConfig, "hunt_size")
    scaffold_epochs: int = changed(runs.PatchedConfig, "scaffold_epochs")
    patch_epochs: int = changed(runs.PatchedConfig, "patch_epochs")
    max_patches: int = changed(runs.PatchedConfig, "max_patches")
    permutations: int = changed(runs.PatchedConfig, "permutations")
    out: str = option("checkpoints/patchability", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_sizes(self.sizes, 3)
        for flag, allowed in (("allocations", None), ("patch_kinds", ("mlp", "dense"))):
            given = getattr(self, flag)
            if not given or len(set(given)) < len(given) or (allowed and set(given) - set(allowed)):
                some = f"some of {', '.join(allowed)}" if allowed else "some"
                raise InputError(f"{lab.flag_name(flag)} must be {some}, each once: {','.join(given)}")
        if self.num_seeds % self.hunt_size:
            raise InputError(
                f"--num-seeds {self.num_seeds} are no whole hunts of {self.hunt_size}: give a multiple"
            )
        super().check()


def names(config: Config) -> dict[str, dict[str, Any]]:
    """The runs by name, and what each changes."""
    return {
        ", ".join([allocation, *[kind] * (len(config.patch_kinds) > 1)]): {
            "allocation": allocation,
            "patch_kind": kind,
        }
        for allocation in config.allocations
        for kind in config.patch_kinds
    }


def run(config: Config) -> dict[str, Any]:
    """Runs every allocation and kind of patches."""
    shared = ("sizes", "density", "num_seeds", "hunt_size", "scaffold_epochs", "patch_epochs")
    values = {name: getattr(config, name) for name in (*shared, "max_patches", "permutations")}
    return {"runs": lab.run_arms(runs.PATCHED, names(config), config, **values)}


def questions(config: Config) -> list[lab.Question]:
    """Do the winners of hunts gain more, and are they better when patched, than a random scaffold?"""
    asked = []
    for name in names(config):
        for criterion in runs.CRITERIA:
            for measure, what in (("gain", "gain"), ("accuracy", "accuracy when patched")):
                pair = f"{name}: {criterion}: top", f"{name}: all"
                title = f"{what} of the winner by {criterion} − of a random scaffold"
                asked.append(lab.Question(*pair, measure, title, where=name))
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows of every run."""
    found = {}
    for name, summary in groups["runs"].items():
        arms, predicted = summary["arms"], summary["predicted"]
        found[name] = {
            "mean": {
                m: arms["scaffolds"]["aggregate"][m] for m in ("scaffold", "accuracy", "gain", "beyond")
            },
            "lost": {
                kind: arms["scaffolds"]["aggregate"][f"lost_without.{kind}"]
                for kind in ("high", "low", "all")
            },
            "predicted": {
                t: prediction_rows(predicted[t]["predictors"], intervals=True) for t in runs.TARGETS
            },
            "importance": {t: importance_rows(predicted[t]["importance"]) for t in runs.TARGETS},
            "products": product_rows(predicted),
            "regimes": regime_rows(predicted),
            "hunts": hunt_rows(arms),
        }
    first = next(iter(groups["runs"].values()))
    return {
        "found": found,
        "targets": runs.TARGETS,
        "criteria": runs.CRITERIA,
        "sizes_patched": first["sizes"],
        "run_config": first["config"],
    }


def importance_rows(importance: Mapping[str, float]) -> list[list[str]]:
    """The predictors that the joint fit misses most."""
    ranked = sorted(importance.items(), key=lambda item: -item[1])[:MOST]
    return [[name, number(lost, "+.3f")] for name, lost in ranked]


def product_rows(predicted: Mapping[str, Any]) -> list[list[str]]:
    """What both definitions of patchability add to the accuracy, for both targets."""
    rows = []
    for target in runs.TARGETS:
        for column in list(runs.CRITERIA.values())[1:]:
            beyond = predicted[target]["predictors"][column]["beyond"]
            shown = [number(beyond[key], form) for key, form in (("increment", "+.3f"), ("p", ".2g"))]
            rows.append([column, target, *shown, number(beyond["baseline95"], "+.3f")])
    return rows


def regime_rows(predicted: Mapping[str, Any]) -> list[list[str]]:
    """Gains of the thirds with fewest and most extrema of every kind and layer, and of dead units."""
    thirds = predicted["gain"]["thirds"]
    kinds = [name for name in thirds if name.startswith(("high", "low")) or name == "dead fraction"]
    return [
        [
            name,
            lab.report.mean_and_interval(thirds[name]["least"]),
            lab.report.mean_and_interval(thirds[name]["most"]),
            percent(thirds[name]["difference"], "+.2f"),
            span(thirds[name]["ci95"], "+.2f", between=" .. "),
            number(thirds[name]["p"], ".2g"),
        ]
        for name in kinds
    ]


def hunt_rows(arms: Mapping[str, Any]) -> list[list[str]]:
    """What the scaffolds that hunts take are, and what they gain."""
    measures = ("scaffold", "accuracy", "gain", "beyond")
    shown = [name for name in runs.arms_of_hunts() if name in arms]
    interval = lab.report.mean_and_interval
    return [[name, *(interval(arms[name]["aggregate"][m]) for m in measures)] for name in shown]


def draw_r2(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Cross-validated R2 of every predictor of the gain, a panel per run."""
    draw_predictors(path, {n: s["predicted"]["gain"]["predictors"] for n, s in groups["runs"].items()})


def draw_gains(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Gain of every scaffold against its accuracy, coloured by its high extrema; a panel per run."""
    plots, every = lab.plots, groups["runs"]
    figure, axes = plots.plt.subplots(
        1, len(every), figsize=(4.6 * len(every), 3.8), layout="constrained", squeeze=False
    )
    for one, (name, summary) in zip(axes[0], every.items(), strict=True):
        seeds = sound(summary["arms"]["scaffolds"]["seeds"])
        high = [sum(v for c, v in s["predictors"].items() if c.startswith("high")) for s in seeds]
        x, y = ([100 * s[measure] for s in seeds] for measure in ("scaffold", "gain"))
        dots = one.scatter(x, y, c=high, s=14, alpha=0.8, cmap="viridis", lw=0)
        figure.colorbar(dots, ax=one, label="high extrema")
        one.set(xlabel="test accuracy of the scaffold (%)", ylabel="gain by patches (points)")
        plots.finish(one, name)
    plots.save_figure(figure, path)


DOCUMENT = lab.Document(
    Path(__file__).parent / "reports" / "patchability.md",
    values,
    {"": draw_r2, "_gains": draw_gains, "_differences": lab.draw_comparisons},
)
CONTROLS = lab.Controls("patchability", Config, run, DOCUMENT, questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
