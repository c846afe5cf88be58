"""All single ablations of one sparse network, for all classes: seconds, compiling apart.

A network of 784-256-128-10 at 2 % (4,694 weights) on 1,000 images is asked for the losses of its 10 classes
without each of its weights. Wanted: under 20 s on two cores.

    python -m benchmarks.ablation --json ablation.json
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks import _report as report
from jaxnet.files import user_path, write_json
from jaxnet.lab import option, run_main


@dataclass(frozen=True)
class Config(report.NumbersFlags):
    """All single ablations of one sparse network, for all classes."""

    sizes: tuple[int, ...] = option((784, 256, 128, 10), "units per layer")
    density: float = option(0.02, "fraction of the weights that exist", fraction=True)
    samples: int = option(1000, "images", least=10)
    repeats: int = option(3, "measurements", least=1)


def main(config: Config) -> None:
    """Measures, prints and writes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxnet
    from jaxnet import circuits
    from jaxnet.kernels import PRODUCTS, product
    from jaxnet.nn.mlp import MLP
    from jaxnet.provenance import provenance
    from jaxnet.train import Task

    spec = jaxnet.NetworkSpec(config.sizes, config.density)
    key = jax.random.key(0)
    params, structure = jaxnet.init(spec, key_mask=key, key_init=jax.random.fold_in(key, 1))
    x = jax.random.normal(jax.random.fold_in(key, 2), (config.samples, config.sizes[0]))
    classes = config.sizes[-1]
    suite = circuits.of_classes(x, jnp.arange(config.samples) % classes, classes)
    kernel = "csr" if "csr" in PRODUCTS else "dense"
    task = Task(MLP(spec, product(kernel)))
    start = report.clock()
    program = jax.jit(lambda *net: circuits.ablate_each(task, *net)).lower(params, structure, suite).compile()
    compiling = report.clock() - start
    seconds = []
    for _ in range(config.repeats):
        start = report.clock()
        found = jax.block_until_ready(program(params, structure, suite))
        seconds.append(report.clock() - start)
    median = float(np.median(seconds))
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    print(f"{found.shape[0]} weights, {found.shape[1]} classes, {config.samples} images, {kernel} kernel")
    print(f"{median:.1f} s ({spread}), wanted: 20; compiled in {compiling:.0f} s")
    if config.json is not None:
        numbers = {
            "seconds": seconds,
            "compile_seconds": compiling,
            "kernel": kernel,
            "machine": report.machine(),
        }
        write_json(user_path(config.json), {"config": asdict(config), "provenance": provenance(), **numbers})


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.ablation")
