"""The folder of a run: nothing is lost, nothing foreign is touched, errors say what to do."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxnet.store.folder as records
from jaxnet.errors import InputError
from jaxnet.files import json_safe, read_json, write_json
from jaxnet.provenance import _git as git_state
from jaxnet.provenance import provenance
from jaxnet.store import RunFolder, read_rows

CONFIG = {"seeds": 4, "rate": 0.1, "sizes": (784, 10), "out": "runs/a", "resume": False}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.open(tmp_path / "run", CONFIG) as opened:
        yield opened


def fails(match: str, call: Callable[[], object]) -> str:
    with pytest.raises(InputError, match=match) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def full(_fd: int, _data: object = None) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Starting, continuing, replacing


def test_a_new_folder_holds_the_configuration_without_paths_and_switches(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "a" / "b", CONFIG) as run:
        assert not run.resumed and run.read_rows() == []
        assert read_json(run.path / "config.json") == {"seeds": 4, "rate": 0.1, "sizes": [784, 10]}


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json"])
def test_anothers_results_are_refused_and_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}\n")
    message = fails(name, lambda: RunFolder.open(tmp_path, CONFIG))
    assert all(way in message for way in ("--resume", "--overwrite", "--out"))
    assert (tmp_path / name).read_text() == "{}\n"


def test_a_folder_with_unknown_files_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.open(tmp_path, CONFIG).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_continues_with_equal_configuration(folder: RunFolder) -> None:
    folder.append_rows([{"step": 1}])
    folder.close()
    moved = {**CONFIG, "out": "elsewhere", "resume": True}
    with RunFolder.open(folder.path, moved, resume=True) as again:
        assert again.resumed
        again.append_rows([{"step": 2}])
        assert again.read_rows() == [{"step": 1}, {"step": 2}]


def test_resume_of_an_empty_folder_starts(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, resume=True) as run:
        assert not run.resumed
    assert (tmp_path / "config.json").exists()


def test_resume_names_every_differing_key_with_both_values(folder: RunFolder) -> None:
    folder.close()
    other = {"seeds": 5, "rate": 0.1, "sizes": (784, 10), "extra": None}
    message = fails("seeds was 4 and is now 5", lambda: RunFolder.open(folder.path, other, resume=True))
    assert "extra was not set and is now null" in message and "rate" not in message


def test_resume_needs_the_minor_version_of_jax_that_the_run_began_with(folder: RunFolder) -> None:
    folder.close()
    path, major_minor = folder.path, ".".join(jax.__version__.split(".")[:2])
    unsaid: list[Any] = [{"versions": {"jax": f"{major_minor}.999"}}, {"versions": {"jax": None}}, {}, []]
    for stored in unsaid:
        write_json(path / "provenance.json", stored)  # another patch release, and files that do not say
        RunFolder.open(path, CONFIG, resume=True).close()
    write_json(path / "provenance.json", {"versions": {"jax": "0.9.3"}})
    message = fails("needs JAX 0.9", lambda: RunFolder.open(path, CONFIG, resume=True))
    assert "install jax==0.9.3" in message and "--overwrite" in message and jax.__version__ in message
    RunFolder.open(path, CONFIG, overwrite=True).close()
    assert not (path / "provenance.json").exists()


def test_what_is_only_stored_may_differ_and_stays_as_the_run_began(tmp_path: Path) -> None:
    def opened(path: str, fingerprint: str, resume: bool = False) -> RunFolder:
        config = {"dataset": path, "data_fingerprint": fingerprint}
        return RunFolder.open(tmp_path, config, resume=resume, only_stored=["dataset"])

    opened("a.npz", "1").close()
    with opened("elsewhere/b.npz", "1", resume=True) as run:
        assert run.resumed and read_json(run.path / "config.json")["dataset"] == "a.npz"
    message = fails("data_fingerprint", lambda: opened("a.npz", "2", resume=True))
    assert 'data_fingerprint was "1" and is now "2"' in message and "dataset was" not in message


def test_a_run_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with RunFolder.open("~/run", CONFIG) as run:
        run.append_rows([{"a": 1}])
        assert run.path == tmp_path / "home" / "run"
    assert read_rows("~/run/metrics.jsonl") == [{"a": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    fails("there is no home folder", lambda: RunFolder.open("~nobody-here/run", CONFIG))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_resume_needs_a_readable_configuration(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\n')
    fails("no config.json", lambda: RunFolder.open(tmp_path, CONFIG, resume=True))
    for damaged in ("{", "[]", "\xff"):
        (tmp_path / "config.json").write_text(damaged, encoding="latin-1")
        fails("damaged", lambda: RunFolder.open(tmp_path, CONFIG, resume=True))


def test_overwrite_deletes_what_a_run_writes_and_nothing_else(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.append_rows([{"a": 1}])
        run.write_json("summary.json", {})
    for ours in ("000002.step-1", "000003.step-2.partial"):
        (tmp_path / "checkpoints" / ours / "state").mkdir(parents=True)
    foreign = ["notes.txt", "data.json", "checkpoints/mine.txt", "checkpoints/best/weights"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "curve.png").write_text("plot")
    with RunFolder.open(tmp_path, {"seeds": 9}, overwrite=True, owns=["curve.png"]) as run:
        assert not run.resumed and run.read_rows() == [] and not (tmp_path / "summary.json").exists()
        assert read_json(tmp_path / "config.json") == {"seeds": 9}
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*foreign, "config.json", ".lock"}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best", "mine.txt"]


def test_checkpoints_alone_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "000001.a").mkdir(parents=True)
    fails("checkpoints", lambda: RunFolder.open(tmp_path, CONFIG))


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    fails("exclude", lambda: RunFolder.open(tmp_path / "x", CONFIG, resume=True, overwrite=True))
    assert not (tmp_path / "x").exists()


# The lock


def test_a_second_process_or_run_is_refused_until_the_first_ends(folder: RunFolder) -> None:
    for way in ({}, {"resume": True}, {"overwrite": True}):
        fails("another process", lambda way=way: RunFolder.open(folder.path, CONFIG, **way))  # type: ignore[misc]
    folder.close()
    RunFolder.open(folder.path, CONFIG, resume=True).close()


def test_a_killed_process_leaves_no_lock_and_no_half_line(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom jaxnet.store import RunFolder\n"
        "run = RunFolder.open(sys.argv[1], {'seeds': 4})\nrun.append_rows([{'a': 1}])\n"
        "open(run.path / 'metrics.jsonl', 'a').write('{\"a\": ')\n"
        "print('ready', flush=True)\ntime.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        cwd=Path(records.__file__).parents[2],
    )  # fmt: skip
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        fails("another process", lambda: RunFolder.open(tmp_path, {"seeds": 4}, resume=True))
        child.send_signal(signal.SIGKILL)
        child.wait()
    with RunFolder.open(tmp_path, {"seeds": 4}, resume=True) as run:
        assert (run.path / "metrics.jsonl").read_bytes() == b'{"a": 1}\n'
        run.append_rows([{"a": 2}])
        assert run.read_rows() == [{"a": 1}, {"a": 2}]


def test_a_closed_folder_writes_nothing(folder: RunFolder) -> None:
    folder.close()
    folder.close()
    with pytest.raises(ValueError, match="closed"):
        folder.append_rows([{"a": 1}])


# Rows


def test_rows_return_the_length_of_the_file(folder: RunFolder) -> None:
    path = folder.path / "metrics.jsonl"
    batches: list[list[dict[str, Any]]] = [[{"a": 1}], [], [{"b": [1.5, None]}, {"c": "ä\n"}]]
    for rows in batches:
        assert folder.append_rows(rows) == path.stat().st_size
    assert folder.read_rows() == [{"a": 1}, {"b": [1.5, None]}, {"c": "ä\n"}]


def test_truncating_drops_the_rows_after_a_checkpoint(folder: RunFolder) -> None:
    length = folder.append_rows([{"a": 1}, {"a": 2}])
    folder.append_rows([{"a": 3}])
    folder.truncate_rows(length)
    folder.truncate_rows(length)
    assert folder.read_rows() == [{"a": 1}, {"a": 2}]
    folder.truncate_rows(0)
    assert folder.read_rows() == []


def test_truncating_a_file_changed_from_outside_is_refused(folder: RunFolder) -> None:
    fails("changed", lambda: folder.truncate_rows(8))
    length = folder.append_rows([{"a": 1}])
    for wrong in (length + 1, length - 1):
        fails("changed", lambda wrong=wrong: folder.truncate_rows(wrong))  # type: ignore[misc]
    assert folder.read_rows() == [{"a": 1}]


def test_a_row_that_json_cannot_hold_writes_nothing(folder: RunFolder) -> None:
    folder.append_rows([{"a": 1}])
    with pytest.raises(ValueError, match="object"):
        folder.append_rows([{"a": 2}, {"a": object()}])
    assert folder.read_rows() == [{"a": 1}]


@given(cut=st.integers(0, 40))
def test_a_file_cut_anywhere_reads_as_its_complete_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    lines = b"".join(b'{"a": %d}\n' % i for i in range(4))
    path.write_bytes(lines[:cut])
    assert read_rows(path) == [{"a": i} for i in range(min(cut // 9, 4))]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in ("oops", "[1]", ""):
        path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
        fails("line 2 is damaged", lambda: read_rows(path))


# Full disks and missing rights


@pytest.mark.parametrize("written", [0, 3])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_rows_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, written: int, call: str
) -> None:
    folder.append_rows([{"a": 1}])
    before = (folder.path / "metrics.jsonl").read_bytes()
    real = os.write
    done: list[int] = []

    def partly(fd: int, data: Any) -> int:
        if done or not written:
            return full(fd)
        done.append(fd)
        return real(fd, bytes(data)[:written])

    monkeypatch.setattr(os, call, partly if call == "write" else full)
    fails(r"metrics\.jsonl: the disk is full", lambda: folder.append_rows([{"a": 2}]))
    monkeypatch.undo()
    assert (folder.path / "metrics.jsonl").read_bytes() == before
    folder.append_rows([{"a": 3}])
    assert folder.read_rows() == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_json_file_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    folder.write_json("summary.json", {"a": 1})
    monkeypatch.setattr(os, call, full)
    fails(r"summary\.json: the disk is full", lambda: folder.write_json("summary.json", {"a": 2}))
    monkeypatch.undo()
    assert read_json(folder.path / "summary.json") == {"a": 1}
    assert not list(folder.path.glob("*.partial")) and not list(folder.path.glob(".*.partial"))


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path]) -> Path:
    """A file system of its own with 64 KiB."""
    return mount_disk(64)


def test_a_disk_that_really_fills_up(small_disk: Path) -> None:
    with RunFolder.open(small_disk / "run", CONFIG) as run:
        row = {"text": "x" * 999}
        written = 0

        def fill() -> None:
            nonlocal written
            while True:
                run.append_rows([row])
                written += 1

        fails("the disk is full", fill)
        assert 10 < written < 64 and run.read_rows() == [row] * written
        fails("the disk is full", lambda: run.write_json("summary.json", {"text": "x" * 9999}))
        assert run.read_rows() == [row] * written and not (run.path / "summary.json").exists()


def test_a_file_in_the_way_and_a_missing_right_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/below"):
        fails("a file stands where", lambda path=path: RunFolder.open(tmp_path / path, {}))  # type: ignore[misc]
    fails("no such file", lambda: read_json(tmp_path / "missing.json"))

    def forbidden(*_args: object, **_kwargs: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    fails("no permission", lambda: RunFolder.open(tmp_path / "other", {}))


# JSON


def test_json_holds_arrays_numbers_and_null_for_nan(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Point:
        x: float
        y: tuple[int, ...]

    given = {
        "nan": float("nan"), "inf": -np.inf, "np": np.float32(0.1), "jax": jnp.asarray([1.0, jnp.nan]),
        "point": Point(1.5, (2, 3)), "path": Path("a/b"), 7: np.bool_(True), "int": np.int64(2**40),
        "bf16": np.asarray([1.5], ml_dtypes.bfloat16), "empty": np.zeros((0, 2)), "none": None,
    }  # fmt: skip
    write_json(tmp_path / "x.json", given)
    assert read_json(tmp_path / "x.json") == {
        "nan": None, "inf": None, "np": float(np.float32(0.1)), "jax": [1.0, None],
        "point": {"x": 1.5, "y": [2, 3]}, "path": "a/b", "7": True, "int": 2**40,
        "bf16": [1.5], "empty": [], "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [object(), {1.5: 1}, {"a": {2}}, b"x", 1j, jax.random.key(0)])
def test_json_refuses_the_rest(wrong: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_safe(wrong)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_exactly(value: float) -> None:
    assert json.loads(json.dumps(json_safe({"x": value})))["x"].hex() == value.hex()


@pytest.mark.parametrize("name", ["../x.json", "a/b.json", "x.txt", ""])
def test_json_files_have_bare_names(folder: RunFolder, name: str) -> None:
    with pytest.raises(ValueError, match="bare file name"):
        folder.write_json(name, {})


# Provenance


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()


def test_provenance_names_versions_and_device() -> None:
    told = provenance()
    assert told["versions"]["jax"] == jax.__version__ and told["versions"]["python"].startswith("3.")
    assert (
        told["device"]["platform"] == jax.default_backend() and told["device"]["count"] == jax.device_count()
    )
    assert told["time_utc"].endswith("+00:00")
    text = json.dumps(told)
    assert os.uname().nodename not in text and str(Path.cwd()) not in text and str(Path.home()) not in text


def test_git_commit_and_dirt(tmp_path: Path) -> None:
    try:
        git(tmp_path, "init", "-q")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    file = tmp_path / "module.py"
    file.write_text("a = 1\n")
    assert git_state(file) is None  # not tracked
    git(tmp_path, "add", "module.py")
    assert git_state(file) is None  # no commit yet
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "untracked.txt").write_text("x")
    assert git_state(file) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    file.write_text("a = 2\n")
    told = git_state(file)
    assert told is not None and told["dirty"] is True


def test_no_git_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(records.__file__)) is None
