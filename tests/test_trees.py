"""Trees: the way from one network to many and back, exact comparison, transplanted optimiser states."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from jaxnet import trees


class Net(NamedTuple):
    weight: Any
    rest: Any


def net(scale: float, *, key: jax.Array) -> Net:
    return Net(scale * jnp.arange(6.0).reshape(2, 3), {"key": key, "step": jnp.int32(scale)})


def two(key: jax.Array) -> tuple[Net, Net]:
    return net(1.0, key=key), net(2.0, key=jax.random.fold_in(key, 1))


# --- stack, unstack, take ---------------------------------------------------------------------------


def test_stack_adds_a_leading_axis_to_every_leaf(key):
    a, b = two(key)
    both = trees.stack([a, b])
    assert both.weight.shape == (2, 2, 3)
    assert both.rest["step"].tolist() == [1, 2]
    assert jax.random.key_data(both.rest["key"][1]).tolist() == jax.random.key_data(b.rest["key"]).tolist()


@given(
    # few shapes: each new one compiles
    array=hnp.arrays(np.float32, st.sampled_from([(), (0,), (3,), (2, 1), (2, 3)])),
    n=st.integers(1, 3),
)
def test_unstack_inverts_stack_bit_for_bit(array, n):
    members = [{"a": jnp.asarray(array), "b": (jnp.int32(i), None)} for i in range(n)]
    back = trees.unstack(trees.stack(members), n)
    assert len(back) == n
    assert all(trees.equal(x, y) for x, y in zip(members, back, strict=True))


def test_stack_refuses_nothing_and_unlike_trees():
    with pytest.raises(ValueError, match="no tree"):
        trees.stack([])
    with pytest.raises(ValueError, match="tree 0 and tree 1 differ in structure"):
        trees.stack([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match=r"tree 0 and tree 2 differ at \['a'\]"):
        trees.stack([{"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, {"a": jnp.zeros(3)}])
    with pytest.raises(ValueError, match=r"differ at \['a'\].*float32.*int32"):
        trees.stack([{"a": jnp.zeros(2)}, {"a": jnp.zeros(2, jnp.int32)}])


def test_unstack_refuses_a_leaf_without_the_axis():
    with pytest.raises(ValueError, match=r"\['b'\] has no leading axis of 2: its shape is \(3,\)"):
        trees.unstack({"a": jnp.zeros((2, 3)), "b": jnp.zeros(3)}, 2)
    with pytest.raises(ValueError, match="no leading axis of 2"):
        trees.unstack(jnp.float32(1), 2)


def test_unstack_of_a_tree_without_leaves_knows_n():
    assert trees.unstack({"a": None}, 3) == [{"a": None}] * 3


def test_take_picks_one_several_or_by_a_traced_index(key):
    a, b = two(key)
    both = trees.stack([a, b])
    assert trees.equal(trees.take(both, 1), b)
    assert trees.equal(trees.take(both, -2), a)
    assert trees.equal(trees.take(both, jnp.array([1, 0, 1])), trees.stack([b, a, b]))
    assert trees.equal(jax.jit(trees.take)(both, 1), b)


@pytest.mark.parametrize("index", [2, -3, np.array([0, 2])])
def test_take_refuses_an_index_out_of_range(index):
    with pytest.raises(ValueError, match=r"out of range: leaf \['a'\] has 2 members"):
        trees.take({"a": jnp.zeros((2, 3))}, index)


def test_take_refuses_scalars_and_masks():
    with pytest.raises(ValueError, match="nothing to pick from"):
        trees.take({"a": jnp.float32(1)}, 0)
    with pytest.raises(ValueError, match="of integers: bool"):
        trees.take({"a": jnp.zeros(2)}, np.array([True, False]))


# --- count, equal, allclose -------------------------------------------------------------------------


def test_count_of_a_case_by_hand(key):
    assert trees.count(net(1.0, key=key)) == 6 + 1 + 1
    assert trees.count({"a": 1.5, "b": None, "c": jnp.zeros((0, 5)), "d": np.zeros((2, 2))}) == 5
    assert trees.count(()) == 0


def test_equal_compares_bits_not_values(key):
    assert trees.equal(net(1.0, key=key), net(1.0, key=key))
    assert trees.equal(jnp.float32("nan"), jnp.float32("nan"))
    assert not trees.equal(jnp.float32(0.0), jnp.float32(-0.0))
    assert not trees.equal(jnp.zeros(2), jnp.zeros(2, jnp.int32))
    assert not trees.equal(jnp.zeros((2, 3)), jnp.zeros((3, 2)))
    assert not trees.equal({"a": 1.0}, {"b": 1.0})
    assert not trees.equal(key, jax.random.fold_in(key, 1))
    assert trees.equal(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16))


@given(hnp.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)), st.integers(0, 4))
def test_equal_sees_the_smallest_change(array, place):
    changed = array.copy()
    changed[place] = np.nextafter(array[place], np.float32(np.inf))
    assert trees.equal({"a": array}, {"a": array.copy()})
    assert not trees.equal({"a": array}, {"a": changed})


def test_allclose_by_hand():
    a = {"x": jnp.array([1.0, 2.0]), "n": jnp.array([1, 2])}
    near = {"x": jnp.array([1.0, 2.0 + 2e-6]), "n": jnp.array([1, 2])}
    assert trees.allclose(a, near)
    assert not trees.allclose(a, near, rtol=1e-7)
    assert not trees.allclose(a, {**a, "n": jnp.array([1, 3])}, atol=10.0)
    assert not trees.allclose(a, {**a, "x": jnp.ones(3)})
    assert not trees.allclose(a, {"x": a["x"]})
    assert not trees.allclose(jnp.float32("nan"), jnp.float32("nan"))


def test_allclose_compares_floats_of_different_dtype_and_keys_exactly(key):
    assert trees.allclose(jnp.ones(3, jnp.bfloat16), jnp.full(3, 1.001), rtol=1e-2)
    assert trees.allclose(key, key)
    assert not trees.allclose(key, jax.random.fold_in(key, 1))
    assert not trees.allclose(jnp.ones(3), jnp.ones(3, jnp.int32))


# --- where ------------------------------------------------------------------------------------------


def test_where_selects_per_seed(key):
    a, b = two(key)
    many_a, many_b = trees.stack([a, a, a]), trees.stack([b, b, b])
    chosen = trees.where(jnp.array([True, False, True]), many_a, many_b)
    assert trees.equal(chosen, trees.stack([a, b, a]))


def test_where_with_one_pred_under_jit_and_vmap(key):
    a, b = two(key)
    assert trees.equal(jax.jit(trees.where)(True, a, b), a)
    assert trees.equal(trees.where(False, a, b), b)
    per_seed = jax.vmap(trees.where, in_axes=(0, None, None))(jnp.array([False, True]), a, b)
    assert trees.equal(per_seed, trees.stack([b, a]))


def test_where_passes_over_a_nan_that_is_not_chosen():
    bad = {"w": jnp.full((2, 3), jnp.nan)}
    assert (
        trees.where(jnp.array([False, False]), bad, {"w": jnp.ones((2, 3))})["w"].tolist() == [[1.0] * 3] * 2
    )


def test_where_refuses_what_would_broadcast_by_accident():
    x = {"w": jnp.zeros((3, 2))}
    with pytest.raises(ValueError, match=r"\['w'\] has no leading axis of 2"):
        trees.where(jnp.array([True, False]), x, x)
    with pytest.raises(ValueError, match="pred must be bool"):
        trees.where(jnp.array([1, 0, 1]), x, x)
    with pytest.raises(ValueError, match="pred must be bool"):
        trees.where(jnp.ones((3, 2), bool), x, x)
    with pytest.raises(ValueError, match=r"a and b differ at \['w'\]"):
        trees.where(True, x, {"w": jnp.zeros((3, 1))})


# --- transplant -------------------------------------------------------------------------------------


def test_transplant_replaces_only_what_fits():
    old = {"same": jnp.ones(2), "shape": jnp.ones(2), "dtype": jnp.ones(2), "gone": jnp.ones(2), "n": 3}
    new = {
        "same": jnp.zeros(2),
        "shape": jnp.zeros(3),
        "dtype": jnp.zeros(2, int),
        "more": jnp.zeros(2),
        "n": 0.5,
    }
    result = trees.transplant(old, new)
    assert result["same"] is old["same"]
    assert all(result[name] is new[name] for name in ("shape", "dtype", "more", "n"))


def test_transplant_onto_itself_is_the_old_tree(key):
    a, b = two(key)
    assert trees.equal(trees.transplant(a, b), a)
    assert trees.transplant({}, b) is not a and trees.equal(trees.transplant({}, b), b)


def test_source_says_what_moved():
    old = {"layers": [jnp.float32(0), jnp.float32(1)]}
    new = {"layers": [jnp.float32(10), jnp.float32(11), jnp.float32(12)]}  # one inserted at 1
    moved = {"['layers'][1]": None, "['layers'][2]": "['layers'][1]"}
    result = trees.transplant(old, new, source=lambda path: moved.get(path, path))
    assert [float(x) for x in result["layers"]] == [0.0, 11.0, 1.0]


needs_adam = pytest.mark.usefixtures("standard_promotion")


def groups() -> Any:
    """Two rate groups, the way networks with patches are trained."""
    labels = {"scaffold": "scaffold", "patches": "patches"}
    decay = optax.cosine_decay_schedule(0.1, 50)
    patches = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    return optax.multi_transform({"scaffold": optax.adam(decay), "patches": patches}, labels)


def params(num_patches: int) -> dict[str, Any]:
    scaffold = (jnp.array([1.0, -2.0, 3.0]), jnp.array([0.5, 0.25]))
    return {"scaffold": scaffold, "patches": {f"p{i}": jnp.full(2, i + 1.0) for i in range(num_patches)}}


def descend(tx: Any, p: Any, state: Any, steps: int) -> tuple[Any, Any]:
    """Gradient steps on half the sum of squares: the gradient is the parameter itself."""

    @jax.jit
    def step(p: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(p, state, p)
        return optax.apply_updates(p, updates), state

    for _ in range(steps):
        p, state = step(p, state)
    return p, state


@needs_adam
def test_optimiser_state_survives_new_parameters():
    tx = groups()
    before, state = descend(tx, params(1), tx.init(params(1)), 5)
    after = {**before, "patches": {**before["patches"], "p1": jnp.full(2, 2.0)}}
    grown = trees.transplant(state, tx.init(after))

    adam, schedule = grown.inner_states["scaffold"].inner_state
    assert (int(adam.count), int(schedule.count)) == (5, 5)
    old_adam = state.inner_states["scaffold"].inner_state[0]
    assert trees.equal((adam.mu, adam.nu), (old_adam.mu, old_adam.nu))
    trace = grown.inner_states["patches"].inner_state[1][0].trace["patches"]
    old_trace = state.inner_states["patches"].inner_state[1][0].trace["patches"]
    assert trees.equal(trace["p0"], old_trace["p0"])
    assert trace["p1"].tolist() == [0.0, 0.0]


@needs_adam
def test_after_growth_the_old_parameters_go_on_as_if_nothing_had_happened():
    tx = groups()
    before, state = descend(tx, params(0), tx.init(params(0)), 5)
    undisturbed, _ = descend(tx, before, state, 7)

    after = {**before, "patches": {"p0": jnp.ones(2)}}
    grown, _ = descend(tx, after, trees.transplant(state, tx.init(after)), 7)
    forgotten, _ = descend(tx, after, tx.init(after), 7)
    assert trees.equal(grown["scaffold"], undisturbed["scaffold"])
    assert not trees.allclose(forgotten["scaffold"], undisturbed["scaffold"])
    assert not trees.allclose(grown["patches"], after["patches"])


@needs_adam
def test_transplant_keeps_a_stacked_state_per_seed():
    tx = groups()
    seeds = 3
    many = jax.tree.map(lambda x: jnp.stack([(i + 1) * x for i in range(seeds)]), params(1))
    _, state = jax.jit(jax.vmap(lambda p: descend(tx, p, tx.init(p), 2)))(many)
    wider = {**many, "patches": {**many["patches"], "p1": jnp.ones((seeds, 2))}}
    grown = trees.transplant(state, jax.vmap(tx.init)(wider))
    for one, old in zip(trees.unstack(grown, seeds), trees.unstack(state, seeds), strict=True):
        assert trees.equal(one.inner_states["scaffold"], old.inner_states["scaffold"])
        assert one.inner_states["patches"].inner_state[1][0].trace["patches"]["p1"].tolist() == [0.0, 0.0]


@needs_adam
def test_source_lets_a_group_that_begins_with_growth_count_from_zero():
    tx = optax.multi_transform(
        {"scaffold": optax.adam(0.1), "patches": optax.adam(0.1)},
        {"scaffold": "scaffold", "patches": "patches"},
    )
    before, state = descend(tx, params(0), tx.init(params(0)), 5)
    after = {**before, "patches": {"p0": jnp.ones(2)}}
    new = tx.init(after)
    counts = {}
    for name, source in {
        "by path": None,
        "afresh": lambda path: None if path.startswith(".inner_states['patches']") else path,
    }.items():
        grown = trees.transplant(state, new, source=source).inner_states
        counts[name] = [int(grown[group].inner_state[0].count) for group in ("scaffold", "patches")]
    assert counts == {"by path": [5, 5], "afresh": [5, 0]}


@needs_adam
def test_the_first_adam_step_of_a_late_parameter_is_as_long_as_documented():
    tx = optax.adam(1.0)
    adam, rest = tx.init({"a": jnp.ones(1)})
    late = {"a": jnp.ones(1), "b": jnp.ones(1)}
    grown = trees.transplant((adam._replace(count=jnp.int32(100_000)), rest), tx.init(late))
    updates, _ = tx.update(late, grown, late)
    fresh, _ = tx.update(late, tx.init(late), late)
    assert float(fresh["b"][0]) == pytest.approx(-1.0, rel=1e-3)
    assert float(updates["b"][0]) == pytest.approx(-(1 - 0.9) / (1 - 0.999) ** 0.5, rel=1e-3)
