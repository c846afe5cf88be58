"""The 1,797 real handwritten digits that come with scikit-learn; no network needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays, make_arrays
from jaxnet.data.split import stratified_split

NUM_TEST = 359
"""Test images: a fifth of 1,797, every class in proportion."""

_TEST_SEED = 1797  # decides which images are test images; never to change


def load_digits() -> Arrays:
    """Returns the digits: 8x8 images, 10 classes, 1,438 for training and 359 for test.

    The grey levels 0..16 are stretched to 0..255 (rounded; ``rint(x * 16 /
    255)`` gives them back), so that ``x / 255`` spans [0, 1] as everywhere else.
    Which images are test images is fixed, and both parts keep the order of
    scikit-learn.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten
    Digits, UCI, 1998; the copy within scikit-learn.
    """
    images, y = _read()
    x = np.rint(images * (255 / 16)).astype(np.uint8)
    test = stratified_split(y, NUM_TEST, seed=_TEST_SEED)
    return make_arrays("digits", x[~test], y[~test], x[test], y[test])


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Images ``(sample, 8, 8)`` and labels, from the file of scikit-learn: importing that is slow."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn import datasets

    bunch = datasets.load_digits()
    return bunch.images, bunch.target
