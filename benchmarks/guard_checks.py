"""Training that is watched against training that is not: what checks and snapshots cost.

Networks in one compiled program go through the same batches twice: plainly, and with a check of held samples
every so many steps, snapshots, and nothing done. The two take turns. Wanted: at a check per 100 steps at most
10 % more.

    python -m benchmarks.guard_checks --json guard_checks.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import _report as report
from jaxnet.lab import option, run_main
from jaxnet.lab.flags import check_sizes


@dataclass(frozen=True)
class Config(report.ClockFlags):
    """What the checks of a guarded run cost."""

    sizes: tuple[int, ...] = option((784, 100, 100, 10), "units per layer")
    num_seeds: int = option(12, "networks at once", least=1)
    batch_size: int = option(64, "samples of a step", "samples", least=1)
    every: int = option(100, "steps between two checks", "steps", least=1)
    checks: int = option(9, "of a run", "checks", least=1)
    held: int = option(500, "samples of a check", "samples", least=1)
    repeats: int = option(7, "measurements of each, in turn", least=1)

    def check(self) -> None:
        """Raises InputError for sizes that are none."""
        check_sizes(self.sizes, 3)
        super().check()


def main(config: Config) -> None:
    """Measures, prints and writes."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnet
    from experiments._guard_drift import train_checked
    from jaxnet import guard
    from jaxnet.data.batches import Split
    from jaxnet.keys import key_of, keys_of, network_keys
    from jaxnet.nn.params import release_masks, to_masked_network
    from jaxnet.provenance import provenance
    from jaxnet.train import Batches, Net, Task, train_batches

    report.use_clock(config.clock)
    spec = jaxnet.NetworkSpec(config.sizes, 1.0)
    task, number = Task(jaxnet.MLP(spec), config.batch_size), 20_000
    key_x, key_y, key_order = jax.random.split(key_of(0), 3)
    x = jax.random.randint(key_x, (number, config.sizes[0]), 0, 256).astype(jnp.uint8)
    y = jax.random.randint(key_y, (number,), 0, config.sizes[-1])
    train = Split(x, y, jnp.full(1, 0.5), jnp.full(1, 0.3))
    held, labels = train.batch(jnp.arange(config.held))
    canaries = guard.Canaries(held[None], labels[None])
    rules = guard.Rules(config.every, max(3, config.checks), checks=config.checks, action="none")
    shape = (config.checks, config.every, config.batch_size)
    order = Batches(jax.random.randint(key_order, shape, 0, number), jnp.ones(shape))

    def drawn(key: Any) -> Any:
        params, structure = to_masked_network(*jaxnet.init(spec, **network_keys(key)))
        return guard.guard(rules, task, Net.of(params, release_masks(structure), optax.adam(1e-3)), canaries)

    def plain(state: Any, train: Split, order: Batches) -> Any:
        whole = Batches(*(part.reshape(-1, config.batch_size) for part in order))
        return train_batches(task, state.net, train, whole)[0].params

    def watched(state: Any, train: Split, order: Batches) -> Any:
        groups = guard.groups(state.net.params, state.net.structure)
        state, _ = train_checked(rules, task, state, train, order, canaries, canaries, groups)
        return state.net.params, state.ring, state.alarms

    states = jax.jit(jax.vmap(drawn))(keys_of(range(config.num_seeds)))

    def case(way: Any) -> Callable[[], object]:
        program = jax.jit(jax.vmap(way, (0, None, None)))
        return lambda: jax.block_until_ready(program(states, train, order))

    times = report.alternate({"plain": case(plain), "watched": case(watched)}, config.repeats)
    ratio = report.ratio(times["watched"], times["plain"])
    rows = [[name, report.shown(report.spread(found), 3)] for name, found in times.items()]
    rows += [["watched / plain", report.shown(ratio, 3)]]
    summary = report.describe(report.machine(), provenance()["versions"])
    title = (
        f"{config.num_seeds} networks {'-'.join(map(str, config.sizes))}, {config.checks} checks of "
        f"{config.held} samples, {config.every} steps apart"
    )
    report.publish("guard_checks", title, ["what", "s, or ratio"], rows, summary, None)
    seconds = {name: report.spread(found) for name, found in times.items()}
    report.write_numbers(config.json, config, {"seconds": seconds, "ratio": ratio})


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.guard_checks")
