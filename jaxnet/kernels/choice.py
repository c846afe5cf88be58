"""Which sparse product is faster here: measured once for a task, then remembered.

Where at most a tenth of the weights exist, csr is taken: of 85 tasks measured it was 1.2 to 24
times as fast in all but one, a network of 188 weights. Above, what counts is the machine, the
sizes, the density, the batch and the number of seeds, so nothing is guessed: one training
step's products (forward, gradients for the weights and, after the first layer, for the input)
are timed with each kernel. The winner is kept in a small JSON file in the user's cache folder;
``python -m jaxnet.info --kernel-choices`` shows it and ``--clear-kernel-choices`` forgets it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.allocation import allocate, dense_counts
from jaxnet.files import cache_folder
from jaxnet.kernels import PRODUCTS, Product, csr_library
from jaxnet.masks import draw_topologies
from jaxnet.provenance import processors
from jaxnet.types import Array

CLEAR_DENSITY = 0.1
"""Up to this density csr is taken without measuring."""

_REPEATS = 5
_STEPS = 4  # of a measurement, in one loop as in training: what depends on the topology alone is done once
_MEASURED_SEEDS = 16  # beyond that, time grows in proportion for both kernels


def choices_file() -> Path:
    """Where choices are remembered."""
    return cache_folder() / "kernel_choices.json"


def remembered() -> dict[str, dict[str, Any]]:
    """Returns the choices remembered, by task: ``{"kernel": name, "seconds": {name: float}}``.

    A file that is missing or damaged counts as empty.
    """
    try:
        choices = json.loads(choices_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(choices, dict):
        return {}
    return {
        task: choice
        for task, choice in choices.items()
        if isinstance(choice, dict)
        and isinstance(choice.get("kernel"), str)
        and isinstance(choice.get("seconds"), dict)
        and all(isinstance(s, float) for s in choice["seconds"].values())
    }


def clear() -> int:
    """Forgets all choices; returns how many there were."""
    count = len(remembered())
    choices_file().unlink(missing_ok=True)
    return count


def choose(
    sizes: Sequence[int],
    density: float,
    batch: int,
    num_seeds: int = 1,
    allocation: str = "uniform",
    *,
    device: jax.Device | None = None,
) -> str:
    """Name of the faster sparse product for a task; measures at most once per task and machine.

    At or below :data:`CLEAR_DENSITY` nothing is measured.

    Args:
      sizes: units per layer, input and output included.
      density: fraction of weights that exist, in (0, 1].
      batch: samples per step.
      num_seeds: networks trained at once.
      allocation: one of :data:`jaxnet.allocation.ALLOCATIONS`.
      device: where to measure; JAX's default device if not given.

    Returns:
      ``"dense"`` or ``"csr"``; always ``"dense"`` off the CPU and where the csr
      kernel was not built. A cache folder that cannot be written costs a new
      measurement each time, nothing else.

    Raises:
      ValueError: as :func:`jaxnet.allocation.allocate`, or ``batch`` or
        ``num_seeds`` is not positive.
    """
    if batch < 1 or num_seeds < 1:
        raise ValueError(f"batch and num_seeds must be positive: {batch}, {num_seeds}")
    counts = allocate(sizes, density, allocation)
    device = device or _default_device()
    if device.platform != "cpu" or "csr" not in PRODUCTS:
        return "dense"
    if sum(counts) <= CLEAR_DENSITY * sum(dense_counts(sizes)):
        return "csr"
    task = _task(sizes, counts, batch, num_seeds)
    choice = remembered().get(task)
    if choice is not None and choice["kernel"] in PRODUCTS:
        return str(choice["kernel"])
    with jax.default_device(device):
        seconds = {
            name: _measure(product, sizes, density, batch, num_seeds, allocation)
            for name, product in PRODUCTS.items()
        }
    kernel = min(seconds, key=lambda name: seconds[name])
    with contextlib.suppress(OSError):
        _remember(task, {"kernel": kernel, "seconds": seconds})
    return kernel


def _default_device() -> jax.Device:
    device = jax.config.values["jax_default_device"]
    return device if isinstance(device, jax.Device) else jax.devices(device)[0]


def _task(sizes: Sequence[int], counts: Sequence[int], batch: int, num_seeds: int) -> str:
    """What the measurement depends on, as one readable line."""
    machine = f"{platform.machine()} {csr_library.instruction_set()}"
    threads = os.environ.get("JAXNET_NUM_THREADS") or processors()
    version = f"jax {jax.__version__}"
    layers = " ".join(f"{i}x{o}:{n}" for i, o, n in zip(sizes[:-1], sizes[1:], counts, strict=True))
    return f"layers {layers}, batch {batch}, seeds {num_seeds}, {machine}, threads {threads}, {version}"


def _measure(
    product: Product, sizes: Sequence[int], density: float, batch: int, num_seeds: int, allocation: str
) -> float:
    """Median seconds of the products of one training step."""
    seeds = min(num_seeds, _MEASURED_SEEDS)
    keys = jax.random.split(jax.random.key(0), seeds)
    topologies = jax.jit(jax.vmap(lambda key: draw_topologies(sizes, density, allocation, key_mask=key)))(
        keys
    )
    values = tuple(jnp.full(topology.rows.shape, 0.01, jnp.float32) for topology in topologies)
    x = jax.random.normal(jax.random.key(1), (sizes[0], batch), jnp.float32)

    def loss(values: tuple[Array, ...], topologies: Any) -> Array:
        h = x
        for layer_values, topology in zip(values, topologies, strict=True):
            h = jax.nn.relu(product(layer_values, topology, h))
        return jnp.sum(h)

    def train(values: tuple[Array, ...], topologies: Any) -> tuple[Array, ...]:
        def step(values: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
            # The next step depends on this one: else XLA would take the products out of the loop.
            grads = jax.grad(loss)(values, topologies)
            return jax.tree.map(lambda v, g: v - 1e-6 * g, values, grads), None

        return jax.lax.scan(step, values, length=_STEPS)[0]

    steps = jax.jit(jax.vmap(train))
    jax.block_until_ready(steps(values, topologies))  # compiles
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(steps(values, topologies))
        seconds.append((time.perf_counter() - start) / _STEPS)
    return statistics.median(seconds)


def _remember(task: str, choice: dict[str, Any]) -> None:
    """Adds a choice. The file is replaced as a whole, so a reader never sees half of it.

    Of two programs that write at once one choice may be lost, and measured again.
    """
    file = choices_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**remembered(), task: choice}, indent=2, sort_keys=True) + "\n"
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
