"""Cliff rescue: can a network that is too sparse to learn be saved by growth?

All arms train side by side on the same seeds, in one compiled program; every few
epochs each arm changes its networks in its own way.

    python -m experiments.cliff_rescue --num-seeds 32
    python -m experiments.cliff_rescue --dataset mnist --kernel csr
"""

from __future__ import annotations

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
from experiments._shown import diverged_line, number, percent, span
from jaxnet.errors import InputError
from jaxnet.files import user_path


@dataclass(frozen=True)
class Arm:
    """One way to treat a network that is too sparse.

    Attributes:
      grow: what is added at a growth: ``none``, ``clone`` (and as many pruned), ``skips``
        (as far as they can be routed, the rest at random), ``random`` (into each hidden
        layer) or ``output`` (at random into the output layer).
      allocation: how the density is shared out over the layers at the start.
      scheduled: the growth scheduler says when, instead of ``--grow-every``.
    """

    grow: Literal["none", "clone", "skips", "random", "output"]
    allocation: str = "uniform"
    scheduled: bool = False


ARMS: dict[str, Arm] = {
    "static": Arm("none"),
    "clone-and-prune": Arm("clone"),
    "skips": Arm("skips"),
    "scheduler": Arm("skips", scheduled=True),
    "random": Arm("random"),
    "random-output": Arm("output"),
    "static-erdos-renyi": Arm("none", "erdos-renyi"),
}
"""The arms by name; the last two are controls: the place, and the allocation from the start."""


@dataclass(frozen=True)
class Config:
    """A network that is too sparse to learn, left alone or rescued, for many seeds at once."""

    dataset: str = option(
        "cliff", "data set by name (cliff is made here), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: test samples once, after the last epoch; seed: the best epoch on the test samples, "
        "which also show the extrema (docs/protocols.md)",
    )
    arms: tuple[str, ...] = option(tuple(ARMS), f"ways to compare with static: {', '.join(ARMS)}")
    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features of the data,256,128,classes", none="auto"
    )
    density: float = option(0.002, "fraction of the weights that exist at the start", "in (0, 1]")
    init: Literal["dense-fan-in", "sparse-fan-in"] | None = option(
        None, "initial weights; auto: dense-fan-in with --protocol seed, else sparse-fan-in", none="auto"
    )
    activation: Literal["relu", "tanh", "sigmoid", "gelu"] = option("tanh", "of the hidden layers")
    num_seeds: int = option(32, "networks in each arm")
    seed: int = option(0, "number of the first seed; a seed decides masks, weights and growth")
    data_seed: int = option(0, "decides the order of the samples, common to all seeds and arms")
    epochs: int = option(50, "epochs of training", "epochs")
    batch_size: int = option(32, "samples per step", "samples")
    lr: float = option(2e-3, "Adam's learning rate")
    grow_every: int = option(5, "epochs between two growths", "epochs")
    grow_fraction: float = option(
        0.05, "weights added at a growth, as a fraction of those that each hidden layer had", "in (0, 1]"
    )
    max_incoming: int = option(5, "skip connections into one unit at most")
    target: float = option(0.356, "test accuracy that counts as a rescue", "in (0, 1)")
    detector: Literal["original", "adaptive", "quantile"] = option("original", "thresholds for extrema")
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    out: str = option("checkpoints/cliff_rescue", "folder for results")
    resume: bool = option(False, "continue the run in --out after its last finished epoch")
    overwrite: bool = option(False, "replace the run in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range, whatever the data."""
        check_fractions(self, "density", "grow_fraction")
        if not 0 < self.target < 1:
            raise InputError(f"--target must be above 0 and below 1: {self.target}")
        check_at_least(
            self,
            num_seeds=2,
            seed=0,
            data_seed=0,
            epochs=1,
            batch_size=1,
            grow_every=1,
            max_incoming=1,
        )
        check_seeds(self)
        check_positive(self, "lr")
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise InputError(f"--arms: unknown arm {unknown[0]!r}: choose from {', '.join(ARMS)}")
        if "static" not in self.arms or len(set(self.arms)) != len(self.arms):
            raise InputError("--arms must name static, which the others are compared with, and each arm once")
        if self.sizes is not None and (len(self.sizes) < 4 or min(self.sizes) < 1):
            raise InputError(
                "--sizes needs four or more positive sizes, for skip connections two hidden layers: "
                f"{list(self.sizes)}"
            )
        check_folder(self)


def table_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of the table in the terminal: a row per arm.

    Weights are all that exist, skip connections included; the density is that without them.
    """
    columns = ["arm", "accuracy %", "95 %", "rescued", "95 %", "weights", "density %"]
    columns += ["against static", "p", "p rescued"]
    rows: list[list[object]] = []
    for name, arm in summary["arms"].items():
        accuracy, rate, against = arm["accuracy"], arm["rescued"], arm["against_static"]
        weights = [number(arm["weights"][end], ".0f") for end in ("min", "max")]
        rows.append(
            [
                name,
                percent(accuracy["mean"]),
                span(accuracy["ci95"]),
                f"{rate['successes']}/{rate['n']}",
                span(rate["ci95"], ".0f"),
                "..".join(dict.fromkeys(weights)),
                percent(arm["density"]["mean"], ".3g"),
                None if against is None else percent(against["difference"]["mean"], "+.2f"),
                None if against is None else number(against["difference"]["p"], ".2g"),
                None if against is None else number(against["rescued"]["p"], ".2g"),
            ]
        )
    return columns, rows


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the experiment, draws the plots, prints the table."""
    # here, not above: a wrong flag is answered at once, without JAX being loaded
    from experiments._cliff_plots import draw_all
    from experiments._cliff_run import open_folder, prepare, run
    from experiments._population import load
    from experiments._runtime import use_compilation_cache

    use_compilation_cache()
    dataset = load(config)
    config = prepare(config, dataset)  # before the folder is touched: wrong input leaves nothing behind
    with open_folder(config, dataset) as folder:
        summary = run(config, folder, dataset)
        draw_all(folder)
    columns, rows = table_rows(summary)
    sizes = "-".join(map(str, summary["sizes"]))
    title = f"{config.dataset}, {sizes}, {config.num_seeds} paired seeds, protocol {config.protocol}"
    print_table(title, columns, rows)
    line = diverged_line(summary["diverged"], config.num_seeds * len(rows))
    if line is not None:
        report(line)
    timing = summary["timing"]
    report(
        f"compiled in {timing['compile_seconds']:.1f} s, ran for {timing['run_seconds']:.1f} s; "
        f"results in {user_path(config.out)}"
    )
    return summary


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.cliff_rescue", description=__doc__)
