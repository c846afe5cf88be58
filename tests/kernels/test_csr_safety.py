"""Wrong input, corrupt topologies, other devices, missing builds, and many threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet.kernels
from jaxnet.errors import InputError
from jaxnet.kernels import csr_layer, csr_library, csr_product, dense_product, product
from jaxnet.topology import Topology, topology_from_mask

ROOT = Path(__file__).resolve().parents[2]
needs_csr = pytest.mark.skipif(not csr_library.available(), reason=csr_library.problem())


def small_topology() -> Topology:
    return topology_from_mask(np.array([[1, 0, 1], [0, 1, 0]], bool))


@needs_csr
def test_other_types_than_float32_are_rejected() -> None:
    x = jnp.ones((3, 4))
    with pytest.raises(InputError, match=r"computes in float32 and values is bfloat16"):
        csr_product(jnp.ones(3, jnp.bfloat16), small_topology(), x)
    with pytest.raises(InputError, match=r"computes in float32 and x is int32"):
        csr_product(jnp.ones(3), small_topology(), x.astype(jnp.int32))
    with pytest.raises(InputError, match=r"computes in float32 and bias is float16"):
        csr_layer(jnp.ones(3), small_topology(), x, jnp.ones(2, jnp.float16))
    topology = small_topology()
    with pytest.raises(ValueError, match=r"topology.cols must be int32, not int16"):
        csr_product(jnp.ones(3), topology.replace(cols=topology.cols.astype(jnp.int16)), x)


@needs_csr
@pytest.mark.parametrize(
    ("values", "x", "message"),
    [
        (jnp.ones(4), jnp.ones((3, 5)), r"values has shape \(4,\), needed for this layer: \(3,\)"),
        (jnp.ones(3), jnp.ones((4, 5)), r"x has shape \(4, 5\), needed for this layer: \(3, batch\)"),
        (jnp.ones(3), jnp.ones(3), r"x has shape \(3,\), needed for this layer: \(3, batch\)"),
        (jnp.ones(3), jnp.ones((2, 3, 5)), r"x has shape \(2, 3, 5\), needed"),
    ],
)
def test_shapes_that_do_not_fit_are_rejected(values: jax.Array, x: jax.Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        csr_product(values, small_topology(), x)


@needs_csr
def test_other_wrong_arguments_are_rejected() -> None:
    values, topology, x = jnp.ones(3), small_topology(), jnp.ones((3, 5))
    with pytest.raises(ValueError, match=r"row_ptr has shape \(2,\), needed for this layer: \(3,\)"):
        csr_product(values, topology.replace(row_ptr=topology.row_ptr[:2]), x)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\), needed for this layer: \(2,\)"):
        csr_layer(values, topology, x, jnp.ones(3))
    with pytest.raises(ValueError, match="unknown activation 'swish': choose one of identity, relu"):
        csr_layer(values, topology, x, jnp.ones(2), "swish")
    with pytest.raises(ValueError, match="number of threads"):
        csr_library.set_max_threads(-1)


CORRUPT = {
    "column too large": {"cols": [0, 3, 1]},
    "column far too large": {"cols": [0, 2**31 - 1, 1]},
    "column negative": {"cols": [-1, 2, 1]},
    "row_ptr too long": {"row_ptr": [0, 2, 4]},
    "row_ptr huge": {"row_ptr": [0, 2, 2**31 - 1]},
    "row_ptr descends": {"row_ptr": [0, 3, 2]},
    "row_ptr negative": {"row_ptr": [0, -5, 3]},
    "row_ptr begins late": {"row_ptr": [1, 2, 3]},
    "row_ptr begins before": {"row_ptr": [-1, 2, 3]},
}


@needs_csr
@pytest.mark.parametrize("batch", [2, 40])
@pytest.mark.parametrize("fault", CORRUPT)
def test_corrupt_topologies_are_rejected_not_followed(fault: str, batch: int) -> None:
    """In every handler, and also if only one seed among many is corrupt."""
    good = small_topology()
    bad = good.replace(**{name: jnp.array(value, jnp.int32) for name, value in CORRUPT[fault].items()})
    many = jax.tree.map(lambda a, b: jnp.stack([a] * 40 + [b]), good, bad)
    values, x, dy = jnp.ones((41, 3)), jnp.ones((3, batch)), jnp.ones((41, 2, batch))

    def gradient(argument: int, v: jax.Array, t: Topology, x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.grad(lambda v, x: jnp.vdot(csr_product(v, t, x), dy), argument)(v, x)

    handlers = (lambda v, t, x, dy: csr_product(v, t, x), partial(gradient, 0), partial(gradient, 1))
    for handler in handlers:
        with pytest.raises(jax.errors.JaxRuntimeError, match="jaxnet csr: corrupt topology"):
            jax.block_until_ready(jax.jit(jax.vmap(handler, (0, 0, None, 0)))(values, many, x, dy))
        with pytest.raises(jax.errors.JaxRuntimeError, match="jaxnet csr: corrupt topology"):
            jax.block_until_ready(jax.jit(handler)(values[0], bad, x, dy[0]))
    # Nothing is left behind that would hurt the next call.
    np.testing.assert_array_equal(csr_product(values[0], good, x), dense_product(values[0], good, x))


@needs_csr
def test_columns_of_padding_slots_do_not_matter() -> None:
    topology = small_topology()
    padded = Topology(
        jnp.append(topology.rows, 2), jnp.append(topology.cols, 2**31 - 1), topology.row_ptr, topology.shape
    )
    x = jnp.arange(12.0).reshape(3, 4)
    y, pullback = jax.vjp(lambda v, x: csr_product(v, padded, x), jnp.array([1.0, 2.0, 3.0, jnp.nan]), x)
    np.testing.assert_array_equal(y, dense_product(jnp.array([1.0, 2.0, 3.0]), topology, x))
    d_values, d_x = pullback(jnp.ones_like(y))
    assert d_values[3] == 0 and np.all(np.isfinite(d_x))


@needs_csr
def test_handlers_check_what_they_are_given() -> None:
    """Calls past the Python checks, as a future mistake in this library would make them."""

    def call(shape: tuple[int, ...], *operands: jax.Array, activation: int = 0) -> jax.Array:
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        code = np.int32(activation)
        return jax.ffi.ffi_call(csr_library.PRODUCT, result)(*operands, activation=code).block_until_ready()

    t = small_topology()
    values, x = jnp.ones(3), jnp.ones((3, 4))
    np.testing.assert_array_equal(call((2, 4), values, t.cols, t.row_ptr, x), [[2] * 4, [1] * 4])
    wrong = [
        ((2, 5), (values, t.cols, t.row_ptr, x), 0, r"x has shape \(3, 4\)"),
        ((3, 4), (values, t.cols, t.row_ptr, x), 0, r"row_ptr has shape \(3\)"),
        ((2, 4), (values[:2], t.cols, t.row_ptr, x), 0, r"values has shape \(2\)"),
        ((2, 4), (values, t.cols, t.row_ptr), 0, "argument x is missing"),
        ((2, 4), (values, values, t.row_ptr, x), 0, "cols must be int32"),
        ((2, 4), (values.astype(jnp.float16), t.cols, t.row_ptr, x), 0, "values must be float32"),
        (
            (5, 2, 4),
            (jnp.ones((4, 3)), t.cols[None], t.row_ptr[None], x[None]),
            0,
            r"values has shape \(4, 3\)",
        ),
        ((4,), (values, t.cols, t.row_ptr, x), 0, "too few axes"),
        ((2, 4), (values, t.cols, t.row_ptr, x), 5, "unknown activation"),
        ((2, 4), (values, t.cols, t.row_ptr, x), -1, "unknown activation"),
        ((2, 4), (values, t.cols, t.row_ptr, x, jnp.ones(3)), 0, r"bias has shape \(3\)"),
    ]
    for shape, operands, activation, message in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            call(shape, *operands, activation=activation)


@needs_csr
def test_other_devices_are_rejected_and_the_dense_product_compiles_there() -> None:
    def step(product, values, x):
        return jax.grad(lambda v: jnp.sum(product(v, small_topology(), x)))(values)

    arguments = jnp.ones(3), jnp.ones((3, 4))
    with pytest.raises(InputError, match="the csr kernel runs on CPU only: choose the dense kernel"):
        jax.export.export(jax.jit(partial(step, csr_product)), platforms=["cuda"])(*arguments)
    exported = jax.export.export(jax.jit(partial(step, dense_product)), platforms=["cuda"])(*arguments)
    assert exported.platforms == ("cuda",)


def test_unknown_kernel_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown kernel 'coo': choose one of dense"):
        product("coo")


def test_without_the_library_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr_library, "_LIBRARY", None)
    monkeypatch.setattr(csr_library, "_PROBLEM", "it was not built: install again")
    monkeypatch.setattr(jaxnet.kernels, "PRODUCTS", {"dense": dense_product})
    assert product("dense") is dense_product
    for use in (lambda: product("csr"), lambda: csr_product(jnp.ones(3), small_topology(), jnp.ones((3, 4)))):
        with pytest.raises(InputError, match="the csr kernel is not available: it was not built") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"this is no library"])
def test_a_library_that_is_missing_or_damaged_is_a_reason_not_a_crash(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spec:
        origin = str(tmp_path / "_csr.so")

    monkeypatch.delenv("JAXNET_CSR_ISA", raising=False)
    if content is not None:
        Path(Spec.origin).write_bytes(content)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if content is None else Spec)
    library, problem = csr_library._load()
    assert library is None and "install jaxnet again" in problem and "\n" not in problem


@needs_csr
def test_an_old_build_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr_library, "_VERSION", -1)
    library, problem = csr_library._load()
    assert library is None and "another version" in problem


def test_the_kernel_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXNET_CSR_ISA", "none")
    assert csr_library._load() == (None, "JAXNET_CSR_ISA=none turns it off")


@needs_csr
@pytest.mark.parametrize(
    ("installed", "works"), [((0, 1), False), ((0, 99), True), ((1, 0), True), (None, True)]
)
def test_a_build_for_a_newer_jaxlib_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[int, int] | None, works: bool
) -> None:
    """XLA would refuse it when the CPU starts, and every program of the process with it."""
    monkeypatch.setattr(csr_library, "_xla_ffi", lambda: installed)
    library, problem = csr_library._load()
    assert (library is not None) == works
    assert works or ("newer jaxlib" in problem and "not 0.1" in problem and "\n" not in problem)


@needs_csr
def test_the_version_of_the_installed_jaxlib_is_found() -> None:
    library = csr_library.require()
    installed = csr_library._xla_ffi()
    assert installed is not None
    assert installed >= (library.jaxnet_csr_xla_ffi_major(), library.jaxnet_csr_xla_ffi_minor()) >= (0, 3)


STRESS = """
import sys, threading
import jax, jax.numpy as jnp, numpy as np
from jaxnet.kernels import csr_layer, dense_product
from jaxnet.masks import uniform_topology

sweeps, number_of_devices, number_of_threads = map(int, sys.argv[1:])
devices = jax.devices()
assert len(devices) == number_of_devices

def make(seeds, device):
    draw = jax.jit(jax.vmap(lambda k: uniform_topology(32, 64, 300, key_mask=k)))
    values = jnp.ones((seeds, 300)), jnp.zeros((seeds, 32))
    topology = draw(jax.random.split(jax.random.key(seeds), seeds))
    return jax.device_put((values, topology, jnp.ones((64, 96))), device)

@jax.jit
def train(parameters, topology, x):
    def loss(p, t):
        h = csr_layer(p[0], t, x, p[1], "relu")
        return jnp.mean((csr_layer(p[0], t, jnp.concatenate([h, h]), p[1], "tanh") - 0.5) ** 2)
    def step(p, _):
        losses, grads = jax.vmap(jax.value_and_grad(loss))(p, topology)
        return jax.tree.map(lambda a, g: a - 0.1 * g, p, grads), losses
    return jax.lax.scan(step, parameters, length=3)

sizes = (1, 2, 3, 8, 32, 64, 128, 512)
tasks = [make(s, devices[k % len(devices)]) for k, s in enumerate(sizes)]
expected = [jax.device_get(train(*t)) for t in tasks]
failed = []

def work(offset):
    for k in range(sweeps):
        i = (k + offset) % 8
        ahead = [train(*tasks[j % 8]) for j in (i, i + 3)]  # in flight together
        for j, result in zip((i, i + 3), ahead):
            same = jax.tree.map(np.array_equal, jax.device_get(result), expected[j % 8])
            if not all(jax.tree.leaves(same)):
                failed.append((k, j))

threads = [threading.Thread(target=work, args=(5 * k,)) for k in range(number_of_threads)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failed, failed
print("done")
"""


def _stress(sweeps: int, devices: int, threads: int, timeout: int) -> None:
    env = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", STRESS, str(sweeps), str(devices), str(threads)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0 and done.stdout.strip() == "done", done.stderr[-2000:]


@pytest.mark.slow
@needs_csr
def test_no_deadlock_with_many_devices_and_threads() -> None:
    _stress(12, 8, 2, 280)


@needs_csr
@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "threads"),
    [
        pytest.param(1, 1, id="plain"),
        pytest.param(8, 1, id="8 devices"),
        pytest.param(1, 2, id="2 threads"),
        pytest.param(8, 2, id="8 devices and 2 threads"),
    ],
)
def test_no_deadlock_in_a_thousand_sweeps(devices: int, threads: int) -> None:
    _stress(500 // threads, devices, threads, 1800)  # each takes two sweeps at a time


INSTRUCTION_SETS = """
import jax, jax.numpy as jnp, numpy as np
from jaxnet.kernels import csr_layer, csr_library, dense_product
from jaxnet.masks import uniform_topology

print(csr_library.instruction_set())
topology = uniform_topology(30, 50, 400, key_mask=jax.random.key(0))
values = jax.random.normal(jax.random.key(1), (400,))
bias = jax.random.normal(jax.random.key(2), (30,))
for batch in (2, 150):
    x = jax.random.normal(jax.random.key(3), (50, batch))

    @jax.jit
    def run(values, x, bias):
        fused = lambda v, x, b: csr_layer(v, topology, x, b, "gelu")
        parts = lambda v, x, b: jax.nn.gelu(dense_product(v, topology, x) + b[:, None])
        both = [jax.vjp(f, values, x, bias) for f in (fused, parts)]
        return [(y, *pullback(y)) for y, pullback in both]

    for a, b in zip(*run(values, x, bias)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
"""


@needs_csr
@pytest.mark.parametrize("name", [pytest.param("avx2", marks=pytest.mark.slow), "sse2"])
def test_smaller_instruction_sets_compute_the_same_up_to_rounding(name: str) -> None:
    env = {**os.environ, "JAXNET_CSR_ISA": name, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", INSTRUCTION_SETS]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    if done.stdout.strip() != name:
        pytest.skip(f"this machine has no {name}")
