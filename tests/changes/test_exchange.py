"""Exchange of weights: by hand, by its definition, beside positions that are taken; dense gradients."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxnet import changes
from jaxnet import topology as topologies
from jaxnet.changes.weights import Move
from jaxnet.topology import Mask, Topology
from jaxnet.train import dense_gradient
from tests import networks, reference
from tests.changes import nets


def matrix(values: Any, topology: Topology) -> np.ndarray:
    """The dense matrix, NaN where there is no weight."""
    dense = np.full(topology.shape, np.nan)
    for r, c, v in zip(*(np.asarray(a) for a in (topology.rows, topology.cols, values)), strict=True):
        if r < topology.shape[0]:
            dense[r, c] = v
    return dense


def layer_of(dense: np.ndarray, padding: int = 0) -> tuple[jax.Array, Topology]:
    """The layer of a matrix with NaN where there is no weight, with padding slots."""
    flat = np.flatnonzero(~np.isnan(dense))
    topology = nets.host_topology(flat, (dense.shape[0], dense.shape[1]), flat.size + padding)
    return jnp.asarray(np.pad(dense.ravel()[flat], (0, padding)), jnp.float32), topology


def masked(dense: np.ndarray, shape: tuple[int, ...]) -> tuple[jax.Array, Mask]:
    """The same as an array of any shape with a mask."""
    there = ~np.isnan(dense).reshape(shape)
    return jnp.asarray(np.where(there, dense.reshape(shape), 0), jnp.float32), Mask(jnp.asarray(there))


@functools.cache
def exchanged() -> Any:
    """Compiled for 4x5 layers of 22 slots, and for masks over 2x2x5x1 kernels."""

    def run(entry, values, score, fraction, taken):
        new = changes.exchange(entry, values, score, fraction, taken=taken)
        return new, Move(entry, new).carry(values)

    return networks.quick(run)


NOWHERE = np.zeros((4, 5), bool)
KERNEL = (2, 2, 5, 1)


def test_an_exchange_worked_by_hand():
    n = np.nan
    dense = np.array([[5, n, -1, n, n], [n, 2, n, n, n], [-3, n, n, 0.5, n], [n] * 5])
    values, topology = layer_of(dense, padding=17)
    score = np.asarray([[9, 1, 0, 2, n], [0, 9, 7, 0, 0], [9, 0, 3, 8, 0], [0] * 5], np.float32)
    # two of five: 0.5 and -1 are the weakest; of what is free 8 (just dropped: it stays) and 7 are largest
    want = np.array([[5, n, n, n, n], [n, 2, 0, n, n], [-3, n, n, 0.5, n], [n] * 5])
    fraction = jnp.float32(0.4)
    new, carried = exchanged()(topology, values, score, fraction, NOWHERE)
    np.testing.assert_array_equal(matrix(carried, new), want)
    assert new.capacity == topology.capacity
    topologies.validate_topology(new)
    kernel, mask = masked(dense, KERNEL)
    new, carried = exchanged()(mask, kernel, score.reshape(KERNEL), fraction, NOWHERE.reshape(KERNEL))
    np.testing.assert_array_equal(np.where(new.mask, carried, n), want.reshape(KERNEL))
    # where 7 is taken, 3 is next; where nothing is free but what was dropped, everything stays
    there = NOWHERE.copy()
    there[1, 2] = True
    new, _ = exchanged()(topology, values, score, fraction, there)
    assert set(nets.flat(new)) == {0, 6, 10, 12, 13}
    new, _ = exchanged()(topology, values, score, fraction, np.isnan(dense))
    assert np.array_equal(nets.flat(new), nets.flat(topology))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 999))
def test_an_exchange_never_changes_the_number_of_weights(share, fraction, held, seed):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(4, 5))
    dense[rng.random(dense.shape) > share] = np.nan
    values, topology = layer_of(dense, padding=22 - int(np.sum(~np.isnan(dense))))
    score = np.abs(rng.normal(size=dense.shape)).round(1).astype(np.float32)  # with ties
    taken = np.isnan(dense) & (rng.random(dense.shape) < held)
    new, _ = exchanged()(topology, values, score, jnp.float32(fraction), taken)
    topologies.validate_topology(new)
    # by the definition: the strongest stay, the rest are the best of what is left and not taken
    number = int(np.floor(np.float32(fraction) * np.float32(int(topology.num_nonzeros)) + np.float32(1e-4)))
    order = np.argsort(np.abs(dense[~np.isnan(dense)]), kind="stable")
    kept = set(np.flatnonzero(~np.isnan(dense.ravel()))[order[number:]])
    free = [p for p in np.argsort(-score.ravel(), kind="stable") if p not in kept and not taken.flat[p]]
    assert set(nets.flat(new)) == kept | set(free[:number])
    assert int(new.num_nonzeros) == int(topology.num_nonzeros) and not taken.ravel()[nets.flat(new)].any()
    kernel, mask = masked(dense, KERNEL)
    alike, _ = exchanged()(mask, kernel, score.reshape(KERNEL), jnp.float32(fraction), taken.reshape(KERNEL))
    assert np.array_equal(np.flatnonzero(alike.mask), nets.flat(new))


def test_dense_gradients_equal_those_of_a_dense_network_in_numpy():
    """At every position of every layer and of every bank of skip connections."""
    net = nets.network()
    split = networks.samples(12, 7, 3)
    got = networks.quick(lambda n: dense_gradient(nets.TASK, n, split.x, split.y, jnp.ones(12)))(net)
    wide, plan = reference.to_numpy(net.params), reference.to_numpy(net.structure)
    dense = tuple(
        layer.replace(weight=reference.matrix(layer.weight, c))
        for layer, c in zip(wide.scaffold, plan.weights, strict=True)
    )
    skips = tuple(
        None if t is None else reference.matrix(values, t)
        for values, t in zip(wide.skips, plan.skips, strict=True)
    )
    free = plan.with_weights([Mask(jnp.ones(c.shape, bool)) for c in plan.weights])
    free = free.replace(skips=tuple(None if t is None else Mask(jnp.ones(t.shape, bool)) for t in plan.skips))
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)
    _, want = reference.gradient("tanh", wide.replace(scaffold=dense, skips=skips), free, x, y)
    for (path, a), (_, b) in zip(networks.leaves_named(got), networks.leaves_named(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)
    assert sum(path.endswith("weight") or "skips" in path for path, _ in networks.leaves_named(got)) == 6
