"""The original's faults: each alone, by hand or against a loop, and nothing of them in the clean kinds."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxnet import changes, patches, trees
from jaxnet import topology as topo
from jaxnet.kernels import dense_product
from jaxnet.nn import mlp as mlp_
from jaxnet.original import OriginalRules, draw_ordered
from jaxnet.patches import KINDS, LayerPatches, PatchRules, check_same_use
from tests import networks, reference

RULES = networks.with_faults(PatchRules(max_patches=1, hidden=2, max_targets=2, max_inputs=2))
X = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)


def made(kind: str, rules: PatchRules, unit: list[int], num_high: int, key: jax.Array) -> Any:
    """Patches of a layer of 4 units above 9, all active."""
    placed = LayerPatches(jnp.asarray(unit, jnp.int32), jnp.ones(len(unit), bool), num_high=num_high)
    make = KINDS[kind].make
    return networks.quick(lambda k: make(placed, jnp.zeros((4, 9), bool), rules, key_patch=k))(key)


def test_without_faults_it_is_the_clean_kind(key):
    clean = PatchRules(max_patches=1, hidden=2, max_targets=2, max_inputs=2)
    want, got = made("mlp", clean, [2, 0, 1], 2, key), made("original", RULES, [2, 0, 1], 2, key)
    assert trees.equal(want, got)
    bank = patches.PatchBank((got[0],), RULES)
    assert trees.equal(bank.kind.for_pass(bank, (9, 4), key_forward=key), bank)


def test_first_targets(key):
    rules = dataclasses.replace(RULES, first_targets=True)
    placed, values = made("original", rules, [2, 0, 1, 3], 3, key)
    assert np.asarray(placed.targets).tolist() == [[0, 1]] * 3
    topo.validate_topology(placed.topology)
    without, same = made("original", RULES, [2, 0, 1, 3], 3, key)
    assert trees.equal(values, same) and trees.equal(placed.sources, without.sources)
    # both second layers feed what is said
    high = np.asarray(placed.topology.rows)[np.asarray(placed.topology.cols) < 3 * 2]
    assert set(high.tolist()) == {0, 1}


@functools.cache
def network_of(rules: PatchRules) -> Any:
    spec, params, structure = networks.small("mlp")
    structure = structure.replace(bank=structure.bank.replace(rules=rules))
    x = networks.samples().x.T
    return networks.quick(lambda k: mlp_.forward(spec, params, structure, x, key_forward=k)[0])


def forward(rules, key):
    return np.asarray(network_of(rules)(key))


def test_inputs_are_drawn_anew_only_where_asked_for_and_with_a_key(key):
    stored = networks.small("mlp")[2].bank.rules
    redraw = networks.with_faults(stored, redraw_inputs=True)
    other = jax.random.fold_in(key, 1)
    plain = forward(stored, None)
    assert np.array_equal(forward(stored, key), plain)  # without the switch a key changes nothing
    np.testing.assert_array_equal(forward(redraw, None), plain)  # without a key the stored inputs serve
    assert not np.array_equal(forward(redraw, key), plain)
    assert not np.array_equal(forward(redraw, key), forward(redraw, other))
    assert np.array_equal(forward(redraw, key), forward(redraw, key))


def test_inputs_drawn_anew_are_units_of_the_layer_of_the_stored_ones(key):
    rules = networks.with_faults(PatchRules(max_patches=2, max_inputs=3), redraw_inputs=True)
    placed, _ = made("original", rules, [0, 1, 2, 3], 2, key)
    # the patches read layers of 5 and of 4 units, the first low patch the former, the second the latter
    placed = placed.replace(sources=jnp.array([[0, 2, 4], [5, 7, 8]]), reads=(2, 1))
    bank = patches.PatchBank((None, None, placed), rules)
    seen: list[set[int]] = [set(), set()]
    orders = set()
    kind: Any = bank.kind
    draw = networks.quick(lambda k: kind.for_pass(bank, (7, 5, 4, 4), key_forward=k).layers[2].sources)
    for k in jax.random.split(key, 60):
        rows = np.asarray(draw(k)).tolist()
        for one, row in zip(seen, rows, strict=True):
            assert len(set(row)) == 3
            one.update(row)
        orders.add(tuple(np.argsort(rows[0]).tolist()))
    assert seen == [set(range(5)), set(range(5, 9))] and len(orders) == 6, "in any order"


def test_ordered_draws_are_all_equally_likely():
    sizes = jnp.repeat(jnp.array([3, 4, 5]), 20_000)
    drawn = np.asarray(jax.jit(lambda key: draw_ordered(sizes, 3, key=key))(jax.random.key(4)))
    for size, rows in zip((3, 4, 5), np.split(drawn, 3), strict=True):
        _, counts = np.unique(rows, axis=0, return_counts=True)
        assert len(counts) == size * (size - 1) * (size - 2), "every arrangement occurs"
        assert all(len(set(row)) == 3 for row in rows.tolist()) and rows.max() == size - 1
        assert chisquare(counts).pvalue > 1e-3


def test_no_gradient_into_the_extremum(key):
    x = jnp.linspace(0.5, 1.5, 9)[:, None]

    def gradient(rules: PatchRules) -> Any:
        placed, values = made("original", rules, [2, 0, 1], 3, key)
        values = jax.tree.map(jnp.abs, values)  # no hidden unit is off
        apply = functools.partial(KINDS["original"].apply, values, placed, rules)
        return networks.quick(jax.grad(lambda pre: jnp.sum(apply(pre, x, 4, dense_product) ** 2)))(x)

    assert np.flatnonzero(np.asarray(gradient(RULES))).tolist() == [0, 1, 2]
    assert not np.any(gradient(dataclasses.replace(RULES, detach_source=True)))


def as_the_original(params: Any, structure: Any, x: np.ndarray) -> np.ndarray:
    """Logits with patches found by the index of their layer, as the original applies them: in a loop."""
    p, s = reference.to_numpy(params), reference.to_numpy(structure)
    pre: list[np.ndarray] = []
    below = x
    for t, (layer, c) in enumerate(zip(p.scaffold, s.weights, strict=True)):
        z = reference.matrix(layer.weight, c) @ below + layer.bias[:, None]
        placed, values = s.bank.layers[t], p.patches[t]
        for k, unit in enumerate([] if placed is None else placed.unit):
            low = k - placed.num_high
            if not placed.active[k]:
                continue
            part, i = (values.high, k) if low < 0 else (values.low, low)
            if low < 0 and unit < len(pre[t - 1]):
                hidden = part.w1[i] @ pre[t - 1][unit][None] + part.b1[i][:, None]
                out = part.w2[i] @ np.maximum(hidden, 0) + part.b2[i][:, None]
                for j, target in enumerate(placed.targets[i]):
                    if target < len(z):
                        z[target] += 0.3 * out[j]
            elif low >= 0 and unit < len(z):
                there = placed.sources[i] < len(below)
                hidden = part.w1[i][:, there] @ below[placed.sources[i][there]] + part.b1[i][:, None]
                z[unit] += 0.5 * (part.w2[i] @ np.maximum(hidden, 0) + part.b2[i][:, None])[0]
        pre.append(z)
        below = np.maximum(z, 0)
    return pre[-1]


@pytest.mark.parametrize("size", [7, pytest.param(2, marks=pytest.mark.slow)])
def test_patches_that_keep_their_level_act_between_other_layers(size):
    """As in the original, whose patches name a layer by its index; a wide or a narrow one comes first."""
    spec, params, structure = networks.small("mlp")
    rules = networks.with_faults(structure.bank.rules, keep_level=True)
    structure = structure.replace(bank=structure.bank.replace(rules=rules))

    def run(params, structure, key):
        found = networks.made_up_extrema(spec.sizes, jax.random.key(11))
        params, structure = changes.with_patches(params, structure, found, rules, key_patch=key)
        nets = [(spec, params, structure)]
        for wide in (size, 9):  # what the narrow layer silences, the next brings back
            net = changes.insert_layer(
                *nets[-1],
                after=0,
                size=wide,
                nonzeros_in=8,
                nonzeros_out=2 * wide,
                rule="redraw",
                key_mask=key,
                key_init=key,
            )
            nets.append(net)
        loss = lambda p, s: jnp.sum(mlp_.forward(spec, p, s, X)[0] ** 2)  # noqa: E731
        return [(n[1:], mlp_.forward(spec, *n[1:], X)[0], jax.grad(loss)(*n[1:])) for n in nets]

    stages = networks.quick(run)(params, structure, jax.random.key(5))
    for (p, s), logits, grad in stages:
        want = as_the_original(p, s, np.asarray(X, np.float64))
        np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grad))
    (p, s), _, grad = stages[1]
    assert [t.shape[0] for t in s.weights] == [8, size, 6, 4]
    assert [None if b is None else b.reads for b in s.bank.layers] == [None, (1,), (1,), None]
    for layer in (1, 2):
        topo.validate_topology(s.bank.layers[layer].topology)
        assert trees.equal(p.patches[layer], stages[0][0][0].patches[layer])
    if size == 2:  # the low patches at units 2 to 5 of layer 1 find no unit there, and are found again
        gone = np.asarray(s.bank.layers[1].unit[s.bank.layers[1].num_high :]) >= 2
        gone &= np.asarray(s.bank.layers[1].active[s.bank.layers[1].num_high :])
        assert gone.any() and not np.any(np.asarray(grad.patches[1].low.b2)[gone])
        assert np.any(np.asarray(stages[2][2].patches[1].low.b2)[gone])


def test_a_wider_layer_brings_back_what_patches_of_a_kept_level_miss():
    _, params, structure = networks.small("mlp")
    rules = networks.with_faults(structure.bank.rules, keep_level=True)
    bank, kind = structure.bank.replace(rules=rules), KINDS["original"]
    lost, values = kind.insert(bank, params.patches, 1, (10, 8, 2, 6, 4), preserve=False)
    assert values == (*params.patches, None)
    back = kind.widen(lost, 1, 4, (10, 8, 2, 6, 4))  # 2 + 4 units, as many as layer 1 had
    assert trees.equal(back.layers[1], bank.layers[1])
    for name in ("unit", "targets"):  # layer 2 has other outputs now
        assert np.array_equal(getattr(back.layers[2], name), getattr(bank.layers[2], name))
    with pytest.raises(ValueError, match="choose rule redraw"):
        kind.insert(bank, params.patches, 1, (10, 8, 9, 6, 4), preserve=True)


@pytest.mark.parametrize("fault", ["redraw_inputs", "detach_source", "keep_level"])
def test_patches_applied_with_other_faults_are_refused(fault):
    there = OriginalRules()
    with pytest.raises(ValueError, match=f"have {fault} "):
        check_same_use(there, networks.with_faults(there, **{fault: False}))
    check_same_use(there, dataclasses.replace(there, first_targets=False, placement="random"))
    with pytest.raises(ValueError, match="have kind 'original'"):
        check_same_use(there, PatchRules())


def test_rules_with_faults_are_for_the_original_kind():
    assert OriginalRules().kind == "original" and OriginalRules().placement == "first"
    with pytest.raises(ValueError, match="need OriginalRules"):
        PatchRules("original")
    with pytest.raises(ValueError, match="of kind dense need PatchRules"):
        OriginalRules("dense")
