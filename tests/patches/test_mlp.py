"""``mlp`` patches: one high and one low by hand, the original's faults as switches, gradients."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import network, patches
from jaxnet.kernels import dense_product
from jaxnet.patches import PatchRules
from jaxnet.patches.mlp import MlpLayerParams, MlpParams, apply_mlp_patches, make_mlp_patches
from tests import networks

RULES = PatchRules(max_patches=1, hidden=2, max_targets=2, max_inputs=2)


def make(unit: list[int], num_high: int, shape: tuple[int, int], rules: PatchRules, key: jax.Array) -> Any:
    """Patches, all active; built as one program."""
    units = jnp.asarray(unit, jnp.int32)
    active = jnp.ones(len(unit), bool)
    return networks.quick(lambda k: make_mlp_patches(units, active, num_high, shape, rules, key_patch=k))(key)


@functools.partial(networks.quick, static_argnums=2)
def applied(values, placed, rules, pre, post):
    return apply_mlp_patches(values, placed, rules, pre, post, dense_product)


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
    return placed, MlpLayerParams(high, low)


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
        return make_mlp_patches(unit, active, 5, (12, 30), rules, key_patch=key)

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


def test_first_targets_are_the_originals_fault(key):
    rules = dataclasses.replace(RULES, first_targets=True)
    placed, _ = make([2, 0, 1], 3, (4, 3), rules, key)
    assert np.asarray(placed.targets).tolist() == [[0, 1]] * 3


def test_widths_shrink_with_the_layer(key):
    rules = PatchRules(max_patches=1)
    placed, values = make([0, 1], 1, (3, 2), rules, key)
    assert values.high.w2.shape == (1, 3, 8) and values.low.w1.shape == (1, 8, 2)
    bank = patches.PatchBank((placed,), rules)
    # 1 -> 8 -> 3: 16 + 27 values; 2 -> 8 -> 1: 24 + 9
    assert np.asarray(patches.slot_sizes(bank, (values,))).tolist() == [43, 33]


@functools.cache
def network_of(rules: PatchRules) -> Any:
    spec, params, structure = networks.small("mlp")
    structure = structure.replace(bank=structure.bank.replace(rules=rules))
    x = networks.samples().x.T
    return networks.quick(lambda k: network.forward(spec, params, structure, x, key_forward=k)[0])


def forward(rules, key):
    return np.asarray(network_of(rules)(key))


def test_inputs_are_drawn_anew_only_where_asked_for_and_with_a_key(key):
    stored = networks.small("mlp")[2].bank.rules
    redraw = dataclasses.replace(stored, redraw_inputs=True)
    other = jax.random.fold_in(key, 1)
    plain = forward(stored, None)
    assert np.array_equal(forward(stored, key), plain)  # without the switch a key changes nothing
    np.testing.assert_array_equal(forward(redraw, None), plain)  # without a key the stored inputs serve
    assert not np.array_equal(forward(redraw, key), plain)
    assert not np.array_equal(forward(redraw, key), forward(redraw, other))
    assert np.array_equal(forward(redraw, key), forward(redraw, key))


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_into_the_extremum(detach):
    placed, values = one_high_one_low()
    rules = dataclasses.replace(RULES, detach_source=detach)

    def out(pre):
        return jnp.sum(apply_mlp_patches(values, placed, rules, pre, POST, dense_product))

    grad = np.asarray(networks.quick(jax.grad(out))(PRE))[:, 0]
    # d/ds of 0.3 * (2 + 4) * relu(1 - s) at s = -3
    assert grad.tolist() == pytest.approx([0.0, 0.0 if detach else -0.3 * 6, 0.0])


def test_slots_are_summed_where_they_meet(key):
    """Several high patches on one target: as many as the sum of each alone."""
    rules = PatchRules(max_patches=3, hidden=2, max_targets=4)
    placed, values = make([0, 1, 2], 3, (4, 3), rules, key)
    whole = applied(values, placed, rules, PRE, POST)
    alone = [applied(values, placed.replace(active=jnp.arange(3) == k), rules, PRE, POST) for k in range(3)]
    np.testing.assert_allclose(whole, sum(np.asarray(a) for a in alone), rtol=1e-5, atol=1e-6)


def test_inputs_drawn_anew_are_units_of_the_layer_of_the_stored_ones(key):
    rules = PatchRules(max_patches=2, max_inputs=3, redraw_inputs=True)
    placed, _ = make([0, 1, 2, 3], 2, (4, 9), rules, key)
    # the patches read layers of 5 and of 4 units, the first low patch the former, the second the latter
    placed = placed.replace(sources=jnp.array([[0, 2, 4], [5, 7, 8]]), reads=(2, 1))
    bank = patches.PatchBank((None, None, placed), rules)
    seen: list[set[int]] = [set(), set()]
    orders = set()
    draw = networks.quick(lambda k: patches.redraw_inputs(bank, (7, 5, 4, 4), key_forward=k)[2])
    for k in jax.random.split(key, 60):
        rows = np.asarray(draw(k)).tolist()
        for one, row in zip(seen, rows, strict=True):
            assert len(set(row)) == 3
            one.update(row)
        orders.add(tuple(np.argsort(rows[0]).tolist()))
    assert seen == [set(range(5)), set(range(5, 9))] and len(orders) == 6, "in any order"


def test_the_order_of_inputs_decides_which_weight_takes_them():
    placed, values = one_high_one_low()
    order = jnp.flip(placed.sources, axis=1)
    turned = values.replace(low=values.low.replace(w1=jnp.flip(values.low.w1, axis=2)))
    plain = applied(values, placed, RULES, PRE, POST)
    again = np.asarray(apply_mlp_patches(turned, placed, RULES, PRE, POST, dense_product, inputs=order))
    np.testing.assert_allclose(again, plain, rtol=1e-6)
