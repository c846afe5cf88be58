"""Banks that grow: new slots beside old ones, patches that span a layer, no position twice."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import growth, masks, network, patches, trees
from jaxnet.patches import PatchRules
from jaxnet.patches.extend import check_same_use
from tests import networks, reference

X = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)


@functools.cache
def extended(kind: str, silent: bool) -> tuple[Any, ...]:
    """Specification; values and structure before, and with as many patches again; logits of both."""
    spec, params, structure = networks.small(kind)
    found = networks.made_up_extrema(spec.sizes, jax.random.key(11))
    rules = structure.bank.rules

    def run(p, s):
        after = network.with_patches(p, s, found, rules, key_patch=jax.random.key(12), silent=silent)
        nets: Any = ((p, s), after)
        return after, [network.forward(spec, net[0], net[1], X)[0] for net in nets]

    after, logits = networks.quick(run)(params, structure)
    return spec, (params, structure), after, logits, found


def slots(structure: Any, values: Any, layer: int) -> tuple[list[Any], list[Any]]:
    """What each high and each low slot of a layer is: unit, active, places, values."""
    p, v = structure.bank.layers[layer], values.patches[layer]
    high: list[Any] = []
    low: list[Any] = []
    for i in range(p.unit.shape[0]):
        where = high if i < p.num_high else low
        k = i if i < p.num_high else i - p.num_high
        item: list[Any] = [int(p.unit[i]), bool(p.active[i])]
        if p.owner is not None:
            mine = np.asarray(p.topology.exists) & (np.asarray(p.owner) == i)
            item += [np.asarray(a)[mine].tolist() for a in (p.topology.rows, p.topology.cols, v.weight)]
        else:
            part, places = (v.high, p.targets) if i < p.num_high else (v.low, p.sources)
            item += [np.asarray(places)[k].tolist()]
            item += [np.asarray(a)[k].tolist() for a in (part.w1, part.b1, part.w2, part.b2)]
        where.append(item)
    return high, low


@pytest.mark.parametrize("kind", patches.KINDS)
def test_old_patches_keep_their_places_and_values(kind):
    _, before, after, logits, _ = extended(kind, False)
    for layer in (1, 2):
        for old, new in zip(
            slots(before[1], before[0], layer), slots(after[1], after[0], layer), strict=True
        ):
            assert new[: len(old)] == old and len(new) == 2 * len(old)
    assert np.abs(logits[1] - logits[0]).max() > 1e-3 or kind == "dense"
    counts = [network.count_nonzeros(*net) for net in (before, after)]
    assert int(counts[1]["patch"]) > int(counts[0]["patch"])
    assert int(counts[1]["scaffold"]) == int(counts[0]["scaffold"])


@pytest.mark.parametrize("kind", patches.KINDS)
def test_silent_patches_change_nothing_and_take_gradients(kind):
    spec, before, (params, structure), logits, _ = extended(kind, True)
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-6, atol=1e-6)

    def total(p):
        return jnp.sum(jnp.square(network.forward(spec, p, structure, X)[0]))

    grads = networks.quick(jax.grad(total))(params)
    moved = 0
    for layer, (old, new) in enumerate(zip(before[0].patches, grads.patches, strict=True)):
        if new is None:
            continue
        if kind == "mlp":
            moved += int(np.any(new.high.w2[old.high.w2.shape[0] :]))
        else:
            fresh = np.asarray(structure.bank.layers[layer].owner) >= 0
            silent = np.asarray(params.patches[layer].weight) == 0
            moved += int(np.any(np.asarray(new.weight)[fresh & silent]))
    assert moved > 0


def test_dense_patches_of_two_additions_share_no_position_and_can_be_merged():
    spec, _, (params, structure), logits, _ = extended("dense", False)
    for layer in (1, 2):
        placed = structure.bank.layers[layer]
        masks.validate_topology(placed.topology)
        both = masks.topology_mask(placed.topology) & masks.topology_mask(structure.connectivity[layer])
        assert not np.any(both)
        assert np.all(np.asarray(placed.owner) < placed.unit.shape[0])
    scaffold, topologies = patches.merge_patches(
        params.scaffold, structure.connectivity, params.patches, structure.bank
    )
    merged = network.forward(
        spec, params.replace(scaffold=scaffold, patches=()), network.Structure(topologies), X
    )[0]
    np.testing.assert_allclose(merged, logits[1], rtol=1e-5, atol=1e-5)


def test_removing_all_new_patches_gives_the_old_function():
    for kind in patches.KINDS:
        spec, before, (params, structure), logits, _ = extended(kind, False)
        keep = []
        for old, new in zip(before[1].bank.layers, structure.bank.layers, strict=True):
            if new is not None:
                n, m = old.num_high, old.unit.shape[0] - old.num_high
                keep += [True] * n + [False] * n + [True] * m + [False] * m
        bank, values = patches.remove_patches(structure.bank, params.patches, jnp.asarray(keep))
        got = network.forward(spec, params.replace(patches=values), structure.replace(bank=bank), X)[0]
        np.testing.assert_allclose(got, logits[0], rtol=1e-5, atol=1e-6)


def test_distances_by_hand():
    _, _, structure = networks.small("dense")
    assert [None if p is None else p.reads for p in structure.bank.layers] == [None, (1,), (1,)]
    # behind the first hidden layer: what fed layer 1 now feeds layer 2, past the new layer
    bank = patches.insert_bank_layer(structure.bank, 1)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, (2,), (1,)]
    # there again: one more layer between
    bank = patches.insert_bank_layer(bank, 1)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, None, (3,), (1,)]
    # behind the input nothing is spanned
    bank = patches.insert_bank_layer(structure.bank, 0)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, (1,), (1,)]
    spanning = patches.insert_bank_layer(structure.bank, 1)
    with pytest.raises(ValueError, match="spans an inserted layer"):
        topologies: Any = [None, None, *structure.connectivity[1:]]
        values: Any = [None, None, *networks.small("dense")[1].patches[1:]]
        nothing: Any = [None] * 4
        patches.merge_patches(nothing, topologies, values, spanning)


def test_indices_move_with_the_units_they_name():
    # layer 2 reads layers at distance 2 (8 units) and 1 (5 units); the first of them gets 3 more units
    topology = masks.topology_from_flat(jnp.asarray([7, 8, 13 + 12]), jnp.ones(3, bool), (4, 13))
    placed = patches.LayerPatches(
        jnp.asarray([7, 12, 3], jnp.int32),
        jnp.ones(3, bool),
        topology=topology,
        owner=jnp.asarray([0, 2, 1], jnp.int32),
        num_high=2,
        reads=(2, 1),
    )
    bank = patches.PatchBank((None, None, placed), PatchRules("dense"))
    sizes = (10, 8, 5, 4)
    wide: Any = patches.widen_bank(bank, 0, 3, sizes).layers[2]
    assert wide.unit.tolist() == [7, 15, 3], "a low patch names a unit of its own layer"
    assert wide.topology.shape == (4, 16) and wide.topology.cols.tolist() == [7, 11, 15]
    # the second of them: nothing that exists moves
    wide = patches.widen_bank(bank, 1, 3, sizes).layers[2]
    assert wide.unit.tolist() == [7, 12, 3] and wide.topology.cols.tolist() == [7, 8, 12]
    # the layer that is fed
    wide = patches.widen_bank(bank, 2, 3, sizes).layers[2]
    assert wide.topology.shape == (7, 13) and wide.topology.row_ptr.tolist() == [0, 2, 3, 3, 3, 3, 3, 3]


def test_new_patches_over_a_narrow_layer_fit_beside_wide_ones():
    # old low patches of layer 1 read 4 of 8 units; then 2 units come between
    _, params, structure = networks.small("mlp")
    spec = network.NetworkSpec((10, 8, 2, 6, 4), 0.4)
    bank = patches.insert_bank_layer(structure.bank, 1)
    values = (*params.patches[:1], None, *params.patches[1:])

    def run(key):
        narrow, plan = network.init(spec, key_mask=key, key_init=key)
        narrow, plan = narrow.replace(patches=values), plan.replace(bank=bank)
        found = networks.made_up_extrema(spec.sizes, key)
        grown = network.with_patches(narrow, plan, found, bank.rules, key_patch=key)
        return *grown, network.forward(spec, *grown, X)[0]

    p, s, logits = networks.quick(run)(jax.random.key(11))
    placed, old = s.bank.layers[2], structure.bank.layers[1]
    assert placed.reads == (2, 1) and placed.sources.shape[1] == 4
    # all of the 2 units (behind the 8 of the spanned layer), and 2 of those by weights of zero
    assert placed.sources[old.sources.shape[0] :].tolist() == [[0, 1, 8, 9]] * 5
    assert not np.any(p.patches[2].low.w1[old.sources.shape[0] :, :, :2])
    want = reference.forward("relu", reference.to_numpy(p), reference.to_numpy(s), np.asarray(X, np.float64))
    np.testing.assert_allclose(logits, want[0], rtol=1e-4, atol=1e-5)


def as_the_original(params: Any, structure: Any, x: np.ndarray) -> np.ndarray:
    """Logits with patches found by the index of their layer, as the original applies them: in a loop."""
    p, s = reference.to_numpy(params), reference.to_numpy(structure)
    pre: list[np.ndarray] = []
    below = x
    for t, (layer, c) in enumerate(zip(p.scaffold, s.connectivity, strict=True)):
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


@pytest.mark.parametrize("size", [7, 2])
def test_patches_that_keep_their_level_act_between_other_layers(size):
    """As in the original, whose patches name a layer by its index; a wide or a narrow one comes first."""
    spec, params, structure = networks.small("mlp")
    rules = dataclasses.replace(structure.bank.rules, keep_level=True)
    structure = structure.replace(bank=structure.bank.replace(rules=rules))

    def run(params, structure, key):
        found = networks.made_up_extrema(spec.sizes, jax.random.key(11))
        params, structure = network.with_patches(params, structure, found, rules, key_patch=key)
        nets = [(spec, params, structure)]
        for wide in (size, 9):  # what the narrow layer silences, the next brings back
            net = growth.insert_layer(
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
        loss = lambda p, s: jnp.sum(network.forward(spec, p, s, X)[0] ** 2)  # noqa: E731
        return [(n[1:], network.forward(spec, *n[1:], X)[0], jax.grad(loss)(*n[1:])) for n in nets]

    stages = networks.quick(run)(params, structure, jax.random.key(5))
    for (p, s), logits, grad in stages:
        want = as_the_original(p, s, np.asarray(X, np.float64))
        np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grad))
    (p, s), _, grad = stages[1]
    assert [t.shape[0] for t in s.connectivity] == [8, size, 6, 4]
    assert [None if b is None else b.reads for b in s.bank.layers] == [None, (1,), (1,), None]
    for layer in (1, 2):
        masks.validate_topology(s.bank.layers[layer].topology)
        assert trees.equal(p.patches[layer], stages[0][0][0].patches[layer])
    if size == 2:  # the low patches at units 2 to 5 of layer 1 find no unit there, and are found again
        gone = np.asarray(s.bank.layers[1].unit[s.bank.layers[1].num_high :]) >= 2
        gone &= np.asarray(s.bank.layers[1].active[s.bank.layers[1].num_high :])
        assert gone.any() and not np.any(np.asarray(grad.patches[1].low.b2)[gone])
        assert np.any(np.asarray(stages[2][2].patches[1].low.b2)[gone])


def test_only_small_networks_can_keep_their_level():
    with pytest.raises(ValueError, match="keep_level is for mlp patches, not for dense ones"):
        PatchRules("dense", keep_level=True)


@pytest.mark.parametrize(
    "change", [{"kind": "dense"}, {"keep_level": True}, {"hidden": 4}, {"scale_low": 0.1}]
)
def test_patches_applied_in_another_way_are_refused(change):
    there = PatchRules()
    with pytest.raises(ValueError, match=f"have {next(iter(change))} "):
        check_same_use(there, dataclasses.replace(there, **change))
    check_same_use(there, dataclasses.replace(there, max_patches=9, placement="random", max_inputs=3))
