"""On a GPU: what it computes against NumPy in float64 and against the CPU. Run by ``make test-gpu``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.kernels import PRECISIONS, product
from jaxnet.masks import uniform_topology
from jaxnet.nn.layers import linear
from jaxnet.structure import LayerParams
from jaxnet.sweep import Program
from jaxnet.topology import Mask
from tests.sweep import small

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    """Asked for and not there is a failure: a skip would look like a GPU on which all is well."""
    found = {d.platform for d in jax.devices()}
    assert found == {"gpu"}, f"no GPU but {found}: set JAXNET_TEST_PLATFORMS=cuda,cpu, as make test-gpu does"


OUT, IN, BATCH, SEEDS, NNZ = 128, 784, 64, 8, 2007


@functools.cache
def errors(precision: str) -> tuple[float, ...]:
    """Of product, gradient of the values and gradient of the input of eight networks: relative, in norm."""
    keys = jax.random.split(jax.random.key(3), 4)
    topology = jax.vmap(lambda k: uniform_topology(OUT, IN, NNZ, key_mask=k))(
        jax.random.split(keys[0], SEEDS)
    )
    values = jax.random.normal(keys[1], (SEEDS, NNZ))
    x, dy = jax.random.normal(keys[2], (IN, BATCH)), jax.random.normal(keys[3], (SEEDS, OUT, BATCH))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None, 0))
    def run(values: jax.Array, topology: Any, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(lambda v, x: product("dense", precision)(v, topology, x), values, x)
        return y, *pull(dy)

    found = [np.asarray(a, np.float64) for a in run(values, topology, x, dy)]
    matrix = np.zeros((SEEDS, OUT, IN))
    seed, rows, cols = np.arange(SEEDS)[:, None], np.asarray(topology.rows), np.asarray(topology.cols)
    matrix[seed, rows, cols] = values
    x64, dy64 = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    of_matrix = dy64 @ x64.T
    expected = matrix @ x64, of_matrix[seed, rows, cols], np.swapaxes(matrix, 1, 2) @ dy64
    return tuple(
        float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("f32", 0, 1e-6), ("tf32", 1e-5, 1e-3), ("bf16", 1e-4, 1e-2)]
)
def test_products_and_gradients_are_as_exact_as_their_precision_says(
    precision: str, least: float, most: float
) -> None:
    """And no more exact: operands that are not rounded would mean that XLA did not take the fast units."""
    found = errors(precision)
    assert all(least <= error <= most for error in found), found


def test_the_masked_representation_computes_in_float32() -> None:
    keys = jax.random.split(jax.random.key(4), 2)
    params = LayerParams(jax.random.normal(keys[0], (OUT, IN)), jnp.zeros(OUT))
    mask, x = jax.random.bernoulli(keys[0], 0.02, (OUT, IN)), jax.random.normal(keys[1], (IN, BATCH))
    found = jax.jit(lambda p, x: linear(p, Mask(mask), x, product("dense")))(params, x)
    expected = (np.asarray(params.weight, np.float64) * np.asarray(mask)) @ np.asarray(x, np.float64)
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


def program(devices: Sequence[jax.Device], precision: str = "f32", chunk: int = small.NUM_SEEDS) -> Program:
    config = small.config("dense", product=product("dense", precision))
    options: dict[str, Any] = {"key_data": jax.random.key(small.KEY_DATA), "devices": devices, "chunk": chunk}
    return Program(small.FAMILY, config, small.NUM_SEEDS, small.splits(), **options)


def trained(platform: str, precision: str = "f32", chunk: int = small.NUM_SEEDS) -> Any:
    return small.train_all(program(jax.local_devices(backend=platform), precision, chunk))


def test_a_sweep_draws_the_same_networks_as_on_the_cpu_and_trains_them_alike() -> None:
    gpu, cpu = trained("cuda"), trained("cpu")
    small.assert_same(gpu.structure, cpu.structure)
    small.assert_close(gpu, cpu, 1e-4)  # 12 steps of sums in another order


@pytest.mark.parametrize("chunk", [4, 1])
def test_chunks_matter_by_rounding_alone(chunk: int) -> None:
    together, apart = trained("cuda"), trained("cuda", chunk=chunk)
    small.assert_same(together.structure, apart.structure)
    small.assert_close(together, apart, 1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_call_repeated_gives_the_same_bits(precision: str) -> None:
    """What a continued run rests on: no sum whose order the scheduler of the GPU decides."""
    compiled = program(jax.local_devices(backend="cuda"), precision)
    small.assert_same(small.train_all(compiled), small.train_all(compiled))


def test_a_program_knows_the_memory_of_the_gpu() -> None:
    stats = jax.devices()[0].memory_stats()
    assert stats is not None
    assert (
        program(jax.local_devices()).plan.budget
        == sum((d.memory_stats() or {})["bytes_limit"] for d in jax.local_devices()) // 2
    )
    assert jnp.zeros(3).devices() == {jax.devices()[0]}
