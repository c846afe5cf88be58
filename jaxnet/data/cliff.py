"""The synthetic set of the cliff experiment: noise with a pattern of its class; made, not read."""

from __future__ import annotations

import numpy as np

from jaxnet.data.arrays import Arrays, make_arrays
from jaxnet.data.split import stratified_split

NUM_SAMPLES, NUM_TEST, NUM_FEATURES = 1000, 200, 784

_SEED = 2024  # decides noise and split; never to change


def load_cliff() -> Arrays:
    """Returns 1,000 samples of 784 features, 10 classes of 100: 800 for training and 200 for test.

    Every sample is normal noise (mean 0.5, standard deviation 0.8) plus, with
    ``i`` the number of the feature and ``c`` the class:

    * 0 and 1: ``3 sin(0.2 (c + 1) i)``;
    * 2 and 3: ``2.5 z^c`` with fresh normal ``z`` for every sample and feature,
      so that these two have no pattern in common but their distribution;
    * 4 to 9: ``2.5 cos(0.1 c i)``.

    The set is the same on every call.

    Source: the original experiment, as described; its samples were drawn anew in
    every run and are not known, nor is the unit of its frequencies.
    """
    noise = np.random.Generator(np.random.PCG64(_SEED))
    y = np.arange(NUM_SAMPLES) % 10
    x = 0.5 + 0.8 * _normal(noise, (NUM_SAMPLES, NUM_FEATURES))
    z = _normal(noise, (NUM_SAMPLES, NUM_FEATURES))
    i = np.arange(NUM_FEATURES)
    for c in range(10):
        if c < 2:
            pattern = 3 * np.sin(0.2 * (c + 1) * i)
        elif c < 4:
            pattern = 2.5 * z[y == c] ** c
        else:
            pattern = 2.5 * np.cos(0.1 * c * i)
        x[y == c] += pattern
    # rounded, so that the last bits of sin and log on a machine do not show
    x = (np.rint(1024 * x) / 1024).astype(np.float32)
    test = stratified_split(y, NUM_TEST, seed=_SEED)
    return make_arrays("cliff", x[~test], y[~test], x[test], y[test])


def _normal(noise: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers from raw bits, which NumPy promises to keep (Box and Muller 1958)."""
    bits = noise.bit_generator.random_raw((2, *shape)) >> np.uint64(11)
    u, v = (bits + 0.5) * 2.0**-53
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
