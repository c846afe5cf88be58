"""Every experiment on tiny networks, run as a whole or killed in turn, and what must be the same both ways.

    python -m tests.experiments.small_runs NAME FOLDER

runs the experiment ``NAME`` undisturbed in ``FOLDER/whole``, and in ``FOLDER/killed`` with five
kills at random moments, continued after each. Every run is a process that is forked before JAX
starts, so that none imports anything again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from jaxnet.lab.command import run_main
from tests.experiments.patched import read_json

KILLS = 5

_HUNT = "seed_hunt --dataset digits --sizes 64,24,10 --chunk 8 --top-k 2"
RUNS = {
    "patched_density": "patched_density --dataset digits --sizes 64,24,16,10 --density 0.2 --num-seeds 3 "
    "--scaffold-epochs 6 --patch-epochs 6",
    "growth": "indefinite_growth --dataset digits --recipe lean --num-seeds 2 --iterations 2 --epochs 4 "
    "--target 0.99",
    "bootstrap": "optimal_bootstrap --dataset digits --hidden 8 --widths 6,12 --density 0.1 --num-seeds 2 "
    "--search-epochs 3 --epochs 4",
    "cliff": "cliff_rescue --num-seeds 2 --epochs 8 --arms static,skips,scheduler",
    "hunt": f"{_HUNT} --densities 0.05,0.1 --num-seeds 24 --epochs 2",
    "halving": f"{_HUNT} --densities 0.05,0.1 --num-seeds 18 --epochs 4 --halving 2",
    "sweep": f"{_HUNT} --mode sweep --num-seeds 8 --coarse-epochs 1 --fine-epochs 1 --points 2",
    "forgetting": "forgetting --dataset digits --sizes 64,24,10 --tasks 3 --num-seeds 2 --trial-seeds 1 "
    "--methods naive,ewc --densities 0.5 --look 20",
    "guard": "guarded_training --dataset digits --sizes 64,16,10 --num-seeds 2 --epochs 8 --every 5 "
    "--run-every 3 --held 100 --noise-checks 8 --checks 10 --runs 2 --rates 0.1 --strengths 100 --lr 3e-3",
    "headline": "headline --dataset digits --lines b,c-plain --num-seeds 2 --epochs 8 --every 10 "
    "--batch-size 64 --teachers 1 --teacher-hidden 8 --teacher-epochs 2 --ablation-seeds 0 --curve=",
    "levels": "level_transformer --arms curriculum --limit 60000 --heads 2 --width 8 --length 30 --tested 4 "
    "--suite-samples 8 --steps 6 --looks 3 --rates 1e-3,4e-3 --trial-seeds 1",
    "controls": "patched_density_controls --dataset digits --num-seeds 2 --scaffold-epochs 2 "
    "--patch-epochs 2",
}
"""By name: module and flags."""


def command(name: str, out: Path) -> tuple[str, list[str]]:
    """Module and flags of a run in a folder, begun or continued."""
    module, *flags = RUNS[name].split()
    return f"experiments.{module}", [*flags, "--kernel", "dense", "--out", str(out), "--resume"]


def summaries(out: Path) -> dict[str, Any]:
    """Every ``summary.json`` below a folder, without times, provenance, free memory and the folder's name."""
    found = {str(path.relative_to(out)): known(read_json(path)) for path in out.rglob("summary.json")}
    assert found, f"{out} holds no summary"
    placeless: dict[str, Any] = json.loads(json.dumps(found).replace(str(out), "OUT"))
    return placeless


def known(summary: Any) -> Any:
    """What of a summary does not depend on when and where it was made."""
    left_out = {"timing", "provenance", "bytes_allowed", "seconds", "seconds_per_network"}
    if isinstance(summary, dict):
        return {key: known(value) for key, value in summary.items() if key not in left_out}
    return [known(value) for value in summary] if isinstance(summary, list) else summary


def forked(name: str, out: Path) -> Any:
    """The run in a process of its own, which has begun."""
    module, flags = command(name, out)
    program: Any = importlib.import_module(module)
    study = getattr(program, "STUDY", None) or program.CONTROLS

    def run() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run_main(study.main, study.config, flags)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def kill_in_turn(name: str, folder: Path) -> None:
    """See the module; ends with an error where a run does."""

    def whole(out: Path) -> float:
        begun = time.monotonic()
        process = forked(name, out)
        process.join()
        if process.exitcode:
            raise SystemExit(f"{out.name} ended with {process.exitcode}")
        return time.monotonic() - begun

    whole(folder / "whole")
    longest, killed = whole(folder / "again"), 0  # with compiled programs at hand
    draw = random.Random(name)
    while killed < KILLS:
        process = forked(name, folder / "killed")
        process.join(draw.uniform(0, 0.8) * longest)
        if process.exitcode is None:
            process.kill()
            process.join()
            killed += 1
        elif process.exitcode:
            raise SystemExit(f"continued after {killed} kills it ended with {process.exitcode}")
        else:  # finished before its time
            longest /= 2
    whole(folder / "killed")


if __name__ == "__main__":
    import jaxnet.lab.plots
    import jaxnet.lab.report
    import jaxnet.lab.stages  # noqa: F401  (slow to import: once, not in every run)

    kill_in_turn(sys.argv[1], Path(sys.argv[2]))
