"""Indefinite growth: a sparse network grows around its extrema until it does well enough.

Train to convergence, find the extrema, insert a layer or add units where they
gather, put patches around them, and again, until the target or the budget is
reached. All seeds grow at once; networks of equal shape train as one program.

    python -m experiments.indefinite_growth --dataset mnist --protocol seed --num-seeds 8
    python -m experiments.indefinite_growth --dataset mnist --recipe lean --num-seeds 10
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from experiments._cli import print_table, run_main
from experiments._options import (
    check_at_least,
    check_folder,
    check_fractions,
    check_positive,
    check_seeds,
    option,
)
from experiments._shown import diverged_line, percent
from jaxnet.errors import InputError
from jaxnet.files import user_path

RECIPES: dict[str, dict[str, Any]] = {
    "original": {
        "hidden": (128,),
        "density": 0.02,
        "allocation": "uniform",
        "rule": "ratio",
        "change": "insert",
        "operator": "redraw",
        "max_patches": 5,
        "epochs": 20,
        "patience": 5,
        "lr": 1e-3,
        "schedule": "constant",
        "exchange": "none",
        "standard_errors": 0.0,
    },
    "lean": {
        "hidden": (64, 32),
        "density": 0.04,
        "allocation": "erdos-renyi",
        "rule": "always",
        "change": "widen",
        "operator": "preserve",
        "added": 600,
        "size": 16,
        "max_patches": 0,
        "epochs": 10,
        "patience": 0,
        "lr": 2e-3,
        "schedule": "cosine",
        "exchange": "gradient",
        "standard_errors": 1.0,
    },
}
"""What ``auto`` stands for in each recipe."""


def auto(help: str, unit: str | None = None) -> Any:
    """A field whose default the recipe decides."""
    return option(None, f"{help}; auto: what the recipe says", unit, none="auto")


@dataclass(frozen=True)
class Config:
    """Networks that grow around their extrema until they reach a target, many at once."""

    dataset: str = option(
        "digits", "data set by name (digits is embedded), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: extrema on training, target on validation, test images once at the end; "
        "seed: the original's, faults included (docs/protocols.md)",
    )
    recipe: Literal["original", "lean"] = option(
        "original",
        "original: insert layers of equal density and add patches; lean: few weights, drawn and "
        "exchanged where they are worth most, added where extrema gather",
    )
    target: float = option(0.95, "accuracy at which a network stops growing", "in (0, 1]")
    standard_errors: float | None = auto("by how many standard errors the target must be exceeded")
    iterations: int = option(10, "of training and change, at most")
    max_nonzeros: int | None = option(None, "weights and values of patches, at most", none="any")
    time_limit: float | None = option(None, "seconds for all seeds together", "s", none="any")
    min_gain: float | None = option(
        None, "gain in accuracy over --stall iterations below which a network stops", none="never"
    )
    stall: int = option(3, "see --min-gain", "iterations")
    sizes: tuple[int, ...] | None = option(
        None, "units per layer at the start; auto: as the recipe says", none="auto"
    )
    density: float | None = auto("fraction of the weights that exist at the start", "in (0, 1]")
    allocation: Literal["uniform", "erdos-renyi", "dense-output", "constant-fan-in"] | None = auto(
        "how the density is shared out over the layers"
    )
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = option(
        None, "initial weights; auto: dense-fan-in with --protocol seed, else sparse-fan-in", none="auto"
    )
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = option("relu", "of the hidden layers")
    rule: Literal["ratio", "count", "always"] | None = auto(
        "when the scaffold grows: above --min-ratio extrema per unit, from 10 high extrema on, always"
    )
    min_ratio: float = option(0.5, "extrema per hidden unit above which ratio grows")
    change: Literal["insert", "widen", "rewire", "none"] | None = auto(
        "how: a new layer, more units, as many weights elsewhere, not at all"
    )
    place: Literal["worst", "share", "least", "random", "last"] = option(
        "worst",
        "where: at the layer with most extrema, most per unit, fewest, at a random one, at the last",
    )
    operator: Literal["redraw", "preserve"] | None = auto(
        "what happens to the layer behind: drawn afresh, or the function is preserved"
    )
    added: int | None = auto(
        "weights that a change of the scaffold adds; without it, the density at the start"
    )
    size: int | None = auto("units of a change; without it, 4 per extremum, at most --max-size")
    max_size: int = option(256, "units of a change, at most")
    max_patches: int | None = auto("patches per hidden layer, kind of extremum and iteration; 0 for none")
    epochs: int | None = auto("of an iteration, at most", "epochs")
    patience: int | None = auto(
        "epochs without a better accuracy before an iteration ends; 0: never", "epochs"
    )
    lr: float | None = auto("Adam's learning rate")
    schedule: Literal["constant", "cosine"] | None = auto("of the learning rate, within an iteration")
    exchange: Literal["none", "random", "gradient"] | None = auto(
        "weights exchanged while training: none, at random (SET), by gradient (RigL)"
    )
    num_seeds: int = option(8, "networks grown at once")
    seed: int = option(0, "number of the first seed; a seed decides masks, weights and changes")
    data_seed: int = option(0, "decides the order of the samples, common to all seeds")
    batch_size: int = option(64, "samples per step", "samples")
    detector: Literal["original", "adaptive", "quantile"] = option("original", "thresholds for extrema")
    detect_on: Literal["pre", "post"] = option("pre", "activations watched for extrema: before or after")
    extrema_samples: int | None = option(
        None,
        "samples for the statistics; auto: all training samples, or the third 64 test samples with "
        "--protocol seed",
        "samples",
        none="auto",
    )
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    out: str = option("checkpoints/indefinite_growth", "folder for results")
    resume: bool = option(False, "continue the run in --out after its last finished epoch")
    overwrite: bool = option(False, "replace the run in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range, whatever the data."""
        check_fractions(self, "target", "density")
        check_at_least(
            self,
            num_seeds=1,
            seed=0,
            data_seed=0,
            iterations=1,
            max_nonzeros=1,
            stall=1,
            added=2,
            size=1,
            max_size=1,
            max_patches=0,
            epochs=1,
            patience=0,
            batch_size=1,
            extrema_samples=2,
            standard_errors=0,
            min_ratio=0,
        )
        check_positive(self, "lr", "time_limit", "min_gain")
        check_seeds(self)
        check_folder(self)
        if self.sizes is not None and (len(self.sizes) < 3 or min(self.sizes) < 1):
            raise InputError(
                f"--sizes needs three or more positive sizes (input, hidden, output): {list(self.sizes)}"
            )
        chosen = settled(self)
        if chosen.patience and chosen.schedule == "cosine":
            raise InputError("--schedule cosine needs iterations of equal length: give --patience 0 with it")
        if chosen.exchange != "none" and chosen.patience:
            raise InputError("--exchange goes with iterations of equal length: give --patience 0 with it")
        if chosen.operator == "preserve" and chosen.change == "insert" and self.activation != "relu":
            raise InputError(
                "a layer that preserves the function needs --activation relu: or give --operator redraw"
            )


def settled(config: Config) -> Config:
    """The configuration with the recipe's values where nothing else is asked for."""
    names = {f.name for f in dataclasses.fields(config)}
    recipe = {n: v for n, v in RECIPES[config.recipe].items() if n in names and getattr(config, n) is None}
    # object.__new__ would do, but replace checks once more; RECIPES holds settled values only
    if not recipe:
        return config
    new = object.__new__(Config)
    for name in names:
        object.__setattr__(new, name, recipe.get(name, getattr(config, name)))
    return new


def iteration_line(seed: int, stop: str | None, entry: dict[str, Any]) -> str:
    """One line about an iteration of one network."""
    decision = entry["decision"]
    if decision is None:
        what = f"stop: {stop}"
    else:
        change = {
            "insert": "insert {size} units behind layer {at}",
            "widen": "add {size} units to layer {at}",
            "rewire": "move weights",
            "none": "scaffold stays",
        }[decision["change"]].format(size=decision["size"], at=(decision["layer"] or 0) + 1)
        what = f"{change}{', add patches' if decision['patches'] else ''} ({decision['reason']})"
    counts = entry["nonzeros"]
    accuracy = "diverged" if entry["diverged"] else f"{percent(entry['accuracy'])} %"
    return (
        f"seed {seed}, iteration {entry['iteration']}: {'-'.join(map(str, entry['architecture']))}, "
        f"{accuracy}, extrema {sum(entry['extrema_high'])} high "
        f"{sum(entry['extrema_low'])} low, {entry['patches']} patches, "
        f"{counts['scaffold'] + counts['patch']} weights; {what}"
    )


def table_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the table in the terminal; weights are all that exist, patches included."""
    columns = ["seed", "accuracy %", "iterations", "weights", "density %", "patches", "stopped by"]
    columns.append("architecture")
    rows: list[list[object]] = [
        [
            s["seed"],
            percent(s["accuracy"]),
            s["iterations"],
            s["nonzeros"]["scaffold"] + s["patch_weights"],
            percent(s["density"]),
            s["history"][-1]["patches"],
            s["stop_reason"],
            "-".join(map(str, s["architecture"])),
        ]
        for s in summary["seeds"]
    ]
    return columns, rows


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the experiment, draws the plots, prints the table."""
    # here, not above: a wrong flag is answered at once, without JAX being loaded
    from experiments._growth_plots import PLOTS, draw_all
    from experiments._growth_run import prepare, run
    from experiments._population import load
    from experiments._runtime import open_folder, use_compilation_cache

    use_compilation_cache()
    dataset = load(config)
    config = prepare(config, dataset)  # before the folder is touched: wrong input leaves nothing behind
    with open_folder(config, dataset, PLOTS) as folder:
        summary = run(config, folder, dataset, report)
        draw_all(folder)
    columns, rows = table_rows(summary)
    reached = sum(s["stop_reason"] == "target" for s in summary["seeds"])
    title = (
        f"{config.dataset}, recipe {config.recipe}, protocol {config.protocol}, {config.kernel} kernel: "
        f"{reached} of {len(rows)} reached {100 * config.target:g} %"
    )
    print_table(title, columns, rows)
    line = diverged_line(summary["diverged"], len(rows))
    if line is not None:
        report(line)
    timing = summary["timing"]
    report(
        f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s; "
        f"results in {user_path(config.out)}"
    )
    return summary


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.indefinite_growth", description=__doc__)
