"""Nothing is lost: a run of ``patched_density`` killed at any moment ends with the same results."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.patched_density import STUDY, Config
from jaxnet import data
from jaxnet.errors import InputError
from jaxnet.lab import run_main
from tests.experiments.patched import (
    SMALL,
    Finished,
    Runner,
    as_flags,
    cache_variables,
    compiling_once,
    contents,
    results,
)

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


def stages(run_python: Run, cache: Path, plan: list[Any], flags: list[str]) -> list[tuple[int, str]]:
    """Runs the stages of tests/experiments/stop_at.py; exit code and stderr of each."""
    done = run_python(
        "-m", "tests.experiments.stop_at", json.dumps(plan), *flags, env=cache_variables(cache), timeout=280
    )
    assert done.returncode == 0, done.stderr
    return [tuple(stage) for stage in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        [
            ["kill", "half", "metrics.jsonl", 2],  # scaffold epoch 2: half the rows
            ["int", "half", "metrics.jsonl", 4],  # patch epoch 2
            None,
        ],
        [
            ["kill", "after", "scaffold-3", 1],  # between the phases
            ["kill", "half", "summary.json.partial", 1],
            None,
        ],
        [
            ["kill", "before", "config.json", 1],
            ["kill", "half", "metrics.jsonl", 1],
            ["int", "before", "scaffold-2", 1],  # rows without their checkpoint
            ["kill", "before", "scaffold-3", 1],
            ["int", "after", "scaffold-3", 1],
            ["kill", "half", "metrics.jsonl", 1],  # patch epoch 1
            ["kill", "before", "patch-2", 1],
            ["kill", "after", "patch-3", 1],  # everything computed, no summary
            ["int", "before", "summary.json", 1],
            ["kill", "after", "summary.json", 1],
            ["kill", "before", "extrema.png", 1],
            None,
        ],
    ],
    ids=["3 stages", "between phases", "12 stages"],
)
def test_killed_and_interrupted_everywhere_it_ends_bit_for_bit_the_same(
    plan: list[Any], base: Finished, tmp_path: Path, xla_cache: Path, run_python: Run
) -> None:
    out = tmp_path / "out"
    ended = stages(run_python, xla_cache, plan, [*as_flags({}), "--out", str(out), "--resume"])
    expected = {"kill": -signal.SIGKILL, "int": 130}
    assert [code for code, _ in ended] == [0 if p is None else expected[p[0]] for p in plan], ended
    for stage, (_, stderr) in zip(plan, ended, strict=True):
        interrupted = stage is not None and stage[0] == "int"
        assert stderr == ("interrupted: the same command with --resume continues\n" if interrupted else "")
    assert results(out) == base.results()
    assert {p.name for p in out.iterdir()} == {p.name for p in base.folder.iterdir()}
    assert not [path for path in contents(out) if "partial" in path]


@pytest.mark.slow
def test_checkpoints_are_rare_where_they_cost_more_than_epochs(
    base: Finished, patched: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saves(run: Finished) -> int:
        return max(int(path.name.split(".")[0]) for path in (run.folder / "checkpoints").iterdir())

    monkeypatch.setattr("jaxnet.store.checkpoint.OVERHEAD", 0.0)
    rare = patched("rare")
    epochs = (base.config.scaffold_epochs or 0) + base.config.patch_epochs
    assert (saves(base), saves(rare)) == (epochs, 4), "after the first and the last epoch of a stage"
    assert rare.results() == base.results()


def test_a_finished_run_continued_stays_as_it_is(base: Finished, patched: Runner, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy)
    before = base.results()
    again = patched("base", out=str(copy), resume=True)
    assert results(copy) == before
    assert again.returned["seeds"] == base.returned["seeds"]
    assert base.results() == before


@pytest.mark.slow
def test_a_run_that_stopped_early_continues_to_the_same(patched: Runner) -> None:
    # a learning rate this small changes no prediction: no seed ever finds a second best epoch
    changes: dict[str, Any] = {"patience": 2, "lr": 1e-9, "lr_scaffold": 1e-9, "lr_patch": 1e-9}
    changes |= {"scaffold_epochs": 8, "patch_epochs": 8}
    first = patched("patience", **changes)
    before = first.results()
    for phase in ("scaffold", "patch"):
        epochs = {row["seed"]: row["epoch"] for row in first.rows if row["phase"] == phase}
        assert epochs == dict.fromkeys(range(3), 3), "best at epoch 1, stopped 2 epochs later"
    assert all(s["scaffold_epoch"] == 1 and s["patched_epoch"] == 1 for s in first.seeds)
    patched("patience", **changes, resume=True)
    assert first.results() == before


def test_ctrl_c_in_the_middle_and_one_folder_for_one_process(
    base: Finished, tmp_path: Path, xla_cache: Path
) -> None:
    out = tmp_path / "out"
    flags = [*as_flags({"patch_epochs": 1_000_000}), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.patched_density", *flags],
        cwd=ROOT,
        env={**os.environ, **cache_variables(xla_cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        rows = out / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not rows.exists() or rows.read_text().count('"phase": "patch"') < 9 + 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        config = Config(**{**SMALL, "patch_epochs": 1_000_000, "out": str(out), "resume": True})
        with pytest.raises(InputError, match="another process is working in this folder"):
            STUDY.main(config)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert stdout == "digits: 3 seeds, scaffolds first, then patches\n"
    assert stderr == "interrupted: the same command with --resume continues\n"
    assert not (out / "summary.json").exists()
    # what was reported is what an undisturbed run reports, as far as it came
    expected = (base.folder / "metrics.jsonl").read_text().splitlines()
    assert rows.read_text().splitlines()[: len(expected)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.5, 2.0, 3.5, 5.0, 6.5, 8.0, 10.0])
def test_killed_by_the_clock(
    after: float, base: Finished, tmp_path: Path, xla_cache: Path, patched: Runner
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.patched_density", *as_flags({}), "--out", str(out)]
    env = {**os.environ, **cache_variables(xla_cache)}
    with subprocess.Popen([*command, "--resume"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL) as process:
        time.sleep(after)
        process.kill()
    patched("killed", out=str(out), resume=True)
    assert results(out) == base.results()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"density": 0.25}, "density was 0.2 and is now 0.25"),
        ({"num_seeds": 4}, "num_seeds was 3 and is now 4"),
        ({"placement": "random"}, 'placement was "extrema" and is now "random"'),
        ({"patch_epochs": 4}, "patch_epochs was 3 and is now 4"),
        ({"lr_patch": 0.0}, "lr_patch was 0.0005 and is now 0.0"),
        ({"sizes": None}, "sizes was [64, 24, 16, 10] and is now null"),
    ],
)
def test_another_configuration_is_not_continued(
    changes: dict[str, Any], words: str, base: Finished, patched: Runner
) -> None:
    before = contents(base.folder)
    with pytest.raises(InputError, match=re.escape(words)):
        patched("base", **changes, resume=True)
    assert contents(base.folder) == before


def test_results_of_another_run_are_replaced_only_when_told(base: Finished, patched: Runner) -> None:
    before = contents(base.folder)
    with pytest.raises(InputError, match="--resume, replace it with --overwrite, or choose another --out"):
        patched("base", density=0.25)
    assert contents(base.folder) == before
    with pytest.raises(InputError, match="exclude each other"):
        patched("base", resume=True, overwrite=True)
    assert contents(base.folder) == before


@pytest.mark.slow
def test_overwrite_replaces_the_run_and_nothing_else(base: Finished, patched: Runner, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy)
    (copy / "notes.txt").write_text("mine")
    (copy / "metrics.jsonl").write_text("of another run\n")
    patched("base", out=str(copy), overwrite=True)
    assert results(copy) == base.results()
    assert (copy / "notes.txt").read_text() == "mine"


def test_other_data_under_the_same_name_are_not_continued(base: Finished, patched: Runner) -> None:
    other = dataclasses.replace(data.load("digits"), fingerprint="another")
    before = contents(base.folder)
    with pytest.raises(InputError, match=r'data_fingerprint was ".*" and is now "another"'):
        patched("base", images=other, resume=True)
    assert contents(base.folder) == before


OWN: dict[str, Any] = {"sizes": (6, 8, 4, 3), "density": 0.5, "num_seeds": 2, "max_patches": 1}


def own_data(path: Path, seed: int = 0) -> Path:
    """A small ``.npz`` of three classes."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(90, 6)).astype(np.float32), np.arange(90) % 3
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return path


@pytest.mark.slow
def test_own_data_may_lie_elsewhere_when_a_run_is_continued(
    patched: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, moved = own_data(tmp_path / "data" / "i.npz"), tmp_path / "home" / "other.npz"
    moved.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(moved.parent))
    done = patched("own", **OWN, dataset="data/i.npz")
    before = done.results()
    # as if killed before the end: half of it is done again
    shutil.rmtree(newest(done.folder))
    (done.folder / "summary.json").unlink()
    first.rename(moved)
    patched("own", **OWN, dataset="~/other.npz", resume=True)
    assert done.results() == before
    config = json.loads((done.folder / "config.json").read_text())
    assert config["dataset"] == "data/i.npz", "as the run began"


@pytest.mark.slow
def test_other_data_under_the_same_path_are_not_continued(patched: Runner, tmp_path: Path) -> None:
    path = own_data(tmp_path / "i.npz")
    folder = patched("exchanged", **OWN, dataset=str(path)).folder
    before = contents(folder)
    own_data(path, seed=1)
    with pytest.raises(InputError, match=r"^[^\n]*data_fingerprint was \"[^\n]*$"):
        patched("exchanged", **OWN, dataset=str(path), resume=True)
    # the same numbers by the name of a known set are normalised otherwise: another fingerprint
    known = dataclasses.replace(data.load(own_data(path)), fingerprint="of a known set")
    with pytest.raises(InputError, match=r"^[^\n]*data_fingerprint was \"[^\n]*$"):
        patched("exchanged", **OWN, images=known, resume=True)
    assert contents(folder) == before


@pytest.mark.slow
def test_every_path_of_the_command_line_may_begin_with_a_home_folder(
    patched: Runner, tmp_path: Path, xla_cache: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own_data(tmp_path / "home" / "i.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    flags = ["--dataset=~/i.npz", "--data-dir=~/tfds", "--out=~/runs/a", *as_flags(OWN)]
    with compiling_once(xla_cache):
        run_main(STUDY.main, Config, flags)
        run_main(STUDY.main, Config, [*flags, "--resume"])
    assert f"results in {tmp_path}/home/runs/a" in capsys.readouterr().out
    assert (tmp_path / "home" / "runs" / "a" / "summary.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    for wrong in ("--out=~nobody-here/a", "--dataset=~nobody-here/i.npz", "--from-checkpoint=~nobody-here/w"):
        with pytest.raises(SystemExit) as caught:
            run_main(
                STUDY.main, Config, ["--out", "new", "--num-seeds", "1", wrong][2 * ("--out" in wrong) :]
            )
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (2, "") and len(err.splitlines()) == 1
        assert "there is no home folder ~nobody-here" in err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.fixture
def copy_of_base(base: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    copy = tmp_path / "copy"
    shutil.copytree(base.folder, copy)
    return copy


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def biggest_file(folder: Path) -> Path:
    return max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["truncated array", "flipped bit", "truncated manifest", "missing file"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    damage: str, copy_of_base: Path, patched: Runner
) -> None:
    folder = newest(copy_of_base)
    file = folder / "manifest.json" if damage == "truncated manifest" else biggest_file(folder)
    whole = file.read_bytes()
    if damage == "missing file":
        file.unlink()
    elif damage == "flipped bit":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        file.write_bytes(whole[: len(whole) // 2])
    before = {k: v for k, v in contents(copy_of_base).items() if k != "provenance.json"}
    with pytest.raises(InputError) as caught:
        patched("base", out=str(copy_of_base), resume=True)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert f"delete the folder {folder} to continue from" in str(caught.value)
    assert {k: v for k, v in contents(copy_of_base).items() if k != "provenance.json"} == before


@pytest.mark.slow
def test_what_the_error_advises_works(base: Finished, copy_of_base: Path, patched: Runner) -> None:
    shutil.rmtree(newest(copy_of_base))
    patched("base", out=str(copy_of_base), resume=True)
    assert results(copy_of_base) == base.results()


def test_rows_changed_from_outside_are_not_continued(copy_of_base: Path, patched: Runner) -> None:
    rows = copy_of_base / "metrics.jsonl"
    rows.write_bytes(rows.read_bytes()[:-200])
    with pytest.raises(InputError, match="the file was changed since"):
        patched("base", out=str(copy_of_base), resume=True)


def test_folder_is_free_after_an_error(base: Finished, patched: Runner, xla_cache: Path) -> None:
    """An error leaves no lock behind: the same process may go on in the folder."""
    with compiling_once(xla_cache), pytest.raises(InputError):
        STUDY.main(Config(**{**SMALL, "out": str(base.folder), "num_seeds": 2, "resume": True}))
    patched("base", resume=True)
