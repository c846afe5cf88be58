"""Any model's convolutions in forms that are fast in loops: the model itself as the reference."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet.nn import fast_in_loops


@jax.jit
def inner(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A program of its own."""
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", rhs_dilation=(1, 2), dimension_numbers=order
    )


class Net(linen.Module):
    """What is replaced (within a program of its own too), beside what is not."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.max_pool(linen.Conv(4, (3, 3))(x), (2, 2), (2, 2))
        x = inner(linen.relu(x), jnp.ones((2, 2, 4, 6)) / 9)
        x = linen.Conv(6, (3, 3), feature_group_count=2)(x)
        return linen.Dense(3)(x.reshape(x.shape[0], -1))


def test_values_and_gradients_are_the_models_own_for_one_network_and_for_many(key):
    model, x = Net(), jax.random.normal(key, (5, 12, 12, 2))
    params = jax.vmap(lambda key: model.init(key, x))(jax.random.split(key, 2))

    def loss(apply):
        return jax.jit(jax.vmap(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(apply(p, x))))))(params)

    got, wanted = loss(fast_in_loops(model.apply)), loss(model.apply)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, wanted)


@pytest.mark.cpu
def test_what_is_slow_in_loops_is_gone_but_for_groups(key):
    model, x = Net(), jax.random.normal(key, (5, 12, 12, 2))
    params = model.init(key, x)

    def trained(apply):
        def step(params, _):
            slope = jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, x))))(params)
            return jax.tree.map(lambda p, s: p - s, params, slope), None

        return jax.jit(lambda p: jax.lax.scan(step, p, length=2)[0]).lower(params).as_text()

    own, theirs = trained(fast_in_loops(model.apply)), trained(model.apply)
    assert theirs.count("select_and_scatter") and not own.count("select_and_scatter")
    # of the gradients of kernels, which have the batch where channels are, the one of groups is left
    found = [text.count("[f, 0, 1, b]x[i, 0, 1, o]") for text in (own, theirs)]
    assert 0 <= found[0] < found[1], found


def test_other_arguments_types_and_nnx_modules_go_through(key):
    x = jax.random.normal(key, (2, 6, 6, 3))
    graph, params = nnx.split(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)))
    apply = lambda params, x, *, scale: {"y": nnx.merge(graph, params)(x) * scale, "n": jnp.arange(3)}  # noqa: E731
    got, wanted = fast_in_loops(apply)(params, x, scale=2.0), apply(params, x, scale=2.0)
    np.testing.assert_allclose(got["y"], wanted["y"], atol=1e-5)
    assert got["n"].tolist() == [0, 1, 2]
    whole = lambda x: linen.max_pool(x, (2, 2))  # noqa: E731 - of integers: not replaced
    numbers = jnp.arange(32).reshape(1, 4, 4, 2).astype(jnp.float16)
    assert jnp.array_equal(fast_in_loops(whole)(numbers), whole(numbers))
