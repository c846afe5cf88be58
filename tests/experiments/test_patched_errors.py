"""Wrong input to ``patched_density`` ends with one clear line, exit code 2 and nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.patched_density import STUDY, Config
from jaxnet.lab import run_main
from tests.experiments.patched import (
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


OPENING = "digits: 3 seeds, scaffolds first, then patches\n"
"""What a run says before it computes."""


def error_line(capsys: pytest.CaptureFixture[str], argv: list[str], cache: Path) -> str:
    """The one line on stderr with which the command ends with exit code 2."""
    with compiling_once(cache), pytest.raises(SystemExit) as caught:
        run_main(STUDY.main, Config, argv)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out in ("", OPENING)
    return only_line(err)


def only_line(err: str) -> str:
    assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
    return err[len("error: ") : -1]


WRONG = [
    (["--density", "0"], "--density must be above 0 and at most 1: 0.0"),
    (["--density", "1.5"], "--density must be above 0 and at most 1: 1.5"),
    (["--density", "-0.1"], "--density must be above 0 and at most 1: -0.1"),
    (["--density", "nan"], "--density: 'nan' is not a finite number"),
    (["--density", "inf"], "--density: 'inf' is not a finite number"),
    (["--density", "1e-6"], "density 1e-06 leaves the 64x256 layer without any weight: raise the density"),
    (["--density", "0.01", "--allocation", "dense-output", "--sizes", "64,16,8,10"], "too few for a dense"),
    (["--patch-density", "0"], "--patch-density must be above 0 and at most 1"),
    (["--patch-density", "nan"], "--patch-density: 'nan' is not a finite number"),
    (["--sizes", "784,256,128,10"], "does not fit digits: it has 64 features and 10 classes"),
    (["--sizes", "64,256,128,9"], "does not fit digits: it has 64 features and 10 classes"),
    (["--sizes", "64,10"], "--sizes needs three or more positive sizes"),
    (["--sizes", "64,0,10"], "--sizes needs three or more positive sizes"),
    (["--sizes", "64,-5,10"], "--sizes needs three or more positive sizes"),
    (["--sizes", ""], "--sizes needs three or more positive sizes"),
    (["--sizes", "64,a,10"], "'a' is not a whole number"),
    (["--sizes", "64,99999999999,10"], "too large"),
    (["--lr", "-0.001"], "--lr must be above 0: -0.001"),
    (["--lr", "0"], "--lr must be above 0"),
    (["--lr", "inf"], "--lr: 'inf' is not a finite number"),
    (["--lr-scaffold", "-1"], "--lr-scaffold must be 0 or more: -1.0"),
    (["--lr-patch", "-1e-9"], "--lr-patch must be 0 or more: -1e-09"),
    (["--lr-patch", "nan"], "--lr-patch: 'nan' is not a finite number"),
    (["--num-seeds", "0"], "--num-seeds must be at least 1: 0"),
    (["--seed", "-1"], "--seed must be at least 0: -1"),
    (["--seed", str(2**32 - 4)], "seeds must be below 2**32"),
    (["--data-seed", str(2**32)], "seeds must be below 2**32"),
    (["--scaffold-epochs", "0"], "--scaffold-epochs must be at least 1: 0"),
    (["--patch-epochs", "-1"], "--patch-epochs must be at least 0: -1"),
    (["--batch-size", "0"], "--batch-size must be at least 1: 0"),
    (["--max-patches", "-1"], "--max-patches must be at least 0: -1"),
    (["--patience", "0"], "--patience must be at least 1: 0"),
    (["--extrema-samples", "1"], "--extrema-samples must be at least 2: 1"),
    (["--placement", "centre"], "'centre' is not one of extrema, random, least"),
    (["--protocol", "dirty"], "'dirty' is not one of clean, seed"),
    (["--patch-kind", "conv"], "'conv' is not one of mlp, dense"),
    (["--kernel", "fast"], "'fast' is not one of auto, dense, csr"),
    (["--mask-mode", "scaffold-phase", "--patch-kind", "dense"], "leaves no room for new connections"),
    (["--sparsity", "0.02"], "Unknown option: --sparsity"),
    (["--patch-epoch", "3"], "Unknown option: --patch-epoch. Did you mean --patch-epochs?"),
    (["--dataset", "digit"], "unknown data set 'digit' (did you mean digits?)"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (["--dataset", "nowhere.npz"], "nowhere.npz"),
    (["--resume", "--overwrite"], "exclude each other"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_input(
    argv: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    xla_cache: Path,
) -> None:
    out = tmp_path / "out"
    line = error_line(capsys, [*argv, "--out", str(out)], xla_cache)
    assert words in line
    assert list(tmp_path.iterdir()) == [], "nothing is written, not even the folder"


@pytest.mark.parametrize("argv", [["--sizes", "64,8,9"], ["--no-such-flag"]])
def test_wrong_input_ends_the_process_with_code_2(argv: list[str], tmp_path: Path, run_python: Run) -> None:
    done = run_python("-m", "experiments.patched_density", *argv, "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    only_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--density", "0.5"], ["--density", "0"], ["--dataset", "nothing"]])
def test_a_finished_run_survives_wrong_input(
    argv: list[str], base: Finished, capsys: pytest.CaptureFixture[str], xla_cache: Path
) -> None:
    before = contents(base.folder)
    for way in ([], ["--resume"]):
        error_line(capsys, [*argv, *way, "--out", str(base.folder)], xla_cache)
        assert contents(base.folder) == before
    error_line(capsys, ["--density", "0", "--overwrite", "--out", str(base.folder)], xla_cache)
    error_line(capsys, ["--sizes", "64,8,9", "--overwrite", "--out", str(base.folder)], xla_cache)
    assert contents(base.folder) == before


def test_a_file_where_the_folder_should_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, xla_cache: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/below"):
        line = error_line(capsys, as_flags({"out": str(tmp_path / out)}), xla_cache)
        assert "a file stands where a folder is needed" in line and "file" in line
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, xla_cache: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    line = error_line(capsys, as_flags({"out": str(closed / "out")}), xla_cache)
    assert "no permission" in line and list(closed.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, where nobody may write")
def test_a_folder_where_nobody_may_write(capsys: pytest.CaptureFixture[str], xla_cache: Path) -> None:
    assert "/proc/nowhere" in error_line(capsys, as_flags({"out": "/proc/nowhere/out"}), xla_cache)


def test_an_empty_name_is_no_folder(capsys: pytest.CaptureFixture[str], xla_cache: Path) -> None:
    assert "--out must name a folder" in error_line(capsys, ["--out", ""], xla_cache)


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A file system of its own with 300 KiB, which holds the first checkpoints and no more."""
    return mount_disk(300)


@pytest.mark.parametrize(
    "free", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2_000, 30_000, 120_000))]
)
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    free: int,
    small_disk: Path,
    base: Finished,
    capsys: pytest.CaptureFixture[str],
    xla_cache: Path,
    patched: Runner,
    tmp_path: Path,
) -> None:
    filler, out = small_disk / "filler", small_disk / "out"
    disk = os.statvfs(small_disk)
    filler.write_bytes(b"x" * max(0, disk.f_bavail * disk.f_frsize - free))
    line = error_line(capsys, [*as_flags({}), "--out", str(out)], xla_cache)
    assert "the disk is full: make room, then continue with --resume" in line
    assert not (out / "summary.json").exists()
    rows = out / "metrics.jsonl"
    assert not rows.exists() or rows.read_bytes()[-1:] in (b"", b"\n")
    if free != 30_000:
        return
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    patched("roomier", out=str(copy), resume=True)
    assert results(copy) == base.results()


@pytest.mark.slow
def test_a_file_size_limit_ends_in_one_line(base: Finished, tmp_path: Path, xla_cache: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.patched_density", *as_flags({}), "--out", str(out)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 3; exec "$@"', "limited", *command],
        cwd=ROOT,
        # JAX warns of programs that it cannot keep
        env={**os.environ, **cache_variables(xla_cache), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (2, OPENING)
    assert only_line(done.stderr).endswith("cannot write it: File too large")
    assert not (out / "summary.json").exists()
    assert not [path for path in contents(out) if "partial" in path]


def test_labels_and_images_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, xla_cache: Path
) -> None:
    file, out = tmp_path / "bad.npz", tmp_path / "out"
    x, y = np.zeros((20, 4), np.uint8), np.arange(20) % 2
    whole: dict[str, Any] = {"x_train": x, "y_train": y, "x_test": x[:5], "y_test": y[:5]}
    for changes, words in (
        ({"y_train": y[:7]}, "one label for each of the 20 images"),
        ({"x_test": np.zeros((5, 3), np.uint8)}, "images of one shape"),
        ({"y_test": y[:5] + 7}, "out of range"),
        ({"x_train": np.full((20, 4), np.nan)}, "NaN"),
    ):
        np.savez(file, **{**whole, **changes})
        line = error_line(capsys, ["--dataset", str(file), "--out", str(out)], xla_cache)
        assert words in line or "one kind" in line
    file.write_bytes(file.read_bytes()[:100])
    assert str(file) in error_line(capsys, ["--dataset", str(file), "--out", str(out)], xla_cache)
    assert not out.exists()


@pytest.mark.slow
def test_rates_at_which_all_diverge(patched: Runner) -> None:
    """No error: null where a loss or an accuracy is not finite."""
    wild = patched("wild", lr=1e30, lr_patch=1e30, lr_scaffold=1e30)
    assert any(row["train_loss"] is None for row in wild.rows)
    assert wild.summary["diverged"] == [0, 1, 2]
    for seed in wild.seeds:
        assert seed["scaffold_accuracy"] is seed["patched_accuracy"] is None
        assert sum(sum(seed[f"extrema_{kind}"]) for kind in ("high", "low", "nan")) <= 24 + 16
