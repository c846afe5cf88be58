"""Benches: networks by number, again to the same bits, and taken out of the padding."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxnet.sweep import Bench, Grid, masked_dense_accuracy, trim
from tests.sweep import small

GRID = Grid(((small.SMALL, small.DENSITY), (small.LARGE, small.DENSITY)), range(3, 6))


def test_networks_are_numbered_seed_by_seed() -> None:
    assert len(GRID) == 6
    assert [GRID.network(n)[2] for n in range(6)] == [3, 3, 4, 4, 5, 5]
    assert all(GRID.find(*GRID.network(n)) == n for n in range(6))
    with pytest.raises(ValueError, match="not in"):
        GRID.find(small.SMALL, 0.5, 3)


def test_networks_by_number_again_and_without_padding() -> None:
    bench = Bench(small.config("dense"), small.splits(), key_data=jax.random.key(small.KEY_DATA))
    planned = bench.plan(GRID, 2, len(GRID), "dense", 4)
    assert (planned["chunk"], planned["calls"], planned["devices"]) == (4, 2, 1)
    entry = {**planned, "start": 0, "epochs": 2}
    every = bench.train(GRID, range(6), [entry])
    again = bench.train(GRID, [4, 1], [entry])
    small.assert_same(again, jax.tree.map(lambda leaf: leaf[[4, 1]], every))
    network = jax.tree.map(lambda leaf: leaf[4], (every.params, every.structure))
    found = bench.restored(GRID, 4, jax.tree.leaves(network))
    small.assert_same(found, trim(network[0], network[1], small.SMALL))


@pytest.mark.slow
def test_masked_dense_networks_are_the_reference() -> None:
    """Three validation samples of 41 at most differ: sums are taken in another order there."""
    bench = Bench(small.config("dense"), small.splits(), key_data=jax.random.key(small.KEY_DATA))
    entry = {**bench.plan(GRID, 2, len(GRID), "dense", 6), "start": 0, "epochs": 2}
    found = masked_dense_accuracy(bench, GRID, [4, 1, 0], 2, at_once=2)
    rows = bench.train(GRID, [4, 1, 0], [entry]).row
    np.testing.assert_allclose(found, rows.accuracy, atol=3.1 / 41)
    rewired = dataclasses.replace(bench.config, common_order=False)
    with pytest.raises(ValueError, match="one common order"):
        masked_dense_accuracy(Bench(rewired, bench.splits, key_data=bench.key_data), GRID, [0], 1)
