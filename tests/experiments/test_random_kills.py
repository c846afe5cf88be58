"""Every experiment, killed five times in a row at random moments, ends with the undisturbed summary."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.patched import cache_variables, read_json

ROOT = Path(__file__).resolve().parents[2]

RUNS = {
    "patched_density": "--sizes 64,24,16,10 --density 0.2 --num-seeds 3 --scaffold-epochs 6 --patch-epochs 6",
    "indefinite_growth": "--recipe lean --num-seeds 2 --iterations 2 --epochs 4 --target 0.99",
    "optimal_bootstrap": "--hidden 8 --widths 6,12 --density 0.1 --num-seeds 2 --search-epochs 3 --epochs 4",
    "cliff_rescue": "--num-seeds 2 --epochs 12 --arms static,skips,scheduler",
    "seed_hunt": "--sizes 64,24,10 --densities 0.05,0.1 --num-seeds 24 --epochs 2 --chunk 8",
}


def command(name: str, out: Path) -> list[str]:
    """The command line of a small run on digits (the cliff makes its own data)."""
    data = [] if name == "cliff_rescue" else ["--dataset", "digits"]
    flags = [*RUNS[name].split(), *data, "--kernel", "dense", "--out", str(out), "--resume"]
    return [sys.executable, "-m", f"experiments.{name}", *flags]


def known(summary: Any) -> Any:
    """A summary without times and free memory."""
    left_out = {"timing", "provenance", "bytes_allowed"}
    if isinstance(summary, dict):
        return {key: known(value) for key, value in summary.items() if key not in left_out}
    return [known(value) for value in summary] if isinstance(summary, list) else summary


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_five_times_it_ends_the_same(name: str, tmp_path: Path, xla_cache: Path) -> None:
    env = {**os.environ, **cache_variables(xla_cache)}
    done = subprocess.run(
        command(name, tmp_path / "whole"), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    begun = time.monotonic()
    subprocess.run(command(name, tmp_path / "timed"), cwd=ROOT, env=env, capture_output=True, timeout=300)
    usual = time.monotonic() - begun  # with compiled programs at hand
    draw, killed = random.Random(name), 0
    for _ in range(5):
        with subprocess.Popen(
            command(name, tmp_path / "out"),
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                process.wait(draw.uniform(0.2, 1.0) * usual)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    done = subprocess.run(
        command(name, tmp_path / "out"), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert killed > 0, "a case that tests something"
    whole, out = (read_json(tmp_path / folder / "summary.json") for folder in ("whole", "out"))
    assert known(out) == known(whole)
