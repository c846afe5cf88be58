"""Optimal bootstrap: does a network built from the features of a smaller one beat a random one of equal size?

Find the smallest network that learns, train it, build a medium and then a fine
network from it, and train each beside controls of the same number of weights;
all seeds and arms of a scale in one compiled program.

    python -m experiments.optimal_bootstrap --dataset mnist --num-seeds 32
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from experiments._cli import print_table, run_main
from experiments._options import (
    check_at_least,
    check_document,
    check_folder,
    check_fractions,
    check_positive,
    check_seeds,
    option,
)
from experiments._shown import diverged_line, number, pairs_won, percent, span
from jaxnet.errors import InputError
from jaxnet.files import user_path


@dataclass(frozen=True)
class Config:
    """The smallest network that learns, and two larger ones built from it, against controls of equal size."""

    dataset: str = option(
        "digits", "data set by name (digits is embedded), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: selection on validation, test images once at the end; "
        "seed: the original's: test images after every epoch, its init, the last epoch is built on",
    )
    hidden: tuple[int, ...] = option(
        (128, 64, 32, 16), "widths of the hidden layer tried in the search; without one is always tried too"
    )
    widths: tuple[int, int] = option((32, 128), "units of the new first layer: of medium, of fine")
    density: float = option(0.02, "fraction of the weights of the random masks that exist", "in (0, 1]")
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = option(
        None, "random weights; auto: dense-fan-in with --protocol seed, else sparse-fan-in", none="auto"
    )
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = option("relu", "of the hidden layers")
    threshold: float = option(0.15, "accuracy above which a network has learned", "in [0, 1)")
    num_seeds: int = option(8, "networks in every arm")
    seed: int = option(0, "number of the first seed; a seed decides masks and weights")
    data_seed: int = option(0, "decides the order of the samples, common to all seeds and arms")
    search_epochs: int = option(20, "epochs of the search", "epochs")
    epochs: int = option(30, "epochs of each scale", "epochs")
    batch_size: int = option(64, "samples per step", "samples")
    lr: float = option(1e-3, "Adam's learning rate")
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    doc: str | None = option(None, "also write the results as Markdown to this file, a plot beside it")
    out: str = option("checkpoints/optimal_bootstrap", "folder for results")
    resume: bool = option(False, "continue the run in --out after its last finished epoch")
    overwrite: bool = option(False, "replace the run in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range, whatever the data."""
        check_fractions(self, "density")
        if not 0 <= self.threshold < 1:
            raise InputError(f"--threshold must be at least 0 and below 1: {self.threshold}")
        check_positive(self, "lr")
        check_at_least(
            self,
            num_seeds=1,
            seed=0,
            data_seed=0,
            search_epochs=1,
            epochs=1,
            batch_size=1,
        )
        check_seeds(self)
        for flag in ("hidden", "widths"):
            sizes = getattr(self, flag)
            if min(sizes, default=1) < 1:
                raise InputError(f"--{flag} must be positive sizes: {','.join(map(str, sizes))}")
        if len(set(self.hidden)) < len(self.hidden):
            raise InputError(f"--hidden names a size twice: {','.join(map(str, self.hidden))}")
        check_folder(self)
        check_document(self.doc)
        if self.doc is not None and self.num_seeds < 2:
            raise InputError(f"--doc needs at least 2 seeds for an interval: {self.num_seeds}")


def num_networks(summary: dict[str, Any]) -> int:
    """How many networks were trained, in all stages and arms."""
    stages = len(summary["architectures"]) + sum(len(scale["arms"]) for scale in summary["scales"].values())
    return stages * len(summary["seeds"])


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the search, the arms and the differences as tables."""

    def with_interval(aggregate: dict[str, Any]) -> list[str]:
        return [percent(aggregate["mean"]), span(aggregate["ci95"])]

    rows: list[list[object]] = [
        [
            "-".join(map(str, found["sizes"])),
            found["weights"],
            *with_interval(found["watched"]),
            percent(found["watched"]["min"]),
            f"{found['learns']}/{found['n']}",
            f"{found['smallest']}/{len(summary['seeds'])}",
        ]
        for found in summary["architectures"]
    ]
    columns = ["architecture", "weights", "mean %", "95 %", "worst %", "learns", "smallest"]
    print_table("search for the smallest network that learns", columns, rows)
    rows = [
        [
            scale,
            arm,
            number(values["weights"]["mean"], ".0f"),
            *with_interval(values["accuracy"]),
            percent(values["after"]["after epoch 1"]["mean"]),
        ]
        for scale, found in summary["scales"].items()
        for arm, values in found["arms"].items()
    ]
    print_table("scales", ["scale", "arm", "weights", "accuracy %", "95 %", "watched, after epoch 1 %"], rows)
    rows = [
        [
            c["scale"],
            f"{c['first']} - {c['second']}",
            c["measure"],
            percent(c["mean"], "+.2f"),
            span(c["ci95"], "+.2f"),
            pairs_won(c["wins"], c["n"], c["not_finite"]),
        ]
        for c in summary["comparisons"]
        if c["measure"] in ("test accuracy", "after epoch 1")
    ]
    print_table("paired differences", ["scale", "arms", "measure", "points", "95 %", "wins"], rows)


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the experiment, draws the plots, prints the tables, writes the document if asked for."""
    # here, not above: a wrong flag is answered at once, without JAX being loaded
    from experiments._bootstrap_report import draw_all, write_document
    from experiments._bootstrap_run import BootstrapRun, open_folder, prepare
    from experiments._population import load
    from experiments._runtime import use_compilation_cache

    use_compilation_cache()
    dataset = load(config)
    config = prepare(config, dataset)  # before the folder is touched: wrong input leaves nothing behind
    with open_folder(config, dataset) as folder:
        summary = BootstrapRun(config, folder, dataset).run()
        draw_all(folder)
        if config.doc is not None:
            write_document(user_path(config.doc), config, summary, folder.read_rows())
    print_summary(summary)
    line = diverged_line(summary["diverged"], num_networks(summary))
    if line is not None:
        report(line)
    timing = summary["timing"]
    report(
        f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s; "
        f"results in {user_path(config.out)}"
    )
    return summary


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.optimal_bootstrap", description=__doc__)
