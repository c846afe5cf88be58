"""Sparse layers of a Flax module, samples first, against the same products features first.

The csr kernel streams over samples of one feature; a Flax module hands on features of one sample. Between
two sparse layers XLA cancels the transposes, and :func:`jaxnet.nn.sparse_dense` keeps it from turning
gradients around for the sums of the biases. So the module should take as long as the bare products: a
gradient step on 784-256-128-10, on 784-1024-512-10 and on three layers of 1,024 units.

    python -m benchmarks.sparse_layer --json sparse_layer.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import _report as report
from jaxnet.lab import option, run_main

NETWORKS = (((256, 128, 10), 0.02, 64), ((1024, 512, 10), 0.02, 128), ((1024, 1024, 1024, 10), 0.01, 128))
"""Units per layer, density, batch size."""

FEATURES = 784


@dataclass(frozen=True)
class Config(report.NumbersFlags):
    """Sparse layers of a Flax module, samples first, against the same products features first."""

    steps: int = option(100, "gradient steps of a measurement", "steps", least=1)
    repeats: int = option(15, "measurements of each, in turn", least=1)


def main(config: Config) -> None:
    """Measures, prints and writes."""
    import flax.linen
    import jax
    import jax.numpy as jnp

    from jaxnet.kernels import PRODUCTS
    from jaxnet.nn import SparseDense
    from jaxnet.provenance import provenance

    product = PRODUCTS.get("csr", PRODUCTS["dense"])

    class Layers(flax.linen.Module):
        """Sparse layers with ReLU between them."""

        sizes: tuple[int, ...]
        density: float

        @flax.linen.compact
        def __call__(self, x: Any) -> Any:
            for number, units in enumerate(self.sizes):
                x = x if number == 0 else flax.linen.relu(x)
                # so that every output has weights
                density = max(self.density, 0.1) if number == len(self.sizes) - 1 else self.density
                x = SparseDense(units, density=density, name=f"layer_{number}")(x)
            return x

    def program(loss: Any) -> Any:
        def step(params: Any, _: Any) -> tuple[Any, None]:
            grads = jax.grad(loss)(params)
            return jax.tree.map(lambda value, grad: value - 1e-3 * grad, params, grads), None

        return jax.jit(lambda params: jax.lax.scan(step, params, None, config.steps)[0])

    found, rows = [], []
    for sizes, density, batch_size in NETWORKS:
        x = jax.random.normal(jax.random.key(1), (batch_size, FEATURES))
        module = Layers(sizes, density)
        variables = module.init(jax.random.key(0), x)
        structure = variables["structure"]
        layers = [f"layer_{number}" for number in range(len(sizes))]

        def module_loss(params: Any, module: Any = module, structure: Any = structure, x: Any = x) -> Any:
            return jnp.mean(module.apply({"params": params, "structure": structure}, x) ** 2)

        def bare_loss(params: Any, layers: Any = layers, structure: Any = structure, x: Any = x) -> Any:
            h = x.T
            for layer in layers:
                h = h if layer == layers[0] else jax.nn.relu(h)
                h = product(params[layer]["kernel"], structure[layer]["kernel"], h)
                h = h + params[layer]["bias"][:, None]
            return jnp.mean(h**2)

        def case(loss: Any, params: Any = variables["params"]) -> Callable[[], object]:
            run = program(loss)
            return lambda: jax.block_until_ready(run(params))

        times = report.alternate({"module": case(module_loss), "bare": case(bare_loss)}, config.repeats)
        ratio = report.ratio(times["module"], times["bare"])
        name = "-".join(map(str, (FEATURES, *sizes)))
        each = [report.spread([1e3 * t / config.steps for t in times[which]]) for which in ("module", "bare")]
        rows.append(
            [name, f"{density:.0%}", batch_size, *(report.shown(t, 2) for t in each), report.shown(ratio, 2)]
        )
        found.append({"network": name, "density": density, "batch_size": batch_size, "ratio": ratio})
    columns = ["network", "density", "batch", "module, ms a step", "bare products, ms a step", "ratio"]
    summary = report.describe(report.machine(), provenance()["versions"])
    report.publish("sparse_layer", "Gradient steps", columns, rows, summary, None)
    report.write_numbers(config.json, config, {"networks": found})


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.sparse_layer")
