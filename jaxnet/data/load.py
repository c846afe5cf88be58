"""From a name to a data set, split always the same way."""

from __future__ import annotations

import difflib
import hashlib
import math
import os

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.cache import cached
from jaxnet.data.cliff import load_cliff
from jaxnet.data.dataset import Dataset
from jaxnet.data.digits import load_digits
from jaxnet.data.files import load_idx_folder, load_npz
from jaxnet.data.split import stratified_split
from jaxnet.data.tfds_source import SOURCES, content_key, decode, find_prepared
from jaxnet.errors import InputError
from jaxnet.files import user_path

NAMES = ("digits", "cliff", *SOURCES)
"""The data sets known by name."""

DEFAULT_VALIDATION_FRACTION = 1 / 6
"""10,000 of MNIST's 60,000 training images, as many as it has test images."""

_VALIDATION_SEED = 6  # decides which training images are validation images; never to change


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    validation_fraction: float = DEFAULT_VALIDATION_FRACTION,
) -> Dataset:
    """Loads a data set: the same images in the same places, every time.

    ``digits`` comes with scikit-learn, ``cliff`` is made here. The other names are read from what
    tensorflow-datasets has prepared (nothing is ever downloaded), and their
    decoded images are cached. A path to a ``.npz`` file with ``x_train``,
    ``y_train``, ``x_test`` and ``y_test``, or to a folder with the four IDX
    files, is read as it is.

    The validation images are a class-balanced random part of the training
    images, chosen by a fixed seed; both parts keep the original order. Every class
    keeps at least one training image: a class with a single one has none among
    the validation images, and other classes have more in its place. With
    ``validation_fraction=0`` all training images stay, in the original order.
    Mean and standard deviation belong to all training images, whatever is
    carved from them.

    Args:
      name: one of :data:`NAMES`, or a path (``./mnist`` is a folder, ``mnist`` a
        name).
      data_dir: folder of tensorflow-datasets; else the environment variable
        JAXNET_DATA_DIR, else the default of tensorflow-datasets.
      cache_dir: folder for decoded images; :func:`jaxnet.files.cache_folder` by default.
      validation_fraction: part of the training images to carve, at least 0 and
        below 1; the number is rounded to the nearest, half to even.

    Returns:
      The data set.

    Raises:
      InputError: an unknown name, a missing, damaged or unsuitable file, a
        fraction that leaves no image on one side, or a class none for training.
    """
    if not (math.isfinite(validation_fraction) and 0 <= validation_fraction < 1):
        raise InputError(f"validation fraction must be at least 0 and below 1: {validation_fraction}")
    name = str(os.fspath(name))
    if name == "digits":
        arrays = load_digits()
    elif name == "cliff":
        arrays = load_cliff()
    elif name in SOURCES:
        arrays = _from_prepared(name, data_dir, cache_dir)
    else:
        arrays = _from_path(name)
        return _carve(user_path(name).resolve().name, arrays, validation_fraction, own=True)
    return _carve(name, arrays, validation_fraction)


def _from_prepared(
    name: str, data_dir: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> Arrays:
    folder = find_prepared(name, data_dir)
    label = f"{name.replace('/', '-')}-{folder.name}-{content_key(folder)}"
    return cached(label, lambda: decode(name, folder), cache_dir=cache_dir)


def _from_path(name: str) -> Arrays:
    path = user_path(name)
    if path.suffix == ".npz":
        return load_npz(path)
    if name and path.is_dir():
        return load_idx_folder(path)
    if path.is_file():
        raise InputError(f"{path}: a data file must be a .npz file; IDX files are given by their folder")
    folded = name.lower().replace("-", "_")
    # "emnist" alone, or with a wrong variant: all variants; else the nearest name.
    variants = [known for known in NAMES if known.startswith(folded.split("/")[0] + "/")]
    guess = variants or difflib.get_close_matches(folded, NAMES, n=1)
    hint = f" (did you mean {' or '.join(guess)}?)" if guess else ""
    raise InputError(
        f"unknown data set {name!r}{hint}: choose one of {', '.join(NAMES)}, a .npz file or a "
        "folder of IDX files"
    )


def _carve(name: str, arrays: Arrays, fraction: float, *, own: bool = False) -> Dataset:
    """Makes the data set: carves the validation images and spreads the statistics over the pixels.

    With ``own`` the shape of the images belongs to the fingerprint: it decides the statistics of the
    user's files, and those of a data set with a name may be others for the same images.
    """
    total = len(arrays.x_train)
    count = round(fraction * total)
    if fraction > 0 and not 0 < count < total:
        raise InputError(
            f"validation fraction {fraction} of the {total} training images of {name} leaves "
            f"{total - count} for training and {count} for validation: choose 0, or another "
            "fraction with images on both sides"
        )
    x_train, y_train = arrays.x_train, arrays.y_train
    most = total - len(np.unique(y_train))
    if count > most:
        raise InputError(
            f"validation fraction {fraction} takes {count} of the {total} training images of {name}, but at "
            f"most {most} leave every class one for training: choose 0 or a smaller one, or add images"
        )
    held_out = (
        stratified_split(y_train, count, seed=_VALIDATION_SEED, leave=1) if count else np.zeros(total, bool)
    )
    x_val, y_val = np.asarray(x_train[held_out]), np.asarray(y_train[held_out])
    if count:  # otherwise the whole arrays stay where they are, on disk
        x_train, y_train = np.asarray(x_train[~held_out]), np.asarray(y_train[~held_out])
    repeats = x_train.shape[1] // len(arrays.mean)
    mean, std = (np.tile(np.array(s, np.float32), repeats) for s in (arrays.mean, arrays.std))
    fingerprint = hashlib.sha256(arrays.content_hash.encode() + np.packbits(held_out).tobytes())
    if own:
        fingerprint.update(str(arrays.image_shape).encode())
    for array in (x_train, y_train, x_val, y_val, arrays.x_test, arrays.y_test, mean, std):
        array.flags.writeable = False
    return Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_val=x_val,
        y_val=y_val,
        x_test=arrays.x_test,
        y_test=arrays.y_test,
        num_classes=arrays.num_classes,
        image_shape=arrays.image_shape,
        mean=mean,
        std=std,
        fingerprint=fingerprint.hexdigest()[:16],
    )
