"""Names, splits, normalisation: what a caller of ``load`` relies on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxnet import data
from jaxnet.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_scikit_learns_images_each_once(digits):
    ours = np.concatenate([digits.x_train, digits.x_val, digits.x_test])
    labels = np.concatenate([digits.y_train, digits.y_val, digits.y_test])
    grey = np.rint(ours.astype(float) * 16 / 255)
    theirs = load_digits()
    order = np.lexsort(np.column_stack([grey, labels]).T)
    expected = np.column_stack([theirs.data, theirs.target])
    np.testing.assert_array_equal(np.column_stack([grey, labels])[order], expected[np.lexsort(expected.T)])
    assert (len(digits.x_train), len(digits.x_val), len(digits.x_test)) == (1198, 240, 359)
    assert ours.dtype == np.uint8
    assert labels.dtype == np.int32
    assert (ours.min(), ours.max()) == (0, 255)
    assert (digits.num_classes, digits.num_features, digits.image_shape) == (10, 64, (8, 8, 1))


def test_digits_keep_the_share_of_every_class_in_every_part(digits):
    everything = np.bincount(load_digits().target)
    for part in (digits.y_train, digits.y_val, digits.y_test):
        share = everything * len(part) / 1797
        assert np.all(np.abs(np.bincount(part) - share) < 1.5)  # two roundings


def test_digits_are_the_same_images_for_ever(digits):
    # Written down once: a change means that results before and after do not compare.
    assert digits.fingerprint == "538a22a73bc375e5"


def test_without_validation_the_training_set_is_whole_and_in_order(digits):
    whole = data.load("digits", validation_fraction=0)
    assert (whole.x_val.shape, whole.y_val.shape) == ((0, 64), (0,))
    assert len(whole.x_train) == 1438
    np.testing.assert_array_equal(whole.x_test, digits.x_test)
    # Both parts keep the order of the whole: merging them, image by image, gives it back.
    parts = [
        list(zip(x, y, strict=True))
        for x, y in ((digits.x_train, digits.y_train), (digits.x_val, digits.y_val))
    ]
    for x, y in zip(whole.x_train, whole.y_train, strict=True):
        part = next(p for p in parts if p and np.array_equal(p[0][0], x))
        assert part.pop(0)[1] == y
    assert parts == [[], []]
    assert whole.fingerprint != digits.fingerprint  # other training images
    np.testing.assert_array_equal(whole.mean, digits.mean)


@pytest.mark.parametrize(("fraction", "val"), [(1 / 6, 240), (0.25, 360), (0.5, 719), (0.001, 1)])
def test_validation_fraction_is_met(fraction, val):
    loaded = data.load("digits", validation_fraction=fraction)
    assert (len(loaded.y_val), len(loaded.y_train)) == (val, 1438 - val)


def own(tmp_path, labels):
    rng = np.random.default_rng(5)
    y = np.array(labels)
    x = rng.integers(0, 256, (len(y), 6), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path / "own.npz"


@pytest.mark.parametrize("fraction", [1 / 6, 0.25, 0.5, 0.75])
def test_every_class_keeps_an_image_for_training(tmp_path, fraction):
    # Classes 1 and 2 have one and two images; at a quarter both would go by their remainders.
    labels = [0] * 9 + [1] + [2, 2] + [3] * 8
    loaded = data.load(own(tmp_path, labels), validation_fraction=fraction)
    np.testing.assert_array_equal(np.unique(loaded.y_train), [0, 1, 2, 3])
    assert len(loaded.y_val) == round(20 * fraction) and 1 not in loaded.y_val


def test_a_fraction_that_leaves_a_class_none_is_refused(tmp_path):
    path = own(tmp_path, [0] * 6 + [1] + [2])
    assert len(data.load(path, validation_fraction=5 / 8).y_val) == 5
    with pytest.raises(InputError, match=r"^validation fraction 0.75 takes 6 [^\n]* at most 5 [^\n]*$"):
        data.load(path, validation_fraction=0.75)
    single = own(tmp_path, range(6))  # nothing can be carved
    with pytest.raises(InputError, match="at most 0 leave every class one for training: choose 0 or"):
        data.load(single)
    assert len(data.load(single, validation_fraction=0).y_train) == 6


@pytest.mark.parametrize(
    ("name", "whole", "carved"),
    [
        ("digits", "f099fcb115e3d50b", "538a22a73bc375e5"),
        ("cliff", "4675032991486c63", "f0e14069cfbba485"),
        pytest.param("mnist", "5280ce90a6d39e51", "5e774a9defbceb11", marks=pytest.mark.slow),
    ],
)
def test_splits_are_the_same_for_ever(name, whole, carved, request):
    # Written down once: a change means that results before and after do not compare.
    folder = request.getfixturevalue("mnist_dir") if name == "mnist" else None
    for fraction, fingerprint in ((0, whole), (data.DEFAULT_VALIDATION_FRACTION, carved)):
        loaded = data.load(name, data_dir=folder, validation_fraction=fraction)
        assert loaded.fingerprint == fingerprint


def test_a_path_may_begin_with_a_home_folder(tmp_path, monkeypatch):
    path = own(tmp_path, [0, 1] * 6)
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = data.load("~/own.npz")
    assert (loaded.name, loaded.fingerprint) == ("own.npz", data.load(path).fingerprint)
    with pytest.raises(InputError, match=rf"^{tmp_path}/nothing.npz: no such file"):
        data.load("~/nothing.npz")
    with pytest.raises(InputError, match=r"^~nobody-here/own.npz: there is no home folder ~nobody-here: "):
        data.load("~nobody-here/own.npz")


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan"), float("inf"), 1e-9, 0.9999])
def test_impossible_validation_fraction(fraction):
    with pytest.raises(InputError, match=r"^validation fraction [^\n]*$"):
        data.load("digits", validation_fraction=fraction)


def test_normalised_digits_have_mean_zero_and_deviation_one():
    whole = data.load("digits", validation_fraction=0)
    x = jax.jit(data.normalise)(jnp.asarray(whole.x_train), whole.mean, whole.std)
    assert (x.shape, x.dtype) == ((1438, 64), jnp.float32)
    np.testing.assert_allclose([float(x.mean()), float(x.std())], [0, 1], atol=1e-5)


def test_normalise_by_hand():
    x = np.array([[0, 51], [255, 102]], np.uint8)
    mean, std = np.array([0.0, 0.2], np.float32), np.array([0.5, 0.1], np.float32)
    np.testing.assert_allclose(data.normalise(x, mean, std), [[0, 0], [2, 2]], atol=1e-6)
    # Floating-point images are taken as they are.
    np.testing.assert_allclose(
        data.normalise(np.array([[1, 1.2]], np.float32), mean, std), [[2, 10]], rtol=1e-6
    )
    with pytest.raises(ValueError, match="int32"):
        data.normalise(np.array([[1, 2]], np.int32), mean, std)


def test_normalise_of_many_is_normalise_of_each(digits):
    x = digits.x_train[:6].reshape(2, 3, 64)
    many = jax.vmap(data.normalise, in_axes=(0, None, None))(x, digits.mean, digits.std)
    for batch, one in zip(x, many, strict=True):
        np.testing.assert_array_equal(data.normalise(batch, digits.mean, digits.std), one)


def test_a_dataset_cannot_be_changed(digits):
    for field in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "mean", "std"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(digits, field)[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.name = "other"


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("minst", "mnist"),
        ("MNIST", "mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("cifar", "cifar10"),
        ("digit", "digits"),
        ("emnist/letter", "emnist/balanced or emnist/byclass or"),
        ("EMNIST", "emnist/balanced or emnist/byclass or"),
        ("imagenet", None),
        ("", None),
    ],
)
def test_unknown_name_lists_the_known_ones(name, guess):
    with pytest.raises(InputError, match=r"^unknown data set [^\n]*$") as caught:
        data.load(name)
    message = str(caught.value)
    assert all(known in message for known in data.NAMES)
    assert ("did you mean" in message) == (guess is not None)
    assert guess is None or f"did you mean {guess}" in message


def test_importing_costs_neither_scikit_learn_nor_tensorflow_datasets(run_python):
    code = (
        "import sys, jaxnet.data; "
        "print([m for m in ('sklearn', 'tensorflow_datasets', 'tensorflow', 'PIL') if m in sys.modules])"
    )
    result = run_python("-c", code)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
