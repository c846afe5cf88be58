"""Structure of scaffolds: what predicts accuracy, where patches and layers belong, what training changes.

Scaffolds of every density are looked at before training and trained (does their reach, their ranks or
their first epoch predict the accuracy at the end?); trained ones get patches or a layer at places that
rank bottlenecks, extrema, ways or chance choose.

    python -m experiments.structure_report --dataset mnist --densities 0.01,0.02 --num-seeds 256
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _structure_place as placing
from experiments import _structure_predict as predicting
from experiments._structure_bars import draw_bars
from experiments._structure_predictors import draw_predictors, prediction_rows
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab import changed, option
from jaxnet.lab.flags import check_sizes
from jaxnet.lab.shown import number

PLACED = "placed"
"""The group of the placements among those of the densities."""


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.DataFlags):
    """What of a scaffold predicts its accuracy, and where to add to it."""

    densities: tuple[float, ...] = option(
        (0.01, 0.02), "fractions of the weights that exist; the last one for placing", fraction=True
    )
    sizes: tuple[int, ...] | None = option(
        None, "units per layer, for predicting; auto: features,128,classes", none="auto"
    )
    placed_sizes: tuple[int, ...] | None = option(
        None, "units per layer, for placing; auto: features,128,64,classes", none="auto"
    )
    num_seeds: int = option(256, "networks of every density, for predicting", least=4)
    placed_seeds: int = option(16, "networks of every arm, for placing; verdicts need 12", least=2)
    epochs: int = option(10, "of training, and again with what was added", "epochs", least=2)
    lr: float = changed(lab.TrainFlags, "lr", 1e-2)
    batch_size: int = changed(lab.TrainFlags, "batch_size", 128)
    out: str = changed(lab.RunFlags, "out", "checkpoints/structure_report")

    def check(self) -> None:
        """Raises InputError for values that do not go together."""
        check_sizes(self.sizes, 3)
        placed = self.placed_sizes
        if placed is not None and (len(placed) < 4 or min(placed) < 1):
            raise InputError(
                f"--placed-sizes needs four or more positive sizes (two hidden ones to choose from): {placed}"
            )
        if not self.densities or len(set(self.densities)) < len(self.densities):
            raise InputError(f"--densities must be different numbers, at least one: {list(self.densities)}")
        super().check()


def run_all(config: Config) -> dict[str, dict[str, Any]]:
    """Runs both halves, each in a folder of its own; their summaries."""
    dataset = lab.run.load(config)
    given: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}

    def part(kind: type, folder: str, **values: Any) -> Any:
        shared = {f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given}
        return kind(**{**shared, **lab.run.arm_values(config, folder), **values})

    parts: list[tuple[str, lab.Study[Any], Any]] = [
        (f"{d:g}", predicting.PREDICT, part(predicting.PredictConfig, f"density {d:g}", density=d))
        for d in config.densities
    ]
    how = {"sizes": config.placed_sizes, "num_seeds": config.placed_seeds, "density": config.densities[-1]}
    how |= {"scaffold_epochs": config.epochs, "added_epochs": config.epochs}
    parts.append((PLACED, placing.PLACE, part(placing.PlaceConfig, PLACED, **how)))
    for _, study, one in parts:  # wrong input leaves nothing behind
        study.settle(one, dataset)
    found: dict[str, dict[str, Any]] = {}
    for name, study, one in parts:
        summary, _ = study.compute(one, report=print, dataset=dataset)
        found[name] = {name: summary}
        print(f"{name}: done", flush=True)
    return found


def questions(config: Config) -> list[lab.Question]:
    """Rank bottlenecks against extrema and chance, for patches and for layers; the rest without a verdict."""
    asked = []
    for what, rivals in (("patches", ("extrema", "random", "reach")), ("layer", ("extrema", "random"))):
        for rival in rivals:
            pair = f"{PLACED}: {what}: bottleneck", f"{PLACED}: {what}: {rival}"
            title = f"{what} at bottlenecks − {rival}"
            asked.append(lab.Question(*pair, "accuracy", title, where=what))
    for what in ("patches", "layer"):
        pair = f"{PLACED}: {what}: bottleneck", f"{PLACED}: unchanged"
        asked.append(lab.Question(*pair, "accuracy", f"{what} at bottlenecks − nothing added", primary=False))
    return asked


def values(config: Config, groups: Mapping[str, Any], comparisons: Sequence[Any]) -> dict[str, Any]:
    """What the document shows."""
    predicted = {name: run[name] for name, run in groups.items() if name != PLACED}
    placed = groups[PLACED][PLACED]
    return {
        "predicted": {name: prediction_rows(s["predictors"]) for name, s in predicted.items()},
        "reached": {name: s["all_classes"] for name, s in predicted.items()},
        "equal": {name: s["rank_is_paths"] for name, s in predicted.items()},
        "sizes_predicted": next(iter(predicted.values()))["sizes"],
        "sizes_placed": placed["sizes"],
        "placed_rows": [
            [name, lab.report.mean_and_interval(arm["aggregate"]["accuracy"])]
            for name, arm in placed["arms"].items()
        ],
        "chosen": placed["chosen"],
        "along": {
            **{n: along_rows(s["along"]) for n, s in predicted.items()},
            PLACED: along_rows(placed["along"]),
        },
        "changed": {name: change_rows(run[name]["along"]) for name, run in groups.items()},
        "tolerance": predicting.TOLERANCE,
    }


def along_rows(along: Mapping[str, Any]) -> list[list[str]]:
    """A row per checkpoint and layer: ranks and directions, means over networks."""
    columns = ("rank", "participation", "energy", "marchenko-pastur", "dead_rows", "dead_cols", "duplicates")
    return [
        [name, str(layer + 1), *(number(found[c][layer], ".1f") for c in columns), str(found["ambiguous"])]
        for name, found in along["checkpoints"].items()
        for layer in range(len(found["rank"]))
    ]


def change_rows(along: Mapping[str, Any]) -> list[list[str]]:
    """A row per pair of checkpoints and layer."""
    return [
        [name, str(layer), *(number(one[c], ".2f") for c in ("relative", "rank", "kept"))]
        for name, layers in along["changes"].items()
        for layer, one in enumerate(layers, 1)
    ]


def draw_r2(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """Cross-validated R2 of every predictor, a panel per density."""
    shown = {name: run[name]["predictors"] for name, run in groups.items() if name != PLACED}
    draw_predictors(path, {f"density {name}": predictors for name, predictors in shown.items()})


def draw_scaffold_bars(path: Path, config: Config, groups: Mapping[str, Any], comparisons: Any) -> None:
    """The mean bars of trained scaffolds that are placed on."""
    found = groups[PLACED][PLACED]
    bars = found["along"]["checkpoints"]["scaffold"]["bars"]
    with lab.plots.picture(path, size=(6.4, 3)) as axes:
        draw_bars(axes, bars, f"Rank bars of scaffolds, mean of {config.placed_seeds}", found["sizes"])


CONTROLS = lab.Controls(
    "structure_report",
    Config,
    run_all,
    lab.Document(
        Path(__file__).parent / "reports" / "structure.md",
        values,
        {"": draw_r2, "_differences": lab.draw_comparisons, "_bars": draw_scaffold_bars},
    ),
    questions=questions,
)


if __name__ == "__main__":
    CONTROLS.command(__doc__)
