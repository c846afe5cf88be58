"""SET and RigL: an exchange worked by hand, a NumPy reference, exact counts, inside an epoch."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet import masks, optim, rewire, train, trees
from tests import networks, reference
from tests.rewire import nets


def matrix(values: Any, topology: masks.Topology) -> np.ndarray:
    """The dense matrix, NaN where there is no weight."""
    dense = np.full(topology.shape, np.nan)
    for r, c, v in zip(*(np.asarray(a) for a in (topology.rows, topology.cols, values)), strict=True):
        if r < topology.shape[0]:
            dense[r, c] = v
    return dense


def layer_of(dense: np.ndarray, padding: int = 0) -> tuple[jax.Array, masks.Topology]:
    """The layer of a matrix with NaN where there is no weight, with padding slots."""
    flat = np.flatnonzero(~np.isnan(dense))
    topology = nets.host_topology(flat, (dense.shape[0], dense.shape[1]), flat.size + padding)
    return jnp.asarray(np.pad(dense.ravel()[flat], (0, padding)), jnp.float32), topology


@functools.cache
def exchanged() -> Any:
    """Compiled for 4x5 layers of 22 slots."""
    return networks.quick(rewire.exchange)


def test_an_exchange_worked_by_hand():
    n = np.nan
    dense = np.array([[5, n, -1, n, n], [n, 2, n, n, n], [-3, n, n, 0.5, n], [n] * 5])
    values, topology = layer_of(dense, padding=17)
    score = jnp.asarray([[9, 1, 0, 2, n], [0, 9, 7, 0, 0], [9, 0, 3, 8, 0], [0] * 5], jnp.float32)
    # two of five: 0.5 and -1 are the weakest; of what is free 8 (just dropped: it stays) and 7 are largest
    new = exchanged()(topology, values, score, jnp.float32(0.4))
    got = matrix(rewire.carry(values, topology, new), new)
    np.testing.assert_array_equal(got, [[5, n, n, n, n], [n, 2, 0, n, n], [-3, n, n, 0.5, n], [n] * 5])
    assert new.capacity == topology.capacity
    masks.validate_topology(new)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 999))
def test_an_exchange_never_changes_the_number_of_weights(share, fraction, seed):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(4, 5))
    dense[rng.random(dense.shape) > share] = np.nan
    values, topology = layer_of(dense, padding=22 - int(np.sum(~np.isnan(dense))))
    score = np.abs(rng.normal(size=dense.shape)).round(1)  # with ties
    new = exchanged()(topology, values, jnp.asarray(score, jnp.float32), jnp.float32(fraction))
    masks.validate_topology(new)
    assert int(new.num_nonzeros) == int(topology.num_nonzeros)
    # by the definition: the strongest stay, the rest are the best of what is left
    number = int(np.floor(np.float32(fraction) * np.float32(int(topology.num_nonzeros)) + np.float32(1e-4)))
    order = np.argsort(np.abs(dense[~np.isnan(dense)]), kind="stable")
    kept = set(np.flatnonzero(~np.isnan(dense.ravel()))[order[number:]])
    rest = [p for p in np.argsort(-score.ravel(), kind="stable") if p not in kept][:number]
    assert set(nets.flat(new)) == kept | set(rest)


def test_dense_gradients_equal_those_of_a_dense_network_in_numpy():
    params, structure, _ = nets.network()
    split = networks.samples(12, 7, 3)
    got = networks.quick(lambda p, s: rewire.dense_gradients(nets.TASK, p, s, split.x.T, split.y))(
        params, structure
    )
    wide, plan = reference.to_numpy(params), reference.to_numpy(structure)
    dense = tuple(
        layer.replace(weight=reference.matrix(layer.weight, c))
        for layer, c in zip(wide.scaffold, plan.connectivity, strict=True)
    )
    free = tuple(masks.DenseMask(jnp.ones(c.shape, bool)) for c in plan.connectivity)
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)
    _, want = reference.gradient("tanh", wide.replace(scaffold=dense), plan.replace(connectivity=free), x, y)
    for g, layer in zip(got, want.scaffold, strict=True):
        np.testing.assert_allclose(g, layer.weight, rtol=1e-4, atol=1e-6)


@functools.cache
def epochs() -> Any:
    """An epoch of 4 steps for two seeds: RigL every 3 steps, none due, and without rewiring."""
    params, structure, opt_state = nets.network()
    split = networks.samples(11, 7, 3)  # the last batch is not full
    task = train.Task(nets.SPEC, batch_size=3)
    optimizer = optim.dual_rate_adam(0.01, 0.01)
    plain = train.make_epoch(task, optimizer)

    def all_of_them(scale: Any) -> Any:
        state = train.init_state(jax.tree.map(lambda a: a * scale, params), opt_state)
        found: dict[str, Any] = {}
        for name, until in (("RigL", 100), ("none due", 1)):
            rules = rewire.ExchangeRules("gradient", 0.3, 3, until)
            epoch = train.make_edited_epoch(
                task, optimizer, rewire.Exchange(task, rules, jax.random.key(1)), gradient_norms=True
            )
            found[name] = epoch(state, structure, split, jax.random.key(0), jnp.asarray(1))
        found["plain"] = plain(state, structure, split, jax.random.key(0), jnp.asarray(1))
        return found

    both = networks.quick(jax.vmap(all_of_them))(jnp.asarray([1.0, 0.5]))
    return [trees.take(both, i) for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_inside_an_epoch_weights_are_exchanged_when_it_is_due(seed):
    _, before, _ = nets.network()
    found = epochs()[seed]
    state, structure, info = found["RigL"]
    for old, new in zip(before.connectivity, structure.connectivity, strict=True):
        masks.validate_topology(new)
        assert int(old.num_nonzeros) == int(new.num_nonzeros)
    assert any(
        set(nets.flat(a)) != set(nets.flat(b))
        for a, b in zip(before.connectivity, structure.connectivity, strict=True)
    )
    for path, leaf in networks.leaves_named((state.params, state.opt_state)):
        for number, topology in enumerate(structure.connectivity):
            if path.endswith(f".scaffold[{number}].weight"):
                assert not leaf[~np.asarray(topology.exists)].any(), f"{path}: padding is not zero"
    assert info.gradient_norms.shape == (4,) and (np.asarray(info.gradient_norms) > 0).all()
    # where none is due, nothing differs from an epoch that knows of no edits
    state, structure, info = found["none due"]
    assert trees.equal(state, found["plain"][0])
    assert trees.equal(structure.connectivity, before.connectivity)
    assert trees.equal(info.loss, found["plain"][1].loss)


def test_the_schedule():
    rules = rewire.ExchangeRules("random", 0.4, 10, 100)
    assert [bool(rules.is_due(jnp.asarray(s))) for s in (0, 10, 15, 90, 100)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    np.testing.assert_allclose(
        [float(rules.fraction_at(jnp.asarray(s))) for s in (0, 50, 100)], [0.4, 0.2, 0], atol=1e-7
    )
    assert float(rewire.ExchangeRules("random", 0.4).fraction_at(jnp.asarray(9999))) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "wrong", [{"growth": "best"}, {"fraction": 1.5}, {"fraction": float("nan")}, {"every": 0}, {"until": 0}]
)
def test_wrong_rules_are_refused(wrong):
    with pytest.raises(ValueError):
        rewire.ExchangeRules(**wrong)


def test_masked_networks_are_refused():
    params, structure, opt_state = nets.network()
    masked = structure.replace(connectivity=(masks.DenseMask(jnp.ones((6, 7), bool)),))
    with pytest.raises(TypeError, match="sparse representation"):
        rewire.prune_smallest(params, masked, opt_state, (1,))
