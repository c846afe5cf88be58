"""Time per growth iteration for 1, 8 and 32 networks, compiling apart.

Networks grow as in ``experiments.indefinite_growth --recipe original``, for a
fixed number of epochs and iterations without a target, so that all do the same
work; an iteration is training, evaluation after every epoch, extrema, decision
and change. Everything runs in one process, the numbers of networks in turn.

    python -m benchmarks.growth --json result.json
    python -m benchmarks.growth --dataset digits --iterations 2 --epochs 2 --repeats 1
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from dataclasses import dataclass
from typing import Any, Literal, cast

from benchmarks._report import check_output, describe, machine, publish, ratio, shown, spread
from jaxnet.errors import InputError
from jaxnet.files import user_path, write_json
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.provenance import provenance


@dataclass(frozen=True)
class Config(Flags):
    """Time per growth iteration, for several numbers of networks."""

    json: str | None = option(None, "file for the result")
    doc: str | None = option(None, "Markdown file whose section 'growth' gets the table")
    dataset: str = option("mnist", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: tuple[int, ...] = option((1, 8, 32), "networks grown at once; the ratios refer to the first")
    iterations: int = option(3, "of training and change", least=1)
    epochs: int = option(3, "of an iteration", "epochs", least=1)
    repeats: int = option(3, "runs of each number of networks", least=1)
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not self.num_seeds or min(self.num_seeds) < 1:
            raise InputError(f"--num-seeds needs positive numbers: {list(self.num_seeds)}")
        check_output(self.json, self.doc)


def measure(config: Config) -> dict[str, Any]:
    """Grows every number of networks ``repeats`` times, in turn."""
    import jax

    from experiments import indefinite_growth as growth
    from jaxnet.growth import Budget, GrowthData, Target, grow_until
    from jaxnet.lab.run import load, make_split
    from jaxnet.programs import Clock

    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    asked = growth.Config(
        dataset=config.dataset,
        data_dir=config.data_dir,
        epochs=config.epochs,
        patience=0,
        num_seeds=max(config.num_seeds),
        kernel=cast(Any, config.kernel),
    )
    dataset = load(asked)
    settled = growth.settle(asked, dataset)
    plan = growth.make_plan(settled, dataset)
    train = make_split(dataset, "train")
    data = GrowthData(train, make_split(dataset, "val"), train, jax.random.key(0))
    clocks: dict[int, list[Clock]] = {n: [] for n in config.num_seeds}
    loads: list[float] = []
    for _ in range(config.repeats):
        for number, seen in clocks.items():
            loads.append(os.getloadavg()[0])
            clock = Clock()
            grow_until(plan, data, Target(1.0), Budget(config.iterations), range(number), clock=clock)
            seen.append(clock)
    first = config.num_seeds[0]
    per_iteration = {n: [c.run_seconds / config.iterations for c in seen] for n, seen in clocks.items()}
    compiling = {n: [c.compile_seconds for c in seen] for n, seen in clocks.items()}
    return {
        "benchmark": "growth",
        "config": dataclasses.asdict(config),
        "kernel": settled.kernel,
        "machine": machine(),
        "provenance": provenance(),
        "load_before_runs": loads,
        "networks": [
            {
                "num_seeds": n,
                "seconds_per_iteration": spread(per_iteration[n]),
                "compile_seconds": spread(compiling[n]),
                # 1 where together they take as long as one after the other
                "against_one_by_one": ratio(per_iteration[n], per_iteration[first], first / n),
                "with_compiling": ratio(
                    [c.run_seconds + c.compile_seconds for c in clocks[n]],
                    [c.run_seconds + c.compile_seconds for c in clocks[first]],
                    first / n,
                ),
            }
            for n in config.num_seeds
        ],
    }


def main(config: Config) -> None:
    """Measures, prints the table, writes the file."""
    result = measure(config)
    rows: list[list[object]] = [
        [
            r["num_seeds"],
            shown(r["seconds_per_iteration"], 2),
            shown(r["compile_seconds"], 1),
            shown(r["against_one_by_one"], 3),
            shown(r["with_compiling"], 3),
        ]
        for r in result["networks"]
    ]
    columns = ["networks", "s per iteration", "s compiling", "time / one by one", "with compiling"]
    title = (
        f"{config.dataset}, recipe original, {config.iterations} iterations of {config.epochs} epochs, "
        f"{result['kernel']} kernel: median (range) of {config.repeats}"
    )
    if config.json is not None:
        write_json(user_path(config.json), result)
    versions = {name: result["provenance"]["versions"][name] for name in ("python", "jax", "jaxlib")}
    load = statistics.median(result["load_before_runs"])
    summary = f"{describe(result['machine'], versions)}; median load {load:.1f}."
    publish("growth", title, columns, rows, summary, doc=config.doc)


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.growth", description=__doc__)
