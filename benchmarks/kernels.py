"""How fast the sparse products are: csr against dense, in the same run.

For many networks that share one batch, the three products of a training step
are timed: forward, gradient for the weights, gradient for the input. Each
measurement is one compiled program that repeats the product as a training loop
does, with memory already at hand; the two kernels take turns, so that a
disturbance of the machine does not hit one of them alone. Both are counted in
operations on existing weights, ``2 * seeds * nnz * batch``: what the dense
kernel computes on zeros is no achievement. At the default sizes a layer is
[784, 128] at density 0.02.

    python -m benchmarks.kernels --json result.json
    python -m benchmarks.kernels --num-seeds 8 --batches 64 --repeats 3
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._report import describe, machine, ratio, shown, spread
from jaxnet.errors import InputError
from jaxnet.files import user_path, write_json
from jaxnet.kernels import PRODUCTS, Product, csr_library
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.lab.terminal import print_table
from jaxnet.masks import uniform_topology
from jaxnet.provenance import provenance
from jaxnet.topology import Topology
from jaxnet.types import Array

_TIMED_SECONDS = 0.2  # of one measurement, about

Step = Callable[[Array, Topology, Array, Array], Array]
"""``(values, topology, x, dy)`` of all seeds to the result of one of the three products."""


@dataclass(frozen=True)
class Config(Flags):
    """The sparse products of many networks with one shared batch: csr against dense."""

    json: str | None = option(None, "file for the result")
    num_in: int = option(784, "input units")
    num_out: int = option(128, "output units")
    density: float = option(0.02, "fraction of weights that exist")
    batches: tuple[int, ...] = option((64, 512), "samples per step")
    num_seeds: tuple[int, ...] = option((1, 8, 32, 128), "networks computed at once")
    repeats: int = option(5, "measurements of each")

    def __post_init__(self) -> None:
        """Rejects sizes that cannot be measured."""
        for name in ("num_in", "num_out", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be 1 or more: {getattr(self, name)}")
        for name in ("batches", "num_seeds"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(f"--{name.replace('_', '-')} needs numbers of 1 or more")
        if not 1 <= self.nnz <= self.num_in * self.num_out:
            raise InputError(f"--density {self.density} leaves no weight, or more than there are")

    @property
    def nnz(self) -> int:
        """Weights that exist."""
        return int(self.density * self.num_in * self.num_out)


def steps(product: Product) -> dict[str, Step]:
    """The three products of a training step for all seeds: ``x`` is shared, the rest per seed."""

    def forward(values: Array, topology: Topology, x: Array, dy: Array) -> Array:
        return product(values, topology, x)

    def values_gradient(values: Array, topology: Topology, x: Array, dy: Array) -> Array:
        gradient: Array = jax.vjp(lambda v: product(v, topology, x), values)[1](dy)[0]
        return gradient

    def input_gradient(values: Array, topology: Topology, x: Array, dy: Array) -> Array:
        gradient: Array = jax.vjp(lambda x: product(values, topology, x), x)[1](dy)[0]
        return gradient

    named = {"forward": forward, "values": values_gradient, "input": input_gradient}
    return {name: jax.vmap(step, (0, 0, None, 0)) for name, step in named.items()}


def repeated(step: Step) -> Callable[..., Array]:
    """A compiled program that takes the step ``times`` times, ``times`` being its last argument."""

    @jax.jit
    def run(values: Array, topology: Topology, x: Array, dy: Array, times: Array) -> Array:
        def body(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            values, x, dy, _ = carry
            seen = step(values, topology, x, dy).ravel()[0]
            # One number of every operand changes with the result. Without a real
            # dependency XLA takes the product out of the loop (it does so through
            # an optimization barrier, too) and what is timed is an empty loop.
            small = 1e-3 * jnp.tanh(seen)
            return values.at[0, 0].add(small), x.at[0, 0].add(small), dy.at[0, 0, 0].add(small), seen

        return jax.lax.fori_loop(0, times, body, (values, x, dy, jnp.zeros((), jnp.float32)))[3]

    return run


def seconds_per_step(run: Callable[..., Array], operands: tuple[Any, ...], repeats: int) -> Iterator[float]:
    """Times the program; the first measurement comes after compiling and warming up."""

    def timed(times: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(*operands, jnp.asarray(times, jnp.int32)))
        return (time.perf_counter() - start) / times

    timed(2)
    times = max(2, min(10_000, int(_TIMED_SECONDS / timed(2))))
    for _ in range(repeats):
        yield timed(times)


def measure(config: Config) -> dict[str, Any]:
    """Measures every product at every batch and number of seeds; ``json`` gets each as it comes.

    Raises:
      InputError: the csr kernel is not there, or the file cannot be written.
    """
    csr_library.require()
    products = {name: steps(PRODUCTS[name]) for name in ("csr", "dense")}
    made_by = {**provenance(), "instruction_set": csr_library.instruction_set()}
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "config": dataclasses.asdict(config),
        "nnz": config.nnz,
        "provenance": made_by,
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "results": rows,
    }
    for batch in config.batches:
        for num_seeds in config.num_seeds:
            operands = _operands(config, batch, num_seeds)
            giga = 2e-9 * num_seeds * config.nnz * batch
            for name in products["csr"]:
                pairs = list(
                    zip(
                        *(
                            seconds_per_step(repeated(products[kernel][name]), operands, config.repeats)
                            for kernel in ("csr", "dense")
                        ),
                        strict=True,
                    )
                )
                csr, dense = ([pair[k] for pair in pairs] for k in (0, 1))
                rows.append(
                    {
                        "product": name,
                        "batch": batch,
                        "num_seeds": num_seeds,
                        "csr_seconds": spread(csr),
                        "dense_seconds": spread(dense),
                        "csr_gflops": spread([giga / s for s in csr]),
                        "dense_gflops": spread([giga / s for s in dense]),
                        "dense_over_csr": ratio(dense, csr),
                    }
                )
                if config.json:
                    write_json(user_path(config.json), result)
    return result


def _operands(config: Config, batch: int, num_seeds: int) -> tuple[Array, Topology, Array, Array]:
    keys = jax.random.split(jax.random.key(0), 4)
    draw = jax.vmap(lambda key: uniform_topology(config.num_out, config.num_in, config.nnz, key_mask=key))
    topology = jax.jit(draw)(jax.random.split(keys[0], num_seeds))
    values = jax.random.normal(keys[1], (num_seeds, config.nnz), jnp.float32)
    x = jax.random.normal(keys[2], (config.num_in, batch), jnp.float32)
    dy = jax.random.normal(keys[3], (num_seeds, config.num_out, batch), jnp.float32)
    return values, topology, x, dy


def report(result: dict[str, Any]) -> None:
    """Prints what was measured."""
    print(describe(result["machine"], result["provenance"]["versions"]))
    print(
        f"csr kernel with {result['provenance']['instruction_set']}; load before: {result['load_before']:.1f}"
    )
    config = result["config"]
    title = (
        f"[{config['num_in']}, {config['num_out']}] at density {config['density']} "
        f"({result['nnz']} weights), GFLOP/s on existing weights, median (range) of {config['repeats']}"
    )
    rows = [
        [
            row["product"],
            row["batch"],
            row["num_seeds"],
            shown(row["csr_gflops"]),
            shown(row["dense_gflops"], 2),
            shown(row["dense_over_csr"]),
        ]
        for row in result["results"]
    ]
    print_table(title, ["product", "batch", "seeds", "csr", "dense", "csr is faster by"], rows)


def main(config: Config) -> dict[str, Any]:
    """Measures and prints."""
    result = measure(config)
    report(result)
    return result


if __name__ == "__main__":
    run_main(main, Config, prog="python -m benchmarks.kernels", description=__doc__)
