"""Texts as bytes: the sources of the running Python's standard library, or any file."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxnet.data.sequences import Windows
from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.types import UInt8

STDLIB = "stdlib"
"""The name of the text that every Python brings along."""

VOCAB = 256
"""Tokens are bytes."""

DEFAULT_LIMIT = 1 << 22
"""Bytes of a text that are read by default (4 MiB)."""

PARTS = ("train", "val", "test")

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
_GENERATED = {"encodings", "pydoc_data"}  # tables of code pages and one long string: no sources to learn from


@dataclass(frozen=True, eq=False, repr=False)
class Text:
    """A text, split into parts that follow each other.

    Attributes:
      name: ``stdlib``, or the name of the user's file.
      train: ``(token,)`` uint8, the beginning.
      val: what follows it.
      test: the end.
      vocab: number of tokens, 256.
      fingerprint: 16 hexadecimal digits of the SHA-256 of all bytes that were read, and of where they are
        split, for the provenance of results.
    """

    name: str
    train: UInt8[np.ndarray, "token"]
    val: UInt8[np.ndarray, "token"]
    test: UInt8[np.ndarray, "token"]
    vocab: int
    fingerprint: str

    def windows(self, part: str, length: int, *, batch_size: int = 1) -> Windows:
        """A part as sequences of ``length`` tokens on the device, at least ``batch_size`` of them.

        Raises:
          InputError: there is no such part, or it is shorter than one batch.
        """
        if part not in PARTS:
            raise InputError(f"a text has no part {part!r}: choose one of {', '.join(PARTS)}")
        try:
            return Windows.of(getattr(self, part), length, batch_size=batch_size)
        except ValueError as error:
            raise InputError(f"{self.name}, part {part}: {error}") from None

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(getattr(self, part))} {part}" for part in PARTS)
        return f"Text({self.name!r}, bytes: {parts}, fingerprint {self.fingerprint})"


def text(
    source: str | os.PathLike[str] = STDLIB,
    *,
    limit: int | None = DEFAULT_LIMIT,
    val: float = 0.05,
    test: float = 0.05,
) -> Text:
    """Reads a text as bytes; nothing is ever downloaded.

    ``stdlib`` is the standard library of the running Python (:func:`stdlib_files`). Other Pythons have other
    texts: the fingerprint tells them apart.

    Args:
      source: ``stdlib``, or a path to a file (``./stdlib`` is a file).
      limit: bytes that are read at most; None: all.
      val: fraction of the text for validation, in [0, 1).
      test: fraction for the test, likewise; the rest is for training.

    Raises:
      InputError: there is no such file, it cannot be read or is empty, or nothing is left for training.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit of a text must be at least 1 byte: {limit}")
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise InputError(f"val and test must be fractions that leave some for training: {val}, {test}")
    name = STDLIB if source == STDLIB else user_path(source).name
    data = _standard_library(limit) if source == STDLIB else _file(user_path(source), limit)
    tokens = np.frombuffer(data, np.uint8)
    last = len(tokens) - round(test * len(tokens))
    middle = last - round(val * len(tokens))
    if middle < 1:
        raise InputError(f"{name}: {len(tokens)} bytes are too few to split")
    fingerprint = hashlib.sha256(data)
    fingerprint.update(f" {middle} {last}".encode())
    parts = tokens[:middle], tokens[middle:last], tokens[last:]
    return Text(name, *parts, VOCAB, fingerprint.hexdigest()[:16])


def stdlib_files() -> list[Path]:
    """The Python files of the running Python's standard library, in an order that mixes its packages.

    Without tests, installed packages, and what was generated (``encodings``, ``pydoc_data``). The order is
    that of the digests of the paths: the parts of a text follow each other, and in the order of the paths
    the last ones would be one package alone.
    """
    root = Path(sysconfig.get_path("stdlib"))

    def below(folder: Path) -> Iterator[Path]:
        for path in folder.iterdir():
            if path.is_dir():
                if path.name not in _SKIPPED | _GENERATED and not path.name.startswith("."):
                    yield from below(path)
            elif path.suffix == ".py":
                yield path

    def mixed(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()

    return sorted(below(root), key=mixed) if root.is_dir() else []


def _standard_library(limit: int | None) -> bytes:
    found = bytearray()
    for path in stdlib_files():
        if limit is not None and len(found) >= limit:
            break
        found += _read(path, None)
    if not found:
        raise InputError(
            f"there are no Python sources in {sysconfig.get_path('stdlib')}: give a file instead"
        )
    return bytes(found[:limit])


def _file(path: Path, limit: int | None) -> bytes:
    data = _read(path, limit)
    if not data:
        raise InputError(f"{path}: the file is empty")
    return data


def _read(path: Path, limit: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read() if limit is None else file.read(limit)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give {STDLIB}, or the path of a text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
