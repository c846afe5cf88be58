"""Dense products with rounded operands: what is rounded, what is not, and what XLA gets to see."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.kernels import PRECISIONS, PRODUCTS, dense_product, product
from jaxnet.topology import Topology

OUT, IN, BATCH, SEEDS = 5, 7, 6, 3
# 2 of 35 positions, one slot of padding; 1 + 2**-9 has 10 bits, one more than bfloat16 holds
TOPOLOGY = Topology(
    jnp.asarray([0, 3, OUT]), jnp.asarray([2, 6, 0]), jnp.asarray([0, 1, 1, 1, 2, 2]), (OUT, IN)
)
VALUES = jnp.asarray([1 + 2.0**-9, -2.0, 99.0])


def rounded(a: jax.Array) -> np.ndarray:
    return np.asarray(a.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def pulled(precision: str, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
    """Product, gradient of the values, gradient of the input."""
    y, pull = jax.vjp(lambda v, x: product("dense", precision)(v, TOPOLOGY, x), VALUES, x)
    return y, *pull(dy)


def test_bf16_rounds_the_operands_and_nothing_else(key):
    x, dy = (jax.random.normal(k, s) for k, s in zip(jax.random.split(key), ((IN, BATCH), (OUT, BATCH))))  # noqa: B905
    y, dv, dx = pulled("bf16", x, dy)
    assert {a.dtype for a in (y, dv, dx)} == {jnp.dtype("float32")}
    matrix = np.zeros((OUT, IN))
    matrix[0, 2], matrix[3, 6] = rounded(VALUES[0]), -2.0
    assert matrix[0, 2] == 1.0
    np.testing.assert_allclose(y, matrix @ rounded(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dx, matrix.T @ rounded(dy), rtol=1e-6, atol=1e-6)
    of_matrix = rounded(dy) @ rounded(x).T  # its sums are not rounded to bfloat16
    expected = np.asarray([of_matrix[0, 2], of_matrix[3, 6], 0.0])
    np.testing.assert_allclose(dv, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.cpu
def test_tf32_is_float32_on_a_cpu(key):
    x, dy = jax.random.normal(key, (IN, BATCH)), jnp.ones((OUT, BATCH))
    for a, b in zip(pulled("tf32", x, dy), pulled("f32", x, dy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_the_choice_by_name():
    assert product("dense") is product("dense", "f32") is dense_product
    assert product("dense", "bf16") is product("dense", "bf16")  # static: compares equal, compiles once
    with pytest.raises(InputError, match="unknown precision 'f16': choose one of f32, tf32, bf16"):
        product("dense", "f16")
    if "csr" in PRODUCTS:
        with pytest.raises(InputError, match="csr kernel computes in f32 only: choose the dense kernel"):
            product("csr", "bf16")


def gradients(precision: str, values: jax.Array, x: jax.Array) -> jax.Array:
    """Of all seeds' values, with an input that they share."""
    run = product("dense", precision)
    return jax.vmap(jax.grad(lambda v: jnp.sum(run(v, TOPOLOGY, x) ** 2)))(values)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_shared_input_makes_one_product_of_all_seeds(precision):
    arguments = jnp.ones((SEEDS, 3)), jnp.ones((IN, BATCH))
    compiled = jax.jit(functools.partial(gradients, precision)).lower(*arguments).compile()
    # after XLA's own passes: (seeds * out, in) by (in, batch), and its transpose for the weights
    dots = re.findall(r"= (\w+)\[(\S+?)\]\{[^}]*\} dot\(", compiled.as_text() or "")
    flat = {(kind, tuple(int(n) for n in shape.split(","))) for kind, shape in dots}
    assert len(dots) == 2 and {kind for kind, _ in flat} == {"f32"}
    assert {shape for _, shape in flat} == {(SEEDS * OUT, BATCH), (SEEDS * OUT, IN)}


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("f32", "precision = [HIGHEST, HIGHEST]"),
        (
            "tf32",
            "algorithm = <lhs_precision_type = tf32, rhs_precision_type = tf32, accumulation_type = f32",
        ),
        ("bf16", f"(tensor<{SEEDS}x{OUT}x{IN}xbf16>, tensor<{IN}x{BATCH}xbf16>)"),
    ],
)
def test_what_a_gpu_gets_to_see(precision, words):
    arguments = jnp.ones((SEEDS, 3)), jnp.ones((IN, BATCH))
    exported = jax.export.export(jax.jit(functools.partial(gradients, precision)), platforms=["cuda"])
    dots = [
        line for line in exported(*arguments).mlir_module().splitlines() if "stablehlo.dot_general" in line
    ]
    assert len(dots) == 2 and words in dots[0]
    assert not any("batching_dims" in dot for dot in dots), "one product, not one per seed"
    for dot in dots:  # sums and results
        assert re.search(r"-> tensor<[0-9x]+xf32>", dot), dot
