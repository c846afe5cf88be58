"""Rows of results: one JSON object per line, appended and synced (pandas and DuckDB read the file)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, dump_json, open_bytes, sync_path, user_path, write_all


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Appends rows; they are on disk when this returns.

    Returns:
      Length of the file in bytes; keep it with a checkpoint for :func:`truncate_rows`.

    Raises:
      InputError: the rows cannot be written; the file is as long as before.
      ValueError: a row does not fit into JSON; nothing was written.
    """
    data = b"".join(dump_json(dict(row)).encode() + b"\n" for row in rows)
    with disk_errors(path, "write"):
        fd = open_bytes(path, os.O_WRONLY | os.O_CREAT)
        try:
            before = os.lseek(fd, 0, os.SEEK_END)
            try:
                write_all(fd, data)
                os.fsync(fd)
            except BaseException:  # also a Ctrl-C: half a line must not stay
                os.ftruncate(fd, before)
                raise
            if not before:
                sync_path(path.parent)
            return before + len(data)
        finally:
            os.close(fd)


def truncate_rows(path: Path, byte_length: int) -> None:
    """Drops the rows written after a checkpoint, so that continuing writes them once.

    Args:
      path: of the rows.
      byte_length: what :func:`append_rows` returned before the checkpoint; 0 for no rows.

    Raises:
      InputError: the file is shorter than that, or was changed from outside.
    """
    with disk_errors(path, "write"):
        size = path.stat().st_size if path.exists() else 0
        ends_line = byte_length == 0
        if 0 < byte_length <= size:
            with path.open("rb") as file:
                file.seek(byte_length - 1)
                ends_line = file.read(1) == b"\n"
        if byte_length > size or not ends_line:
            raise InputError(
                f"{path}: the checkpoint counts {byte_length} bytes of rows but the file was changed "
                f"since ({size} bytes): start again with --overwrite or another --out"
            )
        if size > byte_length:
            _cut(path, byte_length)


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads rows; a last line still being written is left out, no file means no rows.

    Raises:
      InputError: a line is damaged, or the file cannot be read.
    """
    path = user_path(path)
    with disk_errors(path, "read"):
        data = path.read_bytes() if path.exists() else b""
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is damaged: repair it or start the run again")
        rows.append(row)
    return rows


def drop_half_line(path: Path) -> None:
    """Cuts off what a process killed while writing left behind the last complete line."""
    data = path.read_bytes() if path.exists() else b""
    if not data.endswith(b"\n") and data:
        _cut(path, data.rfind(b"\n") + 1)


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
