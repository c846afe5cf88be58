"""One large network: a step of training with jaxnet's csr kernel against dense and sparse alternatives.

3072-1024-512-10 on CIFAR-10, ReLU, Adam, Erdős–Rényi densities. Every way (``--ways``) trains
the same number of steps on images that lie in memory; reported is the time of an
epoch, scaled from ``--steps`` timed steps to the steps of all training images:

- ``csr``: jaxnet's training loop with the csr kernel;
- ``dense``: the same with the dense product of the existing weights;
- ``masked``: the same with dense weights under a mask, Adam over all of them;
- ``torch_masked``: PyTorch, dense weights times a mask, Adam over all of them;
- ``torch_csr``: PyTorch, CSR weights, products by ``torch.sparse``, the fastest of
  the ways in ``_large_torch`` (found before the clock starts);
- ``sparseprop``: PyTorch with the layers of the package SparseProp (Nikdan et al. 2023).

Ways take turns, round after round; ratios are those of a round, reported is their
median. PyTorch takes the better of one thread and one per core in every round.
The crossover is the density at which csr takes as long as the faster of jaxnet's
dense product and PyTorch's masked network: interpolated on logarithms between the
densities measured.

    python -m benchmarks.large_network --json result.json
    python -m benchmarks.large_network --dataset digits --hidden 32,16 --steps 2 --repeats 1
    python -m benchmarks.large_network --ways csr,torch_masked --augment --densities 0.01,0.05
    python -m benchmarks.large_network --load result.json --doc docs/kernels.md
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks._report import (
    ClockFlags,
    check_output,
    describe,
    machine,
    publish,
    ratio,
    shown,
    spread,
    use_clock,
)
from benchmarks._training import Training, Work, first_samples
from jaxnet import data
from jaxnet.allocation import allocate, check_allocation
from jaxnet.data.augment import augmentation
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path, write_json
from jaxnet.kernels import csr_library
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, changed, option
from jaxnet.provenance import provenance

METHODS = {
    "csr": "jaxnet csr",
    "dense": "jaxnet dense",
    "masked": "JAX masked dense",
    "torch_masked": "PyTorch masked dense",
    "torch_csr": "PyTorch CSR",
    "sparseprop": "SparseProp",
}
"""What is measured, by name, with its column in the table."""


@dataclass(frozen=True)
class Config(Flags):
    """Time per epoch of one large network at several densities, trained in up to six ways."""

    json: str | None = option(None, "file for the result")
    load: str | None = option(None, "a file of --json to show instead of measuring")
    doc: str | None = option(None, "document whose table is replaced")
    dataset: str = option("cifar10", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    hidden: tuple[int, ...] = option((1024, 512), "hidden units")
    densities: tuple[float, ...] = option(
        (0.005, 0.01, 0.02, 0.05, 0.1, 0.2), "fractions of weights that exist"
    )
    allocation: str = option("erdos-renyi", "how the density is shared out over the layers")
    augment: bool = option(False, "crop and flip the images of every batch at random, in all ways")
    ways: tuple[str, ...] = option(tuple(METHODS), f"some of {', '.join(METHODS)}; csr must be there")
    batch: int = option(128, "samples per step", least=1)
    steps: int = option(40, "steps really trained, scaled to an epoch", least=1)
    repeats: int = option(5, "rounds", least=1)
    clock: Literal["wall", "processor"] = changed(ClockFlags, "clock")

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if min(self.hidden, default=1) < 1:
            raise InputError("--hidden needs numbers of 1 or more, with commas between")
        if not self.densities or not all(0 < d <= 1 for d in self.densities):
            raise InputError("--densities needs numbers above 0 and at most 1, with commas between")
        if list(self.densities) != sorted(set(self.densities)):
            raise InputError("--densities must ascend")
        if unknown := [way for way in self.ways if way not in METHODS]:
            raise InputError(f"--ways knows {', '.join(METHODS)}: {', '.join(unknown)}")
        if "csr" not in self.ways or len(set(self.ways)) < len(self.ways):
            raise InputError(f"--ways needs csr, and each way once: {', '.join(self.ways)}")
        check_allocation(self.allocation)
        check_output(self.json, self.doc)


def crossover(densities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Density at which a ratio falls to 1, interpolated on the logarithms of both.

    Args:
      densities: ascending.
      ratios: how many times faster csr is at each.

    Returns:
      ``None`` if csr is faster at all of them, 0 if at none.
    """
    if ratios[0] <= 1:
        return 0.0
    for k in range(1, len(ratios)):
        if ratios[k] <= 1:
            high, low = math.log(ratios[k - 1]), math.log(ratios[k])
            part = high / (high - low)
            first, last = math.log(densities[k - 1]), math.log(densities[k])
            return math.exp(first + part * (last - first))
    return None


def measure(config: Config) -> dict[str, Any]:
    """Measures all ways in turn at every density; the file of ``--json`` is rewritten after every round.

    Raises:
      InputError: PyTorch, SparseProp or the csr kernel is missing, the data are not there, or
        the file cannot be written.
    """
    used = ("torch", *(("sparseprop",) if "sparseprop" in config.ways else ()))
    for module in used:
        package = {"torch": "PyTorch", "sparseprop": "SparseProp"}[module]
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{package} is not installed: make bench installs it")
    csr_library.require()
    loaded = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=0.0)
    made_by = provenance()
    made_by["versions"] |= {name: importlib.metadata.version(name) for name in used}
    made_by["instruction_set"] = csr_library.instruction_set()
    hidden = {"json": None, "load": None, "doc": None, "data_dir": None, "dataset": loaded.name}
    result: dict[str, Any] = {
        "benchmark": "large_network",
        "config": dataclasses.asdict(config) | hidden,
        "machine": machine(),
        "provenance": made_by,
        "sizes": (loaded.num_features, *config.hidden, loaded.num_classes),
        "steps_of_an_epoch": -(-len(loaded.y_train) // config.batch),
        "ratios": {},
        "by_density": {},
    }
    for density in config.densities:
        _measure_density(config, loaded, density, result)
    return result


def _measure_density(config: Config, loaded: data.Dataset, density: float, result: dict[str, Any]) -> None:
    from benchmarks import _large_torch as theirs  # torch is there only now

    sizes = result["sizes"]
    counts = allocate(sizes, density, config.allocation)
    transform = augmentation(loaded, ("crop", "flip")) if config.augment else None
    split = first_samples(loaded, config.batch * config.steps)
    cores = sorted({1, len(os.sched_getaffinity(0))})

    def torch_training(way: str) -> theirs.Training:
        return theirs.Training(loaded, sizes, counts, config.batch, config.steps, way, config.augment)

    work = Work(sizes, density, config.batch, config.steps, "", 0, config.allocation, transform)
    kernels = [way for way in config.ways if way in ("csr", "dense", "masked")]
    ours = {kernel: Training(dataclasses.replace(work, kernel=kernel), split) for kernel in kernels}
    per_step: dict[str, Callable[[], float]] = {**ours}
    probed: dict[str, float] = {}
    if "torch_masked" in config.ways:
        masked = torch_training("masked")
        per_step["torch_masked"] = lambda: min(masked(number) for number in cores)
    if "torch_csr" in config.ways:
        sparse, threads, probed = theirs.fastest(torch_training, cores)
        per_step["torch_csr"] = lambda: sparse(threads)
    if "sparseprop" in config.ways:
        sparseprop = torch_training("sparseprop")
        per_step["sparseprop"] = lambda: min(sparseprop(number) for number in cores)
    for training in ours.values():
        training()  # the first call touches its memory for the first time
    epoch = result["steps_of_an_epoch"]
    seconds: dict[str, list[float]] = {name: [] for name in config.ways}
    loads = []
    for repeat in range(config.repeats):
        loads.append(os.getloadavg()[0])
        for name in config.ways if repeat % 2 == 0 else reversed(config.ways):
            seconds[name].append(epoch * per_step[name]())
        compared = {
            f"csr_vs_{name}": ratio(seconds[name], seconds["csr"]) for name in config.ways if name != "csr"
        }
        result["by_density"][str(density)] = {
            "weights_of_layers": counts,
            "torch_csr_ways": probed,
            "load_before_rounds": loads,
            "seconds_per_epoch": {name: spread(times) for name, times in seconds.items()},
            "program_bytes": {name: training.bytes for name, training in ours.items()},
            "ratios": compared,
        }
        for name, found in compared.items():
            result["ratios"][f"d{density}.{name}"] = found["median"]
        for name in {"dense", "torch_masked"} & set(config.ways):
            measured = result["by_density"]
            ratios = [found["ratios"][f"csr_vs_{name}"]["median"] for found in measured.values()]
            result[f"crossover_{name}"] = crossover([float(d) for d in measured], ratios)
        if config.json is not None:
            write_json(user_path(config.json), result)


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    ways = result["config"].get("ways", list(METHODS))
    columns = ["density", *(f"{METHODS[name]}, s" for name in ways)]
    columns += [f"csr vs {name}" for name in ways if name != "csr"]
    rows: list[list[object]] = []
    for density, found in result["by_density"].items():
        row: list[object] = [f"{100 * float(density):g} %"]
        row += [shown(found["seconds_per_epoch"][name], 2) for name in ways]
        row += [shown(found["ratios"][f"csr_vs_{name}"]) for name in ways if name != "csr"]
        rows.append(row)
    return columns, rows


def summary(result: dict[str, Any]) -> str:
    """One line on the machine and one on the crossover."""
    versions = result["provenance"]["versions"]
    parts = []
    for name, what in (("dense", "jaxnet dense"), ("torch_masked", "PyTorch masked dense")):
        if f"crossover_{name}" not in result:
            continue
        found = result[f"crossover_{name}"]
        outside = f"{'below' if found == 0 else 'above'} all that were measured"
        parts.append(f"{what}: {f'{100 * found:.1f} %' if found else outside}")
    loads = [load for found in result["by_density"].values() for load in found["load_before_rounds"]]
    named = {name: versions[name] for name in ("python", "jax", "torch", "sparseprop") if name in versions}
    crossed = f"\nDensity at which csr stops being faster than {', '.join(parts)}." if parts else ""
    return (
        f"{describe(result['machine'], named)}; csr with "
        f"{result['provenance']['instruction_set']}; median load {statistics.median(loads):.1f}.{crossed}"
    )


def _title(result: dict[str, Any]) -> str:
    config = result["config"]
    return (
        f"{config['dataset']}{' (cropped and flipped)' if config.get('augment') else ''}, "
        f"{'-'.join(map(str, result['sizes']))}, batch {config['batch']}: seconds per "
        f"epoch ({config['steps']} steps scaled to {result['steps_of_an_epoch']}), "
        f"median (range) of {config['repeats']}"
    )


def main(config: Config) -> dict[str, Any]:
    """Measures (or loads), prints and, if wanted, writes the table into the document."""
    use_clock(config.clock)
    result = read_json(config.load) if config.load is not None else measure(config)
    publish("large_network", _title(result), *_table(result), summary(result), doc=config.doc)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.large_network", description=__doc__)
