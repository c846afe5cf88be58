"""An unmodified Flax model trained by jaxnet, against a plain loop of jitted steps, and eight seeds at once.

The model is the base of ``experiments.cifar10_conv`` with dense layers on it, all of it plain Flax. The loop
is what a Flax user writes: one jitted step per batch, the samples on the device. jaxnet trains the same
module by its epoch, and many seeds of it by one program, laid over the processors. Wanted: at least as many
images a second as the loop, and eight seeds in at most six times the time of one.

    python -m benchmarks.flax_model --json flax_model.json
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import _report as report
from experiments._conv_run import ArmConfig, base_of
from jaxnet.lab import option, run_main

MODEL = ArmConfig()
"""Whose base and hidden layers are measured."""

SHAPE, CLASSES = (32, 32, 3), 10


@dataclass(frozen=True)
class Config(report.NumbersFlags):
    """An unmodified Flax model trained by jaxnet, against a plain loop of jitted steps."""

    batch_size: int = option(128, "images per step", "images", least=1)
    steps: int = option(12, "of a measurement", "steps", least=1)
    num_seeds: int = option(8, "networks at once", least=1)
    repeats: int = option(5, "measurements of each, in turn", least=1)


def main(config: Config) -> None:
    """Measures, prints and writes."""
    from jaxnet.programs import use_all_processors

    use_all_processors()
    import flax.linen as linen
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import jaxnet
    from experiments._conv_net import Blocks
    from jaxnet.provenance import provenance

    class Classifier(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            x = Blocks(base_of(MODEL.blocks))(x, train)
            x = x.reshape(x.shape[0], -1)
            for units in MODEL.hidden:
                x = linen.relu(linen.Dense(units)(x))
            return linen.Dense(CLASSES)(x)

    module, optimizer = Classifier(), optax.adam(1e-3)
    size, draw = config.batch_size * config.steps, np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 256, (size, int(np.prod(SHAPE))), np.uint8))
    data = jaxnet.Split(images, jnp.arange(size) % CLASSES, jnp.asarray(0.5), jnp.asarray(0.25), SHAPE)
    order = jnp.arange(size).reshape(config.steps, config.batch_size)

    def step(params: Any, stats: Any, opt_state: Any, rows: Any) -> Any:
        x, y = data.batch(rows)

        def loss(params: Any) -> Any:
            held = {"params": params, "batch_stats": stats}
            logits, new = module.apply(held, x, train=True, mutable=["batch_stats"])
            mean = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return mean, new["batch_stats"]

        (_, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state

    jitted = jax.jit(step, donate_argnums=(0, 1, 2))

    held = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    begun = held["params"], held["batch_stats"], optimizer.init(held["params"])

    def loop() -> Any:
        state = jax.tree.map(jnp.copy, begun)  # the steps give theirs away
        for rows in order:
            state = jitted(*state, rows)
        return state

    model = jaxnet.nn.Linen(module, (("train", True),), remembers=True)
    epoch = jaxnet.make_epoch(jaxnet.Task(model, config.batch_size), can_stop=False)

    def start(key: Any) -> Any:
        params, structure = model.init(jnp.zeros((1, *SHAPE)), key=key)
        return jaxnet.init_state(jaxnet.Net.of(params, structure, optimizer))

    devices = jax.devices()
    devices = devices[: max(n for n in range(1, len(devices) + 1) if config.num_seeds % n == 0)]
    mesh, seeds = Mesh(np.asarray(devices), ("seed",)), PartitionSpec("seed")
    everywhere = NamedSharding(mesh, PartitionSpec())
    shared = jax.device_put((data, jax.random.key(1), jnp.asarray(0)), everywhere)
    together = jax.shard_map(
        jax.vmap(epoch, (0, None, None, None)),
        mesh=mesh,
        in_specs=(seeds, *[PartitionSpec()] * 3),
        out_specs=seeds,
        check_vma=False,
    )
    one, many = jax.jit(epoch), jax.jit(together)
    states = jax.vmap(start)(jaxnet.keys.keys_of(range(config.num_seeds)))
    states = jax.device_put(states, NamedSharding(mesh, seeds))
    alone = start(jaxnet.keys.key_of(0))
    cases = {
        "loop": lambda: jax.block_until_ready(loop()),
        "one": lambda: jax.block_until_ready(one(alone, data, jax.random.key(1), jnp.asarray(0))),
        "many": lambda: jax.block_until_ready(many(states, *shared)),
    }
    times = report.alternate(cases, config.repeats)
    ratios = {
        "loop_over_one": report.ratio(times["loop"], times["one"]),
        "many_over_one": report.ratio(times["many"], times["one"]),
    }
    names = {
        "loop": "plain loop of jitted steps",
        "one": "jaxnet, one network",
        "many": f"jaxnet, {config.num_seeds} at once on {len(devices)} devices",
    }
    rows = []
    for name, what in names.items():
        networks = config.num_seeds if name == "many" else 1
        a_second = report.spread([size * networks / t for t in times[name]])
        rows.append([what, report.shown(report.spread(times[name]), 2), report.shown(a_second, 0)])
    rows.append(["loop / one", report.shown(ratios["loop_over_one"], 2), "at least 1"])
    rows.append([f"{config.num_seeds} / one", report.shown(ratios["many_over_one"], 2), "at most 6 for 8"])
    summary = report.describe(report.machine(), provenance()["versions"])
    title = f"{config.steps} steps of {config.batch_size} images"
    report.publish("flax_model", title, ["what", "seconds", "images a second"], rows, summary, None)
    seconds = {name: report.spread(t) for name, t in times.items()}
    report.write_numbers(config.json, config, {"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.flax_model")
