"""Checks what a source delivers and brings it into one form, before any split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from jaxnet.data.dataset import Classes, Images
from jaxnet.errors import InputError

_CHUNK = 4096  # rows at a time, so that float64 copies stay small


@dataclass(frozen=True, eq=False)
class Arrays:
    """A data set before the validation split.

    Attributes:
      x_train: ``(N, D)``, uint8 or float32.
      y_train: ``(N,)`` int32.
      x_test: ``(T, D)``, the same type.
      y_test: ``(T,)`` int32.
      num_classes: labels are ``0 .. num_classes - 1``.
      image_shape: ``(height, width, channels)`` or ``(D,)``.
      mean: one number per channel.
      std: one number per channel.
      content_hash: SHA-256 of the four arrays, hexadecimal.
    """

    x_train: Images
    y_train: Classes
    x_test: Images
    y_test: Classes
    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str


def make_arrays(
    where: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    num_classes: int | None = None,
    statistics: tuple[float, float] | None = None,
) -> Arrays:
    """Checks the arrays of a source and brings them into one form.

    Args:
      where: names the source in errors: a file, a folder, a data set.
      x_train: ``(N, features)``, ``(N, height, width)`` or ``(N, height, width,
        channels)``; integers 0..255, or finite floating-point values.
      y_train: ``(N,)`` or ``(N, 1)`` integers; every class from 0 up occurs.
      x_test: as ``x_train``.
      y_test: as ``y_train``; no other classes.
      num_classes: where the source says so; else the classes of ``y_train``.
      statistics: mean and standard deviation of every channel, where they are
        agreed upon; else they are computed from ``x_train``.

    Raises:
      InputError: something of this does not hold.
    """
    train = _images(where, "x_train", x_train)
    test = _images(where, "x_test", x_test)
    if train.shape[1:] != test.shape[1:]:
        raise InputError(
            f"{where}: x_train and x_test must hold images of one shape: {train.shape[1:]} and "
            f"{test.shape[1:]}"
        )
    if train.dtype != test.dtype:
        raise InputError(
            f"{where}: x_train and x_test must be of one kind, both integers or both floating point: "
            f"{np.asarray(x_train).dtype} and {np.asarray(x_test).dtype}"
        )
    labels = _labels(where, "y_train", y_train, len(train))
    test_labels = _labels(where, "y_test", y_test, len(test))
    classes = num_classes or _count_classes(where, labels)
    for name, y in (("y_train", labels), ("y_test", test_labels)):
        if y.max() >= classes:
            raise InputError(
                f"{where}: label {y.max()} in {name} is out of range: there are {classes} classes, "
                f"0 to {classes - 1}"
            )
    shape = train.shape[1:] if train.ndim != 3 else (*train.shape[1:], 1)
    channels = shape[2] if len(shape) == 3 else 1
    flat, flat_test = (np.ascontiguousarray(x.reshape(len(x), -1)) for x in (train, test))
    labels, test_labels = labels.astype(np.int32), test_labels.astype(np.int32)
    if statistics is None:
        mean, std = channel_statistics(flat, channels)
    else:
        mean, std = (statistics[0],) * channels, (statistics[1],) * channels
    digest = _content_hash(flat, labels, flat_test, test_labels)
    return Arrays(flat, labels, flat_test, test_labels, classes, shape, mean, std, digest)


def channel_statistics(x: Images, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and (population) standard deviation of every channel.

    Args:
      x: ``(N, D)``, channels innermost in ``D``; uint8 counts as ``x / 255``.
      channels: number of channels.

    Returns:
      Means and standard deviations, ``channels`` each. A channel that is
      constant gets the standard deviation 1: it carries nothing, and must not
      turn into NaN when it is divided by it.
    """
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    chunks = [x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]
    count = x.size // channels
    # Two passes: sums of squares would lose small variances around large means.
    mean = sum(c.reshape(-1, channels).sum(axis=0, dtype=np.float64) for c in chunks) / count
    var = sum(np.square(c.reshape(-1, channels) - mean).sum(axis=0) for c in chunks) / count
    std = np.sqrt(var)
    std = np.where(std > 0, std, scale)
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def _images(where: str, name: str, x: np.ndarray) -> np.ndarray:
    """Returns images as uint8 or float32, shape unchanged."""
    x = np.asarray(x)
    if x.ndim not in (2, 3, 4):
        raise InputError(
            f"{where}: {name} must have the shape (images, features), (images, height, width) or "
            f"(images, height, width, channels): {x.shape}"
        )
    if x.size == 0:
        raise InputError(f"{where}: {name} is empty, shape {x.shape}: at least one image is needed")
    if x.dtype.kind in "biu":
        if x.dtype.kind != "b" and (x.min() < 0 or x.max() > 255):
            raise InputError(
                f"{where}: integers in {name} must be grey levels 0 to 255: found {x.min()} to {x.max()}; "
                "store other values as floating point"
            )
        return x.astype(np.uint8, copy=False)
    if x.dtype.kind != "f":
        raise InputError(f"{where}: {name} must hold integers 0 to 255 or floating-point values: {x.dtype}")
    with np.errstate(over="ignore"):  # what overflows float32 is reported just below
        x = x.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0, 0])
        raise InputError(
            f"{where}: {name} holds NaN or infinity (as float32) in image {row}: remove or replace it"
        )
    return x


def _labels(where: str, name: str, y: np.ndarray, num_images: int) -> np.ndarray:
    """Returns labels as a vector of integers."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:  # as Keras keeps them
        y = y[:, 0]
    if y.shape != (num_images,):
        raise InputError(
            f"{where}: {name} must hold one label for each of the {num_images} images of "
            f"x_{name[2:]}: shape {y.shape}"
        )
    if y.dtype.kind not in "biu":
        raise InputError(f"{where}: labels must be integers, not {y.dtype}: {name}")
    if y.min() < 0:
        raise InputError(f"{where}: label {y.min()} in {name} is out of range: labels count from 0")
    return y


def _count_classes(where: str, labels: np.ndarray) -> int:
    """Returns the number of classes where every class from 0 up occurs."""
    found = np.unique(labels)
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if gaps.size:
        raise InputError(
            f"{where}: labels must be 0 to classes - 1, each at least once in y_train: class {gaps[0]} does "
            f"not occur, but class {found[-1]} does"
        )
    if len(found) < 2:
        raise InputError(f"{where}: y_train holds a single class: at least two are needed")
    return len(found)


def _content_hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()
