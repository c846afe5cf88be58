"""A hunt shared by processes on the loopback interface: the rows, winners and files of one process."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from experiments.seed_hunt import Config
from jaxnet.errors import InputError
from jaxnet.records import RunFolder
from tests.experiments.hunts import Hunted, Hunter, as_flags, results
from tests.experiments.patched import cache_variables

Run = Callable[..., subprocess.CompletedProcess[str]]


def together(
    run_python: Run, cache: Path, out: Path, *modules: list[str], **changes: Any
) -> list[subprocess.CompletedProcess[str]]:
    """One process for each ``python -m`` given, at the same time, in one hunt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"out": out, "coordinator": f"127.0.0.1:{port}", "num_processes": len(modules), **changes}

    def run(process: int) -> subprocess.CompletedProcess[str]:
        flags = as_flags({**shared, "process_id": process})
        return run_python("-m", *modules[process], *flags, env=cache_variables(cache), timeout=900)

    with ThreadPoolExecutor(len(modules)) as pool:
        return list(pool.map(run, range(len(modules))))


HUNT = ["experiments.seed_hunt"]


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(
    hunted: Hunted, tmp_path: Path, xla_cache: Path, run_python: Run
) -> None:
    out = tmp_path / "out"
    zero, one = together(run_python, xla_cache, out, HUNT, HUNT)
    assert (zero.returncode, one.returncode) == (0, 0), zero.stderr + one.stderr
    assert results(out) == hunted.results()
    assert one.stdout == "" and zero.stdout.splitlines()[-1] == f"results in {out}"
    assert json.loads((out / "provenance.json").read_text())["processes"] == 2
    assert {path.name for path in out.glob("kept*")} == {"kept.npz"}


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_alone_finishes(
    hunted: Hunted, hunter: Hunter, tmp_path: Path, xla_cache: Path, run_python: Run
) -> None:
    out = tmp_path / "out"
    killed = ["tests.experiments.stop_hunt_at", json.dumps([["kill", "half", ".parquet.partial", 2]])]
    zero, one = together(run_python, xla_cache, out, HUNT, killed)
    assert one.returncode == 0 and json.loads(one.stdout)[0][0] == -9, one.stdout + one.stderr
    assert zero.returncode == 2 and "Traceback" not in zero.stderr
    assert "process 1 was killed" in zero.stderr.splitlines()[-1] and "--resume" in zero.stderr
    assert len(list((out / "table").glob("*.parquet"))) == 3, "all but the one half written"
    hunter("killed", out=out, resume=True)
    assert results(out) == hunted.results()


@pytest.mark.slow
def test_a_foreign_hunt_in_the_folder_stops_all(tmp_path: Path, xla_cache: Path, run_python: Run) -> None:
    with RunFolder.open(tmp_path / "out", {}):
        zero, one = together(run_python, xla_cache, tmp_path / "out", HUNT, HUNT)
    assert (zero.returncode, one.returncode) == (2, 2)
    assert "another process is working in this folder" in zero.stderr
    assert "process 0 stopped, so this one does" in one.stderr


def test_a_folder_is_joined_only_by_processes_of_the_same_run(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "out", {"lr": 1, "out": "x"}) as folder:
        token = folder.share()
        joined = RunFolder.join(tmp_path / "out", {"lr": 1, "out": "y"}, token)
        assert joined.resumed and joined.path == folder.path
        with pytest.raises(ValueError, match="is closed"):
            joined.write_json("plan.json", {})
        with pytest.raises(InputError, match="lr was 1 and is now 2"):
            RunFolder.join(tmp_path / "out", {"lr": 2}, token)
        for elsewhere in (tmp_path / "out", tmp_path / "nowhere"):
            with pytest.raises(InputError, match="a file system that all processes share"):
                RunFolder.join(elsewhere, {"lr": 1}, "another token")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"coordinator": "127.0.0.1:1"}, "go together"),
        ({"process_id": 0}, "go together"),
        ({"coordinator": "127.0.0.1:1", "num_processes": 2, "process_id": 2}, "below --num-processes 2: 2"),
        ({"coordinator": "localhost", "num_processes": 2, "process_id": 1}, "must be HOST:PORT: localhost"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 1, "distributed": "auto"},
            "exclude each other",
        ),
    ],
)
def test_wrong_flags(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Config(**flags)


def test_without_a_cluster_the_error_says_what_to_give(run_python: Run, tmp_path: Path) -> None:
    done = run_python("-m", *HUNT, "--distributed", "auto", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no cluster was found" in done.stderr and "--process-id" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
