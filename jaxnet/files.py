"""Paths from outside, files that appear whole or not at all, locks, disk errors in one line, the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.errors import InputError

FULL = "the disk is full: make room, then continue with --resume"
"""What is said of a full disk."""

_LOCKED_BYTE = 2**30  # on Windows a locked byte cannot be read, so it lies behind all contents


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user gives it: ``~`` and ``~name`` at its start are home folders.

    Every path from outside passes here. A shell expands ``--out ~/a``, but neither
    ``--out=~/a`` nor what stands in a variable or a file. ``./~a`` is a file of that name.
    What comes out may be put in again: it stays the same.

    Raises:
      InputError: the home folder is not known.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        name = Path(text).parts[0]
        raise InputError(
            f"{text}: there is no home folder {name}: give the whole path, or ./{text} where that is its name"
        )
    found = Path(expanded)
    # pathlib drops the dot of "./~a"
    return found.absolute() if str(found).startswith("~") else found


def cache_folder() -> Path:
    """The folder for what jaxnet may forget: decoded images, kernel choices, compiled programs.

    ``JAXNET_CACHE_DIR``, else ``jaxnet`` in ``XDG_CACHE_HOME`` (where that is an
    absolute path, by the XDG rules), else in the platform's cache folder:
    ``~/.cache``, on macOS ``~/Library/Caches``.

    Raises:
      OSError: there is no home folder to put it in.
    """
    if own := os.environ.get("JAXNET_CACHE_DIR"):
        try:
            return user_path(own)
        except InputError as error:  # a cache that cannot be used costs time, nothing else
            raise OSError(f"JAXNET_CACHE_DIR {error}") from error
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg) / "jaxnet"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise OSError("no home folder") from error
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / "jaxnet"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: it is missing, damaged or unreadable.
    """
    path = user_path(path)
    with disk_errors(path, "read"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError:
        raise InputError(f"{path}: not a JSON file, it is damaged: repair or delete it") from None


def write_json(path: Path, obj: Any) -> None:
    """Writes a JSON file atomically: a synced sibling is renamed into place.

    Raises:
      InputError: it cannot be written; what was there before is still there.
      ValueError: ``obj`` does not fit into JSON.
    """
    write_bytes(path, (dump_json(obj, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: a synced sibling is renamed into place.

    Raises:
      InputError: it cannot be written; what was there before is still there.
    """
    path = user_path(path)
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path, "write"):
        try:
            fd = open_bytes(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_path(path.parent)


def json_safe(obj: Any) -> Any:
    """Turns ``obj`` into what JSON knows; NaN and infinities become ``None``.

    Takes NumPy and JAX arrays and scalars (as nested lists and numbers), tuples,
    mappings, dataclasses and paths. A float64 survives the round trip exactly.

    Raises:
      ValueError: there is something else in it.
    """
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {_json_key(key): json_safe(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [json_safe(value) for value in obj]
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: json_safe(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "__array__"):
        try:
            array = np.asarray(obj)
        except TypeError as error:  # a PRNG key
            raise ValueError(f"JSON has no place for it: {error}") from None
        if array.dtype.kind in "biuf":
            return json_safe(array.tolist())
        if array.dtype.kind == "V":  # bfloat16 and its kin: float32 holds them exactly
            return json_safe(array.astype(np.float32).tolist())
    raise ValueError(f"JSON has no place for a {type(obj).__name__}: {str(obj)[:60]!r}")


@contextlib.contextmanager
def disk_errors(path: Path, verb: str) -> Iterator[None]:
    """Turns an ``OSError`` into a one-line ``InputError`` that names ``path`` and the way out."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, verb, error) from error


def disk_error(path: Path, verb: str, error: OSError) -> InputError:
    """The one line for ``error``, met when trying to ``verb`` (read, write, use) ``path``."""
    if is_full(error):
        return InputError(f"{path}: {FULL}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{path}: no permission to {verb} it: change that or choose another --out")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return InputError(f"{path}: a file stands where a folder is needed: choose another --out")
    if error.errno == errno.ENOENT:
        return InputError(f"{path}: no such file or folder: check the path")
    return InputError(f"{path}: cannot {verb} it: {error.strerror or error}")


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk (or quota) is behind an error, whatever a library made of it."""
    codes = errno.ENOSPC, errno.EDQUOT
    while error is not None:
        if getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes):
            return True
        error = error.__cause__ or error.__context__
    return False


def open_bytes(path: Path, flags: int) -> int:
    """Opens a file by ``os.open``; what is written is what lies there, on Windows too."""
    # Python itself sees to it that a process started from here does not get it.
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def file_lock() -> Callable[[int], bool]:
    """What locks an open file on this system: ``flock``, on Windows ``msvcrt.locking``.

    Returns:
      A function of a file descriptor that locks it until it is closed or this process
      ends, however it ends, and says whether it could: not, where someone else has it.

    Raises:
      InputError: the system has neither.
    """
    try:
        import fcntl
    except ImportError:
        return _byte_lock()

    def lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return lock


def _byte_lock() -> Callable[[int], bool]:
    try:
        msvcrt: Any = importlib.import_module("msvcrt")  # type checkers know it on Windows only
    except ImportError:
        raise InputError(
            "this system has no locks for files (neither fcntl nor msvcrt), so nothing would keep two "
            "processes out of one folder: run on Linux, macOS or Windows"
        ) from None

    def lock(fd: int) -> bool:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            return False
        return True

    return lock


def write_all(fd: int, data: bytes) -> None:
    """Writes all of ``data``; a nearly full disk takes only part of it at first, then raises."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_path(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut, where the system can."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    fd = open_bytes(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # and syncs what may be written
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network systems do not know it
            raise
    finally:
        os.close(fd)


def dump_json(obj: Any, indent: int | None = None) -> str:
    """JSON text of ``obj`` after :func:`json_safe`."""
    return json.dumps(json_safe(obj), indent=indent, allow_nan=False)


def _json_key(key: Any) -> str:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return str(key)
    raise ValueError(f"a JSON key must be a string: {key!r}")
