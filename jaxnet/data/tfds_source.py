"""Data sets prepared by tensorflow-datasets, read without TensorFlow and without network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.data.arrays import Arrays, make_arrays
from jaxnet.data.files import is_stray, one_line
from jaxnet.errors import InputError
from jaxnet.files import user_path

_BATCH = 1000  # records per read
_VERSION = re.compile(r"\d+\.\d+\.\d+")  # leaves out what a broken-off preparation left behind


@dataclass(frozen=True)
class Source:
    """What is known of a data set beforehand.

    Attributes:
      num_classes: classes that occur.
      image_shape: ``(height, width, channels)``.
      statistics: the mean and standard deviation of every channel, on [0, 1],
        that everybody uses; ``None``: computed from the training images.
    """

    num_classes: int = 10
    image_shape: tuple[int, int, int] = (28, 28, 1)
    statistics: tuple[float, float] | None = None


SOURCES: dict[str, Source] = {
    "mnist": Source(statistics=(0.1307, 0.3081)),
    "fashion_mnist": Source(),
    "kmnist": Source(),
    "emnist/balanced": Source(num_classes=47),
    "emnist/byclass": Source(num_classes=62),
    "emnist/bymerge": Source(num_classes=47),
    "emnist/digits": Source(),
    "emnist/letters": Source(num_classes=26),
    "emnist/mnist": Source(),
    "cifar10": Source(image_shape=(32, 32, 3), statistics=(0.5, 0.5)),
}
"""Data sets by their name in tensorflow-datasets.

Images are as tensorflow-datasets has them; those of EMNIST are transposed.
"""


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the folder of prepared data sets.

    ``data_dir``, else the environment variable JAXNET_DATA_DIR, else the default
    of tensorflow-datasets: TFDS_DATA_DIR or ``~/tensorflow_datasets``.
    """
    if data_dir is not None:
        return user_path(data_dir)
    named = os.environ.get("JAXNET_DATA_DIR") or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return user_path(named)


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the highest version of a prepared data set.

    Args:
      name: one of :data:`SOURCES`.
      data_dir: see :func:`data_root`.

    Raises:
      InputError: it is not there.
    """
    root = data_root(data_dir)
    try:
        versions = [
            path for path in (root / name).iterdir() if _VERSION.fullmatch(path.name) and path.is_dir()
        ]
    except (FileNotFoundError, NotADirectoryError):
        versions = []
    except OSError as error:
        raise InputError(f"{root / name}: cannot be read: {one_line(error)}") from error
    if not versions:
        raise InputError(
            f"data set {name!r} is not prepared in {root}: (1) prepare it with "
            "`pip install 'tensorflow>=2.20'` and "
            f'`python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(root)!r}, '
            "file_format='array_record').download_and_prepare()\"`, or (2) point --data-dir or "
            "JAXNET_DATA_DIR at a folder that holds it, or (3) use --dataset digits, which needs no files"
        )
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def content_key(folder: Path) -> str:
    """Returns 16 hexadecimal digits that identify the files of a folder by content.

    All bytes are hashed, which takes a twentieth of a second for 50 MB; times
    and sizes would miss a file exchanged for another. What :func:`is_stray` tells
    does not count.

    Raises:
      InputError: a file cannot be read.
    """
    digest = hashlib.sha256(folder.name.encode())
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not is_stray(path.name):
                with path.open("rb") as file:
                    digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read: {one_line(error)}") from error
    return digest.hexdigest()[:16]


def decode(name: str, folder: Path) -> Arrays:
    """Decodes all images of a prepared data set; MNIST takes about 5 s.

    Never touches the network, and never imports TensorFlow. Labels are the
    classes that occur, numbered from 0: the letters of EMNIST count from 1.

    Args:
      name: one of :data:`SOURCES`.
      folder: from :func:`find_prepared`.

    Raises:
      InputError: files are missing, damaged or of another kind than expected.
    """
    source = SOURCES[name]
    _check_info(name, folder)
    with _quiet():
        try:
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(str(folder))
            parts = {split: _decode_split(builder, split, source, folder) for split in ("train", "test")}
        except (InputError, MemoryError):
            raise
        except ImportError as error:  # the installation is broken, not the data
            raise InputError(
                f"{name} needs tensorflow-datasets with array_record and Pillow, which cannot be imported "
                f"({one_line(error)}): install them, or use --dataset digits"
            ) from error
        except Exception as error:  # whatever a damaged description makes tensorflow-datasets raise
            raise InputError(
                f"{folder}: not a data set that tensorflow-datasets can read ({one_line(error)}): "
                "prepare it again"
            ) from error
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    names = np.unique(y_train)
    if len(names) != source.num_classes or not np.isin(y_test, names).all():
        raise InputError(
            f"{folder}: {len(names)} classes in the training images, {len(np.unique(y_test))} in the test "
            f"images, instead of the {source.num_classes} of {name}: prepare it again"
        )
    y_train, y_test = np.searchsorted(names, y_train), np.searchsorted(names, y_test)
    return make_arrays(
        str(folder), x_train, y_train, x_test, y_test, num_classes=len(names), statistics=source.statistics
    )


def _check_info(name: str, folder: Path) -> None:
    """Checks the description of a data set before tensorflow-datasets sees it."""
    path = folder / "dataset_info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_bytes())
        splits = {split["name"]: [int(n) for n in split["shardLengths"]] for split in info["splits"]}
        file_format = info.get("fileFormat", "tfrecord")
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing: {folder} is incomplete, delete it and prepare {name} again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({one_line(error)}): prepare {name} again") from error
    if file_format != "array_record":
        raise InputError(
            f"{folder}: prepared as {file_format}, which only TensorFlow can read: delete it and prepare "
            f"{name} again with file_format='array_record'"
        )
    for split in ("train", "test"):
        if sum(splits.get(split, [])) == 0:
            raise InputError(f"{path}: no {split} images: prepare {name} again")


def _decode_split(builder: Any, split: str, source: Source, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images ``(N, height, width, channels)`` and labels ``(N,)`` of a split."""
    info = builder.info.splits[split]
    total = sum(info.shard_lengths)
    x = np.empty((total, *source.image_shape), np.uint8)
    y = np.empty(total, np.int64)
    records = builder.as_data_source(split=split)
    start = 0
    # File by file, so that an error can name the file.
    for filepath, length in zip(info.filepaths, info.shard_lengths, strict=True):
        path = folder / Path(filepath).name
        if not path.is_file():
            raise InputError(f"{path}: missing: {folder} is incomplete, delete it and prepare it again")
        _check_record_count(path, length)
        for first in range(start, start + length, _BATCH):
            batch = range(first, min(first + _BATCH, start + length))
            try:
                for i, record in zip(batch, records.__getitems__(list(batch)), strict=True):
                    image, label = record["image"], record["label"]
                    if image.shape != source.image_shape or image.dtype != np.uint8:
                        raise ValueError(f"image of shape {image.shape}, {image.dtype}")
                    x[i], y[i] = image, label
            except (ImportError, MemoryError):
                raise
            except Exception as error:  # array_record, Protocol Buffers and Pillow each have their own
                raise _damaged(path, error) from error
        start += length
    return x, y


def _check_record_count(path: Path, length: int) -> None:
    from array_record.python.array_record_module import ArrayRecordReader  # type: ignore[import-untyped]

    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except Exception as error:  # it raises RuntimeError and more
        raise _damaged(path, error) from error
    if count != length:
        raise _damaged(path, ValueError(f"{count} records instead of {length}"))


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged ({one_line(error)}): delete {path.parent} and prepare it again")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings and log lines of tensorflow-datasets from the user's screen."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
