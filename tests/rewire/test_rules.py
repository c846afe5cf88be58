"""What every edit must hold: counts, places, values and moments that follow their weight, zeros elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import masks, network, optim, rewire
from jaxnet.masks import Topology
from jaxnet.network import Structure
from tests import networks, reference
from tests.rewire import nets

CHANGE = {"prune": (-2, -1, -1, 0), "grow": (2, 1, 1, 4)}  # 4: so many slots are free
SEEDS = (0, 1)


def layers(structure: Structure) -> dict[str, Topology]:
    """All topologies by the end of the path of their values."""
    found = {f".scaffold[{n}].weight": t for n, t in enumerate(structure.connectivity)}
    found |= {f".skips[{n}]": t for n, t in enumerate(structure.skips) if t is not None}
    return found  # type: ignore[return-value]


def by_position(tree: Any, structure: Structure) -> dict[str, dict[int, float]]:
    """Values and moments by leaf and position; asserts that padding is zero."""
    found = {}
    for path, leaf in networks.leaves_named(tree):
        for end, topology in layers(structure).items():
            if path.endswith(end):
                exists = np.asarray(topology.exists)
                assert not leaf[~exists].any(), f"{path}: padding is not zero"
                found[path] = dict(zip(nets.flat(topology).tolist(), leaf[exists].tolist(), strict=True))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", nets.RULES)
def test_every_rule_keeps_what_it_must(name, seed):
    params, structure, opt_state = nets.network()
    new_params, new_structure, new_state, info = nets.edited(seed)[name]
    before, after = (params, opt_state), (new_params, new_state)
    assert jax.tree.map(jnp.shape, (before, structure)) == jax.tree.map(jnp.shape, (after, new_structure))
    was, now = by_position(before, structure), by_position(after, new_structure)
    assert len(was) == 3 * 6  # values and two moments, four layers and two banks
    for path, values in now.items():
        for place, value in values.items():
            is_moment = "inner_states" in path
            assert value == was[path].get(place, 0.0 if is_moment else value), (path, place)
    # everything else is untouched
    for (path, a), (_, b) in zip(networks.leaves_named(before), networks.leaves_named(after), strict=True):
        assert path in was or np.array_equal(a, b), path
    change = CHANGE.get(name, (0, 0, 0, 0))
    for end, old in layers(structure).items():
        new = layers(new_structure)[end]
        masks.validate_topology(new)
        if "scaffold" in end:
            assert int(new.num_nonzeros - old.num_nonzeros) == change[int(end[10])]
        elif "skips" not in name:
            assert np.array_equal(nets.flat(old), nets.flat(new))
    if "skips" not in name:
        pairs = list(zip(structure.connectivity, new_structure.connectivity, strict=True))
        grown = [len(set(nets.flat(b)) - set(nets.flat(a))) for a, b in pairs]
        gone = [len(set(nets.flat(a)) - set(nets.flat(b))) for a, b in pairs]
        assert info.grown.tolist() == grown and info.dropped.tolist() == gone and sum(grown + gone) > 0


def test_a_second_call_does_not_compile():
    for seed in SEEDS:
        nets.edited(seed)
    assert nets.compiled()._cache_size() == 1


def test_new_weights_start_at_zero_or_small_as_the_rule_says():
    params, structure, _ = nets.network()
    was = by_position(params, structure)
    for name in ("RigL", "SET", "grow", "clone", "skips"):
        new_params, new_structure, *_ = nets.edited(0)[name]
        fresh = [
            value
            for path, values in by_position(new_params, new_structure).items()
            for place, value in values.items()
            if place not in was[path]
        ]
        assert fresh
        assert all(v == 0 for v in fresh) if name in ("RigL", "SET") else all(0 < abs(v) < 0.5 for v in fresh)


def test_pruning_drops_the_weakest():
    params, structure, _ = nets.network()
    _, after, *_ = nets.edited(0)["prune"]
    for layer, old, new, count in zip(
        params.scaffold, structure.connectivity, after.connectivity, nets.COUNTS, strict=True
    ):
        size = np.abs(np.asarray(layer.weight)[np.asarray(old.exists)])
        weakest = set(nets.flat(old)[np.argsort(size)[:count]])
        assert set(nets.flat(old)) - set(nets.flat(new)) == weakest


@pytest.mark.parametrize("seed", SEEDS)
def test_clones_are_the_strongest_inputs_of_high_extrema_at_low_ones(seed):
    params, structure, _ = nets.network()
    _, after, *_ = nets.edited(seed)["clone"]
    for number, count in enumerate((2, 2, 1)):
        old, new = structure.connectivity[number], after.connectivity[number]
        dense = np.abs(reference.matrix(np.asarray(params.scaffold[number].weight), old))
        columns = {int(np.argmax(dense[h])) for h in (0, 1) if dense[h].any()}
        wanted = {low * old.shape[1] + c for low in (2, 3) for c in columns} - set(nets.flat(old))
        grown = set(nets.flat(new)) - set(nets.flat(old))
        assert len(grown) == count
        assert grown <= wanted if len(wanted) >= count else wanted <= grown
        # the pruned are the weakest of what was there
        size = np.abs(np.asarray(params.scaffold[number].weight)[np.asarray(old.exists)])
        assert set(nets.flat(old)) - set(nets.flat(new)) == set(nets.flat(old)[np.argsort(size)[:count]])


@pytest.mark.parametrize(("name", "limit"), [("skips", 3), ("few skips", 1)])
@pytest.mark.parametrize("seed", SEEDS)
def test_skips_lead_from_high_to_low_within_the_limit(name, limit, seed):
    _, structure, _ = nets.network()
    _, after, _, added = nets.edited(seed)[name]
    total = 0
    for target, sources in ((2, [0]), (3, [0, 1])):
        old, new = structure.skips[target], after.skips[target]
        assert old is not None and new is not None
        units = [(s, u) for s in sources for u in range(nets.SIZES[s + 1])]
        grown = set(nets.flat(new)) - set(nets.flat(old))
        total += len(grown)
        fan_in = structure.connectivity[target].fan_in + old.fan_in  # type: ignore[union-attr]
        for place in grown:
            row, (_, unit) = place // new.shape[1], units[place % new.shape[1]]
            assert unit < 2, "not from a high extremum"
            assert row in (2, 3) if target < 3 else fan_in[row] < limit, "not to a low one"
        assert (np.asarray(new.fan_in) <= np.maximum(limit, np.asarray(old.fan_in))).all()
    assert total == int(added) <= (3 if name == "skips" else 20)
    if name == "skips":
        assert total == 3


def test_a_network_with_skips_equals_numpy():
    params, structure, _ = nets.network()
    split = networks.samples(12, 7, 3)
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)

    def loss(p):
        logits, _ = network.forward(nets.SPEC, p, structure, split.x.T)
        return -jnp.mean(jax.nn.log_softmax(logits, axis=0)[split.y, jnp.arange(12)])

    value, grads = networks.quick(jax.value_and_grad(loss))(params)
    want, want_grads = reference.gradient(
        "tanh", reference.to_numpy(params), reference.to_numpy(structure), x, y
    )
    assert float(value) == pytest.approx(want, rel=1e-5)
    for (path, a), (_, b) in zip(
        networks.leaves_named(grads), networks.leaves_named(want_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)
    assert np.abs(want_grads.skips[3]).max() > 1e-3


def test_empty_banks_change_nothing_and_count_apart():
    params, structure, _ = nets.network()
    bare = params.replace(skips=()), structure.replace(skips=())
    with_banks = rewire.with_skips(*bare, 5)
    split = networks.samples(12, 7, 3)
    outputs = networks.quick(
        lambda: [network.forward(nets.SPEC, *both, split.x.T)[0] for both in (bare, with_banks)]
    )()
    np.testing.assert_array_equal(*outputs)
    assert "skip" not in network.count_nonzeros(*bare)
    counts = {name: int(n) for name, n in network.count_nonzeros(params, structure).items()}
    assert counts["skip"] == 4 and counts["total"] == counts["scaffold"] + counts["bias"] + 4
    assert optim.label_params(params).skips == (None, None, "scaffold", "scaffold")


def test_wrong_calls_are_refused():
    params, structure, opt_state = nets.network()
    with pytest.raises(ValueError, match="already"):
        rewire.with_skips(params, structure, 5)
    bare = structure.replace(skips=())
    with pytest.raises(ValueError, match="with_skips"):
        rewire.route_skips(params, bare, opt_state, nets.extrema(), 1, 1, key_rewire=jax.random.key(0))
    short = bare.replace(connectivity=bare.connectivity[:2])
    with pytest.raises(ValueError, match="two hidden layers"):
        rewire.with_skips(params, short, 5)
