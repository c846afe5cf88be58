"""Training in rungs: some epochs, then those of the best networks that follow."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.sweep import Program, make_family, make_variant, put_back, take_live, take_values
from jaxnet.sweep.family import draw_variant
from tests import networks
from tests.sweep import small
from tests.sweep.test_live import WIDE

KERNEL = "csr" if "csr" in small.PRODUCTS else "dense"


@functools.cache
def rung_program(chunk: int = 4, kernel: str = KERNEL) -> Program:
    return Program(
        small.FAMILY,
        small.config(kernel),
        small.NUM_SEEDS,
        small.splits(),
        key_data=jax.random.key(small.KEY_DATA),
        chunk=chunk,
        rungs=True,
    )


@pytest.mark.slow
def test_survivors_equal_networks_trained_at_one_go():
    """Two epochs of all; one epoch of all, one more of three that stand elsewhere in their call."""
    program = rung_program()
    plain = small.trained(KERNEL, 4)
    at_one_go = program(small.keys(4), small.members(4), epochs=range(2))
    # another program: XLA may take a sum in another order
    small.assert_close(at_one_go.row, jax.tree.map(lambda leaf: leaf[:4], plain.row), 1e-5)
    first = program(small.keys(4), small.members(4), epochs=range(1))
    chosen = np.array([3, 0, 2])
    keys, members, carried = jax.tree.map(
        lambda leaf: leaf[chosen], (small.keys(4), small.members(4), first.carried)
    )
    second = program(keys, members, carried, range(1, 2))
    small.assert_same(second, jax.tree.map(lambda leaf: leaf[chosen], at_one_go))
    small.assert_close(second.params, jax.tree.map(lambda leaf: leaf[chosen], plain.params), 1e-5)
    steps = -(-small.splits()[0].size // 16)
    np.testing.assert_array_equal(second.opt_state[0].count, [2 * steps] * 3)
    assert not np.array_equal(second.row.loss, first.row.loss[chosen]), "or the second rung did nothing"


@pytest.mark.slow
def test_what_is_carried_must_fit_the_epochs():
    program = rung_program()
    first = program(small.keys(2), small.members(2), epochs=range(1))
    for carried, epochs in ((None, range(1, 2)), (first.carried, range(2)), (None, range(0))):
        with pytest.raises(ValueError, match="later ones go on from what is carried"):
            program(small.keys(2), small.members(2), carried, epochs)
    with pytest.raises(ValueError, match="only a program with rungs"):
        small.program(KERNEL, 4)(small.keys(2), small.members(2), epochs=range(1))


def test_values_of_the_live_part_come_back_as_they_were_put():
    family = make_family([WIDE], [0.05], "uniform")
    rules, key = small.config(KERNEL).draw, jax.random.key(3)

    def run(key):
        params, structure = draw_variant(family, make_variant(WIDE, 0.05), rules, key_mask=key, key_init=key)
        assert family.live is not None
        part = take_live(params, structure, family.live)
        moved = jax.tree.map(lambda leaf: 2 * leaf, part.params)
        return take_values(put_back(params, part, moved), part), moved

    small.assert_same(*networks.quick(run)(key))


@pytest.mark.slow
def test_seeds_without_room_go_on_as_well():
    family = make_family([WIDE], [0.05], "uniform")
    assert family.live is not None
    live = dataclasses.replace(family.live, capacities=(family.live.capacities[0], 110, 12))
    tight = dataclasses.replace(family, live=live)
    program = Program(
        tight, small.config(KERNEL), 5, small.splits(), key_data=jax.random.key(0), chunk=5, rungs=True
    )
    keys, members = small.keys(5), small.stack([make_variant(WIDE, 0.05)] * 5)
    whole = program(keys, members, epochs=range(2))
    first = program(keys, members, epochs=range(1))
    second = program(keys, members, first.carried, range(1, 2))
    assert bool(jnp.all(second.fits)) and program._whole is not None
    small.assert_close(second, whole, 1e-5)
