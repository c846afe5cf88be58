"""The cache of decoded images: same arrays, damage found, two writers at once, no folder to write to."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data.arrays import make_arrays
from jaxnet.data.cache import cached
from jaxnet.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def decode(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (30, 5, 5, 3), np.uint8)
    return make_arrays("here", x[:20], np.arange(20) % 4, x[20:], np.arange(10) % 4)


def fail():
    raise AssertionError("decoded again")


def assert_same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert type(a) is type(b) or field.name in ARRAYS
        np.testing.assert_array_equal(a, b)
        assert field.name not in ARRAYS or a.dtype == b.dtype


def test_the_second_load_reads_the_same_arrays_from_disk(tmp_path):
    first = cached("some", decode, cache_dir=tmp_path / "a" / "b")
    second = cached("some", fail, cache_dir=tmp_path / "a" / "b")
    assert_same(first, decode())
    assert_same(second, decode())
    assert all(isinstance(getattr(second, name), np.memmap) for name in ARRAYS)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["some-v1"]
    with pytest.raises(AssertionError, match="decoded again"):
        cached("other", fail, cache_dir=tmp_path / "a" / "b")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["x_train.npy", "y_test.npy", "meta.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        _flip,
    ],
    ids=["missing", "empty", "cut", "longer", "flipped"],
)
def test_damage_is_named_in_one_line(tmp_path, file, damage):
    cached("some", decode, cache_dir=tmp_path)
    path = tmp_path / "some-v1" / file
    damage(path)
    folder = re.escape(str(path.parent))
    with pytest.raises(
        InputError, match=rf"^damaged data cache {folder}/{file}: [^\n]*delete the folder {folder} "
    ):
        cached("some", decode, cache_dir=tmp_path)


def test_meta_of_another_kind_is_damage(tmp_path):
    cached("some", decode, cache_dir=tmp_path)
    for text in ("[]", "3", "{}"):
        (tmp_path / "some-v1" / "meta.json").write_text(text)
        with pytest.raises(InputError, match="damaged data cache"):
            cached("some", decode, cache_dir=tmp_path)


def test_a_failed_decoding_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        cached("some", fail, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_costs_a_warning_only(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^the data cache cannot be [^\n]*JAXNET_CACHE_DIR[^\n]*$"):
            assert_same(cached("some", decode, cache_dir=tmp_path / "file"), decode())


def test_a_full_disk_costs_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert_same(cached("some", decode, cache_dir=tmp_path), decode())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_costs_a_warning_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert_same(cached("some", decode, cache_dir=tmp_path), decode())
    tmp_path.chmod(0o700)


def test_the_other_process_was_first(tmp_path):
    def slow():
        cached("some", decode, cache_dir=tmp_path)  # as if by another process, in the meantime
        return decode()

    assert_same(cached("some", slow, cache_dir=tmp_path), decode())
    assert [path.name for path in tmp_path.iterdir()] == ["some-v1"]


WRITER = """
import sys, time
import numpy as np
from jaxnet.data.arrays import make_arrays
from jaxnet.data.cache import cached
x = np.random.default_rng(0).integers(0, 256, (4000, 784), np.uint8)
print("ready", flush=True)
sys.stdin.readline()
for i in range(20):
    decode = lambda: make_arrays("here", x[i:3000], np.arange(3000 - i) % 4, x[3000:], np.arange(1000) % 4)
    arrays = cached(f"set{i}", decode, cache_dir=sys.argv[1])
    assert np.array_equal(arrays.x_train, x[i:3000]), i
"""


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both are waiting: neither has a head start
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == ""
        assert writer.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"set{i}-v1" for i in range(20))
