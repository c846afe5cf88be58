"""Rate groups: one Adam step by hand, frozen groups, other optimisers, states that survive new patches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optim, trees
from jaxnet.network import Params
from tests import networks

pytestmark = pytest.mark.usefixtures("standard_promotion")

A, B = 0.25, -3.0  # gradients


def build(a: float, b: float, with_patches: bool) -> Any:
    scaffold: Any = ({"w": jnp.asarray([a])},)
    patches: Any = ({"w": jnp.asarray([b])},) if with_patches else ()
    return Params(scaffold, patches)


def tiny(with_patches: bool = True) -> Any:
    """One scaffold weight and one patch weight: the groups need the two fields only."""
    return build(1.0, 2.0, with_patches)


def grads(a: float = A, b: float = B, with_patches: bool = True) -> Any:
    return build(a, b, with_patches)


def advance(optimizer, params, state, gradient):
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def moments(state, group):
    """``(count, mu, nu)`` of a group that uses Adam."""
    s = state.inner_states[group].inner_state[0]
    name = "scaffold" if group == "scaffold" else "patches"
    return int(s.count), *(jax.tree.leaves(getattr(m, name)) for m in (s.mu, s.nu))


def test_two_adam_steps_by_hand():
    optimizer = optim.dual_rate_adam(0.01, 0.1)
    params, state = advance(optimizer, tiny(), optimizer.init(tiny()), grads())
    # the first step of Adam is the rate times the sign of the gradient (epsilon 1e-8 aside)
    np.testing.assert_allclose(params.scaffold[0]["w"], [1 - 0.01], rtol=1e-6)
    np.testing.assert_allclose(params.patches[0]["w"], [2 + 0.1], rtol=1e-6)
    params, state = advance(optimizer, params, state, grads(0.5, -3.0))
    m = (0.9 * 0.1 * A + 0.1 * 0.5) / (1 - 0.9**2)
    v = (0.999 * 0.001 * A**2 + 0.001 * 0.5**2) / (1 - 0.999**2)
    np.testing.assert_allclose(params.scaffold[0]["w"], [0.99 - 0.01 * m / (v**0.5 + 1e-8)], rtol=1e-5)
    np.testing.assert_allclose(params.patches[0]["w"], [2.2], rtol=1e-5)
    count, mu, nu = moments(state, "scaffold")
    assert count == 2
    np.testing.assert_allclose(mu[0], [0.9 * 0.1 * A + 0.1 * 0.5], rtol=1e-5)
    np.testing.assert_allclose(nu[0], [0.999 * 0.001 * A**2 + 0.001 * 0.5**2], rtol=1e-4)


@pytest.mark.parametrize("gradient", [A, float("nan"), float("inf")])
def test_a_frozen_scaffold_keeps_values_and_moments_bit_for_bit(gradient):
    warm, frozen = optim.dual_rate_adam(0.01, 0.1), optim.dual_rate_adam(0.0, 0.1)
    params, state = advance(warm, tiny(), warm.init(tiny()), grads())
    after, then = advance(frozen, params, state, grads(gradient))
    assert trees.equal(after.scaffold, params.scaffold)
    assert trees.equal(then.inner_states["scaffold"], state.inner_states["scaffold"])
    np.testing.assert_allclose(after.patches[0]["w"], [2.2], rtol=1e-5)  # the patch goes on
    assert moments(then, "patch")[0] == 2
    # and goes on where it was when it thaws
    thawed, _ = advance(warm, after, then, grads())
    np.testing.assert_allclose(thawed.scaffold[0]["w"], [1 - 0.02], rtol=1e-5)


def test_a_rate_of_zero_freezes_patches_too():
    optimizer = optim.dual_rate_adam(0.01, 0.0)
    after, _ = advance(optimizer, tiny(), optimizer.init(tiny()), grads())
    assert trees.equal(after.patches, tiny().patches) and float(after.scaffold[0]["w"][0]) < 1


def test_each_group_may_use_any_optimiser():
    optimizer = optim.grouped({"scaffold": optax.set_to_zero(), "patch": optax.sgd(0.5, momentum=0.9)})
    params, state = advance(optimizer, tiny(), optimizer.init(tiny()), grads())
    params, _ = advance(optimizer, params, state, grads())
    assert trees.equal(params.scaffold, tiny().scaffold)
    np.testing.assert_allclose(params.patches[0]["w"], [2 - 0.5 * B - 0.5 * 1.9 * B], rtol=1e-6)


@pytest.mark.parametrize(
    "groups", [{}, {"scaffold": 1}, {"scaffold": 1, "patches": 1}, {"scaffold": 1, "patch": 1, "bias": 1}]
)
def test_groups_are_named_exactly(groups):
    with pytest.raises(ValueError, match="groups must be scaffold, patch"):
        optim.grouped({name: optax.sgd(0.1) for name in groups})


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_a_rate_below_zero_is_refused_not_frozen(rate):
    with pytest.raises(ValueError, match="scaffold rate must be 0 or more"):
        optim.dual_rate_adam(rate, 0.1)
    with pytest.raises(ValueError, match="patch rate must be 0 or more"):
        optim.dual_rate_adam(0.1, rate)


def test_new_patches_keep_the_scaffolds_state_and_start_afresh():
    before, after = optim.dual_rate_adam(1e-3, 1e-2), optim.dual_rate_adam(1e-4, 5e-4)
    params = tiny(with_patches=False)
    state = before.init(params)
    for _ in range(7):
        params, state = advance(before, params, state, grads(with_patches=False))
    patched = params.replace(patches=tiny().patches)
    carried = optim.carry_over(state, after, patched)
    assert moments(carried, "scaffold")[0] == 7
    for got, want in zip(moments(carried, "scaffold")[1:], moments(state, "scaffold")[1:], strict=True):
        assert trees.equal(got, want)
    # the empty patch group has counted 7 steps; its first real step must be a first step
    assert moments(carried, "patch")[0] == 0
    moved, _ = advance(after, patched, carried, grads())
    np.testing.assert_allclose(moved.patches[0]["w"], [2 + 5e-4], rtol=1e-6)
    np.testing.assert_allclose(moved.scaffold[0]["w"] - params.scaffold[0]["w"], [-1e-4], rtol=1e-2)


def test_patches_that_are_known_carry_over_like_the_scaffold():
    optimizer = optim.dual_rate_adam(1e-3, 1e-2)
    params, state = advance(optimizer, tiny(), optimizer.init(tiny()), grads())
    assert trees.equal(optim.carry_over(state, optimizer, params), state)


def test_many_networks_equal_one_by_one():
    _, params, _ = networks.small(None)
    optimizer = optim.dual_rate_adam(1e-3, 1e-2)
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), params)

    def two(p):
        state = optimizer.init(p)
        p, state = advance(optimizer, p, state, p)
        return advance(optimizer, p, state, p)

    together, one = networks.quick(jax.vmap(two))(many), networks.quick(two)
    for member, p in zip(trees.unstack(together, 3), trees.unstack(many, 3), strict=True):
        assert trees.allclose(member, one(p), rtol=1e-6, atol=1e-7)
