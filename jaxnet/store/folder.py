"""The folder of a run: its configuration, its rows of results, its summary.

Layout::

    config.json        what was asked for
    provenance.json    which code, versions and device (written by the caller; a run is continued
                       with the minor version of JAX that it was begun with)
    metrics.jsonl      one JSON object per line, appended and synced
    summary.json       the results at the end (written by the caller)
    checkpoints/       see jaxnet.store.checkpoint
    .lock              locked while a process works here

JSON files appear whole or not at all; NaN and infinities are ``null`` in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxnet import files
from jaxnet.errors import InputError

CONFIG, METRICS, SUMMARY, PROVENANCE = "config.json", "metrics.jsonl", "summary.json", "provenance.json"
CHECKPOINTS, LOCK = "checkpoints", ".lock"

# the name of a checkpoint's folder: order of saving, name, and whether it is unfinished
CHECKPOINT_FOLDER = re.compile(
    r"(?P<order>\d{6,})\.(?P<name>[A-Za-z0-9][A-Za-z0-9_-]*)(?P<partial>\.partial)?", re.ASCII
)


class RunFolder(contextlib.AbstractContextManager["RunFolder"]):
    """A locked output folder of one run; make it with :meth:`open`, and close it.

    Attributes:
      path: the folder; ``checkpoints``: that for checkpoints in it.
      resumed: whether an earlier run is being continued.
    """

    def __init__(self, path: Path, lock: int | None, resumed: bool) -> None:
        self.path, self.resumed, self._lock = path, resumed, lock
        self.checkpoints = path / CHECKPOINTS

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        may_differ: Sequence[str] = ("out", "resume", "overwrite"),
        only_stored: Sequence[str] = (),
        owns: Sequence[str] = (),
    ) -> RunFolder:
        """Creates or continues the folder of a run and locks it until the process ends, however it ends.

        Nothing is written where this fails, apart from an empty new folder and its lock.

        Args:
          path: the folder; made with its parents where it does not exist.
          config: what is asked for, JSON-like; stored in ``config.json``.
          resume: continue the run in the folder; with none there, start one.
          overwrite: delete what a run writes (the names above, ``owns``) and start again.
          may_differ: keys of ``config`` that say where and how: neither stored nor compared.
          only_stored: keys that are stored as the run began and never compared (paths).
          owns: names of further files the experiment writes (plots).

        Raises:
          InputError: the folder holds another run, its configuration or the minor version
            of JAX differs, it is in use or cannot be written, or the system has no locks.
          ValueError: ``config`` does not fit into JSON.
        """
        folder = files.user_path(path)
        wanted = files.json_safe({key: value for key, value in config.items() if key not in may_differ})
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: continue the run or replace it")
        try_lock = files.file_lock()
        with files.disk_errors(folder, "use"), contextlib.ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True)
            lock = files.open_bytes(folder / LOCK, os.O_RDWR | os.O_CREAT)
            undo.callback(os.close, lock)
            if not try_lock(lock):
                ways = "wait for it or choose another --out"
                raise InputError(f"{folder}: another process is working in this folder: {ways}")
            found = [name for name in (CONFIG, METRICS, SUMMARY) if (folder / name).exists()]
            found += [CHECKPOINTS] if checkpoint_folders(folder / CHECKPOINTS) else []
            if found and resume:
                _check_same(folder, wanted, only_stored)
                _check_jax(folder)
                rows = _read(folder / METRICS)  # half a line of a process that was killed goes
                _cut(folder / METRICS, rows, rows.rfind(b"\n") + 1)
            elif found and not overwrite:
                ways = "continue it with --resume, replace it with --overwrite, or choose another --out"
                raise InputError(f"{folder} holds the results of another run ({', '.join(found)}): {ways}")
            else:
                if overwrite:
                    _delete_run(folder, owns)
                files.write_json(folder / CONFIG, wanted)
            undo.pop_all()
        return cls(folder, lock, bool(found and resume))

    def close(self) -> None:
        """Gives the lock back. Closing twice does no harm."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write_json(self, name: str, obj: Any) -> None:
        """As :func:`jaxnet.files.write_json`; a ValueError too where ``name`` is no bare file name."""
        self._check_open()
        if Path(name).name != name or not name.endswith(".json"):
            raise ValueError(f"a bare file name that ends in .json is needed: {name!r}")
        files.write_json(self.path / name, obj)

    def append_rows(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Appends rows, which are on disk when this returns; gives the length of the file in bytes.

        Raises:
          InputError: the rows cannot be written; the file is as long as before.
          ValueError: a row does not fit into JSON; nothing was written.
        """
        self._check_open()
        data = b"".join(files.dump_json(dict(row)).encode() + b"\n" for row in rows)
        path = self.path / METRICS
        with files.disk_errors(path, "write"), path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                files.write_all(file.fileno(), data)
                os.fsync(file.fileno())
            except BaseException:  # also a Ctrl-C: half a line must not stay
                file.truncate(before)
                raise
            if not before:
                files.sync_path(self.path)
        return before + len(data)

    def truncate_rows(self, byte_length: int) -> None:
        """Drops the rows behind a length that :meth:`append_rows` gave: a continued run writes them again.

        Raises:
          InputError: the file is shorter than that, or was changed from outside.
        """
        self._check_open()
        path = self.path / METRICS
        data = _read(path)
        if len(data) < byte_length or not data[:byte_length].endswith(b"\n" * bool(byte_length)):
            raise InputError(
                f"{path}: the checkpoint counts {byte_length} bytes of rows but the file was changed "
                f"since ({len(data)} bytes): start again with --overwrite or another --out"
            )
        _cut(path, data, byte_length)

    def read_rows(self) -> list[dict[str, Any]]:
        """All rows; see :func:`read_rows`."""
        return read_rows(self.path / METRICS)

    def _check_open(self) -> None:
        if self._lock is None:
            raise ValueError(f"the run folder {self.path} is closed")


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads rows; a last line still being written is left out, no file means no rows.

    Raises:
      InputError: a line is damaged, or the file cannot be read.
    """
    path, rows = files.user_path(path), []
    for number, line in enumerate(_read(path).split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is damaged: repair it or start the run again")
        rows.append(row)
    return rows


def _read(path: Path) -> bytes:
    with files.disk_errors(path, "read"):
        return path.read_bytes() if path.exists() else b""


def _cut(path: Path, data: bytes, length: int) -> None:
    """Shortens a file that holds ``data``, where it is longer."""
    if length < len(data):
        with files.disk_errors(path, "write"):
            os.truncate(path, length)
            files.sync_path(path)


def _check_same(folder: Path, wanted: dict[str, Any], only_stored: Sequence[str]) -> None:
    if not (folder / CONFIG).exists():
        what = f"holds results but no {CONFIG}, so --resume cannot tell whether they fit"
        raise InputError(f"{folder} {what}: replace them with --overwrite or choose another --out")
    stored = files.read_json(folder / CONFIG)
    if not isinstance(stored, dict):
        raise InputError(f"{folder / CONFIG} is damaged: use --overwrite or choose another --out")

    def shown(config: dict[str, Any], key: str) -> str:
        return json.dumps(config[key]) if key in config else "not set"

    differ = [
        f"{key} was {shown(stored, key)} and is now {shown(wanted, key)}"
        for key in {**stored, **wanted}
        if key not in only_stored and (key in stored, stored.get(key)) != (key in wanted, wanted.get(key))
    ]
    if differ:
        raise InputError(
            f"{folder}: --resume needs the configuration of the run in it, but {'; '.join(differ)}: "
            "give the same values, --overwrite, or another --out"
        )


def _check_jax(folder: Path) -> None:
    """Random bits, and so the order of the samples, are promised by JAX within a minor version only."""
    here = version("jax")
    stored: Any = files.read_json(folder / PROVENANCE) if (folder / PROVENANCE).exists() else None
    try:
        minor = (begun := stored["versions"]["jax"]).split(".")[:2]
    except (KeyError, TypeError, AttributeError):  # it does not say
        return
    if minor != here.split(".")[:2]:
        why = f"with which this run was begun (here is {here}: order and draws could differ)"
        ways = f"install jax=={begun}, or start anew with --overwrite"
        raise InputError(f"{folder}: --resume needs JAX {'.'.join(minor)}, {why}: {ways}")


def checkpoint_folders(folder: Path) -> list[tuple[re.Match[str], Path]]:
    """The folders in a folder that are named as checkpoints are, and what their names say."""
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [(match, path) for path in found if (match := CHECKPOINT_FOLDER.fullmatch(path.name))]


def _delete_run(folder: Path, owns: Sequence[str]) -> None:
    """Deletes what a run wrote; the configuration last, so that a kill on the way leaves a known run."""
    for _, checkpoint in checkpoint_folders(folder / CHECKPOINTS):
        shutil.rmtree(checkpoint)
    with contextlib.suppress(OSError):  # a folder with files of others in it stays
        (folder / CHECKPOINTS).rmdir()
    for name in (METRICS, SUMMARY, PROVENANCE, *owns, CONFIG):
        (folder / f".{name}.partial").unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
