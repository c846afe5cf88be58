"""``seed_hunt --require-reach``: which scaffolds are trained, with rungs, budgets and replays."""

from __future__ import annotations

import jax
import numpy as np

from experiments.seed_hunt import ReplayConfig, replay_main
from jaxnet import reach
from jaxnet.keys import key_of, network_keys
from jaxnet.sweep import DrawRules, Grid, draw_variant
from tests.experiments.hunts import Hunter
from tests.experiments.patched import compiling_once


def first_seeds(grid: Grid, number: int) -> list[int]:
    """The first seeds that reach all ten classes, one by one."""
    family, (_, variants) = grid.family(), grid.inputs([0])
    variant = jax.tree.map(lambda leaf: leaf[0], variants)

    @jax.jit
    def outputs(key):
        structure = draw_variant(family, variant, DrawRules(), **network_keys(key))[1]
        return reach.live(structure).counts.outputs

    seeds = (seed for seed in range(1000) if outputs(key_of(seed)) == 10)
    return [next(seeds) for _ in range(number)]


def test_the_first_scaffolds_that_reach_all_classes_are_trained(hunt: Hunter) -> None:
    grid = Grid((((64, 24, 10), 0.1),), range(1000))
    wanted = first_seeds(grid, 4)
    how = {"densities": (0.1,), "num_seeds": 4, "require_reach": 10, "halving": 2, "chunk": 2}
    hunted = hunt("reach", **how, budget="2seeds")
    assert not hunted.summary["complete"]
    hunted = hunt("reach", **how, resume=True)
    first = [row for row in hunted.table if row["epochs"] == 1]
    assert [row["seed"] for row in first] == wanted
    assert len(hunted.table) == 6 and all(row["live_outputs"] == 10 for row in hunted.table)
    assert all(0 < row["live_units"] <= 24 and row["live_weights"] < row["nonzeros"] for row in first)
    networks = hunted.summary["networks"]
    assert networks == {"planned": 4, "trained": 4, "drawn": wanted[-1] + 1}
    said = "\n".join(hunted.lines)
    assert f"{wanted[-1] + 1} scaffolds drawn" in said and f"{wanted[-1] - 3} others not" in said
    last = hunted.table[-1]
    with compiling_once(hunt.cache):
        again = replay_main(ReplayConfig(out=str(hunted.folder), seed=last["seed"]), lambda line: None)
    assert again["agrees"]
    assert np.array_equal(again["compared"]["live_weights"], [last["live_weights"]] * 2)
