"""A larger network built from a smaller one: by hand, against loops in NumPy; controls of equal size."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import trees
from jaxnet.changes import BootstrapRules, bootstrap, random_like, shuffle_values
from jaxnet.masks import draw_topologies
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology, topology_from_mask, topology_mask, validate_topology

SMALL = NetworkSpec((30, 6, 4), 0.3, init="dense-fan-in")
LARGE = NetworkSpec((30, 16, 6, 4), 0.1, init="dense-fan-in")
RULES = BootstrapRules(features=(6, 3))


def topologies(structure: Structure) -> list[Topology]:
    return [c for c in structure.weights if isinstance(c, Topology)]


def from_matrix(matrix: np.ndarray) -> tuple[LayerParams, Topology]:
    """A layer of which every entry that is not zero exists."""
    topology = topology_from_mask(matrix != 0)
    return LayerParams(jnp.asarray(matrix[matrix != 0], jnp.float32), jnp.ones(len(matrix))), topology


def to_matrix(layer: LayerParams, topology: Topology) -> np.ndarray:
    """NaN where no weight exists."""
    matrix = np.full(topology.shape, np.nan, np.float32)
    for r, c, w in zip(*(np.asarray(a) for a in (topology.rows, topology.cols, layer.weight)), strict=True):
        if r < topology.shape[0]:
            matrix[r, c] = w
    return matrix


def test_by_hand() -> None:
    layer, topology = from_matrix(np.array([[3.0, 0, 1, 0, 0, -2], [0, 2, 4, 0, 0, 0]]))
    spec = NetworkSpec((6, 3, 2), 1 / 6)
    rules = BootstrapRules(features=(2, 1), offset=1)
    mask, init = jax.random.key(1), jax.random.key(2)

    @jax.jit
    def build(mask: jax.Array, init: jax.Array) -> Any:
        small = Params((layer,)), Structure.of((topology,))
        built = bootstrap(spec, *small, rules, key_mask=mask, key_init=init)
        base = draw_topologies(spec.sizes, spec.density, key_mask=mask)
        fresh = mlp.init_params(spec, topologies(built[1]), key_init=init)
        return *built, [topology_mask(t) for t in base], fresh.scaffold

    params, structure, base, fresh = build(mask, init)
    # units 0 and 2 have the parents 0 and 1, unit 1 has 1 and 0; input 2 comes from both to units 0 and 2
    first = np.array(
        [[2.1, 0, 0.7 + 1.2, 0, 0, 0], [0.9, 1.4, 2.8, 0, 0, 0], [2.1, 0, 0.7 + 1.2, 0, 0, 0]], np.float32
    )
    second = np.array([[0.5, 0.2, 0.5], [0.2, 0.5, 0.2]], np.float32)
    for new, topology, inherited, random, other in zip(
        params.scaffold, topologies(structure), (first, second), map(np.asarray, base), fresh, strict=True
    ):
        matrix = to_matrix(new, topology)
        np.testing.assert_allclose(matrix[inherited != 0], inherited[inherited != 0], rtol=1e-6)
        assert np.array_equal(~np.isnan(matrix), (inherited != 0) | random)
        assert int(topology.num_nonzeros) == np.sum((inherited != 0) | random)
        # the rest is what a fresh network of this topology has there
        alone = random & (inherited == 0)
        assert np.array_equal(matrix[alone], to_matrix(other, topology)[alone])
        assert np.array_equal(new.bias, other.bias)


def by_loops(
    matrix: np.ndarray, width: int, rules: BootstrapRules
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """The rule in loops: position -> inherited value, of both new layers."""
    parents = len(matrix)
    first: dict[tuple[int, int], float] = {}
    second: dict[tuple[int, int], float] = {}
    for h in range(width):
        for parent, number, share, outgoing in (
            (h % parents, rules.features[0], rules.shares[0], rules.outgoing[0]),
            ((h + rules.offset) % parents, rules.features[1], rules.shares[1], rules.outgoing[1]),
        ):
            inputs = [c for c in range(matrix.shape[1]) if not np.isnan(matrix[parent, c])]
            inputs.sort(key=lambda c: (-matrix[parent, c], c))
            for c in inputs[:number]:
                first[h, c] = first.get((h, c), 0.0) + share * matrix[parent, c]
            second[parent, h] = second.get((parent, h), 0.0) + outgoing
    return first, second


def small_network(key: jax.Array) -> tuple[Params, Structure]:
    """A trained network's stand-in; its first weights are rounded, so that some are equal."""
    params, structure = mlp.init(SMALL, key_mask=key, key_init=key)
    first, *rest = params.scaffold
    weight = jnp.round(8 * first.weight) / 8
    weight = jnp.where(weight == 0, 0.0, weight)  # no -0.0, which sorts below 0.0
    return Params((first.replace(weight=weight), *rest)), structure


@functools.cache
def built() -> Any:
    """A small network, the larger one and its controls, and the random masks; one compiled program."""

    def build(key: jax.Array) -> Any:
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        small = small_network(keys[0])
        large = bootstrap(LARGE, *small, RULES, key_mask=keys[1], key_init=keys[2])
        other = random_like(LARGE, large[1], key_mask=keys[3], key_init=keys[2])
        shuffled = shuffle_values(*large, key_shuffle=keys[3]), large[1]
        base = draw_topologies(LARGE.sizes, LARGE.density, key_mask=keys[1])
        return small, large, other, shuffled, [topology_mask(t) for t in base]

    return jax.jit(build)


@hypothesis.settings(max_examples=12)
@hypothesis.given(st.integers(0, 2**31 - 1))
def test_against_loops_and_controls_of_equal_size(number: int) -> None:
    small, large, other, shuffled, base = jax.device_get(built()(jax.random.key(number)))
    (old, old_structure), (params, structure) = small, large
    matrix = to_matrix(old.scaffold[0], old_structure.weights[0])
    inherited = by_loops(matrix, LARGE.sizes[1], RULES)
    for layer, topology, values, drawn in zip(
        params.scaffold[:2], structure.weights[:2], inherited, base[:2], strict=True
    ):
        matrix = to_matrix(layer, topology)
        wanted = {(int(r), int(c)) for r, c in np.argwhere(drawn)} | set(values)
        assert {(int(r), int(c)) for r, c in np.argwhere(~np.isnan(matrix))} == wanted
        assert int(topology.num_nonzeros) == len(wanted) <= topology.capacity
        for position, value in values.items():
            np.testing.assert_allclose(matrix[position], value, rtol=1e-5, atol=1e-7)
    assert trees.equal(params.scaffold[2:], old.scaffold[1:]), "the layers above are inherited"
    assert trees.equal(structure.weights[2:], old_structure.weights[1:])

    for values, topologies in ((params, structure), (other[0], other[1])):
        for layer, topology in zip(values.scaffold, topologies.weights, strict=True):
            validate_topology(topology)  # every position once, inside the matrix
            assert not layer.weight[~topology.exists].any(), "padding holds nothing"
    counts = [[int(t.num_nonzeros) for t in s.weights] for _, s in (large, other)]
    assert counts[0] == counts[1]
    # equal shapes throughout, so that all arms are one batch
    shapes = [jax.tree.map(np.shape, arm) for arm in (large, other, shuffled)]
    assert shapes[0] == shapes[1] == shapes[2]
    for before, after in zip(params.scaffold, shuffled[0].scaffold, strict=True):
        assert np.array_equal(np.sort(before.weight), np.sort(after.weight))
        assert np.array_equal(before.bias, after.bias)
    assert not np.array_equal(params.scaffold[0].weight, shuffled[0].scaffold[0].weight)


@pytest.mark.slow
def test_a_seed_alone_is_its_row_of_the_batch(key: jax.Array) -> None:
    keys = jax.random.split(key, 3)
    batch = jax.jit(jax.vmap(built()))(keys)
    for i in range(3):
        assert trees.equal(trees.take(batch, i), built()(keys[i]))


def test_sizes_of_the_original() -> None:
    """[784, 10] -> [784, 32, 10] -> [784, 128, 32, 10] at 0.02: slots, by eval_shape alone."""

    def shapes(key: jax.Array) -> Any:
        keys: Any = {"key_mask": key, "key_init": key}
        small = mlp.init(NetworkSpec((784, 10)), **keys)
        medium = bootstrap(NetworkSpec((784, 32, 10)), *small, **keys)
        return medium[1], bootstrap(NetworkSpec((784, 128, 32, 10)), *medium, **keys)[1]

    medium, fine = jax.eval_shape(shapes, jax.random.key(0))
    assert [t.capacity for t in topologies(medium)] == [501 + 32 * 30, 6 + 32 * 2]
    assert [t.capacity for t in topologies(fine)] == [2007 + 128 * 30, 81 + 128 * 2, 6 + 32 * 2]


def test_wrong_networks(key: jax.Array) -> None:
    keys: Any = {"key_mask": key, "key_init": key}
    small: Any = jax.eval_shape(small_network, key)
    for sizes in ((30, 16, 6, 5), (31, 16, 6, 4), (30, 6, 4), (30, 20, 16, 6, 4)):
        with pytest.raises(ValueError, match="cannot be built from one of 30-6-4"):
            bootstrap(NetworkSpec(sizes, 0.3), *small, **keys)
    masked: Any = jax.eval_shape(to_masked_network, *small)
    with pytest.raises(ValueError, match="sparse representation"):
        bootstrap(LARGE, *masked, **keys)
    with pytest.raises(ValueError, match="sparse representation"):
        shuffle_values(*masked, key_shuffle=key)
    with pytest.raises(ValueError, match="0 or more"):
        BootstrapRules(features=(-1, 3))
