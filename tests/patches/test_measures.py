"""Taking patches out, and what they are worth: against brute force over all subsets."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import changes, patches, train, trees
from jaxnet.nn import mlp as mlp_
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import to_masked_network
from tests import networks


def bank_of(kind: str = "mlp") -> tuple[Any, Any]:
    _, params, structure = networks.small(kind)
    return structure.bank, params.patches


@pytest.mark.parametrize("kind", ["mlp", "dense"])
def test_keeping_and_removing(kind):
    bank, values = bank_of(kind)
    active = np.asarray(patches.active_slots(bank))
    slots = len(active)
    assert 0 < active.sum() < slots  # some of each
    keep = np.arange(slots) % 3 != 0
    kept: Any = patches.keep_patches(bank, jnp.asarray(keep))
    assert np.array_equal(patches.active_slots(kept), active & keep)
    # nothing else changes: the way back is open
    for a, b in zip(bank.layers, kept.layers, strict=True):
        if a is not None:
            assert trees.equal(a.replace(active=b.active), b)
    removed, left = patches.remove_patches(bank, values, jnp.asarray(keep))
    assert trees.equal(removed, kept)
    _, params, structure = networks.small(kind)
    gone = networks.absent(params.replace(patches=left), structure.replace(bank=removed)).patches
    before = params.patches
    for (path, mask), (_, new), (_, old) in zip(
        *(networks.leaves_named(tree) for tree in (gone, left, before)), strict=True
    ):
        assert np.all(new[mask] == 0), path
        assert np.array_equal(new[~mask], old[~mask]), path
    sizes = np.asarray(patches.slot_sizes(bank, values))
    assert np.array_equal(patches.slot_sizes(removed, left), np.where(keep, sizes, 0))
    assert np.all(sizes[active] > 0) and np.all(sizes[~active] == 0)


@pytest.mark.parametrize("kind", ["mlp", "dense"])
def test_removed_patches_no_longer_act(kind):
    spec, params, structure = networks.small(kind)
    x = networks.samples().x.T

    @networks.quick
    def logits(values, bank):
        new = params.replace(patches=values), structure.replace(bank=bank)
        return mlp_.forward(spec, *new, x)[0]

    slots = patches.active_slots(structure.bank).shape[0]
    bank, values = patches.remove_patches(structure.bank, params.patches, jnp.zeros(slots, bool))
    bare, _ = mlp_.forward(spec, params.replace(patches=()), structure.replace(bank=None), x)
    np.testing.assert_allclose(logits(values, bank), bare, rtol=1e-5, atol=1e-6)
    # deactivated alone does the same, though the values are still there
    np.testing.assert_array_equal(logits(params.patches, bank), logits(values, bank))
    assert np.abs(np.asarray(logits(params.patches, structure.bank)) - np.asarray(bare)).max() > 1e-3


def made_up_accuracy(slots: int):
    """An accuracy of the active slots: a share each, and a table of pairs that work together or cover."""
    rng = np.random.default_rng(0)
    single = jnp.asarray(rng.normal(size=slots), jnp.float32)
    pair = jnp.asarray(np.triu(rng.normal(size=(slots, slots)), 1), jnp.float32)

    def accuracy(bank):
        on = patches.active_slots(bank).astype(jnp.float32)
        return 0.5 + on @ single + on @ pair @ on

    return accuracy, single, np.asarray(pair + pair.T)


def test_contributions_and_redundancy_against_brute_force():
    bank, _ = bank_of()
    active = np.asarray(patches.active_slots(bank))
    accuracy, _, pair = made_up_accuracy(len(active))
    compiled = jax.jit(accuracy)

    def without(*gone: int) -> float:
        keep = np.asarray([k not in gone for k in range(len(active))])
        return float(compiled(patches.keep_patches(bank, jnp.asarray(keep))))

    lost = jax.jit(functools.partial(patches.contributions, accuracy))(bank)
    for k, on in enumerate(active):
        assert float(lost[k]) == pytest.approx(without() - without(k) if on else 0.0, abs=1e-4)
    table = np.asarray(jax.jit(functools.partial(patches.redundancy, accuracy))(bank))
    assert np.array_equal(table, table.T) and np.all(np.diag(table) == 0)
    for i in range(len(active)):
        for j in range(i):
            want = 0.0
            if active[i] and active[j]:
                want = (without() - without(i, j)) - (without() - without(i)) - (without() - without(j))
                # by algebra: only the term of the pair is left, with the sign of covering for one another
                assert want == pytest.approx(-pair[i, j], abs=1e-4)
            assert table[i, j] == pytest.approx(want, abs=1e-4)


def test_two_copies_of_a_patch_are_redundant():
    bank, _ = bank_of()
    on = np.flatnonzero(patches.active_slots(bank))[:2]

    def either(bank):
        return jnp.max(patches.active_slots(bank)[on]).astype(jnp.float32)

    assert np.all(np.asarray(patches.contributions(either, bank)) == 0)  # each covers for the other
    table = np.asarray(patches.redundancy(either, bank))
    assert table[on[0], on[1]] == 1.0 and table.sum() == 2.0


def test_contributions_of_a_real_network():
    spec, params, structure = networks.small("dense")
    split, task = networks.samples(40), train.Task(MLP(spec))

    def accuracy(bank):
        return train.evaluate(task, params, structure.replace(bank=bank), split).accuracy

    lost = np.asarray(networks.quick(functools.partial(patches.contributions, accuracy))(structure.bank))
    compiled = networks.quick(accuracy)
    whole = float(compiled(structure.bank))
    for k, on in enumerate(np.asarray(patches.active_slots(structure.bank))):
        alone = float(compiled(patches.keep_patches(structure.bank, jnp.arange(len(lost)) != k)))
        assert lost[k] == pytest.approx(whole - alone if on else 0.0, abs=1e-6)
    assert np.any(lost != 0)


def test_gain_per_weight():
    bank, values = bank_of("mlp")
    added = int(np.sum(np.asarray(patches.slot_sizes(bank, values))))
    assert float(patches.gain_per_weight(jnp.float32(0.1), bank, values)) == pytest.approx(0.1 / added)
    nothing = patches.keep_patches(bank, jnp.zeros(patches.active_slots(bank).shape, bool))
    assert np.isnan(float(patches.gain_per_weight(jnp.float32(0.1), nothing, values)))


def test_active_slots_keep_a_seed_axis():
    bank, _ = bank_of()
    both = trees.stack([bank, bank])
    assert np.array_equal(patches.active_slots(both), np.stack([patches.active_slots(bank)] * 2))


def test_redundant_patches_go_one_after_the_other():
    bank, _ = bank_of()
    active = np.asarray(patches.active_slots(bank))
    first, second, third = np.flatnonzero(active)[:3]

    def accuracy(bank):
        on = patches.active_slots(bank)
        # two stand in for one another, one is worth half a point, the others nothing
        worth = jnp.where(on[first] | on[second], 0.2, 0.0) + jnp.where(on[third], 0.005, 0.0)
        return 0.5 + worth

    kept = [
        np.flatnonzero(patches.needed(accuracy, bank, tolerance)).tolist() for tolerance in (0.0, 0.006, 1)
    ]
    assert kept[0] in ([first, third], [second, third]) and len(kept[1]) == 1 and kept[2] == []


def test_norm_of_patches_and_drift_of_the_scaffold():
    _, params, structure = networks.small("dense")
    moved = jax.tree.map(lambda leaf: 1.25 * leaf, params.scaffold)
    norm, drift = changes.norm_and_drift(params.replace(scaffold=moved), params, structure)
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params.patches)]
    assert float(norm) == pytest.approx(np.linalg.norm(np.concatenate(leaves)), rel=1e-5)
    assert float(drift) == pytest.approx(0.25, rel=1e-5)
    dense, _ = to_masked_network(params, structure)  # masks that no longer hold
    assert float(changes.norm_and_drift(dense, params, structure)[1]) == 0
