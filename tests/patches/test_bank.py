"""The bank: which units get a patch, how many slots there are, which rules are allowed."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy.stats import chisquare

from jaxnet import patches, trees
from jaxnet.patches import PatchRules
from jaxnet.patches.places import choose_units, first_by_rank, limited, place, slot_counts
from tests import networks


@functools.cache
def chooser(name: str, slots: int):
    def choose(score, extremeness, key):
        return choose_units(score, score > 0, extremeness, slots, name, key_place=key)

    return networks.quick(choose)


def chosen(name: str, score: list[float], slots: int, extremeness: list[float] | None = None) -> list[int]:
    """Units of the active slots."""
    far = jnp.asarray(extremeness if extremeness is not None else np.abs(score), jnp.float32)
    unit, active = chooser(name, slots)(jnp.asarray(score, jnp.float32), far, jax.random.key(0))
    return np.asarray(unit)[np.asarray(active)].tolist()


def test_choices_by_hand():
    score = [0.5, -1.0, 3.0, 2.0, -2.0, 3.0]  # extrema: 0, 2, 3, 5
    assert chosen("extrema", score, 3) == [2, 5, 3]  # a tie between 2 and 5: the lower index first
    assert chosen("first", score, 3) == [0, 2, 3]  # by index, whatever the score
    assert chosen("least", score, 3, [9, 1, 4, 0.5, 1, 7]) == [3, 1, 4]
    assert chosen("extrema", [-1.0, 2.0, -3.0], 3) == [1]  # fewer extrema than slots
    assert chosen("extrema", [-1.0, -2.0], 2) == []


@given(st.sampled_from(sorted(patches.PLACEMENTS)), st.integers(0, 2**31 - 1), st.integers(0, 9))
def test_all_placements_take_as_many_different_units(name, seed, extrema):
    rng = np.random.default_rng(seed)
    score = -rng.integers(1, 4, 9).astype(np.float32)  # many ties
    score[rng.permutation(9)[:extrema]] = rng.integers(1, 3, extrema)
    score[rng.integers(9)] = -np.inf  # a unit that is not finite (it may have been an extremum)
    unit, active = chooser(name, 4)(
        jnp.asarray(score), jnp.asarray(np.abs(score)), jax.random.key(seed % 1000)
    )
    unit, active = np.asarray(unit), np.asarray(active)
    assert active.sum() == min((score > 0).sum(), 4)
    assert np.array_equal(active, np.arange(4) < active.sum())  # active slots first
    assert len(set(unit.tolist())) == 4 and unit.min() >= 0 and unit.max() < 9
    if name in ("extrema", "first"):
        assert np.all(score[unit[active]] > 0)
    if name == "extrema" and active.any():
        left_out = np.setdiff1d(np.arange(9), unit[active])
        assert np.all(score[left_out] <= score[unit[active]].min())
    if name == "first":
        assert unit[active].tolist() == np.flatnonzero(score > 0)[:4].tolist()


def test_random_places_are_uniform_over_the_layer():
    def draw(key):
        return choose_units(jnp.ones(7), jnp.ones(7, bool), jnp.ones(7), 2, "random", key_place=key)

    unit, _ = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), 3000))
    assert chisquare(np.bincount(np.asarray(unit).ravel(), minlength=7)).pvalue > 1e-3


def test_slot_counts_by_hand():
    assert slot_counts((784, 256, 128, 10), 5) == [(0, 0), (5, 5), (5, 0)]
    assert slot_counts((784, 128, 10), 5) == [(0, 0), (5, 0)]
    assert slot_counts((784, 10), 5) == [(0, 0)]
    # never more slots than units
    assert slot_counts((9, 3, 2, 4), 5) == [(0, 0), (3, 2), (2, 0)]
    assert slot_counts((9, 3, 2, 4), 0) == [(0, 0), (0, 0), (0, 0)]
    # above units of another model
    assert slot_counts((768, 128, 10), 7, first_layer=True) == [(0, 7), (7, 0)]
    assert slot_counts((768, 10), 7, first_layer=True) == [(0, 0)]


def test_high_slots_come_first_and_low_ones_sit_in_the_layer_itself():
    found = networks.made_up_extrema((9, 8, 6, 4), jax.random.key(1))
    unit, active = place(found, 1, (3, 2), "extrema", key_place=jax.random.key(0))
    high, low = found[0], found[1]
    best = np.argsort(-np.asarray(high.score_high), stable=True)[:3]
    dead = np.argsort(-np.asarray(low.score_low), stable=True)[:2]
    assert np.asarray(unit).tolist() == [*best.tolist(), *dead.tolist()]
    assert np.asarray(active).tolist() == [
        *np.asarray(high.high)[best].tolist(),
        *np.asarray(low.low)[dead].tolist(),
    ]


@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_distinct_draws_avoid_what_is_excluded(seed, share):
    exclude = np.random.default_rng(seed).random((3, 6)) < share
    index, fine = draw(jnp.asarray(exclude), jax.random.key(seed % 997))
    for i, ok, gone in zip(np.asarray(index), np.asarray(fine), exclude, strict=True):
        assert len(set(i.tolist())) == 4
        assert ok.sum() == min(4, (~gone).sum())
        assert np.array_equal(ok, ~gone[i])
        assert np.array_equal(ok, np.arange(4) < ok.sum())


draw = jax.jit(lambda exclude, key: first_by_rank(jax.random.uniform(key, (3, 6)), 4, exclude))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "mlp"])
def test_patches_are_named_by_their_place(kind, key):
    """High ones first in every layer, and one layer below the one they feed; slots are numbered through."""
    spec, _, structure = networks.small(None)
    found = networks.made_up_extrema(spec.sizes, key)
    rules = patches.KINDS[kind].rules(kind, max_patches=2)
    bank, values = patches.add_patches(found, structure.weights, rules, key_patch=key)
    placed = patches.placed(bank)
    assert [p["slot"] for p in placed] == np.flatnonzero(patches.active_slots(bank)).tolist()
    assert {p["kind"] for p in placed} == {"high", "low"}
    for at in placed:
        extreme = getattr(found[at["hidden_layer"]], at["kind"])
        assert bool(extreme[at["unit"]]), "a patch sits at an extremum"
    kept = patches.remove_patches(bank, values, jnp.arange(len(patches.active_slots(bank))) > 0)[0]
    assert [p["slot"] for p in patches.placed(kept)] == [p["slot"] for p in placed if p["slot"]]


@pytest.mark.parametrize("kind", patches.KINDS)
def test_a_bank_without_slots_adds_nothing(kind, key):
    spec, _, structure = networks.small(None)
    bank, values = patches.add_patches(
        networks.made_up_extrema(spec.sizes, key),
        structure.weights,
        patches.KINDS[kind].rules(kind, max_patches=0),
        key_patch=key,
    )
    assert bank.layers == (None, None, None) and values == (None, None, None)
    assert patches.active_slots(bank).shape == (0,)
    assert patches.slot_sizes(bank, values).shape == (0,) and patches.placed(bank) == []
    assert patches.contributions(lambda b: jnp.float32(0.5), bank).shape == (0,)
    assert patches.redundancy(lambda b: jnp.float32(0.5), bank).shape == (0, 0)
    assert np.isnan(float(patches.gain_per_weight(jnp.float32(0.1), bank, values)))
    assert trees.equal(patches.remove_patches(bank, values, jnp.zeros(0, bool)), (bank, values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "conv"}, "mlp, dense"),
        ({"kind": "original"}, "need OriginalRules"),
        ({"placement": "best"}, "extrema, random, least"),
        ({"patch_density": 0.0}, "above 0 and at most 1"),
        ({"patch_density": 1.5}, "above 0 and at most 1"),
        ({"patch_density": float("nan")}, "above 0 and at most 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"max_targets": 0}, "max_targets must be at least 1"),
        ({"max_inputs": 0}, "max_inputs must be at least 1"),
        ({"max_patches": -1}, "max_patches and total must be 0 or more"),
    ],
)
def test_wrong_rules_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        PatchRules(**change)
    assert "\n" not in str(caught.value)


def test_patches_in_all_are_taken_in_turn():
    slots = {1: (3, 2), 2: (2, 0)}  # high and low slots of two layers
    places = {
        1: (jnp.arange(5), jnp.array([True, True, False, True, False])),
        2: (jnp.arange(2), jnp.array([True, True])),
    }
    kept = {
        total: [
            np.asarray(active).astype(int).tolist() for _, active in limited(places, slots, total).values()
        ]
        for total in (0, 2, 4, 9)
    }
    # the first of every layer and sort, then the second ones: those that are there
    assert kept == {
        0: [[0, 0, 0, 0, 0], [0, 0]],
        2: [[1, 0, 0, 1, 0], [0, 0]],
        4: [[1, 1, 0, 1, 0], [1, 0]],
        9: [[1, 1, 0, 1, 0], [1, 1]],
    }
