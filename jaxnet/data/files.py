"""The user's own data: a ``.npz`` file, or a folder with the four IDX files."""

from __future__ import annotations

import gzip
import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays, make_arrays
from jaxnet.errors import InputError

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")

_IDX_NAME = re.compile(
    r"(?P<prefix>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?"
)
_STRAYS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin"}
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name belongs to no data set, but to the system that it once lay on.

    Hidden ones (macOS puts ``._name`` beside ``name`` where it copies to other
    file systems), and what macOS and Windows put into folders unasked.
    """
    return name.startswith(".") or name.casefold() in _STRAYS or name.endswith(":Zone.Identifier")


def load_npz(path: Path) -> Arrays:
    """Reads ``x_train``, ``y_train``, ``x_test`` and ``y_test`` from a ``.npz`` file.

    See :func:`jaxnet.data.arrays.make_arrays` for shapes and types; other
    arrays in the file are ignored.

    Raises:
      InputError: the file is missing, damaged, incomplete or holds wrong values.
    """
    try:
        # Opened here: given a path, np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise InputError(
                    f"{path}: no array called {', '.join(missing)} (it has {', '.join(archive) or 'none'}): "
                    f"save it with numpy.savez(path, {', '.join(f'{key}=...' for key in NPZ_KEYS)})"
                )
            arrays = [archive[key] for key in NPZ_KEYS]
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give the path of a .npz file") from None
    except ValueError as error:  # NumPy's word for an array of Python objects, and for no .npz at all
        raise InputError(f"{path}: not a .npz file of plain number arrays: {one_line(error)}") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, AttributeError, TypeError) as error:
        # A single array (.npy) has no __exit__ or no keys: AttributeError or TypeError.
        raise InputError(f"{path}: cannot be read as a .npz file: {one_line(error)}") from error
    return make_arrays(str(path), *arrays)


def load_idx_folder(folder: Path) -> Arrays:
    """Reads the four IDX files (MNIST's format) of a folder, gzipped or not.

    Names as usual: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
    ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, with ``test`` for
    ``t10k``, ``.idx3`` for ``-idx3`` and a common prefix allowed. Where a file
    is there twice, the one without ``.gz`` is read. Folders do not count,
    whatever their names, nor what :func:`is_stray` tells.

    Raises:
      InputError: a file is missing, damaged or holds wrong values.
    """
    found: dict[str, dict[str, Path]] = {}
    try:
        paths = sorted(folder.iterdir(), reverse=True)  # x after x.gz, so that x wins
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {one_line(error)}") from error
    for path in paths:
        match = None if is_stray(path.name) else _IDX_NAME.fullmatch(path.name)
        if match and path.is_file():  # archives unpack into folders with the names of their files
            part = "train" if match["part"] == "train" else "test"
            found.setdefault(match["prefix"], {})[f"{match['what']} {part}"] = path
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds IDX files of {len(found)} data sets ({', '.join(map(repr, sorted(found)))}): "
            "put each into a folder of its own"
        )
    files = next(iter(found.values()), {})
    wanted = ("images train", "labels train", "images test", "labels test")
    usual = dict(
        zip(
            wanted,
            ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"),
            strict=True,
        )
    )
    missing = [f"{usual[key]}-ubyte" for key in wanted if key not in files]
    if missing:
        raise InputError(
            f"{folder}: no IDX file {', '.join(missing)} (or .gz): a data folder needs "
            "images and labels, train and t10k"
        )
    x_train, y_train, x_test, y_test = (read_idx(files[key]) for key in wanted)
    return make_arrays(str(folder), x_train, y_train, x_test, y_test)


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file, gzipped when its name ends in ``.gz``.

    The format: two zero bytes, a type, the number of dimensions, their sizes as
    big-endian 32-bit integers, then the values, big-endian, last dimension
    innermost.

    Raises:
      InputError: the file cannot be read, is no IDX file, or is too short or long.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES or content[3] == 0:
        raise InputError(f"{path}: not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}")
    kind, ndim = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    size = start + kind.itemsize * math.prod(shape)
    if len(content) != size:
        raise InputError(
            f"{path}: damaged: {len(content)} bytes instead of the {size} its header asks for: fetch it again"
        )
    values = np.frombuffer(content, kind, offset=start).reshape(shape)
    return values.astype(kind.newbyteorder("="), copy=False)


def one_line(error: BaseException) -> str:
    """Returns the text of an error from elsewhere on one line, 160 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
