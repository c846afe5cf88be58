"""What every edit must hold: counts, places, values and moments that follow their weight, zeros elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import changes
from jaxnet import topology as topologies
from jaxnet.nn import mlp
from jaxnet.nn.params import to_masked_network
from jaxnet.topology import Topology
from jaxnet.train import Net
from tests import networks, reference
from tests.changes import nets

CHANGE = {"prune": (-2, -1, -1, 0), "grow": (2, 1, 1, 4)}  # 4: so many slots are free
SEEDS = (0, 1)


def layers(structure: Any) -> dict[str, Topology]:
    """All topologies by the path of their values."""
    found = {f".scaffold[{n}].weight": t for n, t in enumerate(structure.weights)}
    found |= {f".skips[{n}]": t for n, t in enumerate(structure.skips) if t is not None}
    return found


def kept(net: Net) -> Any:
    """All that a net has for every weight: values, moments, an anchor."""
    return net.params, net.opt_state, net.carried


def by_position(tree: Any, structure: Any) -> dict[str, dict[int, float]]:
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
    net = nets.network()
    new_net, info = nets.edited(seed)[name]
    assert jax.tree.map(jnp.shape, net) == jax.tree.map(jnp.shape, new_net)
    structure, new_structure = net.structure, new_net.structure
    was, now = by_position(kept(net), structure), by_position(kept(new_net), new_structure)
    assert len(was) == 4 * 6  # values, two moments and an anchor, four layers and two banks
    for path, values in now.items():
        for place, value in values.items():
            is_value = path.startswith("[0]")
            assert value == was[path].get(place, value if is_value else 0.0), (path, place)
    # everything else is untouched
    for (path, a), (_, b) in zip(
        networks.leaves_named(kept(net)), networks.leaves_named(kept(new_net)), strict=True
    ):
        assert path in was or np.array_equal(a, b), path
    change = CHANGE.get(name, (0, 0, 0, 0))
    grown, dropped = {}, {}
    for end, old in layers(structure).items():
        new = layers(new_structure)[end]
        topologies.validate_topology(new)
        if "scaffold" in end:
            assert int(new.num_nonzeros - old.num_nonzeros) == change[int(end[10])]
        elif "skips" not in name:
            assert np.array_equal(nets.flat(old), nets.flat(new))
        grown[end] = len(set(nets.flat(new)) - set(nets.flat(old)))
        dropped[end] = len(set(nets.flat(old)) - set(nets.flat(new)))
    if "skips" not in name:
        assert sum(grown.values()) + sum(dropped.values()) > 0
        assert {f".scaffold[{n}].weight" for n in range(3)} <= info.grown.keys() == info.dropped.keys()
        for end in layers(structure):
            assert info.grown.get(end, 0) == grown[end] and info.dropped.get(end, 0) == dropped[end], end


def test_a_diverged_network_keeps_its_counts():
    net = nets.network()
    lost = net.replace(params=jax.tree.map(lambda a: a * jnp.nan, net.params))
    for name, (new, _) in nets.compiled()(lost, jax.random.key(0)).items():
        change = CHANGE.get(name, (0, 0, 0, 0))
        for before, after, more in zip(net.structure.weights, new.structure.weights, change, strict=True):
            topologies.validate_topology(after)
            assert int(after.num_nonzeros - before.num_nonzeros) == more


def test_a_second_call_does_not_compile():
    for seed in SEEDS:
        nets.edited(seed)
    assert nets.compiled()._cache_size() == 1


def test_new_weights_start_at_zero_or_small_as_the_rule_says():
    net = nets.network()
    was = by_position(net.params, net.structure)
    for name in ("RigL", "SET", "grow", "clone", "skips"):
        new, _ = nets.edited(0)[name]
        fresh = [
            value
            for path, values in by_position(new.params, new.structure).items()
            for place, value in values.items()
            if place not in was[path]
        ]
        assert fresh
        assert all(v == 0 for v in fresh) if name in ("RigL", "SET") else all(0 < abs(v) < 0.5 for v in fresh)


def test_pruning_drops_the_weakest():
    net = nets.network()
    after, _ = nets.edited(0)["prune"]
    for layer, old, new, count in zip(
        net.params.scaffold, net.structure.weights, after.structure.weights, nets.COUNTS, strict=True
    ):
        size = np.abs(np.asarray(layer.weight)[np.asarray(old.exists)])
        weakest = set(nets.flat(old)[np.argsort(size)[:count]])
        assert set(nets.flat(old)) - set(nets.flat(new)) == weakest


@pytest.mark.parametrize("seed", SEEDS)
def test_clones_are_the_strongest_inputs_of_high_extrema_at_low_ones(seed):
    net = nets.network()
    after, _ = nets.edited(seed)["clone"]
    for number, count in enumerate((2, 2, 1)):
        old, new = net.structure.weights[number], after.structure.weights[number]
        dense = np.abs(reference.matrix(np.asarray(net.params.scaffold[number].weight), old))
        columns = {int(np.argmax(dense[h])) for h in (0, 1) if dense[h].any()}
        wanted = {low * old.shape[1] + c for low in (2, 3) for c in columns} - set(nets.flat(old))
        grown = set(nets.flat(new)) - set(nets.flat(old))
        assert len(grown) == count
        assert grown <= wanted if len(wanted) >= count else wanted <= grown
        # the pruned are the weakest of what was there
        size = np.abs(np.asarray(net.params.scaffold[number].weight)[np.asarray(old.exists)])
        assert set(nets.flat(old)) - set(nets.flat(new)) == set(nets.flat(old)[np.argsort(size)[:count]])


def test_both_representations_are_edited_alike():
    """In a masked network the same weights go and come as in a sparse one, with equal values and moments."""
    net = nets.network()
    bare = net.params.replace(skips=()), net.structure.replace(skips=())
    counts = nets.by_layer((3, 2, 1, 1))  # fewer than there are free slots

    def run(key: Any) -> Any:
        found = []
        for pair in (bare, to_masked_network(*bare)):
            anchor = jax.tree.map(lambda a: 3 * a, pair[0])
            start = Net.of(pair[0], pair[1], nets.OPTIMIZER, {"anchor": anchor})
            with jax.numpy_dtype_promotion("standard"):  # moments that are not zero
                start = start.replace(opt_state=nets.OPTIMIZER.update(pair[0], start.opt_state, pair[0])[1])
            grown = changes.grow_random(start, counts, counts, scale=0.0, key=key)[0]
            exchanged = [nets.RULES[name](start, key)[0] for name in ("SET", "RigL")]
            found.append([changes.prune_smallest(start, counts)[0], grown, *exchanged])
        return found

    for sparse, masked in zip(*networks.quick(run)(jax.random.key(3)), strict=True):
        assert any(
            not np.array_equal(nets.flat(a), nets.flat(b))
            for a, b in zip(bare[1].weights, sparse.structure.weights, strict=True)
        )
        there = networks.leaves_named(kept(masked))
        for (path, values), (_, dense) in zip(networks.leaves_named(kept(sparse)), there, strict=True):
            for end, topology in layers(sparse.structure).items():
                if path.endswith(end):
                    values = reference.matrix(values, topology)
            assert np.array_equal(values, dense), path
        for topology, mask in zip(sparse.structure.weights, masked.structure.weights, strict=True):
            assert np.array_equal(nets.flat(topology), np.flatnonzero(mask.mask))


def test_room_is_made_without_changing_anything():
    net = nets.network()
    room = {".scaffold[1].weight": 3, ".skips[3]": 2}
    more, info = networks.quick(lambda n: changes.with_room(n, room))(net)
    assert by_position(kept(more), more.structure) == by_position(kept(net), net.structure)
    assert all(int(n) == 0 for n in (*info.grown.values(), *info.dropped.values()))
    for end, topology in layers(net.structure).items():
        assert layers(more.structure)[end].capacity == topology.capacity + room.get(end, 0)
        topologies.validate_topology(layers(more.structure)[end])
    masked = Net.of({"w": jnp.ones((2, 2))}, {"w": topologies.Mask(jnp.ones((2, 2), bool))}, nets.OPTIMIZER)
    with pytest.raises(ValueError, match="is no topology: a mask has room everywhere"):
        changes.with_room(masked, {"['w']": 1})


def test_masked_networks_are_refused_where_slots_are_looked_at():
    net = nets.network()
    pair = to_masked_network(net.params.replace(skips=()), net.structure.replace(skips=()))
    masked, key = Net.of(*pair, nets.OPTIMIZER), jax.random.key(0)
    for change in (
        lambda: changes.clone_and_prune(masked, nets.extrema(), (1, 1, 1, 1), key=key),
        lambda: changes.with_skips(masked, 4),
    ):
        with pytest.raises(TypeError, match="sparse representation"):
            change()


def test_nets_of_unequal_numbers_of_weights_are_given_equal_room(key):
    specs = [mlp.NetworkSpec((6, 8, 3), 0.5, allocation=name) for name in ("uniform", "erdos-renyi")]

    def make(key):
        unequal = [Net.of(*mlp.init(s, key_mask=key, key_init=key), nets.OPTIMIZER) for s in specs]
        return unequal, changes.with_equal_room(*unequal)

    unequal, padded = networks.quick(make)(key)
    first, second = (jax.tree.map(jnp.shape, net) for net in padded)
    assert first == second != jax.tree.map(jnp.shape, unequal[0])
    for net, old in zip(padded, unequal, strict=True):
        assert by_position(kept(net), net.structure) == by_position(kept(old), old.structure)
