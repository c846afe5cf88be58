"""Which seeds of a grid reach enough classes: against drawing them one by one."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxnet import reach
from jaxnet.keys import network_keys
from jaxnet.sweep import DrawRules, Grid, draw_variant, reaching
from tests import networks


def test_the_first_seeds_that_reach_all_classes():
    grid, rules = Grid((((8, 6, 3), 0.3), ((8, 5, 4), 0.2)), range(3, 103)), DrawRules()
    found = reaching(grid, rules, 3, 3, 5, 100)

    @jax.vmap
    def outputs(key, variant):
        structure = draw_variant(grid.family(), variant, rules, **network_keys(key))[1]
        return reach.live(structure).outputs

    numbers = np.arange(len(grid))
    enough = np.asarray(networks.quick(outputs)(*grid.inputs(numbers.tolist()))[:, :3].sum(axis=1) == 3)
    chosen = [numbers[enough & (numbers % 2 == member)][:5] for member in (0, 1)]
    assert found.numbers == tuple(sorted(np.concatenate(chosen).tolist()))
    assert found.drawn == tuple(int(c[-1]) // 2 + 1 for c in chosen)
    with pytest.raises(ValueError, match=r"of 100 scaffolds of 8-6-3 at density 0\.3 only \d+ reach"):
        reaching(grid, rules, 3, 3, 99, 100)
