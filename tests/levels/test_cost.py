"""``jaxnet.levels.cost``: products counted by hand, widths of equal parameters, what is kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnet import transformer
from jaxnet.levels import NEAR, kept_bytes, matched, matmul_flops, num_params
from jaxnet.transformer import Decoder, Spec

SPEC = Spec(vocab=11, length=6, width=8, heads=2, layers=3, hidden=20)


def test_products_of_a_decoder_are_those_of_the_formula():
    module, tokens = Decoder(SPEC), jnp.zeros((2, 6), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), tokens)
    linear = SPEC.layers * (4 * 8**2 + 2 * 8 * 20) + 11 * 8
    attention = SPEC.layers * 2 * 6 * 6 * 8  # scores and what is read, all pairs
    assert matmul_flops(module.apply, params, tokens) == 2 * 2 * (6 * linear + attention)


def test_loops_count_by_their_length_and_alternatives_by_the_dearest():
    a, n = jnp.ones((4, 4)), 2 * 4**3
    once = matmul_flops(lambda a: a @ a, a)

    def scanned(a):
        return jax.lax.scan(
            lambda c, _: (jax.lax.scan(lambda d, _: (d @ a, None), c, length=3)[0], None), a, length=5
        )

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert once == n and matmul_flops(scanned, a) == 15 * n and matmul_flops(either, a) == 2 * n
    assert matmul_flops(jax.grad(lambda a: jnp.sum(a @ a)), a) == 3 * n  # forward, and both factors
    with pytest.raises(ValueError, match="unknown length"):
        matmul_flops(lambda a: jax.lax.while_loop(lambda a: a[0, 0] > 0, lambda a: a @ a, a), a)
    kernel, image = jnp.ones((3, 3, 2, 5)), jnp.ones((1, 8, 8, 2))
    conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert matmul_flops(conv, image, kernel) == 2 * 8 * 8 * 5 * 3 * 3 * 2


@pytest.mark.parametrize("layers", [1, 6])
def test_other_depths_get_a_width_with_as_many_parameters(layers):
    target = transformer.num_params(Spec(vocab=308, length=64, width=56, heads=4, layers=4))
    asked = Spec(vocab=308, length=64, width=56, heads=4, layers=layers)
    found = matched(Decoder, asked, target)
    assert abs(transformer.num_params(found) / target - 1) <= NEAR and found.layers == layers
    shapes = jax.eval_shape(Decoder(found).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    assert num_params(Decoder(found)) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert 0.5 < found.hidden_width / (4 * found.width) < 2
    assert matched(Decoder, found, target) == found


def test_a_number_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no width has 10 parameters"):
        matched(Decoder, SPEC, 10)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        dataclasses.replace(SPEC, hidden=0)


def test_kept_is_what_the_backward_pass_needs_once():
    w, x = jnp.ones((4, 3)), jnp.ones((5, 4))
    # x is given, tanh's slope (5, 3) is kept
    assert kept_bytes(lambda w: jnp.sum(jnp.tanh(x @ w)), w) in (4 * 15, 8 * 15)
    module = Decoder(SPEC)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))

    def kept(n: int) -> int:
        def loss(p: Any) -> Any:
            logits: Any = module.apply(p, jnp.zeros((n, 6), jnp.int32))
            return jnp.sum(logits**2)

        return kept_bytes(loss, params)

    sizes = kept(1), kept(4)
    assert 3 < sizes[1] / sizes[0] < 4.01 and math.isfinite(sizes[0])
