"""Signals: streamed statistics against two passes, each one by hand, units that are not finite."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxnet import signals, trees, units
from jaxnet.activations import ACTIVATIONS, activation, is_active, is_saturated
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import to_masked_network
from jaxnet.structure import exists
from jaxnet.topology import Mask
from jaxnet.train import Task, collect_stats
from tests import networks, reference

UNITS = 4


@jax.jit
def update(stats, pre, weight):
    """One batch of pre-activations of tanh units; the post-activations are watched."""
    return units.update_stats(stats, jnp.tanh(pre), jnp.tanh(pre), "tanh", weight)


merge = jax.jit(units.merge_stats)


def stats_of(means, count: float = 10.0) -> units.UnitStats:
    mean = jnp.asarray(means, jnp.float32)
    zero = jnp.zeros_like(mean)
    return units.UnitStats(jnp.float32(count), mean, zero, zero, zero)


READS = {"activity": "active", "incoming-norm": "incoming", "gradient-norm": "gradient"}
BY_RANK = ("quantile", *READS)
READS["reach"] = "paths"  # by rank, and a unit without any way is low


def judged_by(signal: str, values) -> units.UnitStats:
    """Statistics of one sample in which ``signal`` reads ``values``, and the others something else."""
    given = jnp.asarray(values, jnp.float32)
    mean = jnp.arange(given.shape[0], dtype=jnp.float32) % 3
    return stats_of(mean, count=1.0).replace(**{READS.get(signal, "mean"): given})


def streamed(pre: np.ndarray, cuts: list[int], width: int = 12) -> units.UnitStats:
    """Statistics of samples seen in batches, each padded with NaN to one width so that it compiles once."""
    stats = units.init_stats(pre.shape[0])
    for part in np.split(pre, cuts, axis=1):
        n = part.shape[1]
        padded = np.full((pre.shape[0], width), np.nan, np.float32)
        padded[:, :n] = part
        stats = update(stats, jnp.asarray(padded), jnp.asarray(np.arange(width) < n, jnp.float32))
    return stats


def assert_two_pass(stats: units.UnitStats, pre: np.ndarray) -> None:
    """Compares with mean and variance computed in float64 in two passes."""
    post = np.tanh(pre.astype(np.float64))
    assert float(stats.count) == pre.shape[1]
    np.testing.assert_allclose(stats.mean, post.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.variance, post.var(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats.active, (pre > 0).sum(1))
    np.testing.assert_allclose(stats.saturated, (np.abs(post) > 0.9).sum(1))
    np.testing.assert_allclose(stats.fraction_active, (pre > 0).mean(1), rtol=1e-6)
    np.testing.assert_allclose(stats.fraction_saturated, (np.abs(post) > 0.9).mean(1), rtol=1e-6)


# --- statistics -------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 24), max_size=4).map(sorted),
    # XLA may take numbers below the smallest normal one for zero
    st.floats(-3, 3).map(lambda v: round(v, 6)),
    st.floats(0.0, 3).map(lambda v: round(v, 6)),
)
def test_streamed_statistics_equal_two_passes_whatever_the_split(seed, cuts, offset, scale):
    pre = (offset + scale * np.random.default_rng(seed).normal(size=(UNITS, 24))).astype(np.float32)
    assert_two_pass(streamed(pre, cuts, width=24), pre)


def test_a_large_mean_does_not_cancel():
    # variance 1e-4 on a mean of 100: the mean of squares minus the squared mean is all rounding in float32
    values = 100 + 0.01 * np.random.default_rng(0).normal(size=(2, 4000))
    stats = units.init_stats(2)
    seen: list[np.ndarray] = []
    add = jax.jit(lambda s, v: units.update_stats(s, v, v, "identity"))
    for part in np.split(values.astype(np.float32), 40, axis=1):
        stats, seen = add(stats, jnp.asarray(part)), [*seen, part]
    np.testing.assert_allclose(stats.variance, np.concatenate(seen, 1).astype(np.float64).var(1), rtol=5e-3)


@given(st.integers(0, 2**31 - 1), st.integers(0, 24), st.integers(0, 24))
def test_merging_is_associative_and_symmetric(seed, i, j):
    pre = np.random.default_rng(seed).normal(size=(UNITS, 24)).astype(np.float32)
    a, b, c = (streamed(p, [], width=24) for p in np.split(pre, sorted((i, j)), axis=1))
    left, right, turned = merge(merge(a, b), c), merge(a, merge(b, c)), merge(merge(c, b), a)
    assert trees.allclose(left, right, rtol=1e-4, atol=1e-5)
    assert trees.allclose(left, turned, rtol=1e-4, atol=1e-5)
    assert_two_pass(left, pre)


def test_nothing_seen_is_the_neutral_element():
    empty, some = units.init_stats(UNITS), streamed(np.ones((UNITS, 3), np.float32), [])
    assert trees.allclose(merge(empty, some), some) and trees.allclose(merge(some, empty), some)
    assert np.all(np.asarray(empty.variance) == 0) and np.all(np.asarray(empty.fraction_active) == 0)


def test_padding_is_ignored_whatever_it_holds():
    pre = np.asarray([[1.0, -2.0, np.inf, np.nan]] * UNITS, np.float32)
    stats = update(units.init_stats(UNITS), jnp.asarray(pre), jnp.asarray([1.0, 1.0, 0.0, 0.0]))
    assert_two_pass(stats, pre[:, :2])


def test_without_weights_every_sample_counts():
    values = jnp.asarray([[0.0, 1.0, 5.0], [1.0, 1.0, 1.0]])
    stats = units.update_stats(units.init_stats(2), values, values, "relu")
    assert float(stats.count) == 3
    np.testing.assert_allclose(stats.mean, [2.0, 1.0])
    np.testing.assert_allclose(stats.variance, [14 / 3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(stats.active, [2, 3])


def test_watched_values_and_activity_are_apart():
    # pre-activations are watched, but a unit is active by its post-activation
    pre = jnp.asarray([[-1.0, 3.0]])
    stats = units.update_stats(units.init_stats(1), pre, jax.nn.relu(pre), "relu")
    assert float(stats.mean[0]) == 1.0
    assert float(stats.active[0]) == 1.0


def test_many_networks_equal_one_by_one(key):
    pre = jax.random.normal(key, (3, UNITS, 8))

    def whole(p):
        s = units.update_stats(units.init_stats(UNITS), p, p, "relu")
        return s, signals.detect(s, num_std=0.5)

    together, one = jax.jit(jax.vmap(whole))(pre), jax.jit(whole)
    for member, p in zip(trees.unstack(together, 3), pre, strict=True):
        assert trees.allclose(member, one(p), rtol=1e-5, atol=1e-6)
    stats, found = together
    assert stats.variance.shape == stats.fraction_active.shape == (3, UNITS)  # properties keep the seed axis
    assert found.high.shape == (3, UNITS) and found.fraction.shape == (3,)


# --- active and saturated by hand -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "post", "active", "saturated"),
    [
        ("relu", [0.0, 0.1, 9.0], [0, 1, 1], [0, 0, 0]),
        ("identity", [-1.0, 0.0, 9.0], [0, 0, 1], [0, 0, 0]),
        ("gelu", [-0.1, 0.1, 9.0], [0, 1, 1], [0, 0, 0]),
        ("tanh", [-0.95, -0.85, 0.85, 0.95], [0, 0, 1, 1], [1, 0, 0, 1]),
        ("sigmoid", [0.04, 0.06, 0.51, 0.94, 0.96], [0, 0, 1, 1, 1], [1, 0, 0, 0, 1]),
    ],
)
def test_active_and_saturated(name, post, active, saturated):
    values = jnp.asarray(post)
    assert np.asarray(is_active(values, name)).tolist() == [bool(a) for a in active]
    assert np.asarray(is_saturated(values, name)).tolist() == [bool(s) for s in saturated]


def test_an_unknown_activation_names_the_known():
    with pytest.raises(ValueError, match=", ".join(ACTIVATIONS)):
        activation("swish")


# --- detection by hand ------------------------------------------------------------------------------


def test_original_by_hand():
    # mean 1, deviations (-1, -1, -1, -1, -1, 5): sum of squares 30, unbiased std sqrt(6) = 2.449
    e = signals.detect(stats_of([0, 0, 0, 0, 0, 6]), "original")
    assert np.asarray(e.high).tolist() == [False] * 5 + [True]  # 6 > 1 + 2 * 2.449
    assert np.asarray(e.low).tolist() == [True] * 5 + [False]  # 0 < 0.1
    np.testing.assert_allclose(e.score_high[5], 5 - 2 * 6**0.5, rtol=1e-5)
    np.testing.assert_allclose(e.score_low, [0.1] * 5 + [-5.9], rtol=1e-5)
    np.testing.assert_allclose(e.extremeness, [1 / 6**0.5] * 5 + [5 / 6**0.5], rtol=1e-5)
    assert float(e.fraction) == 1.0
    assert not np.asarray(e.nan).any()
    # with the biased std sqrt(5) = 2.236 and 2.1 of them 5 would be high; with the unbiased it is not
    assert not np.asarray(signals.detect(stats_of([0, 0, 0, 0, 0, 6]), num_std=2.1).high).any()


def test_the_thresholds_are_strict():
    e = signals.detect(stats_of([0.5, 0.25, 0.75]), low_threshold=0.25)
    assert not np.asarray(e.low).any()


def test_adaptive_by_hand():
    # layer mean 10: the threshold is 1; at layer mean 0.05 it is 0.01 and not 0.005
    e = signals.detect(stats_of([0.9, 1.1, 18.0, 20.0]), "adaptive")
    assert np.asarray(e.low).tolist() == [True, False, False, False]
    e = signals.detect(stats_of([0.008, 0.092]), "adaptive")
    assert np.asarray(e.low).tolist() == [True, False]
    # original's fixed threshold calls all of these dead
    assert np.asarray(signals.detect(stats_of([0.008, 0.092]), "original").low).all()


def test_quantile_by_hand():
    # 0..20: the 10 % quantile is 2, the 90 % quantile 18; units at the quantile itself do not count
    e = signals.detect(stats_of(np.arange(21)), "quantile", quantile=0.1)
    assert np.flatnonzero(e.high).tolist() == [19, 20]
    assert np.flatnonzero(e.low).tolist() == [0, 1]
    # 0, 1, 2, 10 at 25 %: quantiles 0.75 and 4
    e = signals.detect(stats_of([0.0, 1.0, 2.0, 10.0]), "quantile", quantile=0.25)
    np.testing.assert_allclose(e.score_high, [-4, -3, -2, 6], rtol=1e-6)
    np.testing.assert_allclose(e.score_low, [0.75, -0.25, -1.25, -9.25], rtol=1e-6)


detect_quantile = {
    (n, q): jax.jit(lambda m, q=q: signals.detect(stats_of(m), "quantile", quantile=q))
    for n, q in ((20, 0.05), (51, 0.3), (101, 0.3), (7, 0.45))
}


@given(st.sampled_from(sorted(detect_quantile)), st.integers(0, 2**31 - 1), st.integers(0, 2))
def test_quantiles_equal_numpy_ties_included(case, seed, decimals):
    n, q = case
    means = np.round(np.random.default_rng(seed).normal(size=n), decimals).astype(np.float32)
    e = detect_quantile[case](jnp.asarray(means))
    wide = means.astype(np.float64)
    if np.ptp(wide) == 0:
        return
    # 1e-6: what the quantile itself is to float32 precision is no extremum
    assert np.array_equal(e.high, wide > np.quantile(wide, 1 - q) + 1e-6)
    assert np.array_equal(e.low, wide < np.quantile(wide, q) - 1e-6)


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_units_that_agree_are_not_high(signal):
    for values in ([0.3] * 100, [1e-30] * 3, [0.0] * 4, [-7.7] * 9):
        e = signals.detect(judged_by(signal, values), signal)
        assert not np.asarray(e.high).any()
        assert np.all(np.asarray(e.extremeness) == 0)
        if signal in BY_RANK:
            assert not np.asarray(e.low).any()
    assert np.asarray(signals.detect(stats_of([0.0] * 4), "original").low).all()  # all dead


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_a_single_unit(signal):
    e = signals.detect(judged_by(signal, [5.0]), signal)
    assert not np.asarray(e.high).any() and not np.asarray(e.low).any()
    e = signals.detect(judged_by(signal, [-5.0]), signal)
    assert not np.asarray(e.high).any()
    assert np.asarray(e.low).tolist() == [signal not in BY_RANK]


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_units_that_are_not_finite_are_reported_and_left_out(signal):
    values = [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 90.0]
    odd = [np.nan, np.inf, -np.inf]
    whole = signals.detect(judged_by(signal, values), signal)
    e = signals.detect(judged_by(signal, [*odd, *values]), signal)
    assert np.asarray(e.nan).tolist() == [True] * 3 + [False] * 7
    assert not np.asarray(e.high)[:3].any() and not np.asarray(e.low)[:3].any()
    # the others are judged as if these units were not there
    for name in ("high", "low", "score_high", "score_low", "extremeness"):
        np.testing.assert_allclose(
            np.asarray(getattr(e, name))[3:], np.asarray(getattr(whole, name)), rtol=1e-5, err_msg=name
        )
    assert np.asarray(whole.high)[6] and np.asarray(whole.low)[0]


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_a_layer_without_a_finite_unit_has_no_extrema(signal):
    e = signals.detect(judged_by(signal, [np.nan, np.nan, np.inf]), signal)
    assert np.asarray(e.nan).all()
    assert not np.asarray(e.high).any() and not np.asarray(e.low).any()
    assert float(e.fraction) == 0.0


def test_a_sample_that_is_not_finite_shows_in_its_unit_only():
    values = np.ones((3, 4), np.float32)
    values[0, 1], values[1, 2] = np.nan, np.inf
    stats = units.init_stats(3)
    for part in np.split(values, 2, axis=1):
        stats = units.update_stats(stats, jnp.asarray(part), jnp.asarray(part), "relu")
    assert np.asarray(signals.detect(stats).nan).tolist() == [True, True, False]
    assert float(stats.mean[2]) == 1.0


shift = jax.jit(lambda m, a, b: signals.detect(stats_of(a + b * m), num_std=1.0))


@given(st.integers(0, 2**31 - 1), st.floats(-2, 2), st.floats(0.1, 8))
@settings(max_examples=25)
def test_high_units_do_not_depend_on_offset_and_scale(seed, a, b):
    means = jnp.asarray(np.random.default_rng(seed).normal(size=16), jnp.float32)
    plain, moved = shift(means, 0.0, 1.0), shift(means, a, b)
    close = np.abs(np.asarray(plain.score_high)) < 1e-3  # may fall on either side
    assert np.array_equal(np.asarray(plain.high)[~close], np.asarray(moved.high)[~close])
    np.testing.assert_allclose(plain.extremeness, moved.extremeness, rtol=1e-3, atol=1e-3)


def test_wrong_signals_are_refused():
    with pytest.raises(
        ValueError, match="original, adaptive, quantile, activity, incoming-norm, gradient-norm"
    ):
        signals.detect(stats_of([1.0]), "orginal")
    for q in (0.0, 0.5, -1.0):
        with pytest.raises(ValueError, match=r"above 0 and below 0\.5"):
            signals.detect(stats_of([1.0]), "quantile", quantile=q)
    for name in ("incoming", "gradient"):
        with pytest.raises(ValueError, match=f"hold no {name} norms: see jaxnet.signals.find"):
            signals.detect(stats_of([1.0]), f"{name}-norm")


# --- what each one reads, found in a network ----------------------------------------------------------


def test_activity_by_hand():
    # active in 0, 2, 1, 3 and 4 of 4 samples, whatever the size; the watched values say nothing
    post = jnp.asarray([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 9, 0], [0, 1, 1, 1], [1, 1, 1, 1]], jnp.float32)
    stats = units.update_stats(units.init_stats(5), jnp.zeros((5, 4)), post, "relu")
    e = signals.detect(stats, "activity", quantile=0.25)
    # fractions 0, 1/2, 1/4, 3/4, 1: quantiles 1/4 and 3/4
    np.testing.assert_allclose(e.score_high, [-0.75, -0.25, -0.5, 0, 0.25], atol=1e-6)
    np.testing.assert_allclose(e.score_low, [0.25, -0.25, 0, -0.5, -0.75], atol=1e-6)
    assert np.flatnonzero(e.high).tolist() == [4] and np.flatnonzero(e.low).tolist() == [0]


def assert_ranks(found: units.Extrema, norms: np.ndarray, quantile: float) -> None:
    """The scores are the distances from NumPy's quantiles."""
    scale = norms.max()
    np.testing.assert_allclose(
        found.score_high / scale, (norms - np.quantile(norms, 1 - quantile)) / scale, atol=1e-5
    )
    np.testing.assert_allclose(
        found.score_low / scale, (np.quantile(norms, quantile) - norms) / scale, atol=1e-5
    )
    assert np.asarray(found.high).any() and np.asarray(found.low).any()


@pytest.mark.parametrize("masked", [False, True], ids=["sparse", "masked"])
@pytest.mark.parametrize("eval_batch_size", [5, 100])
def test_norms_of_weights_and_gradients_equal_numpy(masked, eval_batch_size):
    spec, params, structure = networks.small(None, "tanh")
    if masked:
        params, structure = to_masked_network(params, structure)
        # what a mask hides has no norm
        first = params.scaffold[0]
        hidden = jnp.where(exists(structure.weights[0]), first.weight, 50.0)
        params = params.replace(scaffold=(first.replace(weight=hidden), *params.scaffold[1:]))
    data = networks.samples()  # 12 of them
    task = Task(MLP(spec), 4, eval_batch_size)

    @networks.quick
    def find(p, s):
        return [
            signals.find(task, p, s, data, f"{name}-norm", quantile=0.2) for name in ("incoming", "gradient")
        ]

    incoming, gradient = find(params, structure)
    wide, plan = reference.to_numpy(params), reference.to_numpy(structure)
    dense = [
        layer.replace(weight=reference.matrix(layer.weight, entry))
        for layer, entry in zip(wide.scaffold, plan.weights, strict=True)
    ]
    free = [Mask(jnp.ones(entry.shape, bool)) for entry in plan.weights]
    x, y = np.asarray(data.x, float).T, np.asarray(data.y)
    _, grads = reference.gradient("tanh", wide.replace(scaffold=tuple(dense)), plan.with_weights(free), x, y)
    assert len(incoming) == len(gradient) == 2
    for t in range(2):
        assert_ranks(incoming[t], np.linalg.norm(dense[t].weight, axis=1), 0.2)
        assert_ranks(gradient[t], np.linalg.norm(grads.scaffold[t].weight, axis=1), 0.2)


def test_a_penalty_has_no_part_in_the_norm_of_a_gradient():
    spec, params, structure = networks.small(None, "tanh")
    data = networks.samples()
    plain = Task(MLP(spec))
    fined = dataclasses.replace(
        plain, penalty=lambda p, anchor: 1e3 * jnp.sum(p.scaffold[0].weight ** 2 * anchor)
    )

    @networks.quick
    def find(p, s):
        return [signals.find(task, p, s, data, "gradient-norm") for task in (plain, fined)]

    assert trees.allclose(*find(params, structure))


@pytest.mark.parametrize("values", ["pre", "post"])
def test_a_network_s_extrema_are_those_of_its_statistics(values):
    spec, params, structure = networks.small(None, "tanh")
    task, data = Task(MLP(spec), 4, 5), networks.samples()
    names = ("original", "adaptive", "quantile", "activity")
    how: Any = {"num_std": 0.8, "low_threshold": 0.3, "quantile": 0.2}

    @networks.quick
    def both(p, s):
        stats = collect_stats(task, p, s, data, values=values)
        return [
            (
                signals.find(task, p, s, data, n, values=values, **how),
                tuple(signals.detect(u, n, **how) for u in stats),
            )
            for n in names
        ]

    for name, (found, wanted) in zip(names, both(params, structure), strict=True):
        assert len(found) == 2
        # one program may fuse the two ways differently: the choice is the same, scores to rounding
        assert trees.equal([(e.high, e.low, e.nan) for e in found], [(e.high, e.low, e.nan) for e in wanted])
        assert trees.allclose(found, wanted, rtol=1e-5, atol=1e-6), name
        assert np.concatenate([e.high for e in found]).any() and np.concatenate([e.low for e in found]).any()
