"""The growth scheduler: every transition by hand, the same in a scan and for many, snapshots in a ring."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import scheduler, snapshots, trees
from jaxnet.scheduler import FIXES, ORIGINAL, REASONS, SchedulerConfig
from tests import networks

LENGTH = 60
CALM = [1.0, 2.0]  # norms that go on like this have one variance
SHORT = SchedulerConfig(window=2, bootstrap_epochs=0, spike_threshold=0.5 + 1e-5)  # 1.5 is no spike


@functools.cache
def runner(config: SchedulerConfig, many: bool = False) -> Any:
    def run(norms, epochs, boundary, accuracy, structures):
        def body(state, seen):
            norm, epoch, bound, acc, added = seen
            new = scheduler.step(config, state, norm, epoch, boundary=bound, accuracy=acc, structures=added)
            return new[0], new

        start = scheduler.init_scheduler(config)
        return jax.lax.scan(body, start, (norms, epochs, boundary, accuracy, structures))[1]

    return networks.quick(jax.vmap(run) if many else run)


def observe(config, norms, epochs=None, boundary=(), accuracy=None, structures=None) -> Any:
    """Final state and decisions; one observation per epoch, boundaries in the epochs named."""
    n = len(norms)
    epochs = list(range(n)) if epochs is None else epochs
    columns = (
        np.asarray(norms, np.float32),
        np.asarray(epochs, np.int32),
        np.asarray([e in boundary for e in epochs]),
        np.asarray([math.nan] * n if accuracy is None else accuracy, np.float32),
        np.asarray([1] * n if structures is None else structures, np.int32),
    )
    # always as long, so that each configuration is compiled once
    states, decisions = runner(config)(*(np.pad(c, (0, LENGTH - n), "edge") for c in columns))
    return jax.tree.map(lambda a: np.asarray(a)[n - 1], states), jax.tree.map(
        lambda a: np.asarray(a)[:n], decisions
    )


def grown(decisions) -> list[int]:
    return np.flatnonzero(decisions.grow).tolist()


def test_bootstrap_epochs_pay_once_each():
    # two observations in each epoch, no spike: 5 in each of the epochs 0 to 14, not enough to grow
    epochs = [e for e in range(20) for _ in (0, 1)]
    state, seen = observe(ORIGINAL, CALM * 20, epochs)
    assert seen.earned.tolist() == [5.0, 0.0] * 15 + [0.0] * 10
    assert float(state.credits) == 75 and grown(seen) == []
    assert [REASONS[r] for r in seen.reason] == ["too few credits"] * 40


def test_an_epoch_at_one_go():
    """Two norms in every epoch, spikes all along, and whether the network grows in it."""
    norms = np.geomspace(1, 1e4, 40).astype(np.float32).reshape(20, 2)
    state, seen = observe(SHORT, norms.ravel().tolist(), [e for e in range(20) for _ in (0, 1)])
    steps = jax.jit(functools.partial(scheduler.steps, SHORT))
    found, grew = scheduler.init_scheduler(SHORT), []
    for epoch, both in enumerate(norms):
        found, grow, _ = steps(found, both, jnp.int32(epoch))
        grew.append(bool(grow))
    assert any(grew) and grew == seen.grow.reshape(20, 2).any(axis=1).tolist()
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_a_boundary_tips_the_balance_and_rest_follows():
    # 5 a epoch: 20 after epoch 3, and 80 for the boundary make 100: exactly enough
    state, seen = observe(ORIGINAL, CALM * 10, boundary=(3, 4, 13, 14, 15))
    assert grown(seen) == [3, 15]
    assert seen.credits[:5].tolist() == [5, 10, 15, 100, 0]
    # epochs 4 to 13 rest and earn nothing, 14 and 15 bring 80 each; no bootstrap after the first growth
    assert [REASONS[r] for r in seen.reason[3:15]] == ["grows"] + ["at rest"] * 10 + ["too few credits"]
    assert seen.earned[4:14].tolist() == [0.0] * 10
    assert seen.credits[14:17].tolist() == [80, 160, 0], "all 160 are spent"
    assert int(state.growths) == 2 and int(state.last_growth) == 15


def test_the_same_epoch_cannot_grow_twice():
    _, seen = observe(ORIGINAL, CALM * 2, [30, 30, 30, 30], boundary=(30,))
    assert seen.credits.tolist() == [80, 160, 0, 0] and grown(seen) == [1]


def test_a_spike_is_a_change_of_variance_by_more_than_half():
    a = [0.0, 2.0]  # variance 1
    for later, spike in (
        ([0.0, 2.0], False),
        ([0.0, 6.0**0.5], False),  # variance 1.5: a difference of 50 % is no spike (to rounding)
        ([0.0, 2.6], True),  # 1.69
        ([0.0, 1.0], True),  # 0.25
        ([5.0, 7.0], False),  # another level, the same variance
    ):
        _, seen = observe(SHORT, a + later)
        assert seen.spike.tolist() == [False, False, False, spike]
        assert seen.earned.tolist() == [0, 0, 0, 10 * spike]
    # from no variance at all, every variance is a spike
    _, seen = observe(SHORT, [1.0, 1.0, 1.0, 1.1])
    assert seen.spike[-1]
    _, seen = observe(SHORT, [1.0, 1.0, 1.0, 1.0])
    assert not seen.spike[-1]


def test_spikes_need_two_full_windows_and_agree_with_numpy():
    norms = np.random.default_rng(0).gamma(2.0, size=60).astype(np.float32)
    _, seen = observe(ORIGINAL, norms)
    for i in range(60):
        window = norms[max(0, i - 19) : i + 1]
        want = False
        if i >= 19:
            old, new = window[:10].var(), window[10:].var()
            want = abs(new - old) / old > 0.5
        assert seen.spike[i] == want
    assert 10 < seen.spike.sum() < 40


def test_norms_that_are_not_finite_leave_no_trace():
    norms = np.random.default_rng(1).gamma(2.0, size=12)
    plain, _ = observe(SHORT, norms)
    mixed = np.insert(norms, [3, 7, 7], [np.nan, np.inf, -np.inf])
    epochs = np.insert(np.arange(12), [3, 7, 7], [2, 6, 6])
    broken, seen = observe(SHORT, mixed, epochs.tolist())
    assert trees.equal(plain, broken)
    assert not seen.spike[[3, 8, 9]].any()


def test_scales_have_room_for_so_many_structures():
    config = SchedulerConfig(
        boundary_credits=100, rest_epochs=0, bootstrap_epochs=0, scale_ends=(4, 8), structures=(2, 1, 9)
    )
    state, seen = observe(config, CALM * 5, boundary=range(10))
    assert seen.scale.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert grown(seen) == [0, 1, 4, 8, 9]
    assert [REASONS[r] for r in seen.reason[2:4]] == ["no room at this scale"] * 2
    assert seen.credits[:5].tolist() == [100, 100, 100, 200, 300], "credits wait for the next scale"
    assert state.used.tolist() == [2, 1, 2]
    # a growth of two structures fits the coarse scale once, the medium one never
    state, seen = observe(config, CALM * 5, boundary=range(10), structures=[2] * 10)
    assert grown(seen) == [0, 8, 9] and state.used.tolist() == [2, 0, 4]


def test_the_fixes_grow_earlier():
    assert (FIXES.spike_threshold, FIXES.growth_credits, FIXES.rest_epochs) == (0.01, 25, 3)
    state, seen = observe(FIXES, CALM * 10)
    # 8 a epoch: 32 in epoch 3; then nothing grows without spikes
    assert grown(seen) == [3] and seen.credits[3] == 32
    assert [REASONS[r] for r in seen.reason[4:8]] == ["at rest"] * 3 + ["too few credits"]
    assert float(state.credits) == 0


def test_snapshots_at_growth_and_when_the_accuracy_rose():
    nan = math.nan
    accuracy = [nan, 0.50, 0.515, 0.51, 0.53, 0.545, nan, 0.40, 0.54, 0.56]
    _, seen = observe(ORIGINAL, CALM * 5, boundary=(7,), accuracy=accuracy)
    # 0.53 is more than 0.50 + 0.02; 0.545 is not more than 0.53 + 0.02;
    # the growth in epoch 7 measures from 0.40, so 0.54 is due, and 0.56 is no more than 0.54 + 0.02
    assert grown(seen) == [7]
    assert np.flatnonzero(seen.snapshot).tolist() == [4, 7, 8]


def test_many_at_once_equal_one_at_a_time():
    rng = np.random.default_rng(2)
    seeds, n = 4, LENGTH
    args = (
        jnp.asarray(rng.gamma(2.0, size=(seeds, n)), jnp.float32),
        jnp.asarray(np.tile(np.arange(n), (seeds, 1)), jnp.int32),
        jnp.asarray(rng.random((seeds, n)) < 0.2),
        jnp.asarray(rng.random((seeds, n)), jnp.float32),
        jnp.ones((seeds, n), jnp.int32),
    )
    states, decisions = runner(ORIGINAL, many=True)(*args)
    for i in range(seeds):
        alone = runner(ORIGINAL)(*(a[i] for a in args))
        assert trees.equal(jax.tree.map(lambda a, i=i: a[i], (states, decisions)), alone)
    assert np.asarray(states.growths)[:, -1].min() >= 1
    assert len({tuple(g) for g in np.asarray(decisions.grow).tolist()}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"growth_credits": 0.0}, "growth_credits must be above 0"),
        ({"growth_credits": math.nan}, "growth_credits must be above 0"),
        ({"spike_threshold": -0.1}, "spike_threshold must be 0 or more"),
        ({"rest_epochs": -1}, "rest_epochs must be 0 or more"),
        ({"scale_ends": (100, 50)}, "two epochs in order"),
        ({"structures": (1, 2)}, "3 numbers"),
        ({"structures": (1, 2, -1)}, "0 or more"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**change)


# --- snapshots --------------------------------------------------------------------------------------


def test_a_ring_keeps_the_newest_and_gives_them_back():
    def at(i):
        i = jnp.asarray(i, jnp.int32)
        return {"w": jnp.full(2, i.astype(jnp.float32)), "n": i}

    @networks.quick
    def fill(when):
        def body(ring, seen):
            i, take = seen
            return snapshots.take_snapshot(ring, at(i), i, when=take), None

        return jax.lax.scan(body, snapshots.init_snapshots(at(0), 3), (jnp.arange(when.size), when))[0]

    ring = fill(jnp.asarray([True, False, True, False, False, False]))
    assert int(ring.taken) == 2 and ring.held.tolist() == [True, True, False]
    assert trees.equal(snapshots.restore_snapshot(ring), at(2))
    assert trees.equal(snapshots.restore_snapshot(ring, 1), at(0))
    assert ring.epoch.tolist() == [0, 2, -1]

    ring = fill(jnp.asarray([True, True, False, True, True, True]))  # 0, 1, 3, 4, 5
    assert [int(snapshots.restore_snapshot(ring, b)["n"]) for b in range(3)] == [5, 4, 3]
    assert sorted(ring.epoch.tolist()) == [3, 4, 5]


def test_an_ensemble_is_the_mean_of_what_is_held():
    def logits_of(tree):
        return jnp.stack([tree["w"], 1 / tree["w"]])  # infinite in an empty place

    ring = snapshots.init_snapshots({"w": jnp.zeros(2)}, 3)
    assert not np.any(snapshots.ensemble_logits(ring, logits_of))
    for i, w in enumerate(([1.0, 2.0], [3.0, 4.0])):
        ring = snapshots.take_snapshot(ring, {"w": jnp.asarray(w)}, i)
    got = snapshots.ensemble_logits(ring, logits_of)
    np.testing.assert_allclose(got, [[2.0, 3.0], [(1 + 1 / 3) / 2, (1 / 2 + 1 / 4) / 2]], rtol=1e-6)


def test_a_ring_needs_a_place():
    with pytest.raises(ValueError, match="capacity must be at least 1: 0"):
        snapshots.init_snapshots({"w": jnp.zeros(2)}, 0)
