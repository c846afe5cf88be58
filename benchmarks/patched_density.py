"""How long the original's patched-density experiment takes: jaxnet for many seeds, PyTorch for one.

Both run the whole protocol of the original (``--protocol seed``: scaffold,
extrema on test images, patches, dual rates) on the same images, each as a
process of its own that is timed from start to end. jaxnet's time includes
compiling (its compile cache is empty in every run), checkpoints, patch
contributions and plots; PyTorch's includes nothing but training and
evaluation, with the thread number and the variant of Adam that are the fastest
here (found before the clock starts). The two alternate, so that a disturbance
of the machine does not hit one of them alone.

    python -m benchmarks.patched_density --json result.json
    python -m benchmarks.patched_density --scaffold-epochs 2 --patch-epochs 2 --json quick.json

A shortened run overstates the part of start-up and compiling. The ratio of
processor times tells what a machine would do that is kept busy, for instance by
one PyTorch process per core.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks._report import Process, check_output, describe, machine, ratio, shown, spread, timed_process
from jaxnet import data
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path, write_json
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.lab.terminal import print_table
from jaxnet.provenance import provenance


@dataclass(frozen=True)
class Config(Flags):
    """jaxnet for many seeds against PyTorch for one, whole processes, alternating."""

    json: str | None = option(None, "file for the result")
    dataset: str = option("mnist", "data set by name (digits is embedded), or path")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: int = option(8, "networks jaxnet trains at once", least=1)
    repeats: int = option(3, "runs of each side", least=1)
    scaffold_epochs: int = option(20, "epochs without patches", "epochs", least=1)
    patch_epochs: int = option(30, "epochs with patches", "epochs", least=1)
    kernel: Literal["auto", "dense", "csr"] = option(
        "auto", "jaxnet's sparse product; auto: the faster one here"
    )
    torch_threads: int | None = option(None, "PyTorch's threads; auto: the fastest", none="auto", least=1)
    torch_adam: Literal["loop", "foreach", "fused"] | None = option(
        None, "PyTorch's variant of Adam; auto: the fastest", none="auto"
    )

    def check(self) -> None:
        """Raises InputError for a value out of range."""
        check_output(self.json)


class Runner:
    """Both sides on the same data, in a scratch folder."""

    def __init__(self, config: Config, scratch: Path) -> None:
        self.config, self.scratch = config, scratch
        self.images = scratch / "images.npz"
        loaded = data.load(config.dataset, data_dir=config.data_dir, validation_fraction=0.0)
        if loaded.x_train.dtype != np.uint8:
            raise InputError(f"--dataset {config.dataset}: only uint8 images are measured here")
        np.savez(
            self.images,
            x_train=loaded.x_train,
            y_train=loaded.y_train,
            x_test=loaded.x_test,
            y_test=loaded.y_test,
            mean=loaded.mean,
            std=loaded.std,
        )
        self.name = loaded.name
        self.epochs = [
            *("--scaffold-epochs", str(config.scaffold_epochs)),
            *("--patch-epochs", str(config.patch_epochs)),
        ]

    def torch(self, what: str, *flags: str) -> tuple[Process, dict[str, Any]]:
        """One process of ``benchmarks.torch_reference``: its times and its result."""
        result = self.scratch / "torch.json"
        files = ["--data", str(self.images), "--json", str(result)]
        command = [sys.executable, "-m", "benchmarks.torch_reference", *files, *flags]
        return timed_process(command, what=what), read_json(result)

    def probe(self) -> dict[str, Any]:
        """Threads and Adam for PyTorch: what the flags say, else the fastest."""
        config = self.config
        found: dict[str, Any] = {}
        if config.torch_threads is None or config.torch_adam is None:
            found = self.torch("the probe of PyTorch's settings", "--probe")[1]
        chosen = {"threads": config.torch_threads, "adam": config.torch_adam}
        return found | {name: value for name, value in chosen.items() if value is not None}

    def torch_seed(self, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        """PyTorch, one seed."""
        chosen = ["--threads", str(settings["threads"]), "--adam", settings["adam"]]
        process, result = self.torch("the PyTorch run", "--seed", str(seed), *chosen, *self.epochs)
        return dataclasses.asdict(process) | result

    def jaxnet_seeds(self, repeat: int) -> dict[str, Any]:
        """jaxnet, all seeds."""
        config, out = self.config, self.scratch / f"jaxnet-{repeat}"
        flags = {
            "protocol": "seed",
            "dataset": config.dataset,
            "num-seeds": config.num_seeds,
            "seed": repeat * config.num_seeds,
            "kernel": config.kernel,
            "out": out,
        }
        if config.data_dir is not None:
            flags["data-dir"] = user_path(config.data_dir).absolute()
        command = [sys.executable, "-m", "experiments.patched_density", *self.epochs]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        # An empty cache: compiling is part of what is measured.
        env = {"JAX_COMPILATION_CACHE_DIR": str(self.scratch / f"xla-{repeat}")}
        process = timed_process(command, what="the jaxnet run", env=env)
        summary = read_json(out / "summary.json")
        kept = ("seed", "scaffold_accuracy", "patched_accuracy", "extrema_high", "extrema_low", "num_patches")
        return dataclasses.asdict(process) | {
            "kernel": summary["kernel"],
            "timing": summary["timing"],
            "seeds": [
                {**{name: s[name] for name in kept}, "patch_parameters": s["nonzeros"]["patch"]}
                for s in summary["seeds"]
            ],
        }


def measure(config: Config) -> dict[str, Any]:
    """Runs both sides ``repeats`` times; the file of ``--json`` is rewritten after each pair.

    Raises:
      InputError: PyTorch is missing, or a run fails.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("PyTorch is not installed: pip install '.[bench]'")
    with tempfile.TemporaryDirectory(prefix="jaxnet-bench-") as scratch:
        runner = Runner(config, Path(scratch))
        settings = runner.probe()
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for repeat in range(config.repeats):
            sides = [
                lambda r=repeat: ours.append(runner.jaxnet_seeds(r)),
                lambda r=repeat: theirs.append(runner.torch_seed(r, settings)),
            ]
            for side in sides if repeat % 2 == 0 else reversed(sides):
                side()
            result = summarise(config, runner.name, settings, ours, theirs)
            if config.json is not None:
                write_json(user_path(config.json), result)
    return result


def summarise(
    config: Config,
    dataset: str,
    settings: dict[str, Any],
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the file of ``--json`` holds."""
    made_by = provenance()
    made_by["versions"]["torch"] = importlib.metadata.version("torch")
    seeds = [seed for run in ours for seed in run["seeds"]]

    def times(side: list[dict[str, Any]], name: str) -> list[float]:
        return [run[name] for run in side]

    ratios = {}
    for kind in ("wall", "cpu"):
        pair = times(theirs, f"{kind}_seconds"), times(ours, f"{kind}_seconds")
        ratios[f"{kind}_torch_one_seed_over_jaxnet_all_seeds"] = ratio(*pair)
        ratios[f"{kind}_per_seed"] = ratio(*pair, factor=config.num_seeds)
    flags = dataclasses.asdict(config) | {"json": None, "data_dir": None, "dataset": dataset}
    return {
        "benchmark": "patched_density",
        "config": flags,
        "machine": machine(),
        "provenance": made_by,
        "torch_settings": settings,
        "ratios": ratios,
        "accuracy": {"jaxnet": agreement(seeds), "torch": agreement(theirs)},
        "runs": {"jaxnet": ours, "torch": theirs},
    }


def agreement(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """What should agree in distribution: accuracies (percent), extrema, patches."""
    return {
        "scaffold_percent": spread([100 * s["scaffold_accuracy"] for s in seeds]),
        "patched_percent": spread([100 * s["patched_accuracy"] for s in seeds]),
        "extrema_high": spread([sum(s["extrema_high"]) for s in seeds]),
        "extrema_low": spread([sum(s["extrema_low"]) for s in seeds]),
        "patches": spread([s["num_patches"] for s in seeds]),
        "patch_parameters": spread([s["patch_parameters"] for s in seeds]),
    }


def report(result: dict[str, Any]) -> None:
    """Prints the tables."""
    config, runs, ratios = result["config"], result["runs"], result["ratios"]
    settings, number = result["torch_settings"], config["num_seeds"]
    seeds = f"{number} seed" if number == 1 else f"{number} seeds"
    versions = result["provenance"]["versions"]
    named = {name: versions[name] for name in ("python", "jax", "jaxlib", "torch")}
    print(describe(result["machine"], named))
    print(
        f"PyTorch: {settings['threads']} threads, {settings['adam']} Adam; "
        f"jaxnet: {runs['jaxnet'][0]['kernel']} kernel; load at the start of the runs "
        f"{min(r['load_before'] for side in runs.values() for r in side):.1f} to "
        f"{max(r['load_before'] for side in runs.values() for r in side):.1f}"
    )

    def times(side: str, name: str, factor: float = 1.0) -> str:
        return shown(spread([factor * run[name] for run in runs[side]]))

    split = {
        name: shown(spread([run["timing"][name] for run in runs["jaxnet"]]))
        for name in ("compile_seconds", "run_seconds")
    }
    training = [run["scaffold_seconds"] + run["patch_seconds"] for run in runs["torch"]]
    rows: list[list[object]] = [
        [f"jaxnet, {seeds}", times("jaxnet", "wall_seconds"), times("jaxnet", "cpu_seconds")],
        ["  of this compiling", split["compile_seconds"], None],
        ["  of this running", split["run_seconds"], None],
        ["PyTorch, 1 seed", times("torch", "wall_seconds"), times("torch", "cpu_seconds")],
        ["  of this training", shown(spread(training)), None],
    ]
    for label, name in (
        (f"PyTorch, 1 seed / jaxnet, {seeds}", "torch_one_seed_over_jaxnet_all_seeds"),
        ("PyTorch / jaxnet per seed", "per_seed"),
    ):
        rows.append([label, *(shown(ratios[f"{kind}_{name}"], 2) for kind in ("wall", "cpu"))])
    title = (
        f"patched density, {config['dataset']}, {config['scaffold_epochs']} + {config['patch_epochs']} "
        f"epochs, whole processes, median (range) of {len(runs['torch'])}"
    )
    print_table(title, ["", "wall s", "processor s"], rows)
    ours, theirs = result["accuracy"]["jaxnet"], result["accuracy"]["torch"]
    both = [[name.replace("_", " "), shown(ours[name]), shown(theirs[name])] for name in ours]
    counts = f"{ours['patches']['n']} and {theirs['patches']['n']} seeds"
    print_table(f"what they found, median (range) of {counts}", ["", "jaxnet", "PyTorch"], both)


def main(config: Config) -> dict[str, Any]:
    """Measures and prints."""
    result = measure(config)
    report(result)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.patched_density", description=__doc__)
