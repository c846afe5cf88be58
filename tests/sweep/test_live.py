"""Training only the live part of a network: the same network as training all of it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.allocation import allocate
from jaxnet.nn.mlp import NetworkSpec, apply, init
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.sweep import Program, live_shapes, make_family, make_variant, put_back, take_live
from jaxnet.sweep.live import LiveShapes
from jaxnet.topology import Topology, topology_from_mask, topology_mask, validate_topology
from tests import networks
from tests.sweep import small

WIDE = (small.FEATURES, 200, 60, small.CLASSES)


def by_hand() -> tuple[Params, Structure]:
    """3 inputs, 4 hidden units of which the outputs read units 1 and 3, 2 outputs."""
    first = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 0]], bool)
    second = np.array([[0, 1, 0, 0], [0, 1, 0, 1]], bool)
    layers, topologies = [], []
    for mask in (first, second):
        topology = topology_from_mask(mask)
        weight = 1.0 + jnp.arange(topology.capacity, dtype=jnp.float32)
        layers.append(LayerParams(weight, 10.0 * (1.0 + jnp.arange(mask.shape[0], dtype=jnp.float32))))
        topologies.append(topology)
    return Params(tuple(layers)), Structure.of(topologies)


def test_live_part_worked_by_hand():
    params, structure = by_hand()
    part = take_live(params, structure, LiveShapes((3, 3, 2), (4, 3)))
    assert part.fits
    first, second = part.structure.weights
    assert isinstance(first, Topology) and isinstance(second, Topology)
    # units 1 (inputs 1, 2) and 3 (input 0) become units 0 and 1; unit 2 and slot 3 are padding
    assert first.rows.tolist() == [0, 0, 1, 3] and first.cols.tolist() == [1, 2, 0, 0]
    assert first.row_ptr.tolist() == [0, 2, 3, 3]
    assert second.rows.tolist() == [0, 1, 1] and second.cols.tolist() == [0, 0, 1]
    assert part.params.scaffold[0].weight.tolist() == [3, 4, 8, 0]
    assert part.params.scaffold[0].bias.tolist() == [20, 40, 0]
    assert part.params.scaffold[1].weight.tolist() == [1, 2, 3]
    trained = jax.tree.map(lambda leaf: -leaf, part.params)
    back = put_back(params, part, trained)
    assert back.scaffold[0].weight.tolist() == [1, 2, -3, -4, 5, 6, 7, -8]
    assert back.scaffold[0].bias.tolist() == [10, -20, 30, -40]
    assert back.scaffold[1].weight.tolist() == [-1, -2, -3]


@pytest.mark.parametrize("shapes", [LiveShapes((3, 1, 2), (4, 3)), LiveShapes((3, 2, 2), (2, 3))])
def test_too_little_room_is_noticed_and_stays_in_bounds(shapes):
    part = take_live(*by_hand(), shapes)
    assert not part.fits
    for topology in part.structure.weights:
        assert isinstance(topology, Topology)
        assert int(topology.row_ptr[-1]) <= topology.capacity
        assert np.all(np.diff(topology.row_ptr) >= 0)
        assert np.all((np.asarray(topology.cols) >= 0) & (np.asarray(topology.cols) < topology.shape[1]))


@pytest.mark.parametrize("density", [0.05, 0.3])
def test_live_part_computes_the_same(key, density):
    spec = NetworkSpec(WIDE, density)
    shapes = LiveShapes(WIDE, allocate(WIDE, density))
    x = jax.random.normal(jax.random.key(2), (7, WIDE[0]))

    @jax.jit
    @jax.vmap
    def both(key):
        params, structure = init(spec, key_mask=key, key_init=key)
        part = take_live(params, structure, shapes)
        pairs = (params, structure), (part.params, part.structure)
        logits: Any = apply
        return part, [logits(spec, *pair, x)[0] for pair in pairs]

    part, (whole, live) = both(jax.random.split(key, 8))
    for topology in part.structure.weights:
        assert isinstance(topology, Topology)
        validate_topology(topology)
    np.testing.assert_allclose(whole, live, rtol=1e-5, atol=1e-6)


def test_shapes_have_room_for_every_seed():
    spec, shapes = NetworkSpec(WIDE, 0.05), make_family([WIDE], [0.05], "uniform").live
    assert shapes is not None and shapes.capacities[1] < 0.5 * int(0.05 * 200 * 60)

    @jax.jit
    @jax.vmap
    def draw(key):
        params, structure = init(spec, key_mask=key, key_init=key)
        masks = [topology_mask(t) for t in structure.weights if isinstance(t, Topology)]
        return masks, take_live(params, structure, shapes).fits

    masks, fits = draw(jax.random.split(jax.random.key(0), 100))
    assert bool(jnp.all(fits))
    live: Any = np.ones((100, WIDE[-1]), bool)
    for layer in (2, 1, 0):
        kept = np.asarray(masks[layer]) & live[:, :, None]
        assert np.all(kept.sum((1, 2)) <= shapes.capacities[layer])
        assert np.all(live.sum(1) <= shapes.sizes[layer + 1])
        live = kept.any(axis=1)


def test_a_dense_output_leaves_nothing_out():
    assert live_shapes([((8, 6, 3), (1.0, 1.0))], (8, 6, 3), (48, 18)) is None


@functools.cache
def run(family, kernel: str):
    config = dataclasses.replace(small.config(kernel), epochs=2)
    number = 5
    with networks.as_users_compile():
        program = Program(family, config, number, small.splits(), key_data=jax.random.key(small.KEY_DATA))
    members = small.stack([make_variant(WIDE, 0.05)] * number)
    return program(small.keys(number), members)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", small.PRODUCTS)
def test_trained_network_equals_that_of_training_everything(kernel):
    family = make_family([WIDE], [0.05], "uniform")
    live, whole = run(family, kernel), run(dataclasses.replace(family, live=None), kernel)
    assert bool(jnp.all(live.fits))
    for a, b in zip(jax.tree.leaves(live), jax.tree.leaves(whole), strict=True):
        if kernel == "csr":  # every sum has the same terms in the same order
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_seed_without_room_is_trained_as_a_whole():
    family = make_family([WIDE], [0.05], "uniform")
    assert family.live is not None
    # room for the median seed only
    tight = dataclasses.replace(
        family, live=dataclasses.replace(family.live, capacities=(family.live.capacities[0], 110, 12))
    )
    kernel = list(small.PRODUCTS)[-1]
    whole = run(dataclasses.replace(family, live=None), kernel)
    found = run(tight, kernel)
    assert bool(jnp.all(found.fits))
    np.testing.assert_allclose(found.row.loss, whole.row.loss, rtol=1e-3)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
