"""Masks: counts by hand, exact and uniform draws, corrupted topologies, many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import chisquare

from jaxnet import allocation, masks, trees
from jaxnet import topology as topologies
from jaxnet.correlated import correlated_topology, local_topologies

# (out, in, weights); few, for each of them compiles once
CASES = [(1, 1, 1), (1, 7, 3), (5, 8, 14), (5, 8, 40)]
sizes_of_networks = st.lists(st.integers(1, 60), min_size=2, max_size=5)
densities = st.floats(0.001, 1.0)


@functools.cache
def draw(kind: str, num_out: int, num_in: int, number: int) -> Callable[[jax.Array], topologies.Topology]:
    """A compiled draw of one case."""
    if kind == "uniform":
        return jax.jit(lambda k: masks.uniform_topology(num_out, num_in, number, key_mask=k))
    return jax.jit(lambda k: masks.constant_fan_in_topology(num_out, num_in, number, key_mask=k))


def positions(t: topologies.Topology) -> list[tuple[int, int]]:
    """Existing positions in the order of the slots."""
    n = int(t.num_nonzeros)
    return list(zip(np.asarray(t.rows)[:n].tolist(), np.asarray(t.cols)[:n].tolist(), strict=True))


def small() -> topologies.Topology:
    """Three weights in a 2x3 layer and two padding slots, written by hand."""
    rows, cols, ptr = [0, 1, 1, 2, 3], [2, 0, 1, 0, 0], [0, 1, 3]
    arrays = [jnp.asarray(a, jnp.int32) for a in (rows, cols, ptr)]
    return topologies.Topology(arrays[0], arrays[1], arrays[2], (2, 3))


# --- counts -----------------------------------------------------------------------------------------


def test_the_originals_counts():
    assert allocation.allocate([784, 256, 128, 10], 0.02) == (4014, 655, 25)
    assert allocation.allocate([3072, 64, 10], 0.02) == (3932, 12)
    # evaluated from the left: 0.29 * 10 * 10 is 29, 0.29 * 100 is 28.999999999999996
    assert allocation.allocate([10, 10], 0.29) == (29,)


def test_erdos_renyi_by_hand():
    # 100 + 200 positions, half of them: 150, shared out as (10 + 10) : (10 + 20) = 2 : 3
    assert allocation.allocate([10, 10, 20], 0.5, "erdos-renyi") == (60, 90)
    # 31 weights as 2 : 3 are 12.4 and 18.6: the one left over goes to the larger remainder
    assert allocation.allocate([10, 10, 20], 31 / 300, "erdos-renyi") == (12, 19)
    # 3 : 3 of 5 weights: a tie, the earlier layer first
    assert allocation.allocate([2, 1, 2], 1.0, "erdos-renyi") == (2, 2)
    assert allocation.allocate([10, 10, 10], 0.025, "erdos-renyi") == (3, 2)
    # shares 101 : 11 of 550 would give the last layer 54 of 10 positions: it is full, the rest is the first's
    assert allocation.allocate([100, 10, 1], 0.55, "erdos-renyi") == (545, 10)


def test_dense_output_by_hand():
    # 0.1 of 10*20 + 20*5 + 5*4 = 320 is 32: 20 for the output layer, 12 as 200 : 100 for the others
    assert allocation.allocate([10, 20, 5, 4], 0.1, "dense-output") == (8, 4, 20)


def test_an_output_layer_of_its_own_density_by_hand():
    # 32 in total as before: half of 5*4 for the output layer, 22 as 200 : 100 for the others
    assert allocation.allocate([10, 20, 5, 4], 0.1, "output=0.5") == (15, 7, 10)
    assert allocation.allocate([10, 20, 5, 4], 0.1, "output=1") == allocation.allocate(
        [10, 20, 5, 4], 0.1, "dense-output"
    )
    for wrong, why in (
        ("output=0", "above 0 and at most 1"),
        ("output=much", "above 0 and at most 1"),
        ("ouput=0.5", "choose one of uniform, erdos-renyi, dense-output, constant-fan-in, output=0.5"),
    ):
        with pytest.raises(ValueError, match=why):
            allocation.allocate([10, 5, 4], 0.5, wrong)
    with pytest.raises(ValueError, match="18 weights in an output layer of 20: raise the density"):
        allocation.allocate([2, 5, 4], 0.5, "output=0.9")
    with pytest.raises(ValueError, match="raise the output's density"):
        allocation.allocate([2, 5, 4], 1.0, "output=0.5")


def test_units_are_wired_to_the_features_that_vary_together():
    """Two pairs of features that go together, and one that never varies: by hand, then against NumPy."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50)).astype(np.float32)
    x = np.stack([a, b, -2 * a + 3, b + 1, np.full(50, 7, np.float32)], 1)
    wired = correlated_topology(jnp.asarray(x), 5, 8, key_mask=jax.random.key(1))
    rows = {tuple(np.flatnonzero(row)) for row in np.asarray(topologies.topology_mask(wired))}
    assert rows == {(0, 2), (1, 3), ()} and int(wired.num_nonzeros) == 8, (
        "a constant feature correlates with none"
    )
    # any numbers: the pairs of the largest correlation of the units' own features
    x = rng.normal(size=(40, 6)).astype(np.float32)
    drawn = correlated_topology(jnp.asarray(x), 9, 20, key_mask=jax.random.key(2))
    topologies.validate_topology(drawn)
    strength = np.abs(np.corrcoef(x.T))
    mask = np.asarray(topologies.topology_mask(drawn))
    own = jax.random.permutation(jax.random.split(jax.random.key(2))[0], 6)[np.arange(9) % 6]
    assert sorted(np.bincount(own).tolist()) == [1, 1, 1, 2, 2, 2], "features go round"
    pairs = strength[np.asarray(own)]
    np.testing.assert_allclose(np.sort(pairs[mask]), np.sort(pairs.ravel())[-20:], atol=2e-6)


def test_local_layers_are_wired_to_what_varies_together():
    # by hand: two groups of features that vary together, one that is constant
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50)).astype(np.float32)
    x = np.stack([a, b, -2 * a + 3, b + 1, np.full(50, 7, np.float32)], 1)
    first, second = local_topologies(jnp.asarray(x), (4, 8), (8, 16), key_mask=jax.random.key(1))
    rows = [tuple(np.flatnonzero(row).tolist()) for row in np.asarray(topologies.topology_mask(first))]
    assert sorted(rows) == [(0, 2)] * 2 + [(1, 3)] * 2, "the constant one is nobody's own"
    groups = {tuple(i for i, row in enumerate(rows) if row == group) for group in set(rows)}
    above = [tuple(np.flatnonzero(row).tolist()) for row in np.asarray(topologies.topology_mask(second))]
    assert set(above) == groups and len(above) == 8, "units above read units below of the same group"
    # any numbers: every unit the most correlated, as many as any other or one more
    x = rng.normal(size=(40, 6)).astype(np.float32)
    (drawn,) = local_topologies(jnp.asarray(x), (9,), (20,), key_mask=jax.random.key(2))
    topologies.validate_topology(drawn)
    strength, mask = np.abs(np.corrcoef(x.T)), np.asarray(topologies.topology_mask(drawn))
    key_own = jax.random.split(jax.random.fold_in(jax.random.key(2), 0), 3)[0]
    own = np.asarray(jax.random.permutation(key_own, 6))[np.arange(9) % 6]
    assert sorted(mask.sum(1).tolist()) == [2] * 7 + [3] * 2
    for unit, row in zip(own, mask, strict=True):
        np.testing.assert_allclose(
            np.sort(strength[unit][row]), np.sort(strength[unit])[-row.sum() :], atol=2e-6
        )


def test_a_network_can_be_wired_by_its_training_samples(key):
    x = np.random.default_rng(3).normal(size=(30, 20)).astype(np.float32)
    draw_one = jax.jit(lambda k, x: masks.draw_topologies((20, 12, 4), 0.3, key_mask=k, inputs=x))
    plain = masks.draw_topologies((20, 12, 4), 0.3, key_mask=key)
    wired, other = draw_one(key, x), draw_one(jax.random.fold_in(key, 1), x)
    assert [int(t.num_nonzeros) for t in wired] == [int(t.num_nonzeros) for t in plain]
    assert trees.equal(wired[1], plain[1]) and not trees.equal(wired[0], plain[0])
    assert positions(wired[0]) != positions(other[0]), "seeds differ"
    local = masks.draw_topologies((20, 12, 8, 4), 0.3, key_mask=key, inputs=jnp.asarray(x), wiring="local")
    plain = masks.draw_topologies((20, 12, 8, 4), 0.3, key_mask=key)
    assert [int(t.num_nonzeros) for t in local] == [int(t.num_nonzeros) for t in plain]
    assert trees.equal(local[2], plain[2]) and not trees.equal(local[1], plain[1])
    with pytest.raises(ValueError, match=r"unknown wiring 'near': choose one of correlated, local"):
        masks.draw_topologies((20, 12, 4), 0.3, key_mask=key, wiring="near")


def test_constant_fan_in_by_hand():
    # 2.5 rounds to the even 2, 0.5 to 0 and then up to 1 input
    assert allocation.allocate([10, 3, 4], 0.25, "constant-fan-in") == (2 * 3, 1 * 4)
    assert allocation.allocate([784, 256, 10], 0.02, "constant-fan-in") == (16 * 256, 5 * 10)
    assert allocation.allocate([2, 5], 0.2, "constant-fan-in") == (5,)


@given(sizes_of_networks, densities, st.sampled_from(allocation.ALLOCATIONS))
@settings(max_examples=200)
def test_every_allocation_fits_its_layers(sizes, density, rule):
    full = [i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True)]
    try:
        counts = allocation.allocate(sizes, density, rule)
    except ValueError as error:
        assert "raise the density" in str(error) and "\n" not in str(error)
        return
    assert len(counts) == len(full)
    assert all(1 <= n <= f for n, f in zip(counts, full, strict=True))
    if rule in ("erdos-renyi", "dense-output"):
        assert sum(counts) == int(density * sum(full))
    if rule == "dense-output":
        assert counts[-1] == full[-1]
    if rule == "constant-fan-in":
        assert all(n % o == 0 for n, o in zip(counts, sizes[1:], strict=True))
    if density == 1.0:
        assert list(counts) == full


@given(sizes_of_networks, densities)
@settings(max_examples=200)
def test_erdos_renyi_shares_are_proportional_below_the_cap(sizes, density):
    layers = list(zip(sizes[:-1], sizes[1:], strict=True))
    try:
        counts = allocation.allocate(sizes, density, "erdos-renyi")
    except ValueError:
        return
    free = [(n, i + o) for n, (i, o) in zip(counts, layers, strict=True) if n < i * o]
    # exact rational shares: floor or ceiling each, and larger remainders first
    total, scale = sum(n for n, _ in free), sum(w for _, w in free)
    for n, weight in free:
        assert abs(Fraction(total * weight, scale) - n) < 2
    # a full layer has earned it: at the rate of the others it would be (nearly) full as well
    if free:
        rate = Fraction(total, scale)
        for n, (i, o) in zip(counts, layers, strict=True):
            if n == i * o:
                assert rate * (i + o) > n - 2


@pytest.mark.parametrize(
    ("sizes", "density", "rule", "message"),
    [
        ([10], 0.5, "uniform", "two or more positive"),
        ([10, 0, 3], 0.5, "uniform", "two or more positive"),
        ([10, -2], 0.5, "uniform", "two or more positive"),
        ([10, 2.5], 0.5, "uniform", "two or more positive"),
        ([10, 10], 0.0, "uniform", "above 0"),
        ([10, 10], 1.01, "uniform", "above 0"),
        ([10, 10], float("nan"), "uniform", "above 0"),
        ([10, 10], 0.5, "unifrom", "uniform, erdos-renyi, dense-output, constant-fan-in"),
        ([10, 10], 0.001, "uniform", "10x10 layer without any weight: raise the density"),
        ([100, 10, 10], 0.05, "dense-output", "too few for a dense output layer"),
        ([2**16, 2**16], 0.5, "uniform", "too large"),
    ],
)
def test_what_cannot_be_allocated_is_refused_in_one_line(sizes, density, rule, message):
    with pytest.raises(ValueError, match=message) as caught:
        allocation.allocate(sizes, density, rule)
    assert "\n" not in str(caught.value)


# --- draws ------------------------------------------------------------------------------------------


@given(st.sampled_from(CASES), st.integers(0, 2**31 - 1))
def test_a_draw_is_exact_distinct_sorted_and_consistent(case, seed):
    num_out, num_in, nnz = case
    t = draw("uniform", *case)(jax.random.key(seed))
    topologies.validate_topology(t)
    where = positions(t)
    assert len(set(where)) == len(where) == nnz == t.capacity
    assert where == sorted(where)
    assert all(0 <= r < num_out and 0 <= c < num_in for r, c in where)
    for r in range(num_out):
        start, stop = int(t.row_ptr[r]), int(t.row_ptr[r + 1])
        assert [w for w in where if w[0] == r] == where[start:stop]
    assert np.diff(t.row_ptr).tolist() == [sum(w[0] == r for w in where) for r in range(num_out)]


@given(st.sampled_from([(6, 1, 1), (5, 8, 3)]), st.integers(0, 2**31 - 1))
def test_constant_fan_in_draws_as_many_inputs_for_every_unit(case, seed):
    t = draw("constant", *case)(jax.random.key(seed))
    topologies.validate_topology(t)
    assert set(np.diff(t.row_ptr).tolist()) == {case[2]}
    assert t.capacity == case[0] * case[2]


@pytest.mark.parametrize("rule", allocation.ALLOCATIONS)
def test_a_network_gets_the_counts_of_its_allocation(rule, key):
    sizes, density = (20, 12, 9, 4), 0.3
    drawn = jax.jit(lambda k: masks.draw_topologies(sizes, density, rule, key_mask=k))(key)
    counts = allocation.allocate(sizes, density, rule)
    assert tuple(int(t.num_nonzeros) for t in drawn) == counts
    assert [t.shape for t in drawn] == [(12, 20), (9, 12), (4, 9)]
    for t in drawn:
        topologies.validate_topology(t)


def test_the_same_key_gives_the_same_masks_and_another_key_others(key):
    network = jax.jit(lambda k: masks.draw_topologies((30, 30, 30), 0.1, key_mask=k))
    a, b, c = network(key), network(key), network(jax.random.fold_in(key, 1))
    assert trees.equal(a, b)
    assert not trees.equal(a[0].cols, c[0].cols)
    assert positions(a[0]) != positions(a[1])  # layers of equal shape differ


@pytest.mark.parametrize("rule", ["uniform", "constant"])
def test_all_positions_are_equally_likely(rule):
    one = draw(rule, 4, 6, 5 if rule == "uniform" else 2)
    many = jax.jit(jax.vmap(lambda k: topologies.topology_mask(one(k))))
    drawn = np.asarray(many(jax.random.split(jax.random.key(5), 8000)))
    hits = drawn.sum(0)
    # Draws without replacement vary less than a multinomial, so the test is on the safe side.
    assert chisquare(hits.ravel()).pvalue > 1e-3
    if rule == "uniform":  # pairs as well: positions are not drawn in clumps (exactly 5*4 of 24*23)
        flat = drawn.reshape(-1, 24).astype(float)
        pairs = flat.T @ flat / len(flat)
        off = pairs[~np.eye(24, dtype=bool)]
        assert np.abs(off - 20 / (24 * 23)).max() < 5 * np.sqrt(0.036 / len(flat))


def test_vmap_draws_what_single_calls_draw(key):
    keys = jax.random.split(key, 5)

    def network(k):
        return masks.draw_topologies((20, 12, 5), 0.25, "dense-output", key_mask=k)

    together, one = jax.jit(jax.vmap(network))(keys), jax.jit(network)
    for member, k in zip(trees.unstack(together, 5), keys, strict=True):
        assert trees.equal(member, one(k))
    for t in together:  # stacked ones are validated too, and their properties keep the seed axis
        topologies.validate_topology(t)
        assert t.num_nonzeros.shape == (5,) and t.exists.shape == (5, t.capacity)
        assert t.fan_in.shape == (5, t.shape[0])


def test_draws_refuse_impossible_counts(key):
    for nnz in (0, 13):
        with pytest.raises(ValueError, match="between 1 and 12"):
            masks.uniform_topology(3, 4, nnz, key_mask=key)
    for fan_in in (0, 5):
        with pytest.raises(ValueError, match="between 1 and 4"):
            masks.constant_fan_in_topology(3, 4, fan_in, key_mask=key)
    with pytest.raises(ValueError, match="too large"):
        masks.uniform_topology(2**16, 2**15, 1, key_mask=key)


# --- building and reading -----------------------------------------------------------------------------


def test_padding_by_hand():
    flat, exists = jnp.asarray([4, 99, 2, 3, -7]), jnp.asarray([True, False, True, True, False])
    t = topologies.topology_from_flat(flat, exists, (2, 3))
    assert trees.equal(t, small())
    assert (t.capacity, int(t.num_nonzeros)) == (5, 3)
    assert np.asarray(t.exists).tolist() == [True, True, True, False, False]
    assert np.asarray(t.fan_in).tolist() == [1, 2]
    assert np.asarray(topologies.topology_mask(t)).tolist() == [[False, False, True], [True, True, False]]


@jax.jit
def pad(flat, exists):
    t = topologies.topology_from_flat(flat, exists, (4, 5))
    return t, topologies.topology_mask(t)


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_padding_never_counts(seed, density):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5)) < density
    order = rng.permutation(20)
    t, back = pad(jnp.asarray(order, jnp.int32), jnp.asarray(mask.ravel()[order]))
    topologies.validate_topology(t)
    assert t.capacity == 20 and int(t.num_nonzeros) == mask.sum()
    assert np.array_equal(back, mask)
    assert np.all(np.diff(np.asarray(t.rows)[mask.sum() :]) == 1)  # padding stays unique and sorted


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_a_mask_survives_the_way_there_and_back(density):
    mask = np.random.default_rng(0).random((3, 4)) < density
    t = topologies.topology_from_mask(mask)
    topologies.validate_topology(t)
    assert np.array_equal(topologies.topology_mask(t), mask)
    assert int(topologies.Mask(jnp.asarray(mask)).num_nonzeros) == int(t.num_nonzeros) == mask.sum()


def test_mask_counts_whatever_its_rank():
    kernel = np.zeros((2, 2, 3, 4), bool)
    kernel[0, 1, 2] = True
    assert topologies.Mask(jnp.asarray(kernel)).shape == (2, 2, 3, 4)
    assert int(topologies.Mask(jnp.asarray(kernel)).num_nonzeros) == 4
    two = topologies.Mask(jnp.asarray([np.eye(3, dtype=bool), np.ones((3, 3), bool)]))
    assert np.asarray(jax.vmap(lambda mask: mask.num_nonzeros)(two)).tolist() == [3, 9]


# --- validation -------------------------------------------------------------------------------------


def corrupt(field: str, value: list, dtype: type = np.int32) -> topologies.Topology:
    return small().replace(**{field: jnp.asarray(value, dtype)})


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (corrupt("rows", [0, 1, 1, 2]), "shapes do not fit"),
        (corrupt("row_ptr", [0, 1, 3, 3]), "shapes do not fit"),
        (corrupt("rows", [0, 1, 1, 2, 3], np.float32), "must be int32"),
        (corrupt("cols", [2, 0, 1, 0, 0], np.int16), "must be int32"),
        (corrupt("cols", [3, 0, 1, 0, 0]), "outside the 2x3 layer"),
        (corrupt("cols", [-1, 0, 1, 0, 0]), "outside the 2x3 layer"),
        (corrupt("rows", [-1, 1, 1, 2, 3]), "outside the 2x3 layer"),
        (corrupt("rows", [1, 0, 1, 2, 3]), "row order"),
        (corrupt("rows", [0, 1, 2, 1, 3]), "row order"),
        (corrupt("cols", [2, 1, 1, 0, 0]), "at most once"),
        (corrupt("cols", [2, 1, 0, 0, 0]), "row order"),
        (corrupt("row_ptr", [0, 2, 3]), "row_ptr does not fit"),
        (corrupt("row_ptr", [0, 1, 5]), "row_ptr does not fit"),
        (corrupt("row_ptr", [1, 1, 3]), "row_ptr does not fit"),
    ],
)
def test_each_corruption_is_found(topology, message):
    topologies.validate_topology(small())
    with pytest.raises(ValueError, match=message):
        topologies.validate_topology(topology)


def test_a_corruption_of_one_seed_among_many_is_found():
    good = small()
    topologies.validate_topology(trees.stack([good, good]))
    with pytest.raises(ValueError, match="outside"):
        topologies.validate_topology(trees.stack([good, corrupt("cols", [3, 0, 1, 0, 0])]))


def test_a_layer_without_weights_is_valid():
    empty = topologies.topology_from_mask(np.zeros((3, 4), bool))
    topologies.validate_topology(empty)
    topologies.validate_topology(trees.stack([empty, empty]))
    assert empty.capacity == 0 and int(empty.num_nonzeros) == 0
