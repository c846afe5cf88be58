"""Trees: the way from one network to many and back, exact comparison, selection for each seed."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.mark.parametrize(("begin", "passes"), [(trees.zero_of, 1), (lambda tree: jnp.zeros(()), 2)])
def test_a_scan_that_begins_with_zero_of_the_tree_is_mapped_in_one_pass(begin, passes):
    tree = {"nothing": jnp.zeros((3, 0)), "w": jnp.asarray([[jnp.nan, 1.0], [0.0, 2.0], [jnp.inf, 3.0]])}
    seen = []

    @jax.custom_batching.custom_vmap
    def times(number, weight):
        return number * weight

    @times.def_vmap
    def _(size, batched, number, weight):
        seen.append(batched)
        return number * weight, True

    def total(tree):
        def add(so_far, number):
            return so_far + times(number, tree["w"][1]), None

        return jax.lax.scan(add, begin(tree), jnp.arange(3.0))[0]

    np.testing.assert_array_equal(jax.vmap(total)(tree), [3.0, 6.0, 9.0])
    assert len(seen) == passes


def test_zero_of_an_empty_tree_is_zero():
    assert float(trees.zero_of({})) == 0.0
