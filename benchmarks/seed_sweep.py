"""How many seeds a second: jaxnet's sweep against PyTorch, masked dense JAX and any dense product.

The work is the same for all: [pixels, 128, classes] at density 0.02, ReLU, Adam,
5 epochs over all training images, which lie in memory (``--hidden 256,128 --allocation
erdos-renyi``: a network in which every unit is live). Measured in turn, round after
round, so that a disturbance of the machine does not hit one of them alone; ratios
are those of a round, and what is reported is their median:

- ``jaxnet csr``: calls of the compiled sweep, whole: drawing, all epochs,
  validation, extrema; trained is only what can change (``jaxnet.sweep.live``), which
  gives the same networks;
- ``all weights trained``: the same without that, the sparse kernel alone;
- ``rewired by RigL``: all weights trained, and every 100 steps a third of a layer's weights exchanged, fewer
  later (``jaxnet.methods``): what a method costs is the difference to the line above;
- ``jaxnet dense``: its training steps with the dense product;
- ``JAX masked``: vmap over dense weights times their mask, Adam over all of them;
- ``live units only``: the same, for the part that can change: leaving out the rest helps
  this way, too, and nothing keeps a user from doing it by hand;
- ``PyTorch loop``: one model after another, dense weights times their mask;
- ``PyTorch vmap``: ``torch.func`` over stacked models, one Adam for all;
- ``dense bound``: what the multiplications of dense training would take at the
  speed of a large dense product here (the best of several in a round), were
  everything else free. No way that multiplies by zeros can be faster.

All but the sweeps and the bounds run ``--steps`` training steps after a warm-up, scaled to
the steps of 5 epochs: what they take besides (validation, drawing) is left out,
in their favour. PyTorch uses the variant of Adam that is the fastest here, found
before the clock starts, and in every round both one thread and one per core, of
which the better time counts (on a busy machine more threads are slower); the loop
is also timed as it is without such care. A loop that is fastest on one thread
leaves the other cores to other processes: one for each core would do up to that
many times as much.

On a machine that others use, ``taskset -c 0 python -m benchmarks.seed_sweep --clock processor``
compares the ways on one core by the processor's time.

One large network, and how the cost grows with seeds, density and width, with peak
memory, are tables of their own: ``benchmarks.large_network``, ``benchmarks.seed_scaling``.

    python -m benchmarks.seed_sweep --json result.json
    python -m benchmarks.seed_sweep --epochs 1 --steps 10 --repeats 3 --json quick.json
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks import _sweep_jax as ours
from benchmarks._report import (
    ClockFlags,
    check_output,
    clock,
    describe,
    machine,
    ratio,
    shown,
    spread,
    use_clock,
)
from jaxnet import data
from jaxnet.allocation import check_allocation
from jaxnet.errors import InputError
from jaxnet.files import user_path, write_json
from jaxnet.kernels import csr_library
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, changed, option
from jaxnet.lab.terminal import print_table
from jaxnet.programs import use_all_processors
from jaxnet.provenance import provenance
from jaxnet.sweep import default_chunk

FULL_EPOCHS = 5

METHODS = {
    "csr": "jaxnet csr",
    "csr_whole": "  all weights trained",
    "csr_rigl": "  rewired by RigL, too",
    "dense": "jaxnet dense, {stack} at once",
    "jax_masked": "JAX masked dense, {stack} at once",
    "jax_masked_live": "  live units only",
    "torch_vmap": "PyTorch torch.func.vmap, {stack} at once",
    "torch_loop": "PyTorch, one after another",
    "torch_loop_default": "  with default threads and Adam",
    "dense_bound": "bound for any dense product",
    "dense_bound_live": "  of the live units only",
}
"""What is measured, by name, with its line in the table."""


@dataclass(frozen=True)
class Config(Flags):
    """Seeds per second of the same training, done in several ways."""

    json: str | None = option(None, "file for the result")
    dataset: str = option("mnist", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    hidden: tuple[int, ...] = option((128,), "hidden units")
    density: float = option(0.02, "fraction of weights that exist", fraction=True)
    allocation: str = option("uniform", "how it is shared out over the layers")
    batches: tuple[int, ...] = option((64, 512), "samples per step")
    chunk: int | None = option(
        None, "seeds the csr sweep trains at once; auto: as a hunt does", least=1, none="auto"
    )
    stack: int = option(32, "seeds the dense ways train at once", least=1)
    epochs: int = option(FULL_EPOCHS, f"epochs the csr sweep really trains, scaled to {FULL_EPOCHS}", least=1)
    steps: int = option(40, "steps the other ways really train, scaled", least=1)
    repeats: int = option(5, "rounds", least=1)
    clock: Literal["wall", "processor"] = changed(ClockFlags, "clock")

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not self.batches or min(self.batches) < 1:
            raise InputError("--batches needs numbers of 1 or more, with commas between")
        if min(self.hidden, default=0) < 1:
            raise InputError("--hidden needs numbers of 1 or more, with commas between")
        try:
            check_allocation(self.allocation)
        except ValueError as error:
            raise InputError(f"--allocation: {error}") from None
        check_output(self.json)


def dense_flops(sizes: tuple[int, ...], samples: int) -> float:
    """Operations of the dense products that train one network for :data:`FULL_EPOCHS` epochs.

    Forward, gradient for the weights and, but for the first layer, gradient for
    the input: 2 operations a weight and sample each.
    """
    layers = list(zip(sizes[:-1], sizes[1:], strict=True))
    products = sum((2 if k == 0 else 3) * i * o for k, (i, o) in enumerate(layers))
    return 2.0 * products * samples * FULL_EPOCHS


def peak_flops(size: int = 1536, attempts: int = 4) -> float:
    """Operations per second of a large float32 product through XLA, the best of a few attempts."""
    a = jnp.ones((size, size))
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    fastest = float("inf")
    for _ in range(attempts):
        start = clock()
        multiply(a, a).block_until_ready()
        fastest = min(fastest, clock() - start)
    return 2.0 * size**3 / fastest


def measure(config: Config) -> dict[str, Any]:
    """Measures all ways in turn; the file of ``--json`` is rewritten after every round.

    Raises:
      InputError: PyTorch or the csr kernel is missing, the data are not there, or
        the file cannot be written.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("PyTorch is not installed: pip install '.[bench]'")
    csr_library.require()
    loaded = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=0.0)
    made_by = provenance()
    made_by["versions"]["torch"] = importlib.metadata.version("torch")
    made_by["instruction_set"] = csr_library.instruction_set()
    result: dict[str, Any] = {
        "benchmark": "seed_sweep",
        "config": dataclasses.asdict(config) | {"json": None, "data_dir": None, "dataset": loaded.name},
        "machine": machine(),
        "provenance": made_by,
        "ratios": {},
        "by_batch": {},
    }
    for batch in config.batches:
        _measure_batch(config, loaded, batch, result)
    return result


def _measure_batch(config: Config, loaded: data.Dataset, batch: int, result: dict[str, Any]) -> None:
    from benchmarks import _sweep_torch as theirs  # torch is there only now

    samples = len(loaded.y_train)
    steps = FULL_EPOCHS * -(-samples // batch)  # of a whole training
    sizes = (loaded.num_features, *config.hidden, loaded.num_classes)
    work = ours.Work(sizes, config.density, batch, config.steps, config.allocation)
    torch_work = theirs.Work(loaded, work.sizes, work.density, work.batch, work.steps)
    settings = torch_work.probe(config.stack)
    split = ours.training_split(loaded)
    family = work.family()
    live = family.live
    flops = dense_flops(work.sizes, samples)
    live_flops = dense_flops(work.sizes if live is None else live.sizes, samples)
    chunk = config.chunk or default_chunk(jax.local_devices(), family, batch)
    sweep = ours.Sweep(work, loaded, chunk, config.epochs)
    whole = ours.Sweep(work, loaded, chunk, config.epochs, live=False)
    rigl = ours.Sweep(work, loaded, chunk, config.epochs, live=False, method="rigl")
    per_step: dict[str, Callable[[], float]] = {  # seconds of a step, for one network
        "dense": ours.Steps(work, split, config.stack, masked=False),
        "jax_masked": ours.Steps(work, split, config.stack, masked=True),
        "jax_masked_live": ours.Steps(work, split, config.stack, masked=True, live=live),
        "torch_vmap": lambda: min(
            torch_work.stacked(config.stack, choice, config.steps) for choice in settings["vmap"]
        ),
        "torch_loop": lambda: min(torch_work.single(c, 2 * config.steps) for c in settings["loop"]),
        "torch_loop_default": lambda: torch_work.single(settings["default"][0], 2 * config.steps),
    }
    seeds: dict[str, Callable[[], float]] = {  # seconds of a whole training, for one network
        "csr": lambda: sweep() * FULL_EPOCHS / config.epochs,
        "csr_whole": lambda: whole() * FULL_EPOCHS / config.epochs,
        "csr_rigl": lambda: rigl() * FULL_EPOCHS / config.epochs,
        **{name: (lambda run=run: steps * run()) for name, run in per_step.items()},  # type: ignore[misc]
        "dense_bound": lambda: flops / peak_flops(),
        "dense_bound_live": lambda: live_flops / peak_flops(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    loads = []
    for repeat in range(config.repeats):
        loads.append(os.getloadavg()[0])
        for name in METHODS if repeat % 2 == 0 else reversed(METHODS):
            seconds[name].append(seeds[name]())
        compared = {
            f"csr_vs_{name}": ratio(seconds[name], seconds["csr"]) for name in METHODS if name != "csr"
        }
        result["by_batch"][f"b{batch}"] = {
            "steps_of_a_training": steps,
            "torch_settings": settings,
            "csr_plan": str(sweep.program.plan),
            "csr_median_accuracy": sweep.accuracy,
            "load_before_rounds": loads,
            "seconds_per_seed": {name: spread(times) for name, times in seconds.items()},
            "seeds_per_second": {name: spread([1 / t for t in times]) for name, times in seconds.items()},
            "dense_peak_gflops": spread([1e-9 * flops / t for t in seconds["dense_bound"]]),
            "ratios": compared,
        }
        for name, found in compared.items():
            result["ratios"][f"b{batch}.{name}"] = found["median"]
        if config.json is not None:
            write_json(user_path(config.json), result)


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    config, versions = result["config"], result["provenance"]["versions"]
    print(describe(result["machine"], {n: versions[n] for n in ("python", "jax", "jaxlib", "torch")}))
    batches = list(result["by_batch"].items())
    for name, found in batches:
        loop, vmap = (
            " or ".join(f"{c['threads']} ({c['adam']} Adam)" for c in found["torch_settings"][kind])
            for kind in ("loop", "vmap")
        )
        loads = found["load_before_rounds"]
        print(
            f"batch {name[1:]}: threads of the PyTorch loop {loop}, of vmap {vmap}; "
            f"dense product {shown(found['dense_peak_gflops'], 0)} GFLOP/s; "
            f"csr with {result['provenance']['instruction_set']}, {found['csr_plan']}, "
            f"median accuracy {100 * found['csr_median_accuracy']:.1f} %; "
            f"load {min(loads):.1f} to {max(loads):.1f}"
        )
    columns = ["", *(f"{head} b{n[1:]}" for n, _ in batches for head in ("seeds/s", "csr is faster by"))]
    rows: list[list[object]] = []
    for name, label in METHODS.items():
        row: list[object] = [label.format(**config)]
        for _, found in batches:
            row.append(shown(found["seeds_per_second"][name], 3))
            row.append(None if name == "csr" else shown(found["ratios"][f"csr_vs_{name}"]))
        rows.append(row)
    title = (
        f"{config['dataset']}, {'-'.join(map(str, config['hidden']))} hidden units, density "
        f"{config['density']} ({config['allocation']}), "
        f"{FULL_EPOCHS} epochs, median (range) of {config['repeats']}"
    )
    print_table(title, columns, rows)


def main(config: Config) -> dict[str, Any]:
    """Measures and prints."""
    use_clock(config.clock)
    use_all_processors()
    result = measure(config)
    report(result)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.seed_sweep", description=__doc__)
