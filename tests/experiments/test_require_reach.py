"""``seed_hunt --require-reach``: which scaffolds are trained, with rungs, budgets and replays."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.seed_hunt import ReplayConfig, replay_main
from jaxnet.sweep import DrawRules, Grid, reaching
from tests.experiments.hunts import Hunter
from tests.experiments.patched import compiling_once


@pytest.mark.slow
def test_the_first_scaffolds_that_reach_all_classes_are_trained(hunter: Hunter) -> None:
    grid = Grid((((64, 24, 10), 0.1),), range(1000))
    wanted = reaching(grid, DrawRules(), 10, 10, 4, 1000).numbers
    how = {"densities": (0.1,), "num_seeds": 4, "require_reach": 10, "halving": 2, "chunk": 2}
    hunted = hunter("reach", **how, budget="2seeds")
    assert not hunted.summary["complete"]
    hunted = hunter("reach", **how, resume=True)
    first = [row for row in hunted.table if row["epochs"] == 1]
    assert [row["seed"] for row in first] == list(wanted)
    assert len(hunted.table) == 6 and all(row["live_outputs"] == 10 for row in hunted.table)
    assert all(0 < row["live_units"] <= 24 and row["live_weights"] < row["nonzeros"] for row in first)
    networks = hunted.summary["networks"]
    assert networks == {"planned": 4, "trained": 4, "drawn": wanted[-1] + 1}
    said = "\n".join(hunted.lines)
    assert f"{wanted[-1] + 1} scaffolds drawn" in said and f"{wanted[-1] - 3} others not" in said
    last = hunted.table[-1]
    with compiling_once(hunter.cache):
        again = replay_main(ReplayConfig(out=str(hunted.folder), seed=last["seed"]), lambda line: None)
    assert again["agrees"]
    assert np.array_equal(again["compared"]["live_weights"], [last["live_weights"]] * 2)
