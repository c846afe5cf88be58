"""Rate groups: one Adam step by hand, frozen groups; states of optimisers follow a change of structure."""

from __future__ import annotations

import functools
import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import changes, optim, trees
from jaxnet.methods import SET
from jaxnet.nn.params import Params
from jaxnet.topology import Mask, topology_from_flat
from jaxnet.train import Net, init_state
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


# --- groups whose parameters come later ---------------------------------------------------------------


def with_patch(net: Net, patches: Any = None) -> Net:
    """Growth of the tiny network by patches."""
    new = tiny().patches if patches is None else patches
    return changes.reshape(net, lambda params: (params.replace(patches=new), None))


def trained(net: Net, steps: int, gradient: float = 0.01) -> Net:
    for _ in range(steps):
        given = jax.tree.map(lambda a: jnp.full_like(a, gradient), net.params)
        params, state = advance(net.optimizer, net.params, net.opt_state, given)
        net = net.replace(params=params, opt_state=state)
    return net


def moved(before: Net, after: Net) -> tuple[float, float]:
    """How far the first scaffold weight and the first patch weight went."""
    ways = jax.tree.map(lambda a, b: abs(float(b[0] - a[0])), before.params, after.params)
    return ways.scaffold[0]["w"], ways.patches[0]["w"]


WRAPPED = {
    "plain": lambda optimizer: optimizer,
    "chain": lambda optimizer: optax.chain(optax.clip_by_global_norm(1e9), optimizer),
    "apply_if_finite": lambda optimizer: optax.apply_if_finite(optimizer, 5),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_the_first_step_of_a_late_patch_is_as_long_as_its_rate(wrapped):
    optimizer = WRAPPED[wrapped](optim.dual_rate_adam(1e-3, 5e-4))
    # after 20 steps a correction of the bias that went on counting would make it half of the rate
    old = trained(Net.of(tiny(with_patches=False), None, optimizer), 20)
    net = with_patch(old)
    scaffold, patch = moved(net, trained(net, 1))
    assert patch == pytest.approx(5e-4, rel=0.01)
    assert scaffold == pytest.approx(1e-3, rel=0.01)
    # and the scaffold goes on as if nothing had happened
    assert trees.equal(trained(net, 3).params.scaffold, trained(old, 3).params.scaffold)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_group_counts_its_own_steps_on_across_changes(wrapped):
    groups = {name: optax.sgd(lambda count: 1.0 / (1.0 + count)) for name in optim.GROUPS}
    net = trained(Net.of(tiny(with_patches=False), None, WRAPPED[wrapped](optim.grouped(groups))), 7)
    net = with_patch(net)
    for step in range(2):
        before, net = net, trained(net, 1, gradient=1.0)
        assert moved(before, net) == pytest.approx((1 / (8 + step), 1 / (1 + step)), rel=1e-4)
    net = with_patch(net, ({"w": net.params.patches[0]["w"]}, {"w": jnp.ones(3)}))
    assert moved(net, trained(net, 1, gradient=1.0)) == pytest.approx((1 / 10, 1 / 3), rel=1e-4)


def test_new_patches_keep_the_scaffolds_state_and_start_afresh():
    before, after = optim.dual_rate_adam(1e-3, 1e-2), optim.dual_rate_adam(1e-4, 5e-4)
    net = Net.of(tiny(with_patches=False), None, before)
    for _ in range(7):
        params, state = advance(before, net.params, net.opt_state, grads(with_patches=False))
        net = net.replace(params=params, opt_state=state)
    patched = changes.with_optimizer(with_patch(net), after)
    carried = patched.opt_state
    assert moments(carried, "scaffold")[0] == 7
    for got, want in zip(
        moments(carried, "scaffold")[1:], moments(net.opt_state, "scaffold")[1:], strict=True
    ):
        assert trees.equal(got, want)
    # its first real step must be a first step
    assert moments(carried, "patch")[0] == 0
    moved, _ = advance(after, patched.params, carried, grads())
    np.testing.assert_allclose(moved.patches[0]["w"], [2 + 5e-4], rtol=1e-6)
    np.testing.assert_allclose(moved.scaffold[0]["w"] - net.params.scaffold[0]["w"], [-1e-4], rtol=1e-2)


def test_another_optimiser_of_the_same_parts_takes_the_state_over_as_it_is():
    optimizer = optim.dual_rate_adam(1e-3, 1e-2)
    params, state = advance(optimizer, tiny(), optimizer.init(tiny()), grads())
    net = Net(params, None, state, optimizer=optimizer)
    other = changes.with_optimizer(net, optim.dual_rate_adam(1e-4, 0.0))
    assert trees.equal(other.opt_state, state) and trees.equal(other.params, params)


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


# --- every optimiser of optax across a change of structure --------------------------------------------

RATE = 0.01
REFUSED = ("adafactor", "lbfgs", "novograd", "sm3")
STATELESS = ("fromage", "noisy_sgd", "polyak_sgd", "sgd", "sign_sgd")
NO_SCHEDULE = ("polyak_sgd", "rprop", "sm3")
DEPRECATED = ("optimistic_adam",)


def of_optax() -> dict[str, Any]:
    """Every optimiser that optax has, by what its first argument is called; and some with options."""
    found = {}
    for name, function in vars(optax).items():
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by")):
            first = next(iter(inspect.signature(function).parameters), "")
            if first in ("learning_rate", "max_learning_rate") and name not in DEPRECATED:
                found[name] = function
    return found | {
        "noisy_sgd": functools.partial(optax.noisy_sgd, key=jax.random.key(0)),
        "sgd with momentum": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
        "rmsprop with momentum": functools.partial(optax.rmsprop, centered=True, momentum=0.9),
        "adam in bfloat16": functools.partial(optax.adam, mu_dtype=jnp.bfloat16),
        "adafactor with momentum": functools.partial(optax.adafactor, factored=False, momentum=0.9),
    }


OPTAX = of_optax()


def labels(params: Any) -> Any:
    return {name: "patch" if name == "bias" else "scaffold" for name in params}


def not_floats(make: Any) -> list[str]:
    """The options that are not numbers to be injected."""
    options = list(inspect.signature(make).parameters.values())[1:]
    return [option.name for option in options if not isinstance(option.default, float)]


# what is put around an optimiser that `make` makes from a rate
AROUND: dict[str, Any] = {
    "alone": lambda make: make(RATE),
    "schedule": lambda make: make(optax.linear_schedule(0.1, 0.01, 10)),
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(1.0), make(RATE)),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(RATE), 5),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(make, static_args=not_floats(make))(RATE),
    "partition": lambda make: optax.partition(
        {"patch": make(RATE), "scaffold": optax.chain(make(RATE), optax.trace(0.9))}, labels
    ),
    "grouped": lambda make: optim.grouped({"scaffold": make(RATE), "patch": optax.set_to_zero()}, labels),
    "masked": lambda make: optax.masked(make(RATE), {"sparse": True, "dense": False, "bias": True}),
    "MultiSteps": lambda make: optax.MultiSteps(make(RATE), 2).gradient_transformation(),
}
CASES = [
    (name, around)
    for name, around in itertools.product(OPTAX, AROUND)
    if not (around == "schedule" and name in NO_SCHEDULE)
]


def structure_of(flat: tuple[int, ...], padding: int, mask: list[list[int]]) -> dict[str, Any]:
    """A 3x4 layer with weights at some positions and a 2x3 mask."""
    places = jnp.asarray([*flat, *(0,) * padding])
    topology = topology_from_flat(places, jnp.arange(places.size) < len(flat), (3, 4))
    return {"sparse": topology, "dense": Mask(jnp.asarray(mask, bool)), "bias": None}


# position 4 stays in slot 1, 6 and 11 move on; 1 and 9 go; 0, 5 and 10 are new
OLD = structure_of((1, 4, 6, 9, 11), 2, [[1, 1, 0], [0, 0, 1]])
NEW = structure_of((0, 4, 5, 6, 10, 11), 3, [[1, 0, 0], [0, 1, 1]])
# for every entry of the new arrays the old one that it was; NEW_ENTRY, or NOTHING where no weight is
NEW_ENTRY, NOTHING = -1, -2
CAME_FROM = {
    (7,): np.array([NEW_ENTRY, 1, NEW_ENTRY, 2, NEW_ENTRY, 4, *[NOTHING] * 3]),
    (2, 3): np.array([[0, NOTHING, NOTHING], [NOTHING, NEW_ENTRY, 5]]),
}
EXISTS = {(7,): np.arange(7) < 5, (2, 3): np.array([[1, 1, 0], [0, 0, 1]], bool)}


def filled(tree: Any, seed: int) -> Any:
    """The tree with other numbers everywhere, zero where no weight is."""
    rng = np.random.default_rng(seed)

    def leaf(a: Any) -> Any:
        if jnp.issubdtype(a.dtype, jnp.integer) and a.ndim == 0:
            return a + jnp.asarray(3, a.dtype)
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        return jnp.asarray(np.where(EXISTS.get(a.shape, True), rng.normal(size=a.shape), 0), a.dtype)

    return jax.tree.map(leaf, tree)


def host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if trees.is_key(leaf) else leaf)


def assert_followed(before: Any, after: Any, fresh: Any, came_from: Any) -> int:
    """Every array that is shaped like a weight, of whatever part; returns how many there are."""
    assert len({jax.tree.structure(tree) for tree in (before, after, fresh)}) == 1
    number = 0
    for (path, old), new, start in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves(after), jax.tree.leaves(fresh), strict=True
    ):
        name, old, new, start = jax.tree_util.keystr(path), host(old), host(new), host(start)
        if old.shape in came_from:
            origin = came_from[old.shape]
            want = np.where(origin >= 0, old.ravel()[origin], np.where(origin == NEW_ENTRY, start, 0))
            number += 1
        else:
            want = old
        assert new.dtype == old.dtype, name
        assert np.array_equal(new, want), name
    return number


@functools.cache
def small_net() -> Any:
    params = {"sparse": jnp.zeros(7), "dense": jnp.zeros((2, 3)), "bias": jnp.zeros(5)}
    return filled(params, 0)


@pytest.mark.parametrize(("name", "around"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_the_state_of_an_optimiser_follows_an_edit_or_it_is_refused_by_name(name, around):
    params = small_net()
    optimizer = AROUND[around](OPTAX[name])
    if name.split()[0] in REFUSED:
        with pytest.raises(ValueError, match=rf"the state of {name.split()[0]} .* choose another optimiser"):
            optim.check_follows(optimizer, params)
        return
    optim.check_follows(optimizer, params)
    carried = {"anchor": filled(params, 1), "seen": jnp.int32(4), "more": (filled(params, 2),)}
    net = Net.of(params, OLD, optimizer, carried=carried)
    for leaf in jax.tree.leaves(net.opt_state):  # some accumulators start above zero
        assert not np.any(host(leaf)[~EXISTS[leaf.shape]]) if leaf.shape in EXISTS else True
    net = net.replace(opt_state=filled(net.opt_state, 3))

    after, _ = changes.edit(net, NEW)
    assert_followed(params, after.params, jax.tree.map(jnp.zeros_like, after.params), CAME_FROM)
    assert_followed(carried, after.carried, jax.tree.map(jnp.zeros_like, after.carried), CAME_FROM)
    arrays = assert_followed(net.opt_state, after.opt_state, optimizer.init(after.params), CAME_FROM)
    stateful = name not in STATELESS or around in ("partition", "MultiSteps")
    assert (arrays > 0) == stateful


def a_row_on_top(params: Any) -> tuple[Any, Any]:
    """Growth: two new weights before the others, a new row of the dense array, a new bias behind."""
    half = jnp.full(2, 0.5)
    new = {
        "sparse": jnp.concatenate([half, params["sparse"]]),
        "dense": jnp.concatenate([jnp.asarray([[0.5, 0.5, 0.0]]), params["dense"]]),
        "bias": jnp.concatenate([params["bias"], half[:1]]),
    }
    topology = topology_from_flat(jnp.asarray([0, 2, 5, 8, 10, 13, 15, 0, 0]), jnp.arange(9) < 7, (4, 4))
    mask = Mask(jnp.asarray([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool))
    return new, {"sparse": topology, "dense": mask, "bias": None}


GROWN_FROM = {
    (7,): np.array([NEW_ENTRY, NEW_ENTRY, *range(5), NOTHING, NOTHING]),
    (2, 3): np.array([[NEW_ENTRY, NEW_ENTRY, NOTHING], [0, 1, NOTHING], [NOTHING, NOTHING, 5]]),
    (5,): np.array([*range(5), NEW_ENTRY]),
}


def test_the_states_of_all_optimisers_follow_growth():
    params = small_net()
    follow = {name: make(RATE) for name, make in OPTAX.items() if name.split()[0] not in REFUSED}
    optimizer = optax.named_chain(*follow.items())  # in one go: every change of shape is compiled
    carried = {"anchor": filled(params, 1)}
    net = Net.of(params, OLD, optimizer, carried=carried)
    net = net.replace(opt_state=filled(net.opt_state, 3))
    after = changes.reshape(net, a_row_on_top)
    assert_followed(params, after.params, jax.tree.map(lambda a: a * 0 + 0.5, after.params), GROWN_FROM)
    assert_followed(carried, after.carried, jax.tree.map(jnp.zeros_like, after.carried), GROWN_FROM)
    fresh = optimizer.init(after.params)
    for name in follow:
        arrays = assert_followed(net.opt_state[name], after.opt_state[name], fresh[name], GROWN_FROM)
        assert (arrays > 0) == (name not in STATELESS), name


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_refuses_an_optimiser_that_cannot_follow(name, key):
    net = Net.of(small_net(), OLD, OPTAX[name](RATE))
    with pytest.raises(ValueError, match=f"the state of {name} "):
        init_state(net, SET(), key=key)
