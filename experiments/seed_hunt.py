"""Seed hunt: train hundreds of sparse networks in a few compiled programs, rank them, keep the best.

Every network has its own mask and weights. The table of all networks grows call by call in
OUT/table (Parquet), the trained winners lie in OUT/winners, OUT/summary.json says how they
were selected and what that is worth on the test samples. A hunt that was killed continues
with --resume. One network again, alone, compared with its row:

    python -m experiments.seed_hunt --dataset mnist --num-seeds 1000
    python -m experiments.seed_hunt replay OUT --seed 17
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jaxnet
from experiments import _hunt_plan as plans
from experiments._presets import HuntPresets
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab import changed, option
from jaxnet.lab.flags import Allocation, check_sizes, flag_name

PROG = "python -m experiments.seed_hunt"


def auto(help: str, unit: str | None = None, least: int | None = 1, **more: Any) -> Any:
    """A flag that is decided later."""
    return option(None, help, unit, none="auto", least=least, **more)


@dataclass(frozen=True)
class Config(HuntPresets, lab.RunFlags, lab.WorkerFlags, lab.ExtremaFlags, lab.TrainFlags, lab.SeedFlags):
    """Hundreds of sparse networks, trained together, ranked, the best kept."""

    sizes: tuple[int, ...] | None = auto("units per layer; auto: features of data,128,classes", least=None)
    portfolio: Literal["later", "described"] | None = option(
        None, "train a portfolio instead of --sizes: the 28 of the original's code, the 18 of its description"
    )
    protocol: Literal["clean", "seed", "described"] = changed(  # type: ignore[assignment]
        lab.DataFlags,
        "protocol",
        help="clean: selection on validation, test images once at the end; seed: the original's code; "
        "described: the texts on it (docs/protocols.md)",
    )
    mask_mode: Literal["applied-once", "enforced"] | None = auto(
        "--protocol described: whether masks hold in training too; auto: applied-once, and weights fill up",
        least=None,
    )
    batch_size: int | None = option(  # type: ignore[assignment]
        64,
        "samples per step; auto: the largest of 512 to 8192 that fits and trains more networks per second",
        "samples",
        none="auto",
        least=1,
    )
    promising: float | None = option(
        None, "print networks as they come that have more patchability than this", none="off", least=0
    )
    allocation: Allocation = changed(lab.NetworkFlags, "allocation")
    num_seeds: int = option(100, "seeds of every architecture and density", least=1)
    require_reach: int | None = option(
        None,
        "train only scaffolds whose weights lead from inputs to so many classes; --num-seeds counts these, "
        "and how many were drawn is reported (not with --mode sweep)",
        "classes",
        none="off",
        least=1,
    )
    own_order: bool = option(False, "every seed sees the samples in an order of its own (slower)")
    mode: Literal["single", "sweep", "range"] = option(
        "single", "single: the densities given; range: between two; sweep: coarse, then fine where promising"
    )
    densities: tuple[float, ...] | None = auto(
        "fractions that exist (--mode range: lowest,highest); auto: 0.02 (--mode sweep: 0.001,0.01,0.1)",
        least=None,
        fraction=True,
    )
    points: int | None = auto("densities in a range, in equal ratios (--mode range, sweep); auto: 5", least=2)
    epochs: int | None = auto("passes over the training samples; auto: 5 (not with --mode sweep)")
    coarse_epochs: int | None = auto("passes of the coarse part of --mode sweep; auto: 3")
    fine_epochs: int | None = auto("passes of the fine part of --mode sweep; auto: 7")
    lr: float = changed(lab.TrainFlags, "lr", 1e-2)
    method: Literal["set", "rigl"] | None = option(None, "rewires networks in training (docs/extending.md)")
    detect_on: Literal["pre", "post"] = changed(lab.ExtremaFlags, "detect_on", "post")
    extrema_samples: int | None = changed(lab.ExtremaFlags, "extrema_samples", 3000)
    top_k: int = option(3, "kept by accuracy, patchability and efficiency, overall and per density", least=1)
    min_accuracy: float = option(
        0.15, "fraction that a network must reach to be ranked by patchability or efficiency", least=0
    )
    sort_units: bool = option(
        False, "number the winners' hidden units by the norm of their incoming weights (same function)"
    )
    kernel: Literal["auto", "dense", "csr", "persistent"] = option(  # type: ignore[assignment]
        "auto", "sparse product, or persistent: one GPU kernel (docs/scaling.md); auto: the faster one here"
    )
    precision: Literal["f32", "tf32", "bf16"] = option(
        "f32",
        "operands of the dense product, all else stays float32; tf32 and bf16 are for GPUs (bf16 on a CPU is "
        "emulated and slower), and the other kernels know f32 only",
    )
    chunk: int | None = auto("most networks of a call; auto: 64 per processor (32 large ones), 2048 per GPU")
    memory_budget: int | None = auto("memory of a call; auto: half of what the device has", "MiB")
    halving: int | None = option(
        None,
        "compare networks of one architecture and density after few epochs already, at --epochs divided by "
        "this factor again and again, and let only the best 1/factor go on, for instance 3",
        none="off",
        least=2,
    )
    budget: str | None = option(
        None,
        "start no call that would end later (300s), or that would bring the networks trained by this "
        "command above a number (500seeds), but one; --resume continues",
    )
    out: str = changed(lab.RunFlags, "out", "checkpoints/seed_hunt")

    def check(self) -> None:
        """Raises InputError for values that do not go together; a flag that would do nothing is refused."""
        super().check()
        check_sizes(self.sizes, 2, "(input, hidden, output)")
        for wrong, words in plans.refusals(self):
            if wrong:
                raise InputError(words)
        for flag in ("coarse_epochs", "fine_epochs") if self.mode == "sweep" else ("epochs",):
            epochs = plans.epochs_of(self, flag.split("_")[0])
            if self.halving is not None and epochs < self.halving:
                words = f"{flag_name(flag)} {self.halving} or more, for a first rung of one epoch: {epochs}"
                raise InputError(f"--halving {self.halving} needs {words}")


@dataclass(frozen=True)
class ReplayConfig:
    """Trains one network of a finished or interrupted hunt once more, alone, and compares it with its row."""

    out: str = option("checkpoints/seed_hunt", "folder of the hunt")
    seed: int = option(0, "number of the seed")
    architecture: str | None = auto("for instance 784-128-10; auto: the only one of the hunt", least=None)
    density: float | None = auto("density of the row; auto: the only one of the hunt", least=None)
    stage: str | None = auto("stage of the row; auto: the only one of the hunt", least=None)
    same_program: bool = option(
        False, "not alone, but in the program of the hunt, filled with copies: equal to the last bit, slower"
    )
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    dataset: str | None = auto("where the hunt's data lie now; auto: as the hunt had it", least=None)


def settle(config: Config, dataset: jaxnet.data.Dataset) -> Config:
    """Checks what can be checked before anything is written."""
    from experiments._hunt_train import with_batch_size
    from jaxnet.sweep.jobs import Stage

    rules = plans.rules_of(config)
    if not len(dataset.y_test if rules.split == "test" else dataset.y_val):
        raise InputError(f"{dataset.name} has no {rules.split} samples")
    epochs = plans.epochs_of(config, "coarse")
    stage = Stage("first", 0, epochs, plans.first_densities(config))
    jobs, left_out = plans.make_jobs(stage, plans.make_groups(config, dataset), range(1), config)
    if not jobs or (left_out and not config.portfolio and config.mode == "single"):
        architecture, density = left_out[0]
        raise InputError(
            f"density {density} leaves a layer of {architecture} without any weight: raise --densities"
        )
    plans.check_reach(config, jobs, dataset.num_classes)
    config = with_batch_size(config, dataset, jobs)
    assert config.batch_size is not None
    steps = stage.epochs * -(-len(dataset.y_train) // config.batch_size)
    method: Any = config.method and jaxnet.methods.make(config.method)
    if method and steps < method.every:
        raise InputError(
            f"--method {config.method} changes weights every {method.every} steps, and {epochs} epochs have "
            f"{steps}: train longer, or leave it out"
        )
    jaxnet.environment.check()
    if config.kernel != "auto":
        transform = lab.run.augmentation(config, dataset)
        order: Any = {"common_order": not config.own_order}
        how = jaxnet.sweep.SweepConfig(method=method, transform=transform, **order)
        jaxnet.sweep.with_kernel(how, config.kernel, config.precision)
    return config


def run_hunt(run: lab.Run[Config]) -> lab.Found:
    """Trains, ranks, saves the winners."""
    from experiments._hunt_report import describe
    from experiments._hunt_run import SeedHunt, leave_no_trace
    from jaxnet.lab.cluster import executor

    try:
        with executor(run.config.workers) as workers:
            hunt = SeedHunt(run, workers)
            hunt.train_all()
            arms, extra, timing = describe(hunt)
    except InputError:
        leave_no_trace(run)
        raise
    return lab.Found(arms, extra=extra, timing=timing)


class HuntStudy(lab.Study[Config]):
    """A study whose networks stand in a table."""

    def show(self, config: Config, summary: dict[str, Any], report: Callable[[str], None] = print) -> None:
        """Prints the ranking, and what it is worth."""
        from experiments._hunt_report import lines, tables

        for table in tables(summary):
            lab.terminal.print_table(*table)
        gone = lab.shown.diverged_line(summary["diverged"], summary["networks"]["trained"])
        told = lines("hunt_lines.txt", {**summary, "gone": gone})
        for line in (*told, f"results in {user_path(config.out)}"):
            report(line)


def draw(path: Any, summary: dict[str, Any], rows: Any) -> None:
    """Draws one of the plots."""
    from experiments._hunt_report import draw

    draw(path, summary)


def owned(folder: Any) -> list[str]:
    """Files of a hunt in its folder, besides those of every run: only names that no one else gives."""
    from experiments._hunt_rows import SCHEMA
    from jaxnet.sweep.hunt import PLAN, parts_of

    return [PLAN, *(name for parts in parts_of(folder, SCHEMA) for name in parts.names())]


STUDY = HuntStudy(
    "seed_hunt",
    Config,
    run_hunt,
    settle=settle,
    plots=dict.fromkeys(("accuracy.png", "extrema.png", "pareto.png"), draw),
    owned=owned,
    may_differ=("budget", "memory_budget", "promising"),
    unsaid=("mask_mode", "promising", "preset"),
)


def replay_main(config: ReplayConfig, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains one network again and prints both rows; raises InputError where they differ."""
    from experiments._hunt_replay import replay

    jaxnet.programs.use_all_processors()
    result = replay(config)
    rows = [[name, *both] for name, both in result["compared"].items()]
    lab.terminal.print_table(result["title"], ["", "row", "replay"], rows)
    if not result["agrees"]:
        raise InputError(f"seed {config.seed} does not give its row: {result['verdict']}")
    report(result["verdict"])
    return result


def command(argv: list[str]) -> None:
    """The command line: a hunt, or ``replay OUT --seed k``."""
    if argv[:1] == ["replay"]:
        rest = argv[1:]
        if rest and not rest[0].startswith("-"):
            rest = ["--out", *rest]
        lab.run_main(replay_main, ReplayConfig, rest, prog=f"{PROG} replay [OUT]")
    else:
        lab.run_main(STUDY.main, Config, argv, description=__doc__, prog=PROG)


if __name__ == "__main__":
    command(sys.argv[1:])
