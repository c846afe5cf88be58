"""The compiled sparse product against SciPy, against the dense product, and against itself."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxnet.kernels import csr_layer, csr_library, csr_product, dense_product
from jaxnet.kernels.csr import ACTIVATIONS
from jaxnet.topology import Topology, topology_from_flat

pytestmark = pytest.mark.skipif(not csr_library.available(), reason=csr_library.problem())

REFERENCE = {
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
}


def make_topology(
    rng: np.random.Generator, num_out: int, num_in: int, nnz: int, padding: int = 0
) -> Topology:
    """A topology with ``nnz`` weights at random positions and some padding slots."""
    flat = np.sort(rng.permutation(num_out * num_in)[:nnz])  # in NumPy: JAX would compile for every shape
    rows = np.append(flat // num_in, num_out + np.arange(padding)).astype(np.int32)
    cols = np.append(flat % num_in, np.zeros(padding)).astype(np.int32)
    row_ptr = np.searchsorted(rows, np.arange(num_out + 1)).astype(np.int32)
    return Topology(jnp.asarray(rows), jnp.asarray(cols), jnp.asarray(row_ptr), (num_out, num_in))


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape).astype(np.float32))


def scipy_matrix(values: jax.Array, topology: Topology) -> scipy.sparse.csr_array:
    nnz = int(topology.num_nonzeros)
    parts = (
        np.asarray(values, np.float64)[:nnz],
        np.asarray(topology.cols)[:nnz],
        np.asarray(topology.row_ptr),
    )
    return scipy.sparse.csr_array(parts, shape=topology.shape)


@st.composite
def layer_sizes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """``num_out, num_in, nnz, padding, batch``."""
    num_out, num_in = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    nnz = draw(st.integers(1, num_out * num_in))
    return num_out, num_in, nnz, draw(st.sampled_from([0, 0, 3, 17])), draw(st.integers(1, 200))


@settings(max_examples=20)  # every new shape compiles
@given(layer_sizes(), st.integers(0, 2**32 - 1))
def test_product_and_gradients_equal_scipy(sizes: tuple[int, int, int, int, int], seed: int) -> None:
    num_out, num_in, nnz, padding, batch = sizes
    rng = np.random.default_rng(seed)
    topology = make_topology(rng, num_out, num_in, nnz, padding)
    values, x, dy = normal(rng, nnz + padding), normal(rng, num_in, batch), normal(rng, num_out, batch)

    @jax.jit
    def run(values, x, dy):
        y, pullback = jax.vjp(lambda v, x: csr_product(v, topology, x), values, x)
        return y, *pullback(dy)

    y, d_values, d_x = map(np.asarray, run(values, x, dy))

    matrix = scipy_matrix(values, topology)
    x64, dy64 = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    rows, cols = np.asarray(topology.rows)[:nnz], np.asarray(topology.cols)[:nnz]
    np.testing.assert_allclose(y, matrix @ x64, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(d_x, matrix.T @ dy64, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(d_values[:nnz], np.sum(dy64[rows] * x64[cols], axis=1), rtol=1e-5, atol=1e-3)
    assert np.all(d_values[nnz:] == 0)


@pytest.mark.parametrize("batch", [1, 15, 16, 17, 64, 127, 128, 129, 143, 512, 531])
def test_batches_around_the_slice_width(batch: int) -> None:
    rng = np.random.default_rng(batch)
    topology = make_topology(rng, 33, 47, 300, 5)
    values, x, dy, bias = normal(rng, 305), normal(rng, 47, batch), normal(rng, 33, batch), normal(rng, 33)
    for activation in ("identity", "relu"):
        layer = partial(csr_layer, activation=activation)
        y, pullback = jax.vjp(lambda v, x, b, f=layer: f(v, topology, x, b), values, x, bias)
        reference, reference_pullback = jax.vjp(
            lambda v, x, b, a=activation: REFERENCE[a](dense_product(v, topology, x) + b[:, None]),
            values,
            x,
            bias,
        )
        np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)
        for gradient, expected in zip(pullback(dy), reference_pullback(dy), strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared_x", [True, False])
@pytest.mark.parametrize("shared_topology", [True, False])
@pytest.mark.parametrize("batch", [2, 150])
def test_vmap_over_seeds(shared_x: bool, shared_topology: bool, batch: int) -> None:
    seeds, num_out, num_in, nnz = 5, 12, 30, 70
    rng = np.random.default_rng(0)
    tops = [make_topology(rng, num_out, num_in, nnz, 4) for _ in range(seeds)]
    topology = tops[0] if shared_topology else jax.tree.map(lambda *a: jnp.stack(a), *tops)
    values, dy = normal(rng, seeds, nnz + 4), normal(rng, seeds, num_out, batch)
    x = normal(rng, num_in, batch) if shared_x else normal(rng, seeds, num_in, batch)
    axes = 0, None if shared_topology else 0, None if shared_x else 0

    def loss(product, values, x):
        return jnp.sum(dy * jax.vmap(product, axes)(values, topology, x))

    for function in (loss, lambda *a: jax.vmap(a[0], axes)(a[1], topology, a[2])):
        np.testing.assert_allclose(
            jax.jit(partial(function, csr_product))(values, x),
            function(dense_product, values, x),
            rtol=1e-4,
            atol=1e-3,
        )
    gradients = jax.jit(jax.grad(partial(loss, csr_product), (0, 1)))(values, x)
    expected = jax.grad(partial(loss, dense_product), (0, 1))(values, x)
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-3)


def test_shared_values_and_batch_axis_elsewhere() -> None:
    rng = np.random.default_rng(1)
    topology = make_topology(rng, 6, 9, 20)
    values, x = normal(rng, 20), normal(rng, 9, 7, 3)
    mapped = jax.vmap(csr_product, (None, None, 2), 2)(values, topology, x)
    one_by_one = jnp.stack([csr_product(values, topology, x[:, :, k]) for k in range(3)], axis=2)
    np.testing.assert_array_equal(mapped, one_by_one)


def test_nested_vmap_crosses_seeds_and_batches() -> None:
    rng = np.random.default_rng(2)
    tops = [make_topology(rng, 7, 11, 25, 2) for _ in range(3)]
    topology = jax.tree.map(lambda *a: jnp.stack(a), *tops)
    values, x = normal(rng, 3, 27), normal(rng, 4, 11, 20)

    def every_pair(product):
        inner = jax.vmap(product, (0, 0, None))  # over networks
        return lambda v, x: jax.vmap(inner, (None, None, 0))(v, topology, x)  # over batches

    result = jax.jit(every_pair(csr_product))(values, x)  # (batch of x, seed, out, batch)
    for i in range(4):
        for k in range(3):
            np.testing.assert_array_equal(result[i, k], csr_product(values[k], tops[k], x[i]))

    gradient = jax.grad(lambda v, x: jnp.sum(jnp.sin(every_pair(csr_product)(v, x))), (0, 1))(values, x)
    expected = jax.grad(lambda v, x: jnp.sum(jnp.sin(every_pair(dense_product)(v, x))), (0, 1))(values, x)
    for a, b in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [5, 150])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_layer_equals_its_parts(activation: str, batch: int) -> None:
    rng = np.random.default_rng(3)
    seeds, num_out, num_in, nnz = 3, 14, 25, 90
    topology = make_topology(rng, num_out, num_in, nnz, 3)
    values, bias = 2 * normal(rng, seeds, nnz + 3), normal(rng, seeds, num_out)
    x, dy = normal(rng, num_in, batch), normal(rng, seeds, num_out, batch)

    def parts(values, topology, x, bias):
        return REFERENCE[activation](csr_product(values, topology, x) + bias[:, None])

    def run(layer):
        def loss(values, x, bias):
            y = jax.vmap(layer, (0, None, None, 0))(values, topology, x, bias)
            return jnp.sum(y * dy), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    (_, y), gradients = run(partial(csr_layer, activation=activation))(values, x, bias)
    (_, expected_y), expected = run(parts)(values, x, bias)
    np.testing.assert_allclose(y, expected_y, rtol=2e-6, atol=1e-6)
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, reference, rtol=1e-4, atol=1e-4)
    assert np.all(np.asarray(gradients[0][:, nnz:]) == 0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_the_whole_range(activation: str) -> None:
    z = jnp.concatenate(
        [jnp.linspace(-100, 100, 4001), jnp.linspace(-2, 2, 4001), jnp.array([0.0, 1e-30, 3e4, -3e4])]
    )
    topology = make_topology(np.random.default_rng(0), 1, 1, 1)
    y, pullback = jax.vjp(
        lambda x: csr_layer(jnp.ones(1), topology, x, jnp.zeros(1), activation)[0],
        z[None].astype(jnp.float32),
    )
    reference, reference_pullback = jax.vjp(REFERENCE[activation], z)
    np.testing.assert_allclose(y, reference, rtol=3e-6, atol=1e-6)
    ones = jnp.ones_like(z)
    np.testing.assert_allclose(pullback(ones)[0][0], reference_pullback(ones)[0], rtol=1e-5, atol=1e-5)


def test_nan_is_not_hidden() -> None:
    topology = make_topology(np.random.default_rng(0), 1, 1, 1)
    x = jnp.full((1, 20), jnp.nan)
    for activation in ACTIVATIONS:
        assert np.all(np.isnan(csr_layer(jnp.ones(1), topology, x, jnp.zeros(1), activation)))


def test_gradients_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(4)
    topology = make_topology(rng, 5, 8, 15)
    arguments = normal(rng, 15), normal(rng, 8, 6), normal(rng, 5)
    for activation in ("identity", "tanh", "sigmoid", "gelu"):
        check_grads(
            lambda v, x, b, a=activation: csr_layer(v, topology, x, b, a),
            arguments,
            order=1,
            modes=("rev",),
            atol=1e-2,
            rtol=1e-2,
        )


def test_rows_without_weights_and_a_layer_worked_by_hand() -> None:
    # [[0, 2, 0], [0, 0, 0], [3, 0, 4]]
    topology = topology_from_flat(jnp.array([1, 6, 8]), jnp.ones(3, bool), (3, 3))
    values, x = jnp.array([2.0, 3.0, 4.0]), jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    y, pullback = jax.vjp(lambda v, x: csr_product(v, topology, x), values, x)
    np.testing.assert_array_equal(y, [[4, 40], [0, 0], [15, 150]])
    d_values, d_x = pullback(jnp.array([[1.0, 2.0], [5.0, 5.0], [1.0, -1.0]]))
    np.testing.assert_array_equal(d_values, [42, -9, -27])
    np.testing.assert_array_equal(d_x, [[3, -3], [2, 4], [4, -4]])


def test_empty_batch_and_no_seeds() -> None:
    topology = make_topology(np.random.default_rng(0), 4, 5, 6, 2)
    y, pullback = jax.vjp(lambda v, x: csr_product(v, topology, x), jnp.ones(8), jnp.ones((5, 0)))
    assert y.shape == (4, 0)
    np.testing.assert_array_equal(pullback(y)[0], np.zeros(8))
    assert jax.vmap(csr_product, (0, None, None))(jnp.ones((0, 8)), topology, jnp.ones((5, 3))).shape == (
        0,
        4,
        3,
    )


def test_first_layer_does_not_compute_its_input_gradient() -> None:
    rng = np.random.default_rng(5)
    topology = make_topology(rng, 6, 9, 20)

    def loss(values, bias, x):
        return jnp.sum(csr_layer(values, topology, x, bias, "relu"))

    arguments = normal(rng, 20), normal(rng, 6), normal(rng, 9, 8)
    text = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).as_text()
    assert csr_library.VALUES_GRADIENT in text and csr_library.INPUT_GRADIENT not in text
    assert csr_library.INPUT_GRADIENT in jax.jit(jax.grad(loss, (0, 2))).lower(*arguments).as_text()


def test_shared_batch_is_handed_over_once() -> None:
    topology = make_topology(np.random.default_rng(6), 6, 9, 20)
    mapped = jax.jit(jax.vmap(csr_product, (0, None, None)))
    text = mapped.lower(jnp.ones((3, 20)), topology, jnp.ones((9, 8))).as_text()
    call = next(line for line in text.splitlines() if f"@{csr_library.PRODUCT}" in line)
    assert "tensor<1x9x8xf32>" in call and "tensor<3x6x8xf32>" in call


def _everything(values, topology, x, bias, dy):
    y, pullback = jax.vjp(lambda v, x, b: csr_layer(v, topology, x, b, "gelu"), values, x, bias)
    return y, *pullback(dy)


@pytest.mark.parametrize("batch", [3, 64, 150])
def test_a_seed_alone_is_bit_identical_to_its_place_among_others(batch: int) -> None:
    rng = np.random.default_rng(7)
    seeds = 9
    tops = [make_topology(rng, 40, 100, 700) for _ in range(seeds)]
    topology = jax.tree.map(lambda *a: jnp.stack(a), *tops)
    values, bias = normal(rng, seeds, 700), normal(rng, seeds, 40)
    x, dy = normal(rng, 100, batch), normal(rng, seeds, 40, batch)
    together = jax.jit(jax.vmap(_everything, (0, 0, None, 0, 0)))(values, topology, x, bias, dy)
    for k in range(seeds):
        alone = _everything(values[k], tops[k], x, bias[k], dy[k])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b[k])


@pytest.mark.parametrize(("seeds", "batch"), [(1, 600), (2, 200), (7, 9), (7, 200)])
def test_results_do_not_depend_on_the_number_of_threads(seeds: int, batch: int) -> None:
    rng = np.random.default_rng(8)
    tops = [make_topology(rng, 64, 300, 3000) for _ in range(seeds)]
    topology = jax.tree.map(lambda *a: jnp.stack(a), *tops)
    values, bias = normal(rng, seeds, 3000), normal(rng, seeds, 64)
    x, dy = normal(rng, 300, batch), normal(rng, seeds, 64, batch)
    run = jax.jit(jax.vmap(_everything, (0, 0, None, 0, 0)))
    results = []
    try:
        for threads in (1, 2, 0):
            csr_library.set_max_threads(threads)
            results.append(jax.block_until_ready(run(values, topology, x, bias, dy)))
    finally:
        csr_library.set_max_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
