"""Threefry as jaxnet has it compiled: the published numbers, and no loop in what JAX draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.threefry import compile_flat, threefry

# Known answers of Random123 for Threefry-2x32 with 20 rounds: counter, key, result.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_published_numbers(
    counter: tuple[int, int], key: tuple[int, int], result: tuple[int, int]
) -> None:
    words = [jnp.full((1,), word, jnp.uint32) for word in (*key, *counter)]
    assert tuple(int(word[0]) for word in threefry(*words)) == result


@pytest.mark.cpu
def test_draws_of_jax_are_these_and_have_no_loop(key: jax.Array) -> None:
    compile_flat()
    words = jax.random.key_data(key)
    low = jnp.arange(1000, dtype=jnp.uint32)
    first, second = threefry(words[0], words[1], jnp.zeros_like(low), low)

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, (1000,), jnp.uint32)

    lowered = jax.jit(draw).lower(key)
    assert "stablehlo.while" not in lowered.as_text()
    np.testing.assert_array_equal(lowered.compile()(key), first ^ second)
