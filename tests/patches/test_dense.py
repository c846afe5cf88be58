"""``dense`` patches: one by hand, no position taken twice, sizes, merging into the scaffold."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxnet import masks, patches, trees
from jaxnet import topology as topo
from jaxnet.kernels import dense_product
from jaxnet.nn import mlp as mlp_
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, count_nonzeros
from jaxnet.patches import KINDS, DensePatches, LayerPatches, PatchRules
from jaxnet.structure import LayerParams
from tests import networks

DENSE = KINDS["dense"]


def built(unit, active, num_high, scaffold, rules, *, key_patch) -> Any:
    """The library's, as one program; typed as ``Any``, for what is optional in general is there."""

    def make(unit, active, scaffold, key):
        placed = LayerPatches(unit, active, num_high=num_high)
        return DENSE.make(placed, topo.topology_mask(scaffold), rules, key_patch=key)

    return networks.quick(make)(unit, active, scaffold, key_patch)


def links(placed) -> dict[int, set[tuple[int, int]]]:
    """Positions ``(row, column)`` of each slot."""
    t = placed.topology
    found: dict[int, set[tuple[int, int]]] = {k: set() for k in range(placed.unit.shape[0])}
    for r, c, k in zip(np.asarray(t.rows), np.asarray(t.cols), np.asarray(placed.owner), strict=True):
        if r < t.shape[0]:
            assert (int(r), int(c)) not in found[int(k)]
            found[int(k)].add((int(r), int(c)))
    return found


def test_one_high_and_one_low_patch_by_hand():
    # 2 inputs, 4 units; the scaffold has (0, 0), (1, 0) and (2, 1)
    mask = np.zeros((4, 2), bool)
    mask[[0, 1, 2], [0, 0, 1]] = True
    scaffold = topo.topology_from_mask(mask)
    rules = PatchRules("dense", patch_density=1.0)
    placed, values = built(
        jnp.asarray([0, 2], jnp.int32), jnp.ones(2, bool), 1, scaffold, rules, key_patch=jax.random.key(0)
    )
    # high at input 0: units 2 and 3 are free; it chooses first, so of unit 2 nothing is left for the low one
    assert links(placed) == {0: {(2, 0), (3, 0)}, 1: set()}
    assert np.asarray(values.weight)[np.asarray(placed.topology.exists)].tolist() == [0.0, 0.0]
    # without the high patch the low one at unit 2 gets input 0
    placed, values = built(
        jnp.asarray([0, 2], jnp.int32),
        jnp.asarray([False, True]),
        1,
        scaffold,
        rules,
        key_patch=jax.random.key(0),
    )
    assert links(placed) == {0: set(), 1: {(2, 0)}}
    weight = values.replace(weight=jnp.where(placed.topology.exists, 3.0, 0.0))
    post = jnp.asarray([[5.0], [7.0]])
    out = DENSE.apply(weight, placed, rules, post, post, 4, dense_product)
    assert np.asarray(out)[:, 0].tolist() == [0.0, 0.0, 15.0, 0.0]


@functools.cache
def maker(density: float, patch_density: float):
    """Scaffold and patches of a layer of 12 inputs and 10 units, 3 high slots and 2 low ones."""
    rules = PatchRules("dense", patch_density=patch_density)

    def make(key, active):
        keys = jax.random.split(key, 3)
        scaffold = masks.uniform_topology(10, 12, int(density * 120), key_mask=keys[0])
        high = jax.random.permutation(keys[1], 12)[:3]
        low = jax.random.permutation(keys[1], 10)[:2]
        unit = jnp.concatenate([high, low]).astype(jnp.int32)
        placed = LayerPatches(unit, active, num_high=3)
        return scaffold, DENSE.make(placed, topo.topology_mask(scaffold), rules, key_patch=keys[2])

    return networks.quick(make)


@given(
    st.sampled_from([(0.1, 0.5), (0.6, 0.5), (0.3, 1.0)]),
    st.integers(0, 2**31 - 1),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_no_position_is_taken_twice(densities, seed, active):
    scaffold, (placed, values) = maker(*densities)(jax.random.key(seed), jnp.asarray(active))
    topo.validate_topology(placed.topology)
    mask, unit = np.asarray(topo.topology_mask(scaffold)), np.asarray(placed.unit)
    found = links(placed)
    everything = [p for where in found.values() for p in where]
    assert len(everything) == len(set(everything))
    assert not any(mask[p] for p in everything)
    width = {True: round(densities[1] * 10), False: round(densities[1] * 12)}
    for k, where in found.items():
        high = k < 3
        assert all((c if high else r) == unit[k] for r, c in where)
        if not active[k]:
            assert not where
            continue
        free = ~(mask[:, unit[k]] if high else mask[unit[k]])
        if high:  # high patches choose first and cannot meet one another
            assert len(where) == min(width[high], free.sum())
        else:  # fewer only where the high ones have taken what was free
            lost = sum((unit[k], c) in everything and (unit[k], c) not in where for c in range(12))
            assert len(where) == min(width[high], free.sum() - lost)
    sizes = patches.slot_sizes(patches.PatchBank((placed,), PatchRules("dense")), (values,))
    assert np.asarray(sizes).tolist() == [len(found[k]) for k in range(5)]
    # high weights start at zero, low ones do not
    weight, owner = np.asarray(values.weight), np.asarray(placed.owner)
    exists = np.asarray(placed.topology.exists)
    assert np.all(weight[~exists | (owner < 3)] == 0)
    assert np.all(weight[exists & (owner >= 3)] != 0)


def test_low_weights_have_the_variance_of_their_sources():
    keys = jax.random.split(jax.random.key(2), 300)
    make = networks.quick(jax.vmap(maker(0.1, 0.5).__wrapped__, in_axes=(0, None)))
    _, (placed, values) = make(keys, jnp.ones(5, bool))
    drawn = np.asarray(values.weight)[np.asarray(placed.topology.exists & (placed.owner >= 3))]
    assert drawn.size > 3000
    assert drawn.std() == pytest.approx(6**-0.5, rel=0.05)
    assert abs(drawn.mean()) < 0.03


def test_sources_and_targets_are_drawn_evenly():
    keys = jax.random.split(jax.random.key(4), 2000)
    rules = PatchRules("dense")

    def make(key):
        placed = LayerPatches(jnp.asarray([2, 5], jnp.int32), jnp.ones(2, bool), num_high=1)
        placed, _ = DENSE.make(placed, jnp.zeros((6, 8), bool), rules, key_patch=key)
        return topo.topology_mask(placed.topology)

    hits = np.asarray(networks.quick(jax.vmap(make))(keys)).sum(0)
    high = hits[:5, 2]  # (5, 2) may belong to either
    low = np.delete(hits[5], 2)
    assert np.abs(high / 2000 - 3 / 6).max() < 0.06
    assert np.abs(low / 2000 - 4 / 7.5).max() < 0.09  # 4 of 7 or 8
    assert hits[:5].sum() == high.sum()  # nowhere else


# --- merging ------------------------------------------------------------------------------------------


@functools.cache
def merger():
    """Outputs before and after merging, with gradients, of a patched network and a choice of patches."""
    spec = NetworkSpec(networks.SIZES, 0.4, "tanh")
    rules = PatchRules("dense", 3)
    x = networks.samples().x.T

    def merge(key, keep):
        params: Any
        structure: Any
        params, structure = networks.make(spec, rules, key, padding=2)
        # some deactivated only: their values are still there and must not come back
        structure = structure.replace(bank=patches.keep_patches(structure.bank, keep))

        def out(p, s):
            logits, _ = mlp_.forward(spec, p, s, x)
            return jnp.sum(jnp.sin(logits)), logits

        layers, topologies = patches.merge_patches(
            params.scaffold, structure.weights, params.patches, structure.bank
        )
        merged = Params(layers), Structure.of(topologies)
        grads = jax.value_and_grad(out, has_aux=True)
        return params, structure, merged, grads(params, structure), grads(*merged)

    return networks.quick(merge)


@given(st.integers(0, 2**31 - 1), st.lists(st.booleans(), min_size=9, max_size=9))
@settings(max_examples=25)
def test_merging_leaves_the_function_and_its_gradients_unchanged(seed, keep):
    params, structure, merged, before, after = merger()(jax.random.key(seed), jnp.asarray(keep))
    np.testing.assert_allclose(before[0][1], after[0][1], rtol=1e-4, atol=1e-5)
    new_params, new_structure = merged
    counts = (
        count_nonzeros(params, structure),
        count_nonzeros(new_params, new_structure),
    )
    assert int(counts[0]["scaffold"] + counts[0]["patch"]) == int(counts[1]["scaffold"])
    assert int(counts[0]["total"]) == int(counts[1]["total"])
    for t, (old, new) in enumerate(zip(structure.weights, new_structure.weights, strict=True)):
        topo.validate_topology(new)
        placed = structure.bank.layers[t]
        added = 0 if placed is None else placed.topology.capacity
        assert new.capacity == old.capacity + added
        weight = np.asarray(new_params.scaffold[t].weight)
        assert np.all(weight[~np.asarray(new.exists)] == 0)
        assert np.all(np.asarray(after[1].scaffold[t].weight)[~np.asarray(new.exists)] == 0)
        # gradients of old weights and of the patches' weights are those of the merged ones
        matrix = np.zeros(new.shape)
        for tree, topology in (
            (before[1].scaffold[t], old),
            (before[1].patches[t], placed and placed.topology),
        ):
            if topology is not None:
                n = int(topology.num_nonzeros)
                rows, cols = np.asarray(topology.rows)[:n], np.asarray(topology.cols)[:n]
                matrix[rows, cols] += np.asarray(tree.weight)[:n]
        n = int(new.num_nonzeros)
        got = np.asarray(after[1].scaffold[t].weight)[:n]
        want = matrix[np.asarray(new.rows)[:n], np.asarray(new.cols)[:n]]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_a_layer_is_merged_by_hand():
    mask = np.asarray([[True, False], [False, True], [False, False]])
    scaffold = topo.topology_from_mask(mask)
    layer = LayerParams(jnp.asarray([1.0, 2.0]), jnp.asarray([7.0, 8.0, 9.0]))
    unit = jnp.asarray([0], jnp.int32)
    placed, values = built(
        unit,
        jnp.ones(1, bool),
        1,
        scaffold,
        PatchRules("dense", patch_density=1.0),
        key_patch=jax.random.key(0),
    )
    values = values.replace(
        weight=jnp.where(placed.topology.exists, 10.0 * placed.topology.rows.astype(jnp.float32), 0.0)
    )
    merged, topology = DENSE.merge(layer, scaffold, values, placed)
    # rows 1 and 2 of input 0 are new, one slot of three is padding (row 0 was taken)
    assert np.asarray(topology.rows).tolist() == [0, 1, 1, 2, 3]
    assert np.asarray(topology.cols).tolist() == [0, 0, 1, 0, 0]
    assert np.asarray(merged.weight).tolist() == [1.0, 10.0, 2.0, 20.0, 0.0]
    assert np.asarray(topology.row_ptr).tolist() == [0, 1, 3, 4]
    assert trees.equal(merged.bias, layer.bias)


def test_where_the_scaffold_has_come_to_a_position_of_a_patch_both_are_added():
    scaffold = topo.topology_from_mask(np.asarray([[True, False], [True, True], [False, True]]))
    layer = LayerParams(jnp.asarray([1.0, 2.0, 3.0, 4.0]), jnp.zeros(3))
    placed = DensePatches(
        jnp.asarray([0, 0], jnp.int32),
        jnp.asarray([True, False]),
        topology=topo.topology_from_mask(np.asarray([[False, True], [True, True], [True, False]])),
        owner=jnp.asarray([0, 0, 1, 0], jnp.int32),
        num_high=2,
    )
    values = patches.DensePatchParams(jnp.asarray([10.0, 20.0, 30.0, 40.0]))
    merged, topology = DENSE.merge(layer, scaffold, values, placed)
    topo.validate_topology(topology)
    # (1, 0) is in both; (1, 1) is there twice too, but its patch is not active
    assert topology.rows.tolist()[:6] == [0, 0, 1, 1, 2, 2] and topology.capacity == 8
    assert topology.cols.tolist()[:6] == [0, 1, 0, 1, 0, 1]
    assert merged.weight.tolist() == [1.0, 10.0, 22.0, 3.0, 40.0, 4.0, 0.0, 0.0]


@functools.cache
def rewired_merger():
    """Outputs before and after merging where the scaffold was drawn anew under its patches."""
    spec = NetworkSpec(networks.SIZES, 0.6, "tanh")
    x = networks.samples().x.T

    def merge(key):
        params: Any
        structure: Any
        params, structure = networks.make(spec, PatchRules("dense", 3), key, padding=2)
        other: Any = mlp_.init(spec, key_mask=jax.random.fold_in(key, 9), key_init=key)[1].weights
        other = networks.padded(params.replace(patches=()), Structure.of(other), 2)[1].weights
        scaffold = tuple(
            layer.replace(weight=jnp.where(t.exists, layer.weight, 0.0))
            for layer, t in zip(params.scaffold, other, strict=True)
        )
        params = params.replace(scaffold=scaffold)
        structure = structure.with_weights(other)
        merged = patches.merge_patches(params.scaffold, other, params.patches, structure.bank)
        nets: Any = (params, structure), (Params(merged[0]), Structure.of(merged[1]))
        held: list[Any] = [patches.taken(structure.bank, t, spec.sizes) for t in (1, 2)]
        both = [jnp.sum(h & topo.topology_mask(t)) for h, t in zip(held, other[1:], strict=True)]
        return nets[1][1], [mlp_.forward(spec, p, s, x)[0] for p, s in nets], both

    return networks.quick(merge)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=5)
def test_merging_after_rewiring_leaves_the_function_unchanged(seed):
    structure, logits, both = rewired_merger()(jax.random.key(seed))
    assert sum(map(int, both)) > 0, "positions are taken twice"
    for topology in structure.weights:
        topo.validate_topology(topology)
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-5)


def test_positions_taken_by_patches():
    _, _, structure = networks.small("dense")
    bank, sizes = structure.bank, networks.SIZES
    assert patches.taken(bank, 0, sizes) is None
    for layer in (1, 2):
        mask = np.asarray(topo.topology_mask(bank.layers[layer].topology))
        got: Any = patches.taken(bank, layer, sizes)
        assert np.array_equal(got, mask) and mask.any()
        # patches out of use keep their positions: they may be switched on again
        off = patches.keep_patches(bank, jnp.zeros(patches.active_slots(bank).shape, bool))
        got = patches.taken(off, layer, sizes)
        assert np.array_equal(got, mask)
    assert patches.taken(networks.small("mlp")[2].bank, 1, sizes) is None
    # of a patch that spans two layers none; of one beside it those between neighbours
    topology = topo.topology_from_flat(jnp.asarray([7, 8, 13 + 12]), jnp.ones(3, bool), (4, 13))
    owner = jnp.zeros(3, jnp.int32)
    placed = DensePatches(jnp.zeros(1, jnp.int32), jnp.ones(1, bool), topology=topology, owner=owner)
    for reads, want in (((2, 1), [(0, 0), (1, 4)]), ((1, 2), [(0, 7), (0, 8), (1, 12)]), ((3, 2), None)):
        bank = patches.PatchBank((None, None, placed.replace(reads=reads)), PatchRules("dense"))
        widths = (13, 10, 13, 4) if reads == (1, 2) else (10, 8, 5, 4)
        got = patches.taken(bank, 2, widths)
        assert got is None if want is None else [tuple(p) for p in np.argwhere(got)] == want


def test_mlp_patches_cannot_be_merged():
    _, params, structure = networks.small("mlp")
    with pytest.raises(ValueError, match="mlp patches cannot be merged into the scaffold"):
        patches.merge_patches(params.scaffold, structure.weights, params.patches, structure.bank)
