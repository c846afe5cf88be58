"""Patched density: does a sparse scaffold gain from dense patches around its extrema?

Train a sparse scaffold, find its extrema, put small dense patches around them,
train on with one learning rate for the scaffold and another for the patches; all
seeds in one compiled program.

    python -m experiments.patched_density --dataset mnist --num-seeds 8
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from experiments._cli import flag_name, print_table, run_main
from experiments._options import check_at_least, check_folder, check_fractions, check_seeds, option
from experiments._shown import NOTHING, diverged_line, number, percent, span
from jaxnet.errors import InputError
from jaxnet.files import user_path

FRESH: dict[str, Any] = {
    "density": 0.02,
    "allocation": "uniform",
    "activation": "relu",
    "scaffold_epochs": 20,
    "lr": 1e-3,
}
"""Of a scaffold trained here, where a flag does not say otherwise."""


@dataclass(frozen=True)
class Config:
    """Sparse scaffold, extrema, dense patches, dual learning rates, for many seeds at once."""

    dataset: str = option(
        "digits", "data set by name (digits is embedded), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: extrema on training, selection on validation, test images once at the end; "
        "seed: the original's, faults included (docs/protocols.md)",
    )
    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features of the data,256,128,classes", none="auto"
    )
    density: float | None = option(
        None, "fraction of the scaffold's weights that exist; auto: 0.02", "in (0, 1]", none="auto"
    )
    allocation: Literal["uniform", "erdos-renyi", "dense-output", "constant-fan-in"] | None = option(
        None, "how the density is shared out over the layers; auto: uniform", none="auto"
    )
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = option(
        None, "initial weights; auto: dense-fan-in with --protocol seed, else sparse-fan-in", none="auto"
    )
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] | None = option(
        None, "of the hidden layers; auto: relu", none="auto"
    )
    from_checkpoint: str | None = option(
        None,
        "folder of a hunt's winner (OUT/winners/...): patch this trained scaffold instead of fresh ones; "
        "what is auto comes from it, and the seeds differ in their patches only",
    )
    checkpoint_fingerprint: str | None = option(None, "of that scaffold", cli=False)
    num_seeds: int = option(8, "networks trained at once")
    seed: int = option(0, "number of the first seed; a seed decides masks, weights and patches")
    data_seed: int = option(0, "decides the order of the samples, common to all seeds")
    scaffold_epochs: int | None = option(
        None, "epochs without patches; auto: 20, or 0 with --from-checkpoint", "epochs", none="auto"
    )
    patch_epochs: int = option(30, "epochs with patches", "epochs")
    batch_size: int = option(64, "samples per step", "samples")
    lr: float | None = option(None, "Adam's learning rate before patches; auto: 0.001", none="auto")
    lr_scaffold: float = option(1e-4, "of the scaffold after patches; 0 freezes it")
    lr_patch: float = option(5e-4, "of the patches; equal to --lr-scaffold it is the control")
    patience: int | None = option(
        None, "epochs without a better accuracy before a seed stops, in each phase", "epochs", none="never"
    )
    patch_kind: Literal["mlp", "dense"] = option(
        "mlp", "mlp: the original's small networks; dense: new direct connections"
    )
    patch_density: float = option(
        0.5, "fraction of the layer above or below that a dense patch connects to", "in (0, 1]"
    )
    max_patches: int = option(5, "patches per hidden layer and kind of extremum; 0: mere further training")
    placement: Literal["extrema", "random", "least"] = option(
        "extrema", "where patches go: at extrema, or as many of the same at random or the least extreme units"
    )
    detector: Literal["original", "adaptive", "quantile"] = option("original", "thresholds for extrema")
    detect_on: Literal["pre", "post"] = option("pre", "activations watched for extrema: before or after")
    extrema_samples: int | None = option(
        None,
        "samples for the statistics; auto: all training samples, or 1000 test samples with --protocol seed",
        "samples",
        none="auto",
    )
    mask_mode: Literal["enforced", "scaffold-phase"] = option(
        "enforced",
        "scaffold-phase: masks hold before patches only, then every weight is free "
        "(the original's first version)",
    )
    redundancy: bool = option(False, "also measure how far any two patches stand in for one another (slow)")
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    out: str = option("checkpoints/patched_density", "folder for results")
    resume: bool = option(False, "continue the run in --out after its last finished epoch")
    overwrite: bool = option(False, "replace the run in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range, whatever the data."""
        check_fractions(self, "density", "patch_density")
        check_at_least(
            self,
            num_seeds=1,
            seed=0,
            data_seed=0,
            scaffold_epochs=1 if self.from_checkpoint is None else 0,
            patch_epochs=0,
            batch_size=1,
            max_patches=0,
            patience=1,
            extrema_samples=2,
        )
        check_seeds(self)
        for flag in ("lr", "lr_scaffold", "lr_patch"):
            value = getattr(self, flag)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"{flag_name(flag)} must be 0 or more: {value}")
        if self.lr == 0:
            raise InputError("--lr must be above 0: a scaffold that is not trained shows no extrema")
        check_folder(self)
        if self.sizes is not None and (len(self.sizes) < 3 or min(self.sizes) < 1):
            raise InputError(
                f"--sizes needs three or more positive sizes (input, hidden, output): {list(self.sizes)}"
            )
        if self.mask_mode == "scaffold-phase" and self.patch_kind == "dense":
            raise InputError(
                "--mask-mode scaffold-phase frees every weight, which leaves no room for new connections: "
                "use --patch-kind mlp"
            )


def table_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the table in the terminal: a row per seed, then the aggregates.

    Weights are all that exist, patches included; the density is that of the scaffold.
    """
    columns = ["seed", "scaffold %", "patched %", "gain", "high", "low", "patches", "weights", "density %"]
    rows: list[list[object]] = []
    for s in summary["seeds"]:
        rows.append(
            [
                s["seed"],
                percent(s["scaffold_accuracy"]),
                percent(s["patched_accuracy"]),
                percent(s["gain"], "+.2f"),
                sum(s["extrema_high"]),
                sum(s["extrema_low"]),
                s["num_patches"],
                s["nonzeros"]["scaffold"] + s["patch_weights"],
                percent(s["density"]),
            ]
        )
    a = summary["aggregate"]
    rows.append(
        [
            "mean",
            percent(a["scaffold_accuracy"]["mean"]),
            percent(a["patched_accuracy"]["mean"]),
            percent(a["gain"]["mean"], "+.2f"),
            number(a["extrema_high"]["mean"], ".1f"),
            number(a["extrema_low"]["mean"], ".1f"),
            number(a["num_patches"]["mean"], ".1f"),
            number(mean_weights(summary), ".1f"),
            percent(a["density"]["mean"]),
        ]
    )
    intervals = [
        span(a[name]["ci95"], form)
        for name, form in (("scaffold_accuracy", ".2f"), ("patched_accuracy", ".2f"), ("gain", "+.2f"))
    ]
    rows.append(["95 %", *intervals, *[NOTHING] * 5])
    return columns, rows


def mean_weights(summary: dict[str, Any]) -> float | None:
    """Mean number of all weights, of scaffold and patches; None where every seed diverged."""
    a = summary["aggregate"]
    scaffold, patch = a["nonzeros.scaffold"]["mean"], a["patch_weights"]["mean"]
    return None if scaffold is None or patch is None else scaffold + patch


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the experiment, draws the plots, prints the table."""
    # here, not above: a wrong flag is answered at once, without JAX being loaded
    from experiments._patched_plots import draw_all
    from experiments._patched_run import load, open_folder, prepare, run
    from experiments._runtime import use_compilation_cache

    use_compilation_cache()
    dataset = load(config)
    config = prepare(config, dataset)  # before the folder is touched: wrong input leaves nothing behind
    with open_folder(config, dataset) as folder:
        summary = run(config, folder, dataset=dataset).summary
        draw_all(folder)
    columns, rows = table_rows(summary)
    sizes = "-".join(map(str, summary["sizes"]))
    title = f"{config.dataset}, {sizes}, protocol {config.protocol}, {summary['kernel']} kernel"
    print_table(title, columns, rows)
    line = diverged_line(summary["diverged"], len(summary["seeds"]))
    if line is not None:
        report(line)
    timing = summary["timing"]
    report(
        f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s; "
        f"results in {user_path(config.out)}"
    )
    return summary


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.patched_density", description=__doc__)
