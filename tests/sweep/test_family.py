"""Drawing networks whose size is data: counts, places, chances, and the same draw in every family."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from jaxnet.allocation import allocate
from jaxnet.masks import draw_padded_topology
from jaxnet.nn.layers import init_layer
from jaxnet.sweep import DrawRules, Variant, draw_variant, make_family, make_variant
from jaxnet.topology import Topology, topology_from_mask, validate_topology
from tests.networks import quick
from tests.sweep import small

SHAPE = (11, 13)  # the largest layer of the drawn ones
BRANCHES = {"distinct": 0.2, "sorted": 1.0}  # how positions are drawn depends on the largest density


@functools.cache
def drawer(shape: tuple[int, int], capacity: int, max_density: float):
    """Draws many topologies; sizes and counts are data."""

    def draw(num_out, num_in, nnz, keys):
        return jax.vmap(
            lambda key: draw_padded_topology(shape, num_out, num_in, nnz, capacity, max_density, key_mask=key)
        )(keys)

    return quick(draw)


def draw(family, member, rules, key):
    """One network; as one program, eager every little operation would be compiled by itself."""
    return quick(lambda k: draw_variant(family, member, rules, key_mask=k, key_init=k))(key)


@pytest.mark.parametrize("max_density", BRANCHES.values(), ids=BRANCHES)
@given(st.data())
def test_padded_draws_have_exact_counts_on_existing_units(max_density, data):
    num_out, num_in = data.draw(st.integers(1, SHAPE[0])), data.draw(st.integers(1, SHAPE[1]))
    nnz = data.draw(st.integers(0, int(max_density * num_out * num_in)))
    capacity = min(int(max_density * SHAPE[0] * SHAPE[1]) + 1, SHAPE[0] * SHAPE[1])
    key = jax.random.key(data.draw(st.integers(0, 2**31 - 1)))

    t = drawer(SHAPE, capacity, max_density)(num_out, num_in, nnz, jax.random.split(key, 3))

    validate_topology(t)  # in row order, every position at most once, row_ptr fits
    assert t.rows.shape == (3, capacity) and t.shape == SHAPE
    np.testing.assert_array_equal(t.num_nonzeros, [nnz] * 3)
    np.testing.assert_array_equal(t.exists.sum(axis=1), [nnz] * 3)
    rows, cols = np.asarray(t.rows), np.asarray(t.cols)
    assert np.all((rows < num_out) | (rows >= SHAPE[0]))  # a weight of a unit that exists, or padding
    assert np.all(cols < num_in)
    assert np.all(cols[rows >= SHAPE[0]] == 0)


@pytest.mark.parametrize("max_density", BRANCHES.values(), ids=BRANCHES)
def test_every_set_of_positions_is_equally_likely(max_density, key):
    """12 positions exist, 2 are drawn: 66 sets, and a chi-square test over all of them."""
    num_out, num_in, nnz, draws = 4, 3, 2, 9900
    t = drawer((5, 6), 6, max_density)(num_out, num_in, nnz, jax.random.split(key, draws))

    flat = np.asarray(t.rows[:, :nnz]) * num_in + np.asarray(t.cols[:, :nnz])
    sets = list(itertools.combinations(range(num_out * num_in), nnz))
    seen = [int(np.sum((flat == chosen).all(axis=1))) for chosen in sets]
    assert sum(seen) == draws
    assert scipy.stats.chisquare(seen).pvalue > 1e-4


def test_every_position_of_a_large_layer_is_equally_likely(key):
    """784 x 128 at density 0.02 in a family with larger layers: counts by row and by block of columns."""
    nnz, draws = 2007, 60
    t = drawer((160, 800), 2560, 0.02)(128, 784, nnz, jax.random.split(key, draws))
    rows, cols = np.asarray(t.rows), np.asarray(t.cols)
    exists = rows < 160
    by_row = np.bincount(rows[exists], minlength=128)
    by_col = np.bincount(cols[exists], minlength=784)
    # drawn without replacement: the counts scatter a little less than the test supposes, never more
    assert scipy.stats.chisquare(by_row).pvalue > 1e-4
    assert scipy.stats.chisquare(by_col).pvalue > 1e-4


@pytest.mark.slow
def test_bernoulli_counts_are_binomial(key):
    sizes, density, draws = (20, 15, 8), 0.1, 4000
    family = make_family([sizes, (25, 20, 10)], [density], "bernoulli")
    member, rules = make_variant(sizes, density), DrawRules(mask="bernoulli")

    @quick
    def counts(keys):
        def one(key):
            _, structure = draw_variant(family, member, rules, key_mask=key, key_init=key)
            return [t.num_nonzeros for t in structure.weights]

        return jax.vmap(one)(keys)

    for size, found in zip((300, 120), counts(jax.random.split(key, draws)), strict=True):
        n = np.asarray(found)
        mean, variance = size * density, size * density * (1 - density)
        assert abs(n.mean() - mean) < 5 * np.sqrt(variance / draws)
        assert abs(n.var() / variance - 1) < 5 * np.sqrt(2 / draws)
    first, second = np.asarray(counts(jax.random.split(key, draws)), float)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(draws)  # layers are drawn apart


def test_bernoulli_at_density_one_is_complete(key):
    family = make_family([(4, 3)], [1.0], "bernoulli")
    rules = DrawRules(mask="bernoulli")
    _, structure = draw(family, make_variant((4, 3), 1.0), rules, key)
    assert int(structure.weights[0].num_nonzeros) == 12


@pytest.mark.parametrize(
    ("density", "rules"),
    [
        (0.15, DrawRules()),
        (0.5, DrawRules(init="dense-fan-in")),
        pytest.param(0.15, DrawRules(mask="bernoulli", activation="tanh"), marks=pytest.mark.slow),
    ],
    ids=["distinct", "sorted", "bernoulli"],
)
def test_a_network_does_not_depend_on_its_family(density, rules, key):
    """Alone in its family or padded among larger ones: the same weights at the same places."""
    sizes = (16, 9, 5, 3)
    member = make_variant(sizes, density)
    own = make_family([sizes], [density], rules.mask)
    wide = make_family([sizes, (20, 8, 7, 4), (10, 30, 2, 2)], [density, density / 2], rules.mask)
    assert wide.sizes == (20, 30, 7, 4)

    (params, structure), wide_network = (draw(family, member, rules, key) for family in (own, wide))
    alone = small.matrices(params, structure, sizes)
    padded = small.matrices(wide_network[0], wide_network[1], sizes)
    for (w, m, b), (w_padded, m_padded, b_padded) in zip(alone, padded, strict=True):
        np.testing.assert_array_equal(m, m_padded)
        np.testing.assert_array_equal(w, w_padded)
        np.testing.assert_array_equal(b, b_padded)
        assert (w[m] != 0).all()


@pytest.mark.parametrize(
    "allocation",
    [
        "erdos-renyi",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dense-output", "constant-fan-in")),
    ],
)
def test_other_allocations(allocation, key):
    """Counts as :func:`allocate` says, whatever the padding; a constant fan-in is one."""
    sizes, density = (16, 9, 5, 3), 0.3
    mask = allocation if allocation == "constant-fan-in" else "uniform"
    member, rules = make_variant(sizes, density, mask, allocation), DrawRules(mask)
    families = [
        make_family(architectures, [density, 0.4], mask, allocation)
        for architectures in ([sizes], [sizes, (20, 8, 7, 4), (10, 30, 2, 2)])
    ]
    alone, padded = (
        small.matrices(p, s, sizes) for p, s in (draw(family, member, rules, key) for family in families)
    )
    for (w, m, _), (w_padded, m_padded, _), count in zip(
        alone, padded, allocate(sizes, density, allocation), strict=True
    ):
        np.testing.assert_array_equal(m, m_padded)
        np.testing.assert_array_equal(w, w_padded)
        assert m.sum() == count
        assert allocation != "constant-fan-in" or len(set(m.sum(axis=1))) == 1


@pytest.mark.parametrize("init", ["sparse-fan-in", pytest.param("dense-fan-in", marks=pytest.mark.slow)])
def test_initial_values_are_those_of_a_layer(init, key):
    """As :func:`init_layer` draws them for the unpadded topology."""
    sizes = small.SMALL
    rules = DrawRules(init=init, activation="tanh")
    member = make_variant(sizes, small.DENSITY)
    params, structure = draw(small.FAMILY, member, rules, key)
    for layer, (weight, mask, bias) in enumerate(small.matrices(params, structure, sizes)):
        topology = topology_from_mask(mask)
        expected = init_layer(topology, init, "tanh", key_init=jax.random.fold_in(key, layer))
        np.testing.assert_allclose(weight[mask], expected.weight, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(bias, expected.bias, rtol=1e-6, atol=1e-7)


def test_weights_of_a_seed_are_not_drawn_twice(key):
    """Masks, values and layers come from keys of their own."""
    sizes = (30, 30, 30)
    family, member = make_family([sizes], [0.2], "uniform"), make_variant(sizes, 0.2)
    params, structure = draw(family, member, DrawRules(), key)
    first, second = params.scaffold
    assert not np.array_equal(structure.weights[0].cols, structure.weights[1].cols)
    assert abs(np.corrcoef(first.weight, second.weight)[0, 1]) < 0.4


def test_family_has_room_for_every_member():
    # by hand: layer 1 at most 10 * 8 = 80 positions, layer 2 at most 12 * 3 = 36
    family = make_family([(10, 8, 2), (5, 12, 3)], [0.1, 0.2], "uniform")
    assert family.sizes == (10, 12, 3)
    assert family.capacities == (16, 8)
    assert family.max_densities == (0.2, 0.2)
    for sizes in ((10, 8, 2), (5, 12, 3)):
        for density in (0.1, 0.2):
            nonzeros = np.asarray(make_variant(sizes, density).nonzeros)
            assert (nonzeros <= family.capacities).all()
    # Bernoulli masks: 6 standard deviations and 8 more, never more than the whole layer
    many = make_family([(100, 100, 2)], [0.1], "bernoulli")
    assert many.capacities == (1000 + 6 * 30 + 8, 54)
    assert make_family([(3, 2)], [0.9], "bernoulli").capacities == (6,)


def test_a_member_is_data():
    member = make_variant((10, 8, 2), 0.2)
    np.testing.assert_array_equal(member.widths, [10, 8, 2])
    np.testing.assert_array_equal(member.nonzeros, [16, 3])
    assert isinstance(member, Variant) and member.density.dtype == jnp.float32
    assert {leaf.dtype for leaf in (member.widths, member.nonzeros)} == {jnp.dtype("int32")}


@pytest.mark.parametrize(
    ("architectures", "densities", "words"),
    [
        ([(4, 3), (4, 3, 2)], [0.5], "equal depth"),
        ([(4, 0)], [0.5], "positive integers"),
        ([(4, 3)], [0.0], "density must be"),
        ([(4, 3)], [1.5], "density must be"),
    ],
)
def test_wrong_families_are_rejected(architectures, densities, words):
    with pytest.raises(ValueError, match=words):
        make_family(architectures, densities, "uniform")


def test_wrong_members_and_rules_are_rejected():
    with pytest.raises(ValueError, match="without any weight"):
        make_variant((4, 3), 0.01)
    with pytest.raises(
        ValueError, match="unknown mask 'ring': choose one of uniform, bernoulli, constant-fan-in"
    ):
        DrawRules(mask="ring")
    with pytest.raises(ValueError, match="unknown init"):
        DrawRules(init="zeros")
    with pytest.raises(ValueError, match="unknown activation"):
        DrawRules(activation="step")


def test_topology_has_a_seed_axis_under_vmap(key):
    t = drawer(SHAPE, 5, 0.2)(3, 4, 2, jax.random.split(key, 2))
    assert isinstance(t, Topology) and t.row_ptr.shape == (2, SHAPE[0] + 1)
