"""Seed hunt: train hundreds of sparse networks in a few compiled programs, rank them, keep the best.

Every network has its own mask and weights. The table of all networks grows call by call in
OUT/table (Parquet), the trained winners lie in OUT/winners, OUT/summary.json says how they
were selected and what that is worth on the test samples. A hunt that was killed continues
with --resume. One network again, alone, compared with its row:

    python -m experiments.seed_hunt --dataset mnist --num-seeds 1000
    python -m experiments.seed_hunt replay OUT --seed 17
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from experiments._cli import flag_name, print_table, run_main
from experiments._options import (
    BY_FINGERPRINT,
    check_at_least,
    check_folder,
    check_positive,
    check_seeds,
    option,
)
from jaxnet.errors import InputError
from jaxnet.files import user_path

if TYPE_CHECKING:
    from jaxnet.sweep.hosts import Hosts

PROG = "python -m experiments.seed_hunt"


@dataclass(frozen=True)
class Config:
    """Hundreds of sparse networks, trained together, ranked, the best kept."""

    dataset: str = option(
        "digits", "data set by name (digits is embedded), or path of an .npz file or a folder of IDX files"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    protocol: Literal["clean", "seed"] = option(
        "clean",
        "clean: exact counts, sparse fan-in, selection on validation, test images for the selected at the "
        "end; seed: the original's Bernoulli masks, dense fan-in, selection on the test images",
    )
    sizes: tuple[int, ...] | None = option(
        None, "units per layer; auto: features of the data,128,classes", none="auto"
    )
    portfolio: bool = option(False, "train the 28 architectures of the portfolio instead of --sizes")
    num_seeds: int = option(100, "seeds of every architecture and density")
    seed: int = option(0, "number of the first seed; a seed decides masks and weights")
    data_seed: int = option(0, "decides the order of the samples, common to all networks")
    own_order: bool = option(False, "every seed sees the samples in an order of its own (slower)")
    mode: Literal["single", "sweep", "range"] = option(
        "single",
        "single: the densities given; range: densities between two; sweep: coarse, then fine where promising",
    )
    densities: tuple[float, ...] | None = option(
        None,
        "fractions of weights that exist; lowest,highest with --mode range; "
        "auto: 0.02, or 0.001,0.01,0.1 with --mode sweep",
        none="auto",
    )
    points: int | None = option(
        None, "densities in a range, in equal ratios, with --mode range and sweep; auto: 5", none="auto"
    )
    epochs: int | None = option(
        None, "passes over the training samples; auto: 5 (not with --mode sweep)", none="auto"
    )
    coarse_epochs: int | None = option(
        None, "passes of the coarse part of --mode sweep; auto: 3", none="auto"
    )
    fine_epochs: int | None = option(None, "passes of the fine part of --mode sweep; auto: 7", none="auto")
    batch_size: int = option(64, "samples per step", "samples")
    lr: float = option(1e-2, "Adam's learning rate")
    extrema_samples: int = option(3000, "training samples watched for extrema", "samples")
    top_k: int = option(3, "networks kept by accuracy, patchability and efficiency, overall and per density")
    min_accuracy: float = option(
        0.15, "accuracy that a network must reach to be ranked by patchability or efficiency", "fraction"
    )
    sort_units: bool = option(
        False, "number the winners' hidden units by the norm of their incoming weights (same function)"
    )
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    precision: Literal["f32", "tf32", "bf16"] = option(
        "f32",
        "operands of the dense product; parameters, sums and optimiser stay float32. tf32 and bf16 are for "
        "GPUs (on a CPU tf32 is float32, bf16 is emulated and slower), and the csr kernel knows f32 only",
    )
    chunk: int | None = option(
        None,
        "most networks trained by one call of a compiled program; auto: 128 on a CPU, 64 per processor where "
        "that is more, 2048 per GPU",
        none="auto",
    )
    memory_budget: int | None = option(
        None, "memory of a call; auto: half of what the device has", "MiB", none="auto"
    )
    halving: int | None = option(
        None,
        "compare networks of one architecture and density after few epochs already, at --epochs divided by "
        "this factor again and again, and let only the best 1/factor go on, for instance 3",
        none="off",
    )
    budget: str | None = option(
        None,
        "start no call that would end later (300s), or that would bring the networks trained by this "
        "command above a number (500seeds), but one; --resume continues",
    )
    distributed: Literal["off", "auto"] = option(
        "off", "auto: share the hunt with the other processes of this SLURM, Open MPI, Kubernetes or TPU job"
    )
    coordinator: str | None = option(
        None, "or name the processes by hand: address of process 0, HOST:PORT, the same in all"
    )
    num_processes: int | None = option(None, "with --coordinator: how many share the hunt")
    process_id: int | None = option(None, "with --coordinator: number of this one, from 0")
    out: str = option("checkpoints/seed_hunt", "folder for results, the same for all processes")
    resume: bool = option(False, "continue the hunt in --out after its last finished call")
    overwrite: bool = option(False, "replace the hunt in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range, whatever the data."""
        check_at_least(
            self,
            num_seeds=1,
            seed=0,
            data_seed=0,
            points=2,
            epochs=1,
            coarse_epochs=1,
            fine_epochs=1,
            batch_size=1,
            extrema_samples=2,
            top_k=1,
            chunk=1,
            memory_budget=1,
        )
        check_seeds(self)
        if self.num_seeds > 10**8:
            raise InputError(f"--num-seeds must be at most {10**8}: {self.num_seeds}")
        check_positive(self, "lr")
        if not 0 <= self.min_accuracy <= 1:
            raise InputError(f"--min-accuracy must be at least 0 and at most 1: {self.min_accuracy}")
        self.budget_in("s")
        check_folder(self)
        if self.sizes is not None and self.portfolio:
            raise InputError("--sizes and --portfolio exclude each other: the portfolio has its own sizes")
        if self.sizes is not None and (len(self.sizes) < 2 or min(self.sizes) < 1):
            raise InputError(
                f"--sizes needs two or more positive sizes (input, hidden, output): {list(self.sizes)}"
            )
        self._check_densities()
        self._check_processes()
        self._check_halving()
        # a flag that would do nothing is a misunderstanding
        for flag, modes in (
            ("points", ("sweep", "range")),
            ("epochs", ("single", "range")),
            ("coarse_epochs", ("sweep",)),
            ("fine_epochs", ("sweep",)),
        ):
            if getattr(self, flag) is not None and self.mode not in modes:
                raise InputError(
                    f"{flag_name(flag)} has no meaning with --mode {self.mode}: "
                    f"leave it out or choose --mode {' or '.join(modes)}"
                )

    def _check_processes(self) -> None:
        by_hand = (self.coordinator, self.num_processes, self.process_id)
        if self.coordinator is None and by_hand == (None, None, None):
            return
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            raise InputError("--coordinator, --num-processes and --process-id go together: give all three")
        if self.distributed != "off":
            raise InputError("--coordinator and --distributed auto exclude each other: leave one out")
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"--process-id must be at least 0 and below --num-processes {self.num_processes}: "
                f"{self.process_id}"
            )
        if re.fullmatch(r".+:\d+", self.coordinator) is None:
            raise InputError(f"--coordinator must be HOST:PORT: {self.coordinator}")

    def budget_in(self, unit: Literal["s", "seeds"]) -> float | None:
        """The budget, if it is one of this unit."""
        if self.budget is None:
            return None
        match = re.fullmatch(r"(\d+|\d*\.\d+)(s|seeds)", self.budget)
        if match is None or not float(match[1]) or (match[2] == "seeds" and not match[1].isdigit()):
            raise InputError(
                f"--budget must be a number above 0 with its unit, seconds or whole seeds, for instance 300s "
                f"or 500seeds: {self.budget!r}"
            )
        return float(match[1]) if match[2] == unit else None

    def epochs_of(self, stage: str) -> int:
        """Epochs of the networks of a stage that train to the end."""
        if self.mode != "sweep":
            return self.epochs or 5
        return (self.coarse_epochs or 3) if stage == "coarse" else (self.fine_epochs or 7)

    def _check_halving(self) -> None:
        if self.halving is None:
            return
        if self.halving < 2:
            raise InputError(f"--halving must be a factor of at least 2, or off: {self.halving}")
        flags = (
            {"coarse": "--coarse-epochs", "fine": "--fine-epochs"}
            if self.mode == "sweep"
            else {"": "--epochs"}
        )
        for stage, flag in flags.items():
            if self.epochs_of(stage) < self.halving:
                raise InputError(
                    f"--halving {self.halving} needs {flag} {self.halving} or more, for a first rung of one "
                    f"epoch: {self.epochs_of(stage)}"
                )

    def _check_densities(self) -> None:
        for density in self.densities or ():
            if not 0 < density <= 1:
                raise InputError(f"--densities must be above 0 and at most 1: {density}")
        if self.densities is not None and len(set(self.densities)) < max(1, len(self.densities)):
            raise InputError(f"--densities must be different numbers, at least one: {list(self.densities)}")
        if self.mode == "range" and (
            self.densities is None or len(self.densities) != 2 or self.densities[0] >= self.densities[1]
        ):
            raise InputError("--mode range needs --densities lowest,highest, for instance 0.005,0.05")


MAY_DIFFER = (
    *("out", "resume", "overwrite", "data_dir", "budget", "memory_budget"),
    *("distributed", "coordinator", "num_processes", "process_id"),
)
"""What a continued hunt may change."""


@dataclass(frozen=True)
class ReplayConfig:
    """Trains one network of a finished or interrupted hunt once more, alone, and compares it with its row."""

    out: str = option("checkpoints/seed_hunt", "folder of the hunt")
    seed: int = option(0, "number of the seed")
    architecture: str | None = option(
        None, "for instance 784-128-10; auto: the only one of the hunt", none="auto"
    )
    density: float | None = option(None, "density of the row; auto: the only one of the hunt", none="auto")
    stage: str | None = option(None, "stage of the row; auto: the only one of the hunt", none="auto")
    same_program: bool = option(
        False, "not alone, but in the program of the hunt, filled with copies: equal to the last bit, slower"
    )
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    dataset: str | None = option(None, "where the hunt's data lie now; auto: as the hunt had it", none="auto")


def main(config: Config, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs the hunt, writes summary and winners, draws the plots, prints the ranking.

    Of several processes only process 0 does so and returns the summary; the
    others train their share and return nothing.
    """
    # here, not above: a wrong flag is answered at once, without JAX being loaded
    from experiments._hunt_setup import join_hosts
    from experiments._runtime import use_all_processors

    use_all_processors()
    with join_hosts(config) as hosts:
        return _hunt(config, report, hosts)


def _hunt(config: Config, report: Callable[[str], None], hosts: Hosts) -> dict[str, Any]:
    from experiments._hunt_kept import kept_files
    from experiments._hunt_plots import PLOTS, draw_all
    from experiments._hunt_report import finalists, report_lines, summarise, table_rows
    from experiments._hunt_run import PLAN, Hunt
    from experiments._hunt_setup import check
    from experiments._hunt_states import States
    from experiments._hunt_table import HuntTable
    from experiments._hunt_winners import save_winners
    from experiments._population import load
    from experiments._runtime import use_compilation_cache
    from jaxnet.records import RunFolder

    use_compilation_cache()
    dataset = load(config)
    check(config, dataset)  # before the folder is touched: wrong input leaves nothing behind
    flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
    if not hosts.first:
        folder = RunFolder.join(
            config.out, flags, hosts.meet("folder"), may_differ=MAY_DIFFER, only_stored=BY_FINGERPRINT
        )
        Hunt(config, folder, dataset, lambda _: None, hosts).run()
        return {}
    parts = (*HuntTable.files(user_path(config.out)), *States.files(user_path(config.out)))
    owns = (*PLOTS, PLAN, *kept_files(user_path(config.out)), *parts)
    with RunFolder.open(
        config.out,
        flags,
        resume=config.resume,
        overwrite=config.overwrite,
        may_differ=MAY_DIFFER,
        only_stored=BY_FINGERPRINT,
        owns=owns,
    ) as folder:
        hosts.meet("folder", folder.share())
        hunt = Hunt(config, folder, dataset, report, hosts)
        folder.write_json("provenance.json", hunt.provenance())
        try:
            rows = hunt.run()
        except InputError:
            hunt.leave_no_trace()
            raise
        winners = save_winners(hunt)
        summary = summarise(hunt, rows, winners)
        folder.write_json("summary.json", summary)
        draw_all(finalists(hunt, rows), summary, folder.path)
    print_table(*table_rows(summary))
    for line in report_lines(summary):
        report(line)
    report(f"results in {user_path(config.out)}")
    return summary


def replay_main(config: ReplayConfig, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains one network again and prints both rows; raises InputError where they differ."""
    from experiments._hunt_replay import replay
    from experiments._runtime import use_all_processors, use_compilation_cache

    use_compilation_cache()
    use_all_processors()
    result = replay(config)
    columns = ["", "row", "replay"]
    print_table(result["title"], columns, [[n, a, b] for n, (a, b) in result["compared"].items()])
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
        run_main(replay_main, ReplayConfig, rest, prog=f"{PROG} replay [OUT]")
    else:
        run_main(main, Config, argv, description=__doc__, prog=PROG)


if __name__ == "__main__":
    command(sys.argv[1:])
