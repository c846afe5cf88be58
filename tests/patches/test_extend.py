"""Banks that grow: new slots beside old ones, patches that span a layer, no position twice."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import changes, patches
from jaxnet import topology as topo
from jaxnet.nn import mlp as mlp_
from jaxnet.nn.params import Structure, count_nonzeros
from jaxnet.patches import PatchRules, check_same_use
from tests import networks, reference

X = jnp.asarray(np.random.default_rng(0).normal(size=(10, 6)), jnp.float32)


@functools.cache
def extended(kind: str, silent: bool) -> tuple[Any, ...]:
    """Specification; values and structure before, and with as many patches again; logits of both."""
    spec, params, structure = networks.small(kind)
    found = networks.made_up_extrema(spec.sizes, jax.random.key(11))
    rules = structure.bank.rules

    def run(p, s):
        after = changes.with_patches(p, s, found, rules, key_patch=jax.random.key(12), silent=silent)
        nets: Any = ((p, s), after)
        return after, [mlp_.forward(spec, net[0], net[1], X)[0] for net in nets]

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
        if hasattr(p, "owner"):
            mine = np.asarray(p.topology.exists) & (np.asarray(p.owner) == i)
            item += [np.asarray(a)[mine].tolist() for a in (p.topology.rows, p.topology.cols, v.weight)]
        else:
            part, places = (v.high, p.targets) if i < p.num_high else (v.low, p.sources)
            item += [np.asarray(places)[k].tolist()]
            item += [np.asarray(a)[k].tolist() for a in (part.w1, part.b1, part.w2, part.b2)]
        where.append(item)
    return high, low


@pytest.mark.parametrize("kind", ["mlp", "dense"])
def test_old_patches_keep_their_places_and_values(kind):
    _, before, after, logits, _ = extended(kind, False)
    for layer in (1, 2):
        for old, new in zip(
            slots(before[1], before[0], layer), slots(after[1], after[0], layer), strict=True
        ):
            assert new[: len(old)] == old and len(new) == 2 * len(old)
    assert np.abs(logits[1] - logits[0]).max() > 1e-3 or kind == "dense"
    counts = [count_nonzeros(*net) for net in (before, after)]
    assert int(counts[1]["patch"]) > int(counts[0]["patch"])
    assert int(counts[1]["scaffold"]) == int(counts[0]["scaffold"])


@pytest.mark.parametrize("kind", ["mlp", pytest.param("dense", marks=pytest.mark.slow)])
def test_silent_patches_change_nothing_and_take_gradients(kind):
    spec, before, (params, structure), logits, _ = extended(kind, True)
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-6, atol=1e-6)

    def total(p):
        return jnp.sum(jnp.square(mlp_.forward(spec, p, structure, X)[0]))

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
        topo.validate_topology(placed.topology)
        both = topo.topology_mask(placed.topology) & topo.topology_mask(structure.weights[layer])
        assert not np.any(both)
        assert np.all(np.asarray(placed.owner) < placed.unit.shape[0])
    scaffold, topologies = patches.merge_patches(
        params.scaffold, structure.weights, params.patches, structure.bank
    )
    merged = mlp_.forward(spec, params.replace(scaffold=scaffold, patches=()), Structure.of(topologies), X)[0]
    np.testing.assert_allclose(merged, logits[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_removing_all_new_patches_gives_the_old_function():
    for kind in ("mlp", "dense"):
        spec, before, (params, structure), logits, _ = extended(kind, False)
        keep = []
        for old, new in zip(before[1].bank.layers, structure.bank.layers, strict=True):
            if new is not None:
                n, m = old.num_high, old.unit.shape[0] - old.num_high
                keep += [True] * n + [False] * n + [True] * m + [False] * m
        bank, values = patches.remove_patches(structure.bank, params.patches, jnp.asarray(keep))
        got = mlp_.forward(spec, params.replace(patches=values), structure.replace(bank=bank), X)[0]
        np.testing.assert_allclose(got, logits[0], rtol=1e-5, atol=1e-6)


def inserted(bank: Any, at: int) -> Any:
    """The bank alone, which does not depend on the size of the new layer."""
    return bank.kind.insert(bank, (None,) * len(bank.layers), at, (), preserve=True)[0]


def test_distances_by_hand():
    _, _, structure = networks.small("dense")
    assert [None if p is None else p.reads for p in structure.bank.layers] == [None, (1,), (1,)]
    # behind the first hidden layer: what fed layer 1 now feeds layer 2, past the new layer
    bank = inserted(structure.bank, 1)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, (2,), (1,)]
    # there again: one more layer between
    bank = inserted(bank, 1)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, None, (3,), (1,)]
    # behind the input nothing is spanned
    bank = inserted(structure.bank, 0)
    assert [None if p is None else p.reads for p in bank.layers] == [None, None, (1,), (1,)]
    spanning = inserted(structure.bank, 1)
    with pytest.raises(ValueError, match="spans an inserted layer"):
        topologies: Any = [None, None, *structure.weights[1:]]
        values: Any = [None, None, *networks.small("dense")[1].patches[1:]]
        nothing: Any = [None] * 4
        patches.merge_patches(nothing, topologies, values, spanning)


def test_indices_move_with_the_units_they_name():
    # layer 2 reads layers at distance 2 (8 units) and 1 (5 units); the first of them gets 3 more units
    topology = topo.topology_from_flat(jnp.asarray([7, 8, 13 + 12]), jnp.ones(3, bool), (4, 13))
    placed = patches.DensePatches(
        jnp.asarray([7, 12, 3], jnp.int32),
        jnp.ones(3, bool),
        topology=topology,
        owner=jnp.asarray([0, 2, 1], jnp.int32),
        num_high=2,
        reads=(2, 1),
    )
    bank = patches.PatchBank((None, None, placed), PatchRules("dense"))
    sizes = (10, 8, 5, 4)
    wide: Any = bank.kind.widen(bank, 0, 3, sizes).layers[2]
    assert wide.unit.tolist() == [7, 15, 3], "a low patch names a unit of its own layer"
    assert wide.topology.shape == (4, 16) and wide.topology.cols.tolist() == [7, 11, 15]
    # the second of them: nothing that exists moves
    wide = bank.kind.widen(bank, 1, 3, sizes).layers[2]
    assert wide.unit.tolist() == [7, 12, 3] and wide.topology.cols.tolist() == [7, 8, 12]
    # the layer that is fed
    wide = bank.kind.widen(bank, 2, 3, sizes).layers[2]
    assert wide.topology.shape == (7, 13) and wide.topology.row_ptr.tolist() == [0, 2, 3, 3, 3, 3, 3, 3]


def test_new_patches_over_a_narrow_layer_fit_beside_wide_ones():
    # old low patches of layer 1 read 4 of 8 units; then 2 units come between
    _, params, structure = networks.small("mlp")
    spec = mlp_.NetworkSpec((10, 8, 2, 6, 4), 0.4)
    bank = inserted(structure.bank, 1)
    values = (*params.patches[:1], None, *params.patches[1:])

    def run(key):
        narrow, plan = mlp_.init(spec, key_mask=key, key_init=key)
        narrow, plan = narrow.replace(patches=values), plan.replace(bank=bank)
        found = networks.made_up_extrema(spec.sizes, key)
        grown = changes.with_patches(narrow, plan, found, bank.rules, key_patch=key)
        forward: Any = mlp_.forward
        return *grown, forward(spec, *grown, X)[0]

    p, s, logits = networks.quick(run)(jax.random.key(11))
    placed, old = s.bank.layers[2], structure.bank.layers[1]
    assert placed.reads == (2, 1) and placed.sources.shape[1] == 4
    # all of the 2 units (behind the 8 of the spanned layer), and 2 of those by weights of zero
    assert placed.sources[old.sources.shape[0] :].tolist() == [[0, 1, 8, 9]] * 5
    assert not np.any(p.patches[2].low.w1[old.sources.shape[0] :, :, :2])
    want = reference.forward("relu", reference.to_numpy(p), reference.to_numpy(s), np.asarray(X, np.float64))
    np.testing.assert_allclose(logits, want[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"kind": "dense"}, {"hidden": 4}, {"scale_low": 0.1}])
def test_patches_applied_in_another_way_are_refused(change):
    there = PatchRules()
    with pytest.raises(ValueError, match=f"have {next(iter(change))} "):
        check_same_use(there, dataclasses.replace(there, **change))
    check_same_use(there, dataclasses.replace(there, max_patches=9, placement="random", max_inputs=3))
