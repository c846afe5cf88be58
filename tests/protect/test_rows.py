"""Row projection: zero on old inputs under any optimiser, bases by hand, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet
from jaxnet import methods, protect
from jaxnet.errors import InputError
from jaxnet.topology import Mask, Topology, topology_from_mask, topology_mask
from jaxnet.train import Net

PATH = "['weight']"
OPTIMISERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
}


def layer(mask: np.ndarray, key: jax.Array, sparse: bool):
    """Parameters and entry of one layer."""
    entry = topology_from_mask(mask) if sparse else Mask(jnp.asarray(mask))
    shape = (entry.capacity,) if isinstance(entry, Topology) else mask.shape
    weight = jax.random.normal(key, shape)
    weight = weight if sparse else jnp.where(mask, weight, 0)
    return {"weight": weight, "bias": jnp.zeros(mask.shape[0])}, {"weight": entry, "bias": None}


def dense(params, structure):
    """The weight as a matrix."""
    return jaxnet.structure.to_dense(params, structure)["weight"]


@pytest.mark.parametrize("kind", ["topology", "mask", "dense"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_updates_are_zero_on_old_inputs_with_carried_moments(name, kind, key, standard_promotion):
    rng = np.random.default_rng(0)
    mask = np.ones((7, 40), bool) if kind == "dense" else rng.random((7, 40)) < 0.5
    params, structure = layer(mask, key, kind == "topology")
    old = jnp.asarray(rng.normal(size=(40, 9)), jnp.float32)
    entry = None if kind == "dense" else structure["weight"]
    basis = protect.row_basis(entry, old, 1.0, out=7)
    assert basis.rank.tolist() == [9] * len(basis.rank)
    empty = protect.no_rows(entry, mask.shape, room=basis.vectors.shape[2])
    optimizer = optax.chain(OPTIMISERS[name], protect.project_rows({PATH: empty}))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, g):
        grads = jaxnet.structure.clear({"weight": g, "bias": g.ravel()[:7]}, structure)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, updates

    for i in range(5):  # moments full of what is now forbidden
        params, state, _ = step(
            params, state, jax.random.normal(jax.random.fold_in(key, i), params["weight"].shape)
        )
    state = protect.with_bases(state, {PATH: basis})
    total = jax.tree.map(jnp.zeros_like, params)
    for i in range(20):
        g = jax.random.normal(jax.random.fold_in(key, 100 + i), params["weight"].shape)
        params, state, updates = step(params, state, g)
        total = jax.tree.map(jnp.add, total, updates)
    moved, added = np.asarray(dense(total, structure), np.float64), np.asarray(total["bias"], np.float64)
    change = moved @ np.asarray(old, np.float64) + added[:, None]
    size = np.sqrt(np.sum(moved**2) + np.sum(added**2)) * np.linalg.norm(np.asarray(old, np.float64))
    assert size > 1 and np.linalg.norm(change) <= 1e-5 * size
    if kind != "dense":
        assert np.all(np.asarray(dense(params, structure))[~mask] == 0)


def test_a_row_without_a_free_direction_does_not_move(key, standard_promotion):
    mask = np.array([[True, True, False], [True, True, True]])
    params, structure = layer(mask, key, True)
    old = jnp.asarray([[1.0, 0, 1], [0, 1.0, 1], [0, 0, 1]])  # with the constant these span row 0, not row 1
    basis = protect.row_basis(structure["weight"], old)
    assert basis.rank.tolist() == [3, 3] and basis.free.tolist() == [0, 1]
    project = protect.project_rows({PATH: basis})
    updates, _ = project.update({"weight": jnp.arange(5.0), "bias": jnp.full(2, 5.0)}, project.init(params))
    assert updates["weight"][:2].tolist() == [0, 0] and float(updates["bias"][0]) == 0
    assert float(jnp.abs(updates["weight"][2:]).sum()) > 0.1


@pytest.mark.slow
@given(st.integers(0, 10_000), st.floats(0.3, 0.99))
@settings(max_examples=5)
def test_energy_is_kept_with_as_few_directions_as_possible(seed, energy):
    rng = np.random.default_rng(seed)
    mask = rng.random((3, 8)) < 0.7
    x = jnp.asarray(rng.normal(size=(8, 30)) * rng.exponential(size=(8, 1)), jnp.float32)
    basis = protect.row_basis(topology_from_mask(mask), x, energy)
    for r in range(3):
        here = np.concatenate([np.asarray(x)[mask[r]], np.ones((1, 30))])
        values = np.linalg.svd(here, compute_uv=False) ** 2
        share = np.cumsum(values) / values.sum()
        assert int(basis.rank[r]) == int(np.sum(share < energy)) + 1


def test_merged_bases_span_both_and_nothing_else(key):
    a, b = jax.random.normal(key, (2, 10, 3))
    b = b.at[:, 0].set(a[:, 0])  # shared
    one, two = (protect.row_basis(None, x, out=4, bias=False) for x in (a, b))
    both = protect.merge(one, two)
    wanted = np.linalg.matrix_rank(np.concatenate([a, b], 1))
    v = np.asarray(both.vectors[0])[:, : int(both.rank[0])]
    assert v.shape[1] == wanted == 5
    np.testing.assert_allclose(v.T @ v, np.eye(5), atol=1e-5)
    for x in (a, b):
        x = np.pad(np.asarray(x), ((0, 1), (0, 0)))
        np.testing.assert_allclose(v @ (v.T @ x), x, atol=1e-4)


def test_what_is_inside_has_low_rank(key):
    x = jax.random.normal(key, (20, 50))
    basis = protect.row_basis(None, x, out=6, bias=False, at_most=2)
    project = protect.project_rows({PATH: basis}, inside=True)
    params = {"weight": jnp.zeros((6, 20)), "bias": jnp.zeros(6)}
    grads = {"weight": jax.random.normal(key, (6, 20)), "bias": jnp.zeros(6)}
    updates, _ = project.update(grads, project.init(params))
    assert np.linalg.matrix_rank(np.asarray(updates["weight"]), tol=1e-4) == 2


def test_flax_kernels_have_inputs_first(key):
    x = jax.random.normal(key, (5, 3))
    basis = protect.row_basis(None, x, out=2)
    project = protect.project_rows({"['Dense_0']['kernel']": basis}, inputs_first=True)
    params = {"Dense_0": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones(2)}}
    updates, _ = project.update(params, project.init(params))
    change = x.T @ updates["Dense_0"]["kernel"] + updates["Dense_0"]["bias"]
    assert float(jnp.abs(change).max()) < 1e-5 and float(jnp.abs(updates["Dense_0"]["kernel"]).max()) > 0.1


def test_what_is_refused(key):
    first, second = (topology_from_mask(np.eye(3, 4, k, dtype=bool)) for k in (0, 1))
    x = jnp.ones((4, 2))
    for energy in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="energy must be above 0"):
            protect.row_basis(first, x, energy)
    basis = protect.row_basis(first, x)
    with pytest.raises(InputError, match="another topology"):
        protect.project_rows({PATH: basis}, {"weight": second})
    with pytest.raises(InputError, match="different topologies"):
        protect.merge(basis, protect.row_basis(second, x))
    with pytest.raises(InputError, match="4 inputs"):
        protect.row_basis(first, jnp.ones((5, 2)))
    with pytest.raises(InputError, match="no weight at"):
        protect.project_rows({"['other']": basis}).init({"weight": jnp.zeros(3)})
    # an optimiser with it cannot follow a method, and says so
    params = {"weight": jnp.zeros(3), "bias": jnp.zeros(3)}
    optimizer = optax.chain(optax.sgd(0.1), protect.project_rows({PATH: basis}))
    net = Net.of(params, {"weight": first, "bias": None}, optimizer)
    with pytest.raises(ValueError, match=r"project_rows \(RowsState\)"):
        methods.make("rigl").init(net, lambda: None, key=key)
    assert topology_mask(first).sum() == 3
