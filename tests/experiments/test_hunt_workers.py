"""A hunt in worker processes: the rows, winners and files of one process, whoever dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments._hunt_train import Trainer
from experiments.seed_hunt import Config
from jaxnet.errors import InputError
from tests.experiments.hunts import Hunted, Hunter, as_flags, results
from tests.experiments.patched import cache_variables

ROOT = Path(__file__).resolve().parents[2]


def test_a_worker_with_other_data_is_refused() -> None:
    """As it is sent to a worker: without the samples, which lie there already."""
    there = pickle.loads(pickle.dumps(Trainer(Config(), "0123456789abcdef")))
    with pytest.raises(
        InputError, match=r"^digits: other samples lie here \(fingerprint \w+\) than .*0123456789"
    ):
        there.splits  # noqa: B018


@pytest.mark.slow
def test_two_workers_give_the_results_of_one_process(hunted: Hunted, hunter: Hunter, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    hunter("workers", out=tmp_path / "out", workers="local:2")
    assert results(tmp_path / "out") == hunted.results()


@pytest.mark.slow
def test_one_of_four_workers_is_killed(hunted: Hunted, tmp_path: Path, xla_cache: Path) -> None:
    """In the middle: its task is run again elsewhere, and no row is lost or there twice."""
    pytest.importorskip("distributed")
    psutil, out = pytest.importorskip("psutil"), tmp_path / "out"
    flags = [*as_flags({"workers": "local:4"}), "--out", str(out)]
    env = {**os.environ, **cache_variables(xla_cache)}
    command = [sys.executable, "-m", "experiments.seed_hunt", *flags]
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("table/*.parquet")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 4
        os.kill(workers[0].pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0 and errors == ""
    assert results(out) == hunted.results()
