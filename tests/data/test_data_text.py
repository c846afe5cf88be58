"""Texts: the standard library, a file, the same every time, split one after the other."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data
from jaxnet.data.text import stdlib_files
from jaxnet.errors import InputError


def test_the_standard_library_is_the_same_every_time_and_has_no_tests():
    first, again, longer = (data.text("stdlib", limit=limit) for limit in (50_000, 50_000, 60_000))
    assert first.fingerprint == again.fingerprint != longer.fingerprint and len(first.fingerprint) == 16
    whole = np.concatenate([first.train, first.val, first.test])
    assert len(whole) == 50_000 and len(first.val) == len(first.test) == 2_500
    paths = stdlib_files()
    beginning = b"".join(path.read_bytes() for path in paths[:20])
    assert whole.tobytes()[: len(beginning)] == beginning[:50_000]
    names = {path.name for path in paths}
    assert {"argparse.py", "ast.py"} <= names and not any("site-packages" in p.parts for p in paths)
    assert not any({"test", "tests", "encodings"} & set(path.parts[-3:-1]) for path in paths)
    assert paths == stdlib_files()


def test_no_part_of_the_standard_library_is_one_package_alone():
    # split one after the other: in the order of the paths, 4 MiB ended in the tables of encodings
    root, sizes = Path(sysconfig.get_path("stdlib")), dict[str, int]()
    place, end = 0, data.text("stdlib").train.size
    for path in stdlib_files():
        if place >= end and place < 1 << 22:
            package = path.relative_to(root).parts[0]
            sizes[package] = sizes.get(package, 0) + path.stat().st_size
        place += path.stat().st_size
    assert len(sizes) >= 8 and max(sizes.values()) <= sum(sizes.values()) / 2


def test_a_file_in_windows(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(range(100)))
    text = data.text(path, val=0.2, test=0.1)
    assert [len(part) for part in (text.train, text.val, text.test)] == [70, 20, 10]
    windows = text.windows("val", 6)
    assert windows.size == 3 and text.vocab == 256
    x, y = windows.batch(jnp.asarray([2, 0]))
    assert np.array_equal(x, [range(82, 88), range(70, 76)]) and np.array_equal(y, x + 1)
    assert data.text(path, val=0.2, test=0.2).fingerprint != text.fingerprint


def test_wrong_input_is_one_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"ab")
    (tmp_path / "empty").write_bytes(b"")
    for given, what in (
        ({"source": tmp_path / "none"}, "no such file: give stdlib"),
        ({"source": tmp_path}, "cannot be read: Is a directory"),
        ({"source": tmp_path / "empty"}, "the file is empty"),
        ({"source": path, "limit": 0}, "at least 1 byte"),
        ({"source": path, "val": 0.6, "test": 0.4}, "leave some for training"),
        ({"source": path, "val": 0.4, "test": 0.4}, "2 bytes are too few to split"),
    ):
        with pytest.raises(InputError, match=what) as error:
            data.text(**given)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="text, part train: the text is shorter than one batch: 2 tokens"):
        data.text(path).windows("train", 4, batch_size=8)
    with pytest.raises(InputError, match="choose one of train, val, test"):
        data.text(path).windows("all", 1)
