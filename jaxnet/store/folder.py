"""The folder of a run: its configuration, its rows of results, its summary.

Layout::

    config.json        what was asked for
    provenance.json    which code, versions and device (written by the caller; a run is continued
                       with the minor version of JAX that it was begun with)
    metrics.jsonl      one JSON object per line, appended and synced
    summary.json       the results at the end (written by the caller)
    checkpoints/       see jaxnet.store.checkpoint
    .lock              locked while a process works here

A row is on disk when :meth:`RunFolder.append_rows` returns. JSON files appear
whole or not at all. NaN and infinities are written as ``null``: JSON knows
neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, file_lock, json_safe, open_bytes, read_json, user_path, write_json
from jaxnet.store.rows import append_rows, drop_half_line, read_rows, truncate_rows

CONFIG, METRICS, SUMMARY, PROVENANCE = "config.json", "metrics.jsonl", "summary.json", "provenance.json"
CHECKPOINTS, LOCK = "checkpoints", ".lock"

CHECKPOINT_FOLDER = re.compile(
    r"(?P<order>\d{6,})\.(?P<name>[A-Za-z0-9][A-Za-z0-9_-]*)(?P<partial>\.partial)?", re.ASCII
)
"""The name of a checkpoint's folder: order of saving, name, and whether it is unfinished."""

MAY_DIFFER = ("out", "resume", "overwrite")
"""Configuration keys that say where and how, not what: neither stored nor compared."""

_WAYS = "continue it with --resume, replace it with --overwrite, or choose another --out"


class RunFolder:
    """A locked output folder of one run; make it with :meth:`open`.

    Attributes:
      path: the folder.
      resumed: whether an earlier run is being continued.
    """

    def __init__(self, path: Path, lock: int | None, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        may_differ: Sequence[str] = MAY_DIFFER,
        only_stored: Sequence[str] = (),
        owns: Sequence[str] = (),
    ) -> RunFolder:
        """Creates or continues the folder of a run and locks it.

        Nothing is written where this fails, apart from an empty new folder and
        its lock. A lock dies with its process, however that ends.

        Args:
          path: the folder; made with its parents where it does not exist.
          config: what is asked for, JSON-like; stored in ``config.json``.
          resume: continue the run in the folder; with none there, start one.
          overwrite: delete the files of the run in the folder (only those a run
            writes: the known names, ``owns``, checkpoints) and start again.
          may_differ: keys of ``config`` that do not belong to the experiment;
            neither stored nor compared.
          only_stored: keys that are stored as the run began and never compared: another
            key decides (a path, beside the fingerprint of what lies there).
          owns: names of further files the experiment writes (plots).

        Raises:
          InputError: the folder holds another run, its configuration differs, it was
            begun with another minor version of JAX, it is in use, it cannot be written,
            or the system has no locks.
          ValueError: ``config`` does not fit into JSON.
        """
        folder = user_path(path)
        wanted = json_safe({key: value for key, value in config.items() if key not in may_differ})
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: continue the run or replace it")
        try_lock = file_lock()
        with disk_errors(folder, "use"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder, try_lock)
        try:
            with disk_errors(folder, "use"):
                resumed = _prepare(folder, wanted, resume, overwrite, only_stored, owns)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock, resumed)

    @property
    def checkpoints(self) -> Path:
        """Where this run's checkpoints go."""
        return self.path / CHECKPOINTS

    @property
    def finished(self) -> bool:
        """Whether the run has written its summary."""
        return (self.path / SUMMARY).exists()

    def close(self) -> None:
        """Gives the lock back. Closing twice does no harm."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write_json(self, name: str, obj: Any) -> None:
        """Writes ``obj`` to the file ``name``, which then holds all of it or what it held before.

        Raises:
          InputError: the file cannot be written, for instance on a full disk.
          ValueError: ``obj`` does not fit into JSON, or ``name`` is not a bare file name.
        """
        self._check_open()
        if Path(name).name != name or not name.endswith(".json"):
            raise ValueError(f"a bare file name that ends in .json is needed: {name!r}")
        write_json(self.path / name, obj)

    def append_rows(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Appends rows to ``metrics.jsonl``; see :func:`jaxnet.store.rows.append_rows`."""
        self._check_open()
        return append_rows(self.path / METRICS, rows)

    def truncate_rows(self, byte_length: int) -> None:
        """Drops the rows written after a checkpoint; see :func:`jaxnet.store.rows.truncate_rows`."""
        self._check_open()
        truncate_rows(self.path / METRICS, byte_length)

    def read_rows(self) -> list[dict[str, Any]]:
        """Reads all rows of ``metrics.jsonl``; see :func:`jaxnet.store.rows.read_rows`."""
        return read_rows(self.path / METRICS)

    def read_json(self, name: str) -> Any:
        """Reads the JSON file ``name`` of this folder; see :func:`read_json`."""
        return read_json(self.path / name)

    def _check_open(self) -> None:
        if self._lock is None:
            raise ValueError(f"the run folder {self.path} is closed")


def _lock(folder: Path, try_lock: Callable[[int], bool]) -> int:
    """Takes the lock of ``folder``; the system releases it when this process ends, however it ends."""
    fd = open_bytes(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        if not try_lock(fd):
            raise InputError(
                f"{folder}: another process is working in this folder: wait for it or choose another --out"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def _prepare(
    folder: Path,
    wanted: dict[str, Any],
    resume: bool,
    overwrite: bool,
    only_stored: Sequence[str],
    owns: Sequence[str],
) -> bool:
    """Makes the locked folder ready; tells whether a run in it is continued."""
    found = [name for name in (CONFIG, METRICS, SUMMARY) if (folder / name).exists()]
    found += [CHECKPOINTS] if _checkpoint_folders(folder) else []
    if found and resume:
        _check_same(folder, wanted, only_stored)
        _check_jax(folder)
        drop_half_line(folder / METRICS)
        return True
    if found and not overwrite:
        raise InputError(f"{folder} holds the results of another run ({', '.join(found)}): {_WAYS}")
    if overwrite:
        _delete_run(folder, owns)
    write_json(folder / CONFIG, wanted)
    return False


def _check_same(folder: Path, wanted: dict[str, Any], only_stored: Sequence[str]) -> None:
    if not (folder / CONFIG).exists():
        raise InputError(
            f"{folder} holds results but no {CONFIG}, so --resume cannot tell whether they fit: "
            "replace them with --overwrite or choose another --out"
        )
    stored = read_json(folder / CONFIG)
    if not isinstance(stored, dict):
        raise InputError(f"{folder / CONFIG} is damaged: use --overwrite or choose another --out")

    def shown(config: dict[str, Any], key: str) -> str:
        return json.dumps(config[key]) if key in config else "not set"

    differ = [
        f"{key} was {shown(stored, key)} and is now {shown(wanted, key)}"
        for key in [*stored, *(key for key in wanted if key not in stored)]
        if key not in only_stored and (key not in stored or key not in wanted or stored[key] != wanted[key])
    ]
    if differ:
        raise InputError(
            f"{folder}: --resume needs the configuration of the run in it, but {'; '.join(differ)}: "
            "give the same values, --overwrite, or another --out"
        )


def _check_jax(folder: Path) -> None:
    """Random bits, and so the order of the samples, are promised by JAX within a minor version only."""
    stored = read_json(folder / PROVENANCE) if (folder / PROVENANCE).exists() else None
    versions = stored.get("versions") if isinstance(stored, dict) else None
    begun = versions.get("jax") if isinstance(versions, dict) else None
    here = version("jax")
    if isinstance(begun, str) and begun.split(".")[:2] != here.split(".")[:2]:
        raise InputError(
            f"{folder}: --resume needs JAX {'.'.join(begun.split('.')[:2])}, with which this run was begun "
            f"(here is {here}: order and draws could differ): install jax=={begun}, or start anew with "
            "--overwrite"
        )


def _checkpoint_folders(folder: Path) -> list[Path]:
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.is_dir():
        return []
    return sorted(p for p in checkpoints.iterdir() if CHECKPOINT_FOLDER.fullmatch(p.name) and p.is_dir())


def _delete_run(folder: Path, owns: Sequence[str]) -> None:
    """Deletes what a run wrote; the configuration last, so that a kill on the way leaves a known run."""
    for checkpoint in _checkpoint_folders(folder):
        shutil.rmtree(checkpoint)
    with contextlib.suppress(OSError):  # a folder with files of others in it stays
        (folder / CHECKPOINTS).rmdir()
    for name in (METRICS, SUMMARY, PROVENANCE, *owns, CONFIG):
        (folder / f".{name}.partial").unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
