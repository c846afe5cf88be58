"""What a structure can do: by hand, against NumPy and SciPy, and on planted chains."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

from jaxnet import reach
from jaxnet.errors import InputError
from jaxnet.nn.mlp import NetworkSpec, apply, init
from jaxnet.nn.params import Params, Structure
from jaxnet.patches import PatchRules
from jaxnet.signals import detect
from jaxnet.topology import Mask, topology_from_flat, topology_from_mask
from jaxnet.units import init_stats
from tests import networks


def structure_of(masks, outputs=None) -> Structure:
    found = Structure.of([topology_from_mask(np.asarray(m, bool)) for m in masks])
    return found if outputs is None else found.replace(outputs=jnp.asarray(outputs))


def random_masks(rng, sizes, density) -> list[np.ndarray]:
    return [rng.random((b, a)) < density for a, b in zip(sizes, sizes[1:], strict=False)]


@jax.jit
def measured(structure):
    return reach.live(structure), reach.path_shares(structure)


FIRST = [[1, 0, 0], [0, 0, 0], [1, 1, 0]]  # unit 1 reads nothing
SECOND = [[1, 1, 0], [0, 1, 0]]  # nothing reads unit 2; output 1 reads unit 1 alone


def test_live_by_hand():
    found, _ = measured(structure_of([FIRST, SECOND]))
    assert found.inputs.tolist() == [True, False, False]
    assert found.units[0].tolist() == [True, False, False]
    assert found.outputs.tolist() == [True, False]
    assert [w.tolist() for w in found.weights] == [[True, False, False], [True, False, False]]
    assert jax.tree.leaves(found.counts) == [1, 1, 1, 2]
    _, (shares,) = measured(structure_of([FIRST, [[1, 1, 1], [0, 1, 0]]]))
    np.testing.assert_allclose(shares, [1 / 3, 0, 2 / 3])
    read = reach.read_by_outputs(structure_of([FIRST, SECOND]))
    assert read[1].tolist() == [True, True, False]  # the bias of unit 1 can learn


def padded(masks, outputs) -> list[Structure]:
    """The same scaffold in both representations, in shapes that its weights do not change."""
    slots = [topology_from_flat(jnp.arange(m.size), jnp.asarray(m.ravel()), m.shape) for m in masks]
    found = [Structure.of(slots), Structure.of([Mask(jnp.asarray(m)) for m in masks])]
    return [s.replace(outputs=jnp.asarray(outputs)) for s in found]


@hypothesis.given(
    sizes=st.sampled_from([(4, 3), (3, 5, 2), (4, 3, 1, 5)]),
    seed=st.integers(0, 999),
    density=st.floats(0, 1),
)
def test_live_is_what_products_of_masks_say(sizes, seed, density):
    rng = np.random.default_rng(seed)
    masks, outputs = random_masks(rng, sizes, density), rng.random(sizes[-1]) < 0.8
    ways = [m.astype(int) for m in masks]
    to, onward = [np.ones(sizes[0], int)], [outputs.astype(int)]
    for up, down in zip(ways, reversed(ways), strict=True):
        to.append(up @ to[-1])
        onward.insert(0, down.T @ onward[0])
    through = [a * b for a, b in zip(to, onward, strict=True)]
    for structure in padded(masks, outputs):
        found, shares = measured(structure)
        for mask, number in zip((found.inputs, *found.units, found.outputs), through, strict=True):
            np.testing.assert_array_equal(mask, number > 0)
        for k, (mask, entry) in enumerate(zip(found.weights, structure.weights, strict=True)):
            expected = (masks[k] * to[k] * onward[k + 1][:, None]) > 0
            if isinstance(entry, Mask):
                np.testing.assert_array_equal(mask, expected)
            else:  # slots in row order, padding behind
                np.testing.assert_array_equal(mask[: masks[k].sum()], expected[masks[k]])
                assert not mask[masks[k].sum() :].any()
        for share, number in zip(shares, through[1:-1], strict=True):
            np.testing.assert_allclose(share, number / max(through[0].sum(), 1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", pytest.param("mlp", marks=pytest.mark.slow)])
def test_patches_are_ways_where_a_pass_reads_through_them(kind, key):
    """The live part is what the gradient of a network with positive weights and patches says."""
    spec = NetworkSpec((10, 8, 6, 4), 0.12)
    make = networks.quick(lambda key: networks.make(spec, PatchRules(kind, max_patches=2), key))
    params, structure = make(key)
    positive: Any = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, params)
    weights = [
        p.replace(weight=jnp.where(t.exists, p.weight, 0.0))
        for p, t in zip(positive.scaffold, structure.weights, strict=True)
    ]
    positive = positive.replace(scaffold=tuple(weights))

    def logits(x):
        return apply(spec, positive, structure, x[None])[0][0]

    jacobian = networks.quick(jax.jacobian(logits))(jnp.ones(10))  # (class, input), above 0 on a way
    found, _ = measured(structure)
    np.testing.assert_array_equal(found.inputs, np.any(jacobian > 0, axis=0))
    np.testing.assert_array_equal(found.outputs, np.any(jacobian > 0, axis=1))


def test_one_program_for_many_scaffolds_that_lowers_for_cuda():
    spec = NetworkSpec((784, 128, 10), 0.02)

    @jax.jit
    @jax.vmap
    def counts(key):
        return reach.live(init(spec, key_mask=key, key_init=key)[1]).counts

    found = counts(jax.random.split(jax.random.key(0), 256))
    assert 0.3 < np.mean(found.outputs == 10) < 0.6  # about half reach all classes
    jax.export.export(counts, platforms=["cuda"])(jax.random.split(jax.random.key(0), 4))
    square = jnp.eye(5)
    jax.export.export(jax.jit(reach.bars_of), platforms=["cuda"])([square, square], 1e-5)


CHAINS = (12, 10, 12), (9, 12, 5, 11), (12, 8, 12, 12, 10)


def test_generic_rank_is_the_number_of_disjoint_paths():
    """288 of 288: the product of random values on a support, float64, against maximum flow."""
    rng = np.random.default_rng(0)
    equal = 0
    for case in range(288):
        masks = random_masks(rng, CHAINS[case % 3], (0.1, 0.2, 0.35, 0.6)[case % 4])
        values = [m * rng.uniform(0.5, 2, m.shape) * rng.choice([-1, 1], m.shape) for m in masks]
        product = functools.reduce(lambda a, b: b @ a, values)
        structure = Structure.of([Mask(jnp.asarray(m)) for m in masks])
        equal += reach.disjoint_paths(structure, 0, len(masks)) == np.linalg.matrix_rank(product)
    assert equal == 288


def test_disjoint_paths_by_hand():
    whole = structure_of([np.ones((4, 5)), np.ones((1, 4)), np.ones((3, 1))])
    assert [reach.disjoint_paths(whole, *pair) for pair in ((0, 1), (0, 2), (0, 3), (2, 3))] == [4, 1, 1, 1]
    assert reach.disjoint_paths(structure_of([np.ones((3, 3))], [True, False, True]), 0, 1) == 2
    with pytest.raises(ValueError, match="0 <= i < j <= 3"):
        reach.disjoint_paths(whole, 2, 2)


def planted(rng: np.random.Generator, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A chain of maps between spaces of 12 dimensions with known bars, in random bases of every space."""
    bars = np.zeros((number + 1, number + 1), int)
    lines: list[tuple[int, int]] = []
    while len(lines) < 12 * (number + 1):  # bars where there is room, then ones of a single space
        i, j = sorted(rng.integers(0, number + 1, 2)) if len(lines) < 8 else (len(lines) % (number + 1),) * 2
        if all(bars[: k + 1, k:].sum() < 12 for k in range(i, j + 1)):
            bars[i, j] += 1
        lines.append((i, j))
    for k in range(number + 1):
        bars[k, k] += 12 - bars[: k + 1, k:].sum()
    lines = [(i, j) for i in range(number + 1) for j in range(i, number + 1) for _ in range(bars[i, j])]
    places = [[n for n, (i, j) in enumerate(lines) if i <= k <= j] for k in range(number + 1)]
    # bases of bounded condition
    bases = [np.linalg.qr(rng.normal(size=(12, 12)))[0] * rng.uniform(0.5, 2, 12) for _ in places]
    mats = []
    for k in range(number):
        identity = np.array([[float(a == b) for a in places[k]] for b in places[k + 1]])
        mats.append(bases[k + 1] @ identity @ np.linalg.inv(bases[k]))
    return mats, bars


def test_planted_bars_are_found():
    rng = np.random.default_rng(1)
    for case in range(100):
        mats, bars = planted(rng, (1, 2, 4)[case % 3])
        found = reach.rank_bars(mats, 1e-9, evidence=True)
        np.testing.assert_array_equal(found.bars, bars)
        assert found.gap > 1e5 and np.all(np.diag(found.ranks) == 12)
        for k in range(len(bars)):  # every dimension of a space is in one bar
            assert found.bars[: k + 1, k:].sum() == 12


def test_small_values_survive_long_chains():
    """Eight maps with a value of 1e-3: that of their product, 1e-24, is far below rounding."""
    mats = [np.diag([1.0, 1e-3, 0.0])] * 8
    bars = reach.rank_bars(mats, 1e-6)
    assert bars[0, 8] == 2 and np.diag(bars).tolist() == [1] * 9


def test_bars_of_many_networks_at_once():
    rng = np.random.default_rng(2)
    mats = [rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 2, 4))]
    together = jax.vmap(reach.bars_of, in_axes=(0, None))([jnp.asarray(m, jnp.float32) for m in mats], 1e-4)
    for k in range(3):
        np.testing.assert_array_equal(together.bars[k], reach.rank_bars([m[k] for m in mats], 1e-4))


@pytest.mark.parametrize(
    ("mats", "tol", "said"),
    [
        ([np.full((2, 2), np.nan)], 1e-6, "map 0 holds values that are not finite"),
        ([np.eye(2), np.eye(3)], 1e-6, "maps 0 and 1 do not chain"),
        ([np.eye(2)], 0.0, "must be above 0 and below 1: 0.0"),
        ([np.eye(2)], float("nan"), "must be above 0"),
        ([], 1e-6, "one or more matrices"),
        ([np.diag([1.0, 2e-6, 5e-7])], 1e-6, "singular values 1, 2e-06, 5e-07, a gap of 4"),
        ([np.diag([1.0, 2e-6])], 1e-6, "ambiguous"),  # full, but close to the cut
    ],
)
def test_wrong_input_is_one_line(mats, tol, said):
    with pytest.raises(InputError, match=said) as error:
        reach.rank_bars(mats, tol)
    assert "\n" not in str(error.value)


def test_the_rank_of_a_wide_layer_is_that_of_its_singular_values():
    rng = np.random.default_rng(0)
    for rows, cols, rank, density in [
        (40, 70, 17, 1.0),
        (90, 60, 59, 1.0),
        (80, 80, 80, 0.1),
        (1, 5, 1, 1.0),
    ]:
        left, right = (rng.normal(size=(n, rank)) * (rng.random((n, rank)) < density) for n in (rows, cols))
        matrix = np.asarray(left @ right.T, np.float32) * (10.0 ** rng.integers(-6, 6))
        wanted = np.linalg.matrix_rank(matrix, tol=1e-5 * np.linalg.norm(matrix, 2))
        assert reach.wide_rank(matrix, 1e-5) == wanted == reach.wide_rank(csr_array(matrix), 1e-5)
    assert reach.wide_rank(np.zeros((3, 4)), 1e-5) == 0
    with pytest.raises(InputError, match=r"2 singular values lie within a factor of 3\.2 of the cut 1e-05"):
        reach.wide_rank(np.diag([1.0, 1.1e-5, 0.9e-5, 1e-9]), 1e-5)
    for values, tol, said in [
        (np.full((1, 1), np.nan), 1e-5, "not finite"),
        (np.eye(2), 1e-9, "at least 1e-06: 1e-09"),
    ]:
        with pytest.raises(InputError, match=said):
            reach.wide_rank(values, tol)


def test_effective_ranks():
    rank = reach.effective_rank
    assert rank([2.0, 2.0, 0.0]) == pytest.approx(2)
    assert rank([3.0, 1.0], "participation") == pytest.approx(100 / 82)
    assert rank([1.0, 1.0, 0.1], "energy", share=0.9) == 2 and rank([5.0, 0.0], "energy") == 1
    assert [float(rank(np.zeros(3), rule, shape=(3, 3))) for rule in reach.EFFECTIVE] == [0, 0, 0]
    rng = np.random.default_rng(0)
    noise, a, b = rng.normal(size=(60, 40)), *np.linalg.qr(rng.normal(size=(60, 40)))
    b = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    for planted, expected in ((0, 0), (3, 3)):
        spectrum = np.linalg.svd(noise + 40 * a[:, :planted] @ b[:planted], compute_uv=False)
        assert rank(spectrum, "marchenko-pastur", shape=noise.shape) == expected
    with pytest.raises(ValueError, match="needs the shape"):
        rank([1.0], "marchenko-pastur")
    with pytest.raises(ValueError, match="choose one of energy, participation"):
        rank([1.0], "stable")


def test_the_signal_by_hand():
    shares = jnp.array([0.0, 0.1, 0.2, 0.3, 0.4])
    stats = init_stats(5).replace(paths=shares)
    found = detect(stats, "reach", quantile=0.2)
    assert found.high.tolist() == [False] * 4 + [True]
    assert found.low.tolist() == [True] + [False] * 4
    found = detect(stats.replace(paths=shares.at[:3].set(0.0)), "reach", quantile=0.2)
    assert found.low.tolist() == [True] * 3 + [False] * 2  # no way leads through them, ties or not


def test_bottlenecks_directions_and_changes_by_hand():
    incoming = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])  # nothing comes to unit 1
    outgoing = jnp.array([[0.0, 1.0, 1.0], [0.0, 1.0, -1.0]])  # nothing leaves unit 0
    found = reach.bottleneck(incoming, outgoing, 1e-5)
    np.testing.assert_allclose(found.lost, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.starved, [0, 1, 0], atol=1e-6)
    seen = reach.directions(jnp.array([[1.0, 1.0, 0.0], [-2.0, -2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert jax.tree.leaves(seen) == [1, 1, 1]
    before = jnp.diag(jnp.array([2.0, 1.1, 1.0]))
    moved = reach.change_between(before, before.at[2, 2].add(3.0))
    np.testing.assert_allclose([moved.relative, moved.rank], [3 / 6.21**0.5, 1], rtol=1e-5)
    assert moved.kept == pytest.approx(0.5, abs=1e-5)  # two lead before, of these one is left


def test_dense_patches_are_weights_of_their_layer(key):
    spec, x = NetworkSpec((10, 8, 6, 4), 0.2), jnp.linspace(-1, 1, 30).reshape(3, 10)

    def both(key):
        params, structure = networks.make(spec, PatchRules("dense", max_patches=2), key)
        matrices = reach.layer_matrices(params, structure)
        merged = Structure.of([Mask(m != 0) for m in matrices])
        layers = [p.replace(weight=m) for p, m in zip(params.scaffold, matrices, strict=True)]
        alone = reach.layer_matrices(params.replace(patches=()), structure.replace(bank=None))
        logits = apply(spec, params, structure, x)[0], apply(spec, Params(tuple(layers)), merged, x)[0]
        return matrices, alone, logits

    matrices, alone, (expected, found) = networks.quick(both)(key)
    assert [m.shape for m in matrices] == [(8, 10), (6, 8), (4, 6)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    numbers = [sum(int(np.sum(m != 0)) for m in every) for every in (matrices, alone)]
    assert numbers[0] > numbers[1]
