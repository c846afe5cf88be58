"""``mlp`` patches: one high and one low by hand, places and values, sums where patches meet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import patches
from jaxnet.kernels import dense_product
from jaxnet.patches import KINDS, LayerPatches, MlpParams, PatchRules, SlotParams
from tests import networks

MLP = KINDS["mlp"]
RULES = PatchRules(max_patches=1, hidden=2, max_targets=2, max_inputs=2)


def make(unit: list[int], num_high: int, shape: tuple[int, int], rules: PatchRules, key: jax.Array) -> Any:
    """Patches, all active; built as one program."""
    placed = LayerPatches(jnp.asarray(unit, jnp.int32), jnp.ones(len(unit), bool), num_high=num_high)
    taken = jnp.zeros(shape, bool)
    return networks.quick(lambda k: MLP.make(placed, taken, rules, key_patch=k))(key)


def output(values, placed, rules, pre, post):
    return MLP.apply(values, placed, rules, pre, post, placed.topology.shape[0], dense_product)


applied = networks.quick(output, static_argnums=2)


def one_high_one_low(active: tuple[bool, bool] = (True, True)):
    """A high patch at unit 1 below feeds two units, a low one sits at unit 2; 3 inputs and 4 units."""
    placed, _ = make([1, 2], 1, (4, 3), RULES, jax.random.key(0))
    placed = placed.replace(active=jnp.asarray(active))
    high = MlpParams(
        w1=jnp.asarray([[[1.0], [-1.0]]]),
        b1=jnp.asarray([[0.0, 1.0]]),
        w2=jnp.asarray([[[1.0, 2.0], [3.0, 4.0]]]),
        b2=jnp.asarray([[0.5, -0.5]]),
    )
    low = MlpParams(
        w1=jnp.asarray([[[1.0, 1.0], [2.0, -1.0]]]),
        b1=jnp.asarray([[0.0, -1.0]]),
        w2=jnp.asarray([[[10.0, 1.0]]]),
        b2=jnp.asarray([[0.25]]),
    )
    return placed, SlotParams(high, low)


PRE = jnp.asarray([[1.0], [-3.0], [5.0]])  # one sample; the extremum, unit 1, is at -3
POST = jnp.asarray([[7.0], [0.0], [2.0]])  # apart from relu(PRE), so that a mix-up shows


def test_one_high_and_one_low_patch_by_hand():
    placed, values = one_high_one_low()
    got = np.asarray(applied(values, placed, RULES, PRE, POST))[:, 0]
    want = np.zeros(4)
    # high, from the pre-activation -3: hidden relu(-3), relu(3 + 1) = 0, 4; outputs 8.5 and 15.5, times 0.3
    want[np.asarray(placed.targets)[0]] += 0.3 * np.asarray([8.5, 15.5])
    # low, from post-activations a and b: hidden relu(a + b), relu(2 a - b - 1), times 0.5
    a, b = np.asarray(POST)[np.asarray(placed.sources)[0], 0]
    want[2] += 0.5 * (10 * max(a + b, 0) + max(2 * a - b - 1, 0) + 0.25)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_inactive_slots_add_nothing():
    placed, values = one_high_one_low((False, True))
    both, _ = one_high_one_low()
    out = [np.asarray(applied(values, p, RULES, PRE, POST))[:, 0] for p in (placed, both)]
    targets = np.asarray(both.targets)[0]
    np.testing.assert_allclose((out[1] - out[0])[targets], 0.3 * np.asarray([8.5, 15.5]), rtol=1e-5)
    placed, values = one_high_one_low((False, False))
    assert np.all(np.asarray(applied(values, placed, RULES, PRE, POST)) == 0)


@pytest.fixture(scope="module")
def large():
    """Eight seeds of a layer with 5 high slots and 5 low ones, every second active."""
    rules = PatchRules()
    unit = jnp.asarray([3, 1, 4, 0, 5, 9, 2, 6, 8, 7], jnp.int32)
    active = jnp.arange(10) % 2 == 0

    def one(key):
        placed = LayerPatches(unit, active, num_high=5)
        return MLP.make(placed, jnp.zeros((12, 30), bool), rules, key_patch=key)

    return networks.quick(jax.vmap(one))(jax.random.split(jax.random.key(5), 8))


def test_places_are_distinct_and_in_range(large):
    placed, _ = jax.tree.map(np.asarray, large)
    assert placed.targets.shape == (8, 5, 4) and placed.sources.shape == (8, 5, 20)
    for rows, size in ((placed.targets, 12), (placed.sources, 30)):
        flat = rows.reshape(-1, rows.shape[-1])
        assert all(len(set(r.tolist())) == len(r) for r in flat)
        assert flat.min() >= 0 and flat.max() < size
        assert len({tuple(r) for r in flat}) > 30  # different from slot to slot and seed to seed
        assert set(flat.ravel().tolist()) == set(range(size))


def test_initial_values_keep_the_bounds_of_their_small_layers(large):
    placed, values = jax.tree.map(np.asarray, large)
    on, off = placed.active[0, :5], placed.active[0, 5:]
    for part, used, inputs in ((values.high, on, 1), (values.low, off, 20)):
        for name, fan_in in (("w1", inputs), ("b1", inputs), ("w2", 8), ("b2", 8)):
            drawn, bound = getattr(part, name), fan_in**-0.5
            assert np.all(drawn[:, ~used] == 0)
            alive = drawn[:, used]
            assert np.abs(alive).max() <= bound and np.all(alive != 0)
            assert np.abs(alive).max() > 0.8 * bound
            assert abs(alive.mean()) < 4 * bound / np.sqrt(3 * alive.size)
            assert len(np.unique(alive)) > 0.99 * alive.size


def test_widths_shrink_with_the_layer(key):
    rules = PatchRules(max_patches=1)
    placed, values = make([0, 1], 1, (3, 2), rules, key)
    assert values.high.w2.shape == (1, 3, 8) and values.low.w1.shape == (1, 8, 2)
    bank = patches.PatchBank((placed,), rules)
    # 1 -> 8 -> 3: 16 + 27 values; 2 -> 8 -> 1: 24 + 9
    assert np.asarray(patches.slot_sizes(bank, (values,))).tolist() == [43, 33]


def test_gradient_into_the_extremum():
    placed, values = one_high_one_low()
    grad = jax.grad(lambda pre: jnp.sum(output(values, placed, RULES, pre, POST)))(PRE)
    # d/ds of 0.3 * (2 + 4) * relu(1 - s) at s = -3
    assert np.asarray(grad)[:, 0].tolist() == pytest.approx([0.0, -0.3 * 6, 0.0])


def test_slots_are_summed_where_they_meet(key):
    """Several high patches on one target: as many as the sum of each alone."""
    rules = PatchRules(max_patches=3, hidden=2, max_targets=4)
    placed, values = make([0, 1, 2], 3, (4, 3), rules, key)
    whole = applied(values, placed, rules, PRE, POST)
    alone = [applied(values, placed.replace(active=jnp.arange(3) == k), rules, PRE, POST) for k in range(3)]
    np.testing.assert_allclose(whole, sum(np.asarray(a) for a in alone), rtol=1e-5, atol=1e-6)


def test_the_order_of_inputs_decides_which_weight_takes_them():
    placed, values = one_high_one_low()
    other = placed.replace(sources=jnp.flip(placed.sources, axis=1))
    turned = values.replace(low=values.low.replace(w1=jnp.flip(values.low.w1, axis=2)))
    plain = applied(values, placed, RULES, PRE, POST)
    np.testing.assert_allclose(applied(turned, other, RULES, PRE, POST), plain, rtol=1e-6)
