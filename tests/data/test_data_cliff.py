"""The synthetic set: sizes, the statistics that its description asks for, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet import data


@pytest.fixture(scope="module")
def cliff():
    return data.load("cliff", validation_fraction=0)


def test_sizes_and_classes(cliff):
    assert (len(cliff.x_train), len(cliff.x_test), cliff.num_features, cliff.num_classes) == (
        800,
        200,
        784,
        10,
    )
    for y, each in ((cliff.y_train, 80), (cliff.y_test, 20)):
        np.testing.assert_array_equal(np.bincount(y), each)
    carved = data.load("cliff")
    assert len(carved.x_val) == 133 and len(carved.x_train) == 667


def test_every_class_is_noise_plus_its_pattern(cliff):
    x = np.concatenate([cliff.x_train, cliff.x_test]).astype(np.float64)
    y = np.concatenate([cliff.y_train, cliff.y_test])
    i = np.arange(784)
    for c in (0, 1, 4, 5, 6, 7, 8, 9):
        pattern = 3 * np.sin(0.2 * (c + 1) * i) if c < 2 else 2.5 * np.cos(0.1 * c * i)
        rest = x[y == c] - pattern  # 100 samples: what is left is the noise alone
        assert rest.mean() == pytest.approx(0.5, abs=0.015)
        assert rest.std() == pytest.approx(0.8, abs=0.015)
        # the mean sample is the pattern: 5 standard errors of 784 means of 100
        assert np.abs(rest.mean(axis=0) - 0.5).max() < 0.4
    for c, mean, variance in ((2, 2.5, 2 * 2.5**2), (3, 0.0, 15 * 2.5**2)):
        assert x[y == c].mean() == pytest.approx(0.5 + mean, abs=0.1)
        # moments of the normal: var(z^2) = 2, var(z^3) = 15
        assert x[y == c].var() == pytest.approx(0.8**2 + variance, rel=0.1)


def test_it_is_the_same_set_for_ever(cliff):
    assert cliff.fingerprint == data.load("cliff", validation_fraction=0).fingerprint == "4675032991486c63"
