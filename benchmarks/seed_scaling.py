"""How the cost of training grows with seeds, density and width, for the csr and the dense kernel; and memory.

Three series around [pixels, 128, classes] at density 0.02, batch 64, in each of
which one thing grows: the seeds trained at once, the density, the width of the
hidden layer. Measured is a step of jaxnet's training loop (gather, forward,
backward, Adam) for all seeds together; kernels take turns, round after round.
Memory is what the compiled program says it needs, and the peak of a process that
does nothing but train a few such steps (``peak``, with the interpreter and the
libraries in it). What would need more than ``--memory`` is left out.

    python -m benchmarks.seed_scaling --json result.json
    python -m benchmarks.seed_scaling --dataset digits --seeds 1,4 --densities 0.1 --widths 16 --repeats 1
    python -m benchmarks.seed_scaling --load result.json --doc docs/kernels.md
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks._report import (
    check_output,
    describe,
    machine,
    publish,
    ratio,
    shown,
    spread,
)
from benchmarks._training import Training, Work, first_samples, peak_bytes
from jaxnet import data
from jaxnet.allocation import dense_counts
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path, write_json
from jaxnet.kernels import csr_library
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.provenance import provenance

KERNELS = ("csr", "dense")
WIDTH, DENSITY = 128, 0.02


@dataclass(frozen=True)
class Config(Flags):
    """Cost of a training step and memory against seeds, density and width."""

    json: str | None = option(None, "file for the result")
    load: str | None = option(None, "a file of --json to show instead of measuring")
    doc: str | None = option(None, "document whose table is replaced")
    dataset: str = option("mnist", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    seeds: tuple[int, ...] = option((1, 4, 16, 64, 256, 1024), "networks trained at once, growing")
    densities: tuple[float, ...] = option((0.005, 0.02, 0.05, 0.1, 0.2, 0.5), "densities, growing")
    widths: tuple[int, ...] = option((32, 128, 512, 2048), "hidden units, growing")
    others: int = option(16, "networks at once where density or width grows", least=1)
    batch: int = option(64, "samples per step", least=1)
    steps: int = option(20, "steps of a measurement", least=1)
    repeats: int = option(5, "rounds", least=1)
    memory: float = option(6.0, "programs that need more are left out", "GiB")

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        for name in ("seeds", "widths"):
            if min(getattr(self, name), default=1) < 1:
                raise InputError(f"--{name} needs numbers of 1 or more, with commas between")
        if not all(0 < d <= 1 for d in self.densities):
            raise InputError("--densities needs numbers above 0 and at most 1, with commas between")
        if not self.memory > 0:
            raise InputError(f"--memory must be above 0: {self.memory}")
        check_output(self.json, self.doc)

    def points(self) -> Iterator[tuple[str, int, float, int]]:
        """``(what grows, seeds, density, width)`` of everything that is measured."""
        for seeds in self.seeds:
            yield "seeds", seeds, DENSITY, WIDTH
        for density in self.densities:
            yield "density", self.others, density, WIDTH
        for width in self.widths:
            yield "width", self.others, DENSITY, width


def least_bytes(sizes: tuple[int, int, int], seeds: int, density: float, kernel: str) -> float:
    """A bound from below on what training needs: values, two moments and a gradient of each weight."""
    weights = sum(dense_counts(sizes))
    return 4.0 * seeds * weights * (2 if kernel == "dense" else 6 * density)


def measure(config: Config) -> dict[str, Any]:
    """Measures every point; the file of ``--json`` is rewritten after each.

    Raises:
      InputError: the csr kernel is missing, the data are not there, or the file
        cannot be written.
    """
    csr_library.require()
    loaded = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=0.0)
    split = first_samples(loaded, config.batch * config.steps)
    hidden = {"json": None, "load": None, "doc": None, "data_dir": None, "dataset": loaded.name}
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "benchmark": "seed_scaling",
        "config": dataclasses.asdict(config) | hidden,
        "machine": machine(),
        "provenance": {**provenance(), "instruction_set": csr_library.instruction_set()},
        "pixels": loaded.num_features,
        "classes": loaded.num_classes,
        "ratios": {},
        "results": rows,
    }
    for grows, seeds, density, width in config.points():
        sizes = (loaded.num_features, width, loaded.num_classes)
        works = {
            kernel: Work(sizes, density, config.batch, config.steps, kernel, seeds)
            for kernel in KERNELS
            if least_bytes(sizes, seeds, density, kernel) < config.memory * 2**30
        }
        load = os.getloadavg()[0]
        seconds, program_bytes = _timed(works, split, config)
        point = {"seeds": seeds, "density": density, "width": width}
        row: dict[str, Any] = {"grows": grows, **point, "load": load, "program_bytes": program_bytes}
        row["peak_bytes"] = {kernel: peak_bytes(works[kernel]) for kernel in seconds}
        row["seconds_per_step"] = {kernel: spread(times) for kernel, times in seconds.items()}
        if len(seconds) == len(KERNELS):
            row["dense_over_csr"] = ratio(seconds["dense"], seconds["csr"])
            result["ratios"][f"{grows}{point[grows]}.csr_vs_dense"] = row["dense_over_csr"]["median"]
        rows.append(row)
        if config.json is not None:
            write_json(user_path(config.json), result)
    return result


def _timed(
    works: dict[str, Work], split: Split, config: Config
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of a step and bytes of the program of each kernel; on return its memory is free again."""
    trainings = {kernel: Training(work, split) for kernel, work in works.items()}
    trainings = {k: t for k, t in trainings.items() if t.bytes < config.memory * 2**30}
    for training in trainings.values():
        training()  # the first call touches its memory for the first time
    seconds: dict[str, list[float]] = {kernel: [] for kernel in trainings}
    for repeat in range(config.repeats):
        for kernel in trainings if repeat % 2 == 0 else reversed(trainings):
            seconds[kernel].append(trainings[kernel]())
    return seconds, {kernel: training.bytes for kernel, training in trainings.items()}


def growth(rows: list[dict[str, Any]], grows: str, kernel: str) -> float | None:
    """Exponent between the last two points of a series: 1 where the cost grows in proportion."""
    found = [(row[grows], row["seconds_per_step"].get(kernel)) for row in rows if row["grows"] == grows]
    points = [(float(value), measured["median"]) for value, measured in found if measured]
    if len(points) < 2:
        return None
    (a, first), (b, last) = points[-2:]
    return math.log(last / first) / math.log(b / a)


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    columns = ["grows", "seeds", "density", "width", "csr, us/seed", "dense, us/seed", "csr vs dense"]
    columns += ["csr MiB", "dense MiB", "csr peak MiB", "dense peak MiB"]
    rows: list[list[object]] = []
    for row in result["results"]:
        times = row["seconds_per_step"]
        per_seed = [
            shown(spread([1e6 * s / row["seeds"] for s in times[k]["values"]])) if k in times else None
            for k in KERNELS
        ]
        memory = [
            round(row[what][k] / 2**20, 1) if k in row[what] else None
            for what in ("program_bytes", "peak_bytes")
            for k in KERNELS
        ]
        compared = shown(row["dense_over_csr"]) if "dense_over_csr" in row else None
        rows.append([row["grows"], row["seeds"], row["density"], row["width"], *per_seed, compared, *memory])
    return columns, rows


def summary(result: dict[str, Any]) -> str:
    """The machine, and how steeply the cost grows at the end of each series."""
    versions = result["provenance"]["versions"]
    parts = []
    for grows in ("seeds", "density", "width"):
        found = {kernel: growth(result["results"], grows, kernel) for kernel in KERNELS}
        parts += [f"{k} with {grows}^{e:.2f}" for k, e in found.items() if e is not None]
    load = statistics.median([row["load"] for row in result["results"]])
    return (
        f"{describe(result['machine'], {n: versions[n] for n in ('python', 'jax')})}; csr with "
        f"{result['provenance']['instruction_set']}; median load {load:.1f}.\n"
        f"Cost of a step of all seeds between the last two points of each series: {', '.join(parts)}."
    )


def _title(result: dict[str, Any]) -> str:
    config = result["config"]
    return (
        f"{config['dataset']}, {result['pixels']}-width-{result['classes']}, batch {config['batch']}: "
        f"microseconds of a training step per seed, median (range) of {config['repeats']}; "
        "memory of the compiled program and peak of a process"
    )


def main(config: Config) -> dict[str, Any]:
    """Measures (or loads), prints and, if wanted, writes the table into the document."""
    result = read_json(config.load) if config.load is not None else measure(config)
    publish("seed_scaling", _title(result), *_table(result), summary(result), doc=config.doc)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.seed_scaling", description=__doc__)
