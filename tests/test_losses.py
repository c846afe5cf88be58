"""Losses and accuracy against NumPy, padding, ties."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from tests import reference


def test_cross_entropy_by_hand():
    # two classes with odds 3 : 1
    logits = jnp.log(jnp.asarray([[3.0, 1.0], [1.0, 3.0]]))
    labels, ones = jnp.asarray([0, 0]), jnp.ones(2)
    loss = losses.cross_entropy(logits, labels, ones, axis=0)
    assert float(loss) == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-6)
    assert float(losses.cross_entropy(logits, labels, jnp.asarray([1.0, 0.0]), axis=0)) == pytest.approx(
        -np.log(0.75)
    )


@pytest.mark.parametrize("scale", [1.0, 1e3])  # large logits must not overflow
def test_cross_entropy_equals_numpy(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(5, 9))).astype(np.float32)
    labels, weight = rng.integers(0, 5, 9), (np.arange(9) < 7).astype(np.float32)
    got = losses.cross_entropy(
        jnp.asarray(logits), jnp.asarray(labels, jnp.int32), jnp.asarray(weight), axis=0
    )
    assert float(got) == pytest.approx(reference.loss_of(logits.astype(float), labels, weight), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    labels = jnp.asarray([0, 2, 1, 0])
    more = jnp.concatenate([logits, 7 * jnp.ones((3, 2))], axis=1), jnp.concatenate([labels, labels[:2]])
    value_and_grad = jax.value_and_grad(functools.partial(losses.cross_entropy, axis=0))
    plain = value_and_grad(logits, labels, jnp.ones(4))
    wide = value_and_grad(*more, jnp.asarray([1.0] * 4 + [0.0] * 2))
    np.testing.assert_allclose(plain[0], wide[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1], wide[1][:, :4], rtol=1e-6)
    assert np.all(np.asarray(wide[1])[:, 4:] == 0)


def test_padding_that_is_not_finite_is_ignored():
    logits = jnp.asarray([[1.0, jnp.nan], [0.0, jnp.inf]])
    loss = losses.cross_entropy(logits, jnp.asarray([0, 0]), jnp.asarray([1.0, 0.0]), axis=0)
    assert float(loss) == pytest.approx(np.log1p(np.exp(-1.0)), rel=1e-6)


def test_num_correct_by_hand():
    # right, wrong, a tie (the lower class wins), right but padding
    logits = jnp.asarray([[2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 9.0]])
    labels, weight = jnp.asarray([0, 1, 0, 2]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    assert float(losses.num_correct(logits, labels, weight, axis=0)) == 2.0
    assert float(losses.num_correct(logits, jnp.asarray([0, 1, 1, 2]), weight, axis=0)) == 1.0
