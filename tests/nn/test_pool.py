"""Max-pooling: XLA's own as the reference, ties and NaN by hand, derivatives of any kind, vmap."""

from __future__ import annotations

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet.nn import max_pool

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def gradient(function, x):
    """Of a sum in which every window has a weight of its own."""

    def loss(x):
        y = function(x)
        return jnp.sum(y * jnp.arange(1.0, y.size + 1).reshape(y.shape)), y

    return jax.grad(loss, has_aux=True)(x)


@settings(max_examples=5)
@given(
    size=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    window=pairs,
    strides=st.one_of(st.none(), pairs),
    padding=st.sampled_from(["VALID", "SAME", ((0, 1), (1, 0))]),
)
def test_values_and_gradients_are_xlas_ties_included(size, window, strides, padding):
    x = jax.random.randint(jax.random.key(3), (2, *size, 2), 0, 3).astype(jnp.float32)  # many ties
    own = functools.partial(max_pool, window=window, strides=strides, padding=padding)
    xla = functools.partial(
        flax.linen.max_pool, window_shape=window, strides=strides or window, padding=padding
    )
    got, wanted = jax.jit(lambda x: (gradient(own, x), gradient(xla, x)))(x)
    for one, other in zip(got, wanted, strict=True):
        assert np.array_equal(one, other)


def test_the_first_of_equal_values_gets_the_gradient():
    x = jnp.asarray([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [5.0, 5.0, 5.0]])[None, :, :, None]
    of_x, y = jax.jit(functools.partial(gradient, functools.partial(max_pool, window=2)))(x)
    # one window; the last row and column are in none
    assert np.asarray(y).ravel().tolist() == [0]
    assert np.asarray(of_x)[0, :, :, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    of_x, y = jax.jit(functools.partial(gradient, functools.partial(max_pool, window=2, strides=1)))(x)
    assert np.asarray(y).ravel().tolist() == [0, 2, 5, 5]
    assert np.asarray(of_x)[0, :, :, 0].tolist() == [[1, 0, 0], [0, 0, 2], [3, 4, 0]]


@pytest.mark.parametrize("place", range(4))
def test_a_nan_makes_the_maximum_nan(place):
    x = jnp.ones(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert np.isnan(max_pool(x, 2)).all()


def test_forward_derivatives_and_vmap_agree_with_the_gradient(key):
    x, dx = jax.random.normal(key, (2, 3, 1, 5, 4, 2))
    pool = functools.partial(max_pool, window=(2, 2), strides=(2, 1))
    y, dy = jax.jit(lambda x, dx: jax.jvp(jax.vmap(pool), (x,), (dx,)))(x, dx)
    alone = jax.jit(functools.partial(gradient, pool))
    for i in range(3):
        of_x, one = alone(x[i])
        assert np.array_equal(y[i], one)
        weighted = np.sum(np.asarray(dy[i]) * np.arange(1.0, one.size + 1).reshape(one.shape))
        assert np.sum(np.asarray(of_x) * np.asarray(dx[i])) == pytest.approx(weighted, rel=1e-4)


def test_wrong_calls_say_what_fits():
    with pytest.raises(ValueError, match="does not fit into"):
        max_pool(jnp.zeros((1, 2, 5, 1)), 3)
    with pytest.raises(ValueError, match="batch, height, width, channels"):
        max_pool(jnp.zeros((2, 5, 1)), 2)
    with pytest.raises(ValueError, match="strides"):
        max_pool(jnp.zeros((1, 5, 5, 1)), 2, 0)
