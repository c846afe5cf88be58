"""Canaries, alarms, blame and revert: by hand, planted damage, the loop on any model."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet
from jaxnet import guard
from jaxnet.errors import InputError
from jaxnet.kernels import PRODUCTS
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import to_masked_network
from jaxnet.train import Net
from tests.networks import small


def test_margins_and_canaries_that_fail_already():
    canaries = guard.Canaries(
        jnp.asarray([[[3.0, 1, 2], [0, 5, 1]], [[1, 1, 4], [2, 0, 1]]]), jnp.asarray([[0, 1], [2, 0]])
    )
    found = guard.margins(lambda x: x, canaries)
    np.testing.assert_allclose(found, [(1 + 4) / 2, (3 + 1) / 2])
    np.testing.assert_allclose(guard.margins(lambda x: x.T, canaries, axis=0), found)
    guard.check_canaries(found)
    with pytest.raises(InputError, match="1 of 2 margins are not above 0"):
        guard.check_canaries(jnp.asarray([1.0, -0.5]))


def test_a_threshold_from_the_runs_own_noise():
    rng = np.random.default_rng(0)
    history = jnp.asarray(5 + rng.normal(size=(40, 3)) * [0.1, 1.0, 2.0], jnp.float32)
    found = guard.calibrate(history, 0.05, checks=60)
    np.testing.assert_allclose(found / found[0], [1, 10, 20], rtol=0.5)
    assert guard.quantile(0.05, 60, 3, 40) > guard.quantile(0.05, 60, 1, 40) > guard.quantile(0.05, 1, 1, 40)
    for wrong in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="false alarm must be"):
            guard.calibrate(history, wrong)
    with pytest.raises(InputError, match="3 checks or more"):
        guard.calibrate(history[:2], 0.05)


def test_few_false_alarms_and_damage_is_seen_in_two_checks_unless_it_heals():
    """500 runs of noise whose level rises, as margins do; damage after the 50th check."""
    rng = np.random.default_rng(1)
    runs, noise, number = 500, 20, 10
    level = 5 * (1 - np.exp(-np.arange(80) / 15))[:, None, None]
    history = level + rng.normal(size=(80, runs, number)) * rng.uniform(0.05, 0.3, (1, 1, number))
    factor = guard.quantile(0.05, 60, number, noise)
    how: Any = {"noise_checks": noise, "factor": factor, "window": 2}

    def alarms(history: np.ndarray) -> np.ndarray:
        def one(margins: jax.Array) -> jax.Array:
            def step(seen: Any, now: jax.Array) -> Any:
                seen, _, alarm = guard.observe(seen, now, **how)
                return seen, alarm

            return jax.lax.scan(step, guard.watch(margins[0]), margins)[1]

        return np.asarray(jax.jit(jax.vmap(one, 1, 1))(jnp.asarray(history, jnp.float32)))

    assert np.mean(alarms(history).any(0)) <= 0.05
    lasting, healed = history.copy(), history.copy()
    lasting[50:, :, 3] -= 10
    healed[50, :, 3] -= 10
    assert np.mean(alarms(lasting)[50:52].any(0)) >= 0.95
    assert np.mean(alarms(healed).any(0)) <= 0.05


def test_early_warning_by_hand():
    history = jnp.asarray([[4.0, 1], [3, 2], [2, 3]])
    seen = guard.early_warning(history, jnp.asarray([2.0, 2]), jnp.asarray([-1.0, 0.5]))
    assert seen.slope.tolist() == [-1, 1] and seen.checks_left.tolist() == [1.0, float("inf")]
    ahead = guard.predicted_change(
        lambda p: p["w"] ** 2, {"w": jnp.asarray([3.0])}, {"w": jnp.asarray([0.1])}
    )
    np.testing.assert_allclose(ahead, [0.6], rtol=1e-6)


def test_what_an_update_will_do_is_told_with_any_kernel(key):
    spec, params, structure = small(None, "tanh")
    x = jax.random.normal(key, (3, 20, 10))
    update = jax.tree.map(lambda p: 0.01 * jnp.cos(p), params)

    def margins(model: MLP, params: Any) -> jax.Array:
        return jnp.stack([jnp.mean(model(params, structure, part, key_forward=None)[0]) for part in x])

    for product in PRODUCTS.values():
        model = MLP(spec, product)
        ahead = guard.predicted_change(partial(margins, model), params, update)
        moved = [jax.tree.map(lambda p, u: p + s * u, params, update) for s in (0.5, -0.5)]  # noqa: B023
        np.testing.assert_allclose(ahead, margins(model, moved[0]) - margins(model, moved[1]), atol=1e-5)


def network(key: jax.Array, masked: bool) -> tuple[Any, Any, Any, Any, Any]:
    """A network, the same after a large step, losses on two sets of samples."""
    spec, params, structure = small(None, "tanh")
    if masked:
        params, structure = to_masked_network(params, structure)
    x = jax.random.normal(key, (2, 40, 10))
    y = jax.random.randint(key, (2, 40), 0, 4)

    def losses(p: Any) -> jax.Array:
        def one(x: jax.Array, y: jax.Array) -> jax.Array:
            logits, _ = jaxnet.MLP(spec)(p, structure, x, key_forward=None)
            return jaxnet.losses.cross_entropy(logits, y, jnp.ones(40), axis=0)

        return jax.vmap(one)(x, y)

    noise = jax.tree.map(lambda p: 0.3 * jnp.cos(77 * p + jnp.arange(float(p.size)).reshape(p.shape)), params)
    new = jaxnet.structure.clear(jax.tree.map(jnp.add, params, noise), structure)
    return params, new, structure, losses, spec


@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_shares_of_the_change_sum_to_it(masked, key):
    old, new, structure, losses, _ = network(key, masked)
    labels = guard.groups(old, structure)
    number = guard.count_groups(labels)
    assert number == 8 + 6 + 4
    shares = jax.jit(lambda: guard.attribute_change(old, new, losses, labels, number))()
    change = losses(new) - losses(old)
    assert np.all(np.abs(change) > 1e-3)
    np.testing.assert_allclose(shares.sum(0), change, rtol=2e-3)
    # a group alone: the same as if nothing else had changed
    alone = jax.tree.map(lambda o, n, g: jnp.where(g == 3, n, o), old, new, labels)
    found = guard.leave_one_out(old, alone, losses, labels, number)
    np.testing.assert_allclose(found[3], losses(alone) - losses(old), atol=1e-6)
    assert float(jnp.abs(jnp.delete(found, 3, 0, assume_unique_indices=True)).max()) < 1e-6
    norms = guard.update_norms(old, alone, labels, number)
    assert int(jnp.argmax(norms)) == 3 and float(jnp.sum(norms)) == pytest.approx(float(norms[3]))


def test_groups_of_flax_kernels_layers_and_with_gaps():
    params = {"Dense_0": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)}}
    units = guard.groups(params)["Dense_0"]
    assert units["kernel"][0].tolist() == units["bias"].tolist() == [0, 1, 2]
    assert guard.count_groups(guard.groups(params, by="layer")) == 1
    _, patched, structure = small("mlp")
    assert guard.count_groups(guard.groups(patched, structure, by="patch")) > 3
    with pytest.raises(InputError, match="without gaps: 1"):
        guard.count_groups({"w": jnp.asarray([0, 2])})


@given(st.sets(st.integers(0, 15), min_size=1, max_size=4), st.integers(16, 24))
@settings(max_examples=25)
def test_ddmin_finds_what_is_needed_and_nothing_else(needed, number):
    found, calls, unique = guard.ddmin(lambda some: needed <= set(some), number)
    assert set(found) == needed and unique and calls < 400


def test_ddmin_says_that_there_are_two_ways():
    found, _, unique = guard.ddmin(lambda some: 1 in some or 5 in some, 8)
    assert found in ([1], [5]) and not unique
    with pytest.raises(InputError, match="nothing to find"):
        guard.ddmin(lambda some: False, 4)


@pytest.mark.slow
def test_blends_are_no_worse_than_plain_interpolation(key, standard_promotion):
    old, new, structure, losses, _ = network(key, True)
    labels = guard.groups(old, structure)
    loss = lambda p: losses(p)[0] + 0.1 * jnp.sum((p.scaffold[0].bias - new.scaffold[0].bias) ** 2)  # noqa: E731
    plain = guard.fit_plain(old, new, loss, labels)
    alpha = jax.jit(lambda: guard.fit_blend(old, new, loss, labels, 18, steps=40))()
    assert alpha.shape == (18,) and float(alpha.min()) >= 0 and float(alpha.max()) <= 1
    assert float(loss(guard.blend(old, new, alpha, labels))) < float(
        loss(guard.blend(old, new, plain, labels))
    )
    for share, wanted in ((0.0, old), (1.0, new)):
        assert jaxnet.trees.allclose(guard.blend(old, new, share, labels), wanted, rtol=1e-5, atol=1e-6)


def test_rarely_is_a_choice_under_vmap_too():
    def both(when: jax.Array, x: jax.Array) -> Any:
        return guard.rarely(when, lambda x, y: (x + 1, y * 2), (x, x))

    x = jnp.arange(3.0)
    assert both(jnp.asarray(False), x)[0].tolist() == [0, 1, 2]
    found = jax.jit(jax.vmap(both))(jnp.asarray([True, False, True]), x)
    assert found[0].tolist() == [1, 1, 3] and found[1].tolist() == [0, 1, 4]
    assert jax.vmap(both)(jnp.zeros(3, bool), x)[1].tolist() == [0, 1, 2]


class Linear:
    """A model of a user's: one matrix."""

    class_axis: ClassVar[int] = -1

    def __call__(self, params: Any, structure: Any, x: jax.Array, *, key_forward: Any) -> Any:
        return x @ params["kernel"] + params["bias"], None

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Linear)


@pytest.mark.parametrize("action", ["none", "rollback", "blend", "path-integral"])
def test_the_loop_sees_damage_and_takes_it_back_on_any_model(action, key, standard_promotion):
    import optax

    x = jax.random.normal(key, (400, 6))
    y = jnp.argmax(x[:, :3], 1)
    data = jaxnet.Split(x, y, jnp.zeros(()), jnp.ones(()))
    wrong = data.replace(y=(y + 1) % 3)
    params = {"kernel": 0.1 * jax.random.normal(key, (6, 3)), "bias": jnp.zeros(3)}
    task = jaxnet.Task(Linear(), 16)
    labels = guard.groups(params)
    canaries = guard.Canaries(x[:40].reshape(2, 20, 6), y[:40].reshape(2, 20))
    rules = guard.Rules(every=10, noise_checks=8, checks=20, window=1, action=action, groups=3)
    net = Net.of(params, {"kernel": None, "bias": None}, optax.sgd(0.1))
    start = guard.guard(rules, task, net, canaries)

    @jax.jit
    def run(state: Any, data: Any, key: jax.Array) -> Any:
        def step(state: Any, key: jax.Array) -> Any:
            index = jax.random.randint(key, (10, 16), 0, 400)
            batches = jaxnet.train.Batches(index, jnp.ones((10, 16)))
            state, now, alarm = guard.train_guarded(
                rules, task, state, data, batches, canaries, canaries, labels
            )
            return state, (now, alarm)

        return jax.lax.scan(step, state, jax.random.split(key, 16))

    if action == "blend":  # a program for CUDA can be made without a GPU; it takes no typed key
        raw = jax.jit(lambda s, d, k: run(s, d, jax.random.wrap_key_data(k))[1])
        exported = jax.export.export(raw, platforms=["cuda"])(start, data, jax.random.key_data(key))
        assert exported.platforms == ("cuda",)
    healthy, (margins, alarm) = run(start, data, key)
    assert not bool(alarm.any()) and float(margins[-1].min()) > 0
    damaged, (_, alarm) = run(healthy, wrong, key)
    assert bool(alarm.any()) and int(damaged.first_alarm) > 16
    after = guard.margins(lambda x: Linear()(damaged.net.params, None, x, key_forward=None)[0], canaries)
    assert (float(after.min()) > 0.2) == (action != "none")


def test_rules_that_make_no_sense():
    for wrong, said in (
        ({"capacity": 0}, "capacity of 1 or more"),
        ({"false_alarm": 2.0}, "false alarm"),
        ({"noise_checks": 2}, "3 checks"),
        ({"every": 0}, "every must be at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            guard.Rules(**wrong)
    with pytest.raises(ValueError, match="action"):
        guard.Rules(action="pray")
