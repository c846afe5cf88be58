"""Decoded data sets on disk: one folder of ``.npy`` files each, memory-mapped when read.

A folder is written under a temporary name and then renamed, so it is there
whole or not at all, whoever else writes at the same time. ``meta.json`` holds
size and checksum of every array file; both are checked on every read.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.errors import InputError
from jaxnet.files import cache_folder, user_path

FORMAT = 1
"""Version of the folders' format and of the rules that make arrays from a source."""

_FILES = ("x_train", "y_train", "x_test", "y_test")
_META = "meta.json"


def cached(
    label: str, decode: Callable[[], Arrays], *, cache_dir: str | os.PathLike[str] | None = None
) -> Arrays:
    """Returns the arrays of the cache, or decodes them and puts them there.

    A cache folder that cannot be read or written costs a warning, not the run.

    Args:
      label: names the content, and so the folder; with another content or
        another :data:`FORMAT` it is another folder.
      decode: makes the arrays.
      cache_dir: the cache folder; :func:`jaxnet.files.cache_folder` by default.

    Raises:
      InputError: the cached files are damaged.
    """
    try:
        root = cache_folder() if cache_dir is None else user_path(cache_dir)
        folder = root / f"{label}-v{FORMAT}"
        if _is_there(folder):
            return _read(folder)
    except OSError as error:
        _warn("read", error)
        return decode()
    arrays = decode()
    try:
        _write(folder, arrays)
        return _read(folder)
    except OSError as error:
        _warn("written", error)
        return arrays


def _is_there(folder: Path) -> bool:
    try:
        os.stat(folder)
    except FileNotFoundError:
        return False
    return True


def _warn(verb: str, error: OSError) -> None:
    where = f"{error.filename}: " if error.filename else ""
    warnings.warn(
        f"the data cache cannot be {verb} ({where}{error.strerror or error}), so images are "
        "decoded again each time: point JAXNET_CACHE_DIR at a folder that can be written",
        stacklevel=2,
    )


def _write(folder: Path, arrays: Arrays) -> None:
    """Writes all files under a temporary name, then renames the folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkdtemp: its folders can only be read by their owner, caches may be shared.
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        files = {}
        for name in _FILES:
            path = temporary / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, getattr(arrays, name), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            files[path.name] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        meta = {
            "format": FORMAT,
            "num_classes": arrays.num_classes,
            "image_shape": arrays.image_shape,
            "mean": arrays.mean,
            "std": arrays.std,
            "content_hash": arrays.content_hash,
            "files": files,
        }
        meta["crc32"] = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
        (temporary / _META).write_text(json.dumps(meta, indent=1) + "\n")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # Another process was first; its files say the same.
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> Arrays:
    """Checks and memory-maps the files of a folder.

    Raises:
      InputError: a file is missing, of the wrong size or has the wrong checksum.
      OSError: a file may not be read.
    """
    meta = _read_meta(folder)
    arrays: dict[str, np.ndarray] = {}
    for name in _FILES:
        path = folder / f"{name}.npy"
        expected = meta["files"][path.name]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise _damaged(path, "it is missing") from None
        if size != expected["bytes"]:
            raise _damaged(path, f"{size} bytes instead of {expected['bytes']}")
        if _crc32(path) != expected["crc32"]:
            raise _damaged(path, "its checksum is wrong")
        arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return Arrays(
        **arrays,
        num_classes=meta["num_classes"],
        image_shape=tuple(meta["image_shape"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        content_hash=meta["content_hash"],
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    try:
        meta: dict[str, Any] = json.loads(path.read_bytes())
        crc32 = meta.pop("crc32")
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "it is not what was written") from None
    if crc32 != zlib.crc32(json.dumps(meta, sort_keys=True).encode()):
        raise _damaged(path, "its checksum is wrong")
    return meta


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"damaged data cache {path}: {what}; delete the folder {path.parent} and start again")


def _crc32(path: Path) -> int:
    """Returns the CRC-32 of a file; about 0.01 s for 50 MB once the file is in memory."""
    crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc32 = zlib.crc32(block, crc32)
    return crc32
