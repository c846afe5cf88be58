"""Augmentation: by hand, against NumPy and SciPy, and the same for a network alone and among others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxnet import data
from jaxnet.data import augment
from jaxnet.data.augment import Affine, Augmentation, apply_affine, crop, draw_affine, move
from jaxnet.errors import InputError
from jaxnet.kernels import csr_library
from jaxnet.keys import key_of, keys_of

SHAPE = (5, 4, 3)


def images(number: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Flat images with no value twice."""
    return np.arange(1.0, 1.0 + number * np.prod(shape), dtype=np.float32).reshape(number, -1)


def test_a_crop_by_hand() -> None:
    x = jnp.array([[1.0, 2, 3, 4]])
    moved = crop(jnp.tile(x, (3, 1)), jnp.array([[1, 0], [0, -1], [1, 1]]), (2, 2, 1), (9.0,))
    np.testing.assert_array_equal(moved, [[3, 4, 9, 9], [9, 1, 9, 3], [4, 9, 9, 9]])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-3, 3)), min_size=3, max_size=3))
def test_crops_are_windows_of_padded_images(shifts: list[tuple[int, int]]) -> None:
    x, fill = images(3), (-1.0, -2.0, -3.0)
    found = np.asarray(crop(jnp.asarray(x), jnp.asarray(shifts), SHAPE, fill)).reshape(3, *SHAPE)
    for image, (down, right), window in zip(x.reshape(3, *SHAPE), shifts, found, strict=True):
        padded = np.stack(
            [np.pad(image[..., c], ((5, 5), (4, 4)), constant_values=fill[c]) for c in range(3)], -1
        )
        np.testing.assert_array_equal(window, padded[5 + down : 10 + down, 4 + right : 8 + right])


def test_half_of_the_images_are_mirrored_and_crops_reach_every_shift() -> None:
    number, x = 2000, jnp.tile(jnp.arange(9.0), (2000, 1))
    both, y = Augmentation((3, 3, 1), padding=1, flip=True)(x, jnp.arange(number), key=key_of(3))
    flips, _ = Augmentation((3, 3, 1), flip=True)(x, None, key=key_of(3))
    crops, _ = Augmentation((3, 3, 1), padding=1)(x, None, key=key_of(3))
    np.testing.assert_array_equal(y, np.arange(number))
    mirrored = np.asarray(flips[:, 0] == 2)
    assert 0.45 < mirrored.mean() < 0.55
    counts = np.unique(np.asarray(crops), axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert counts.min() > 150  # 222 expected
    # a flip is drawn besides: the crops stay as they were
    again = np.where(mirrored[:, None, None], crops.reshape(-1, 3, 3)[:, :, ::-1], crops.reshape(-1, 3, 3))
    np.testing.assert_array_equal(both.reshape(-1, 3, 3), again)


@pytest.mark.parametrize(("shape", "number"), [((5, 7, 3), 37), ((8, 8, 1), 16), ((3, 4, 2), 1)])
def test_compiled_moves_are_crops_and_mirrors(shape: tuple[int, int, int], number: int) -> None:
    if not csr_library.available():
        pytest.skip("no compiled library")
    rng = np.random.default_rng(number)
    x = jnp.asarray(rng.normal(size=(2, number, math.prod(shape))), jnp.float32)
    shift = jnp.asarray(rng.integers(-3, 4, (2, number, 2)).clip(1 - min(shape[:2]), min(shape[:2]) - 1))
    flipped = jnp.asarray(rng.random((2, number)) < 0.5)
    fill = tuple(map(float, range(shape[2])))
    found = jax.vmap(lambda x, s, f: move(x, s, f, shape, fill))(x, shift.astype(jnp.int32), flipped)
    for one, s, f, got in zip(x, shift, flipped, found, strict=True):
        images = np.array(crop(one, s, shape, fill)).reshape(number, *shape)
        images[f] = images[f, :, ::-1]
        np.testing.assert_array_equal(got.reshape(images.shape), images)
    shared = jax.vmap(lambda s, f: move(x[0], s, f, shape, fill))(shift.astype(jnp.int32), flipped)
    np.testing.assert_array_equal(shared[0], found[0])  # images that all networks share are passed once


def test_affine_maps_are_those_of_scipy() -> None:
    shape = (9, 7, 2)
    x, maps = images(4, shape) / 100, draw_affine(Affine(25.0, 0.3, 0.2), 4, key=key_of(1))
    found = np.asarray(apply_affine(jnp.asarray(x), maps, shape, (0.5, -0.5))).reshape(4, *shape)
    centre = np.array([4.0, 3.0])
    for image, matrix, result in zip(x.reshape(4, *shape), np.asarray(maps), found, strict=True):
        for channel, fill in enumerate((0.5, -0.5)):
            framed = np.pad(image[..., channel], 1, constant_values=fill)
            offset = centre + 1 - matrix @ centre
            expected = ndimage.affine_transform(
                framed, matrix, offset, output_shape=shape[:2], order=1, mode="nearest"
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=2e-5)


def test_neighbours_share_a_map() -> None:
    x, maps = jnp.asarray(images(6)), draw_affine(Affine(), 3, key=key_of(2))
    shared, own = (apply_affine(x, m, SHAPE) for m in (maps, jnp.repeat(maps, 2, axis=0)))
    np.testing.assert_allclose(shared, own, rtol=1e-6)


def test_no_ranges_change_nothing() -> None:
    x = jnp.asarray(images(3))
    still, _ = Augmentation(SHAPE, affine=Affine(0.0, 0.0, 0.0))(x, None, key=key_of(0))
    np.testing.assert_allclose(still, x, rtol=1e-6)
    as_images, _ = Augmentation(SHAPE)(x.reshape(3, *SHAPE), None, key=key_of(0))
    assert as_images.shape == (3, *SHAPE)


def test_a_network_alone_sees_what_it_sees_among_others() -> None:
    change = Augmentation(SHAPE, 2, flip=True, affine=Affine())
    x, keys = jnp.asarray(images(6)), keys_of(range(4))
    many = jax.jit(jax.vmap(lambda key: change(x, None, key=key)[0]))(keys)
    for number in range(4):
        alone = jax.jit(lambda key: change(x, None, key=key)[0])(keys[number])
        np.testing.assert_allclose(alone, many[number], rtol=1e-6)
    assert not np.allclose(many[0], many[1])


def test_what_is_outside_is_black_and_flat_features_are_refused() -> None:
    digits, cliff = data.load("digits"), data.load("cliff")
    found = augment.augmentation(digits, ("crop", "flip"))
    assert (found.shape, found.padding, found.flip, found.affine) == ((8, 8, 1), 1, True, None)
    black = data.normalise(np.zeros((1, 64), np.uint8), digits.mean, digits.std)
    np.testing.assert_allclose(found.fill, black[0, :1], rtol=1e-6)
    with pytest.raises(InputError, match="flat features"):
        augment.augmentation(cliff, ("crop",))
    with pytest.raises(InputError, match="turn"):
        augment.augmentation(digits, ("turn",))


def test_every_channel_is_normalised_by_its_own_statistics() -> None:
    digits = augment.by_channel(data.load("digits"))
    x = np.asarray(data.normalise(digits.x_train, digits.mean, digits.std))
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-5)
