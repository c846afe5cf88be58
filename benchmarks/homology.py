"""What jaxnet.homology costs for many seeds at once, against the singular value decompositions alone.

Every function is compiled once, for all seeds under vmap, and timed beside the decompositions of the
matrices that it is about: the maps, three stacks for Betti numbers, the blocks of all levels for pages, the
maps of the three complexes of a long exact sequence; with vectors where it needs them. Wanted: at most 5.

Then the live counts and a rank per layer of one wide scaffold, as a process finds them first (compiling
included). Wanted: under a minute on two cores.

    python -m benchmarks.homology --json homology.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import _report as report
from jaxnet.errors import InputError
from jaxnet.lab import option, run_main


@dataclass(frozen=True)
class Config(report.NumbersFlags):
    """What jaxnet.homology costs for many seeds at once, against the decompositions alone."""

    num_seeds: int = option(256, "complexes at once", least=1)
    sizes: tuple[int, ...] = option((24, 32, 16), "of the spaces")
    levels: int = option(3, "levels of the pages", least=1)
    width: int = option(4096, "of the layers of the wide scaffold", least=1)
    density: float = option(0.01, "of the wide scaffold", fraction=True)
    repeats: int = option(3, "measurements of each", least=1)

    def check(self) -> None:
        """Raises InputError for sizes that make no pair of maps, or a file that cannot be."""
        if len(self.sizes) < 3 or min(self.sizes) < 1:
            raise InputError(f"--sizes needs three or more positive sizes: {list(self.sizes)}")
        super().check()


def main(config: Config) -> None:
    """Measures, prints and writes."""
    import jax
    import jax.numpy as jnp

    from jaxnet import homology, linalg
    from jaxnet.provenance import provenance

    keys = jax.random.split(jax.random.key(0), config.num_seeds)
    sizes = config.sizes

    def draw(key: Any) -> Any:
        level = [jnp.arange(n) * config.levels // n for n in sizes]
        maps = []
        for k in range(len(sizes) - 1):
            free = level[k + 1][:, None] <= level[k][None, :]
            m = jax.random.normal(jax.random.fold_in(key, k), free.shape)
            # every second vector is read, the others are written: d d = 0
            half = (jnp.arange(sizes[k + 1]) % 2 == 1)[:, None] & (jnp.arange(sizes[k]) % 2 == 0)
            maps.append(jnp.where(free & half, m, 0))
        return tuple(maps)

    level = [jnp.arange(n) * config.levels // n for n in sizes]
    sub = [jnp.eye(n)[:, : -(-n // config.levels)] for n in sizes]  # level 0
    complexes = jax.jit(jax.vmap(draw))(keys)

    def svds(matrices: Callable[[Any], Any], vectors: bool) -> Callable[[Any], Any]:
        return lambda d: [(linalg.svd if vectors else linalg.singular_values)(m) for m in matrices(d)]

    def three(d: Any) -> Any:
        ends = [(a.shape[1], b.shape[1]) for a, b in zip(sub[1:], sub, strict=False)]
        inner = [m[:i, :j] for m, (i, j) in zip(d, ends, strict=True)]
        return [*d, *inner, *(m[i:, j:] for m, (i, j) in zip(d, ends, strict=True))]

    def stacks(d: Any) -> Any:
        pairs = zip([*d, None], [None, *(m.T for m in d)], strict=True)
        return [jnp.concatenate([m for m in pair if m is not None]) for pair in pairs]

    def blocks(d: Any) -> Any:
        count = config.levels * (config.levels + 1) // 2
        return [jnp.broadcast_to(m, (count, *m.shape)) for m in d]

    def alone(d: Any) -> Any:
        return d

    cases: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], Any]] = {
        "ranks": (homology.ranks, alone, complexes),
        "betti": (homology.betti, stacks, complexes),
        "nearest": (homology.nearest, alone, complexes),
        "hodge": (lambda d: homology.hodge(d, 1, jnp.ones(sizes[1])), alone, complexes),
        "pages": (lambda d: homology.pages(d, level, levels=config.levels), blocks, complexes),
        "les": (lambda d: homology.les(d, sub), three, complexes),
        "watch": (homology.watch, stacks, complexes),
    }
    vectors = ("nearest", "hodge", "les")
    rows = []
    found: dict[str, dict[str, Any]] = {}
    for name, (function, matrices, d) in cases.items():
        times: dict[str, list[float]] = {"it": [], "svd": []}
        for what, one in (("it", function), ("svd", svds(matrices, name in vectors))):
            program = jax.jit(jax.vmap(one)).lower(d).compile()
            jax.block_until_ready(program(d))
            for _ in range(config.repeats):
                start = report.clock()
                jax.block_until_ready(program(d))
                times[what].append(report.clock() - start)
        ratio = report.ratio(times["it"], times["svd"])
        found[name] = {
            "seconds": report.spread(times["it"]),
            "svd_seconds": report.spread(times["svd"]),
            "ratio": ratio,
        }
        seconds = (report.shown(report.spread(times[what]), 3) for what in ("it", "svd"))
        rows.append([name, *seconds, report.shown(ratio, 1)])
    counts, ranks, seconds_wide = wide(config)
    summary = report.describe(report.machine(), provenance()["versions"])
    title = f"{config.num_seeds} complexes of sizes {'-'.join(map(str, sizes))}, seconds"
    report.publish(
        "homology", title, ["function", "all", "decompositions alone", "ratio"], rows, summary, None
    )
    where = f"784-{config.width}-{config.width}-10 at {config.density:g}"
    print(f"{where}: live {counts}, ranks {ranks}: {seconds_wide:.1f} s")
    found["wide"] = {"live": counts, "ranks": ranks, "seconds": seconds_wide}
    report.write_numbers(config.json, config, found)


def wide(config: Config) -> tuple[dict[str, Any], list[int], float]:
    """Live counts, the rank of every layer, and the seconds that finding them took, of a wide scaffold."""
    import jax
    import numpy as np

    from jaxnet import reach
    from jaxnet.nn.mlp import NetworkSpec, init

    spec = NetworkSpec((784, config.width, config.width, 10), density=config.density)
    params, structure = init(spec, key_mask=jax.random.key(0), key_init=jax.random.key(1))
    start = report.clock()
    counts = jax.tree.map(lambda x: np.asarray(x).tolist(), jax.jit(reach.live)(structure).counts)
    ranks = [reach.wide_rank(m, 1e-5) for m in reach.layer_matrices(params, structure)]
    return counts, ranks, report.clock() - start


if __name__ == "__main__":
    run_main(main, Config, description=__doc__, prog="python -m benchmarks.homology")
