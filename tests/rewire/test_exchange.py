"""SET and RigL: a hand-worked exchange, a NumPy reference, exact counts, moments that follow their weight."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet import losses, masks, network, optim, rewire, train
from jaxnet.rewire import edit
from tests import networks, reference

RULES = {
    "SET": rewire.ExchangeRules("random", 0.3),
    "RigL": rewire.ExchangeRules("gradient", 0.3),
    "decayed": rewire.ExchangeRules("gradient", 0.5, 10, 100),
}


def matrix(values: Any, topology: masks.Topology) -> np.ndarray:
    """The dense matrix, NaN where there is no weight."""
    dense = np.full(topology.shape, np.nan)
    for r, c, v in zip(*(np.asarray(a) for a in (topology.rows, topology.cols, values)), strict=True):
        if r < topology.shape[0]:
            dense[r, c] = v
    return dense


def layer_of(dense: np.ndarray, padding: int = 0) -> tuple[jax.Array, masks.Topology]:
    """The layer of a matrix with NaN where there is no weight, with padding slots."""
    topology = masks.topology_from_mask(~np.isnan(dense))
    flat = jnp.pad(edit.positions(topology), (0, padding), constant_values=dense.size)
    values = jnp.asarray(np.pad(dense[~np.isnan(dense)], (0, padding)), jnp.float32)
    return values, masks.topology_from_flat(flat, flat < dense.size, topology.shape)


def test_an_exchange_worked_by_hand():
    n = np.nan
    values, topology = layer_of(np.array([[5.0, n, -1.0, n], [n, 2.0, n, n], [-3.0, n, n, 0.5]]), padding=2)
    score = jnp.asarray([[9.0, 1, 0, 2], [0, 9, 7, 0], [9, 0, 3, 8]])
    # two of five: 0.5 and -1 are the weakest; of what is free 8 (just dropped: it stays) and 7 are largest
    new = networks.quick(rewire.exchange)(topology, values, score, 0.4)
    got = matrix(rewire.carry(values, topology, new), new)
    np.testing.assert_array_equal(got, [[5, n, n, n], [n, 2, 0, n], [-3, n, n, 0.5]])
    assert new.capacity == topology.capacity
    masks.validate_topology(new)


@functools.cache
def trained(padding: int) -> tuple[Any, Any, Any, Any]:
    """A small network after a few steps: its moments are not zero where it has weights."""
    spec, params, structure = networks.small("dense", "tanh", padding=padding)
    split = networks.samples()
    optimizer = optim.dual_rate_adam(0.01, 0.02)

    def step(carry, _):
        values, state = carry

        def loss(p):
            logits, _ = network.forward(spec, p, structure, split.x.T)
            return losses.cross_entropy(logits, split.y, jnp.ones(split.size))

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(values), state, values)
            return (optax.apply_updates(values, updates), state), None

    carry, _ = networks.quick(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, 3))(params)
    return train.Task(spec), *carry, structure


@functools.cache
def compiled(name: str) -> Any:
    task = train.Task(networks.small("dense", "tanh")[0])
    split = networks.samples()

    def run(params, structure, opt_state, step, key):
        return rewire.rewire_network(
            task, RULES[name], params, structure, opt_state, step, split.x.T, split.y, key_rewire=key
        )

    return networks.quick(run)


def by_position(tree: Any, structure: Any) -> dict[str, dict[int, float]]:
    """Values and moments of the scaffold by leaf and position."""
    found = {}
    for name, leaf in networks.leaves_named(tree):
        match = edit._PER_WEIGHT.search(name)
        if match and match[1]:
            places = np.asarray(edit.positions(structure.connectivity[int(match[1])]))
            size = np.prod(structure.connectivity[int(match[1])].shape)
            assert not leaf[places == size].any(), f"{name}: padding is not zero"
            found[name] = {int(p): v for p, v in zip(places, leaf, strict=True) if p < size}
    return found


def check_edit(before: Any, after: Any, old: Any, new: Any, *, constant: bool = True) -> int:
    """What holds after every edit; returns how many weights are new."""
    fresh = 0
    was, now = by_position(before, old), by_position(after, new)
    assert len(was) == 9  # values and two moments of three layers
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
    for name, values in now.items():
        for place, value in values.items():
            assert value == was[name].get(place, 0 if "scaffold'" in name else value), (name, place)
            fresh += place not in was[name] and ".mu" in name
    for a, b in zip(old.connectivity, new.connectivity, strict=True):
        masks.validate_topology(b)
        assert not constant or int(a.num_nonzeros) == int(b.num_nonzeros)
    return fresh


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_counts_and_moves_values_and_moments_with_their_weight(name, key):
    _, params, opt_state, structure = trained(3)
    run = compiled(name)
    for number in range(2):
        keys = jax.random.fold_in(key, number)
        new_params, new_structure, new_state, info = run(params, structure, opt_state, number * 30, keys)
        fresh = check_edit((params, opt_state), (new_params, new_state), structure, new_structure)
        assert fresh == int(info.grown.sum()) == int(info.dropped.sum()) > 0
    assert run._cache_size() == 1, "the second call compiled anew"


@functools.cache
def exchanged() -> Any:
    return networks.quick(rewire.exchange)


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
    assert set(np.asarray(edit.positions(new))[: int(new.num_nonzeros)]) == kept | set(rest)


def test_dense_gradients_equal_those_of_a_dense_network_in_numpy():
    task, params, _, structure = trained(3)
    split = networks.samples()
    got = networks.quick(lambda p, s: rewire.dense_gradients(task, p, s, split.x.T, split.y))(
        params, structure
    )
    free = network.release_masks(network.to_masked_network(params, structure)[1])
    wide = reference.to_numpy(network.to_masked_network(params, structure)[0])
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)
    _, want = reference.gradient("tanh", wide, reference.to_numpy(free), x, y)
    for g, layer in zip(got, want.scaffold, strict=True):
        np.testing.assert_allclose(g, layer.weight, rtol=1e-5, atol=1e-6)


def test_networks_under_vmap_are_edited_as_each_alone(key):
    _, params, opt_state, structure = trained(3)
    keys = jax.random.split(key, 3)
    scale = jnp.asarray([1.0, 0.5, 2.0])

    def run(scale, key):
        scaled = jax.tree.map(lambda a: a * scale, params)
        return compiled("SET").__wrapped__(scaled, structure, opt_state, 30, key)

    many = networks.quick(jax.vmap(run))(scale, keys)
    alone = networks.quick(run)(scale[1], keys[1])
    for (name, a), (_, b) in zip(networks.leaves_named(many), networks.leaves_named(alone), strict=True):
        np.testing.assert_array_equal(a[1], b, err_msg=name)


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


def test_weights_are_grown_into_free_slots_only(key):
    _, params, opt_state, structure = trained(0)
    padded = networks.quick(lambda tree, plan: rewire.with_room(tree, plan, (4, 0, 2)))
    (wider, more), roomy = padded((params, opt_state), structure)
    check = by_position((wider, more), roomy)
    assert check == by_position((params, opt_state), structure)
    for layer, room in enumerate((4, 0, 2)):
        before = roomy.connectivity[layer]
        grown = networks.quick(lambda t, k: rewire.grow_random(t, 3, 5, key_rewire=k))(before, key)
        masks.validate_topology(grown)
        assert int(grown.num_nonzeros - before.num_nonzeros) == min(3, room)
        assert set(np.asarray(edit.positions(before))) <= set(np.asarray(edit.positions(grown))) | {
            before.shape[0] * before.shape[1]
        }


def test_masked_networks_are_refused():
    task, params, opt_state, structure = trained(3)
    params, structure = network.to_masked_network(params, structure)
    with pytest.raises(TypeError, match="sparse representation"):
        rewire.rewire_network(
            task, RULES["SET"], params, structure, opt_state, 1, None, None, key_rewire=jax.random.key(0)
        )
