"""Seeds per second on the default device, by precision of the dense product and by seeds per call.

Whole calls of the compiled sweep are timed (drawing, all epochs, validation,
extrema) on JAX's default device: a GPU or TPU where there is one, else the CPU,
where the figures say nothing about a GPU. Precisions are measured in turn, round
after round; ratios are those of a round, and their median is reported.
On an NVIDIA GPU the persistent kernel is measured beside them. ``--csr`` adds the csr
kernel on the CPU of the same machine. GFLOP/s counts the dense products of what is
trained, which leaves out units that no output reads.

    python -m benchmarks.gpu --csr --json result.json
    python -m benchmarks.gpu --dataset digits --hidden 16 --chunks 4 --repeats 1
    python -m benchmarks.gpu --load result.json --doc docs/scaling.md
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import compress
from typing import Any

import jax

from benchmarks import _sweep_jax as ours
from benchmarks._report import check_output, describe, machine, publish, ratio, shown, spread
from benchmarks.seed_sweep import FULL_EPOCHS, dense_flops
from jaxnet import data
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path, write_json
from jaxnet.kernels import PRECISIONS, csr_library, persistent
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.programs import use_all_processors
from jaxnet.provenance import provenance
from jaxnet.sweep import make_family

MIB = 2**20


@dataclass(frozen=True)
class Config(Flags):
    """Seeds per second of the sweep on an accelerator."""

    json: str | None = option(None, "file for the result")
    load: str | None = option(None, "a file of --json to show instead of measuring")
    doc: str | None = option(None, "document whose table is replaced")
    dataset: str = option("mnist", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    hidden: int = option(128, "hidden units", least=1)
    density: float = option(0.02, "fraction of weights that exist", fraction=True)
    batch: int = option(64, "samples per step", least=1)
    chunks: tuple[int, ...] = option((128, 512, 2048), "seeds per call, fewer where memory is short")
    precisions: tuple[str, ...] = option(PRECISIONS, "operands of the dense product")
    csr: bool = option(False, "measure the csr kernel on the CPU, too")
    epochs: int = option(1, f"epochs really trained, scaled to {FULL_EPOCHS}", least=1)
    repeats: int = option(5, "rounds", least=1)

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        if not self.chunks or min(self.chunks) < 1:
            raise InputError("--chunks needs numbers of 1 or more, with commas between")
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise InputError(f"--precisions needs some of {', '.join(PRECISIONS)}, with commas between")
        check_output(self.json, self.doc)


def measure(config: Config) -> dict[str, Any]:
    """Measures chunk by chunk; the file of ``--json`` is rewritten after each.

    Raises:
      InputError: the csr kernel is missing, the data are not there, or the file
        cannot be written.
    """
    if config.csr:
        csr_library.require()
    loaded = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=0.0)
    work = ours.Work(
        (loaded.num_features, config.hidden, loaded.num_classes), config.density, config.batch, 1
    )
    live = make_family([work.sizes], [work.density], "uniform").live  # the part that is trained
    flops = dense_flops(work.sizes if live is None else live.sizes, len(loaded.y_train))
    devices = jax.local_devices()
    hidden = dict.fromkeys(("json", "load", "doc", "data_dir"))
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "config": dataclasses.asdict(config) | hidden | {"dataset": loaded.name},
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "machine": machine(),
        "provenance": provenance(),
        "ratios": {},
        "by_chunk": {},
    }
    for chunk in config.chunks:
        sweeps = {
            precision: ours.Sweep(work, loaded, chunk, config.epochs, "dense", precision)
            for precision in config.precisions
        }
        if persistent.missing() is None:
            sweeps["persistent"] = ours.Sweep(work, loaded, chunk, config.epochs, "persistent")
        if config.csr:
            cpu = jax.local_devices(backend="cpu")
            sweeps["csr"] = ours.Sweep(work, loaded, chunk, config.epochs, "csr", devices=cpu)
        seconds: dict[str, list[float]] = {name: [] for name in sweeps}
        for repeat in range(config.repeats):
            for name in sweeps if repeat % 2 == 0 else reversed(sweeps):
                seconds[name].append(sweeps[name]() * FULL_EPOCHS / config.epochs)
        found: dict[str, dict[str, Any]] = {}
        for name, sweep in sweeps.items():
            plan = sweep.program.plan
            found[name] = {
                "chunk": plan.chunk,
                "bytes_per_call": plan.bytes_per_call,
                "seeds_per_second": spread([1 / s for s in seconds[name]]),
                "gflops": spread([1e-9 * flops / s for s in seconds[name]]),
                "median_accuracy": sweep.accuracy,
            }
            for reference in ("f32", "bf16", "csr") if name == "persistent" else ("f32", "csr"):
                if reference in sweeps and name != reference:
                    found[name][f"vs_{reference}"] = ratio(seconds[reference], seconds[name])
                    key = f"c{chunk}.{name}_vs_{reference}"
                    result["ratios"][key] = found[name][f"vs_{reference}"]["median"]
        result["by_chunk"][f"c{chunk}"] = found
        # of the process so far; a CPU keeps no account
        result["peak_bytes"] = (devices[0].memory_stats() or {}).get("peak_bytes_in_use")
        if config.json is not None:
            write_json(user_path(config.json), result)
    return result


def report(result: dict[str, Any], doc: str | None = None) -> None:
    """Prints the device and the table; puts both into a document, if there is one."""
    device, versions = result["device"], result["provenance"]["versions"]
    lines = [
        describe(result["machine"], {name: versions[name] for name in ("python", "jax", "jaxlib")}),
        f"dense product on {device['count']} x {device['kind']} ({device['platform']})",
    ]
    if device["platform"] == "cpu":
        lines.append("this is no accelerator: tf32 is float32 here, bf16 is emulated")
    if result["peak_bytes"] is not None:
        lines.append(f"most memory in use on a device: {result['peak_bytes'] / MIB:.0f} MiB")
    rows: list[list[object]] = []
    for found in result["by_chunk"].values():
        for name, one in found.items():
            vs = [shown(one[key], 2) if key in one else None for key in ("vs_f32", "vs_bf16", "vs_csr")]
            rows.append(
                [
                    {"csr": "csr (CPU)", "persistent": "persistent f32"}.get(name, f"dense {name}"),
                    one["chunk"],
                    f"{one['bytes_per_call'] / MIB:.0f}",
                    shown(one["seeds_per_second"], 3),
                    shown(one["gflops"], 0) if name in PRECISIONS else None,
                    *vs,
                    f"{100 * one['median_accuracy']:.1f}",
                ]
            )
    config = result["config"]
    columns = [
        "product",
        "seeds",
        "MiB",
        "seeds/s",
        "GFLOP/s",
        "times f32",
        "times bf16",
        "times csr",
        "accuracy %",
    ]
    said = [any(row[at] is not None for row in rows) for at in range(len(columns))]
    rows, columns = [[*compress(row, said)] for row in rows], [*compress(columns, said)]
    title = (
        f"{config['dataset']}, {config['hidden']} hidden units, density {config['density']}, "
        f"batch {config['batch']}, {config['epochs']} of {FULL_EPOCHS} epochs, median (range) of "
        f"{config['repeats']}"
    )
    publish("gpu", title, columns, rows, "\n".join(lines), doc=doc)


def main(config: Config) -> dict[str, Any]:
    """Measures and prints."""
    use_all_processors()
    result = read_json(config.load) if config.load is not None else measure(config)
    report(result, config.doc)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.gpu", description=__doc__)
