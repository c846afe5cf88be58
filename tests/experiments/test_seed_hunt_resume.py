"""Hunts that are killed, run out of disk or time, or are damaged: continued to the same results."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from experiments.seed_hunt import ReplayConfig, replay_main
from jaxnet import data, files
from jaxnet.errors import InputError
from jaxnet.store import RunFolder
from jaxnet.sweep.hunt import PLAN
from tests.experiments.hunts import Hunted, Hunter, as_flags, results
from tests.experiments.patched import cache_variables, compiling_once, contents


@pytest.mark.parametrize(
    "moments",
    [
        [
            ["kill", "half", ".parquet.partial", 1],
            ["kill", "after", ".npz", 2],
            None,
        ],
        pytest.param(
            [
                ["kill", "before", ".parquet", 2],
                ["kill", "half", "summary.json.partial", 1],
                None,
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["in the table", "at the end"],
)
def test_killed_again_and_again_the_table_is_the_same(
    moments: list[Any],
    hunted: Hunted,
    tmp_path: Path,
    xla_cache: Path,
    run_python: Callable[..., Any],
) -> None:
    out = tmp_path / "out"
    flags = [*as_flags({}), "--out", str(out), "--resume"]
    done = run_python(
        "-m", "tests.experiments.stop_hunt_at", json.dumps(moments), *flags, env=cache_variables(xla_cache)
    )
    assert done.returncode == 0, done.stderr
    assert [code for code, _ in json.loads(done.stdout)] == [-9, -9, 0], done.stdout
    assert results(out) == hunted.results()


@pytest.mark.parametrize("suffix", [".parquet", pytest.param(".npz", marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_rows_intact(
    suffix: str, hunted: Hunted, hunter: Hunter, tmp_path: Path
) -> None:
    out, write_all, count = tmp_path / "out", files.write_all, 0

    def full(fd: int, content: bytes) -> None:
        nonlocal count
        count += os.readlink(f"/proc/self/fd/{fd}").endswith(f"{suffix}.partial")
        if count == 2:
            write_all(fd, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(fd, content)

    with (
        mock.patch.object(files, "write_all", full),
        pytest.raises(InputError, match="the disk is full: make room, then continue with --resume"),
    ):
        hunter("full", out=out)
    assert len(list((out / "table").iterdir())) == 1, "no half-written file"
    hunter("full", out=out, resume=True)
    assert results(out) == hunted.results()


@pytest.mark.parametrize(
    ("budget", "trained"), [("0.001s", 4), pytest.param("9seeds", 8, marks=pytest.mark.slow)]
)
def test_a_budget_stops_and_resume_continues(
    budget: str, trained: int, hunted: Hunted, hunter: Hunter, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = hunter("budget", out=out, budget=budget)
    assert not short.summary["complete"]
    assert short.summary["networks"] == {"planned": 14, "trained": trained}
    assert any(f"stopped by --budget after {trained} of 14 networks" in line for line in short.lines)
    hunter("budget", out=out, resume=True)
    assert results(out) == hunted.results()


@pytest.mark.slow
@pytest.mark.cpu
def test_begun_on_two_devices_and_continued_on_three_it_is_that_of_one(
    tmp_path: Path, xla_cache: Path, run_python: Callable[..., Any]
) -> None:
    """A call of 4 is shared by 2 devices, here too: the third stays idle."""

    def hunt(out: Path, devices: int, *flags: str) -> None:
        command = ["-m", "experiments.seed_hunt", *as_flags({}), "--out", str(out), *flags]
        # as users compile: bits that do not depend on the number of networks
        env = {**cache_variables(xla_cache), "XLA_FLAGS": ""}
        done = run_python(*command, devices=devices, env=env)
        assert done.returncode == 0, done.stderr

    hunt(tmp_path / "one", 1)
    hunt(tmp_path / "several", 2, "--budget", "4seeds")
    hunt(tmp_path / "several", 3, "--resume")
    found, expected = results(tmp_path / "several"), results(tmp_path / "one")
    plan = json.loads((tmp_path / "several" / PLAN).read_text())
    assert plan["stages"][0]["programs"][0]["devices"] == 2
    assert found == expected


def test_a_finished_hunt_continued_changes_nothing(hunted: Hunted, hunter: Hunter) -> None:
    before = hunted.results()
    lines = hunter("base", resume=True).lines
    assert lines[0].endswith("14 are done")
    assert hunted.results() == before


@pytest.mark.slow
def test_own_data_may_lie_elsewhere(hunter: Hunter, tmp_path: Path, xla_cache: Path) -> None:
    digits = data.load("digits", validation_fraction=0)
    parts = {part: getattr(digits, part)[:300] for part in ("x_train", "y_train", "x_test", "y_test")}
    first, moved = tmp_path / "a.npz", tmp_path / "elsewhere" / "b.npz"
    np.savez(first, **parts)
    moved.parent.mkdir()
    begun = hunter("own", dataset=str(first), budget="4seeds")
    assert len(begun.table) == 4
    first.rename(moved)
    rest = hunter("own", dataset=str(moved), resume=True)
    assert rest.summary["complete"] and len(rest.table) == 14

    config = ReplayConfig(out=str(rest.folder), seed=0, density=0.3, same_program=True)
    with compiling_once(xla_cache):
        with pytest.raises(InputError, match=rf"^{first}: no such file"):
            replay_main(config, lambda line: None)
        moved_config = dataclasses.replace(config, dataset=str(moved))
        assert replay_main(moved_config, lambda line: None)["equal"]
        with pytest.raises(InputError, match=r"other samples [^\n]* give the right --data-dir or --dataset$"):
            replay_main(dataclasses.replace(config, dataset="digits"), lambda line: None)

    np.savez(moved, **{**parts, "y_train": parts["y_train"][::-1]})
    before = contents(rest.folder)
    with pytest.raises(InputError, match=r"^[^\n]*data_fingerprint was \"[^\n]*$"):
        hunter("own", dataset=str(moved), resume=True)
    assert contents(rest.folder) == before


def test_lost_networks_are_trained_again(hunted: Hunted, hunter: Hunter, copy_of_hunted: Path) -> None:
    shutil.rmtree(copy_of_hunted / "kept")
    shutil.rmtree(copy_of_hunted / "winners")
    hunter("lost", out=copy_of_hunted, resume=True)
    assert results(copy_of_hunted) == hunted.results()


def test_a_damaged_part_is_named_and_its_deletion_helps(
    hunted: Hunted, hunter: Hunter, copy_of_hunted: Path
) -> None:
    part = sorted((copy_of_hunted / "table").iterdir())[1]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError) as caught:
        hunter("damaged", out=copy_of_hunted, resume=True)
    assert str(part) in str(caught.value) and "delete it" in str(caught.value)
    part.unlink()
    hunter("damaged", out=copy_of_hunted, resume=True)
    assert results(copy_of_hunted) == hunted.results()


def test_a_second_hunt_into_the_folder_is_refused(hunted: Hunted, hunter: Hunter) -> None:
    before = contents(hunted.folder)
    with pytest.raises(InputError, match="holds the results of another run"):
        hunter("base", densities=(0.2,))
    with pytest.raises(InputError, match="num_seeds was 7 and is now 8"):
        hunter("base", num_seeds=8, resume=True)
    with (
        RunFolder.open(hunted.folder.parent / "held", {}),
        pytest.raises(InputError, match="another process is working in this folder"),
    ):
        hunter("held")
    assert contents(hunted.folder) == before


def test_overwrite_leaves_nothing_of_the_old_hunt(hunter: Hunter, copy_of_hunted: Path) -> None:
    mine = [copy_of_hunted / name for name in ("notes.txt", "kept_mine.npz", "kept/mine.npz")]
    for path in mine:
        path.write_text("mine")
    new = hunter("new", out=copy_of_hunted, overwrite=True, num_seeds=4, densities=(0.3,))
    assert {(r["seed"], r["density"]) for r in new.table} == {(s, 0.3) for s in range(4)}
    assert len(list((copy_of_hunted / "winners").iterdir())) == len(new.summary["winners"]) <= 4
    assert [path.read_text() for path in mine] == ["mine"] * 3
