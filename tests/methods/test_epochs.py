"""Methods inside whole epochs: when it is due, where nothing is due, beside dense patches."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import methods, trees
from jaxnet import topology as topologies
from jaxnet.nn.mlp import MLP
from jaxnet.structure import count
from jaxnet.train import Net, Task, init_state, make_epoch
from tests import networks
from tests.changes import nets
from tests.methods import tiny


@functools.cache
def epochs() -> Any:
    """An epoch of 4 steps for two seeds: RigL every 3 steps, none due, and without a method."""
    net = nets.network()
    split = networks.samples(11, 7, 3)  # the last batch is not full
    task = Task(MLP(nets.SPEC), batch_size=3)
    plain = make_epoch(task)

    def all_of_them(scale: Any) -> Any:
        scaled = net.replace(params=jax.tree.map(lambda a: a * scale, net.params))
        found: dict[str, Any] = {}
        for name, until in (("RigL", 100), ("none due", 1)):
            method = methods.make("rigl", fraction=0.3, every=3, until=until)
            epoch = make_epoch(task, method, gradient_norms=True)
            state = init_state(scaled, method, key=jax.random.key(1))
            found[name] = epoch(state, split, jax.random.key(0), jnp.asarray(1))
        found["plain"] = plain(init_state(scaled), split, jax.random.key(0), jnp.asarray(1))
        return found

    both = networks.quick(jax.vmap(all_of_them))(jnp.asarray([1.0, 0.5]))
    return [trees.take(both, i) for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_inside_an_epoch_weights_are_exchanged_when_it_is_due(seed):
    before = nets.network().structure
    found = epochs()[seed]
    state, info = found["RigL"]
    structure = state.net.structure
    for old, new in zip(before.weights, structure.weights, strict=True):
        topologies.validate_topology(new)
        assert int(old.num_nonzeros) == int(new.num_nonzeros)
    assert any(
        set(nets.flat(a)) != set(nets.flat(b)) for a, b in zip(before.weights, structure.weights, strict=True)
    )
    for path, leaf in networks.leaves_named((state.net.params, state.net.opt_state)):
        for number, topology in enumerate(structure.weights):
            if path.endswith(f".scaffold[{number}].weight"):
                assert not leaf[~np.asarray(topology.exists)].any(), f"{path}: padding is not zero"
    assert info.gradient_norms.shape == (4,) and (np.asarray(info.gradient_norms) > 0).all()
    # the best so far is that of before the epoch, structure included
    assert trees.equal(state.best[1], before)
    # where none is due, nothing differs from an epoch that knows of no method
    state, info = found["none due"]
    plain, want = found["plain"]
    assert trees.equal(state.net, plain.net) and trees.equal(state.net.structure, before)
    assert trees.equal(info.loss, want.loss)


@pytest.mark.parametrize("name", ["rigl", pytest.param("set", marks=pytest.mark.slow)])
def test_beside_dense_patches_no_position_is_taken_twice(name):
    """A method keeps away from patches, which are dense to it: trained, counted apart, not moved."""
    method, (task, split, _) = methods.make(name, fraction=0.5, every=1), tiny.KINDS[topologies.Topology]
    before = tiny.at(tiny.stack(topologies.Topology), 0)
    epoch = make_epoch(task, method)

    def run(net: Net, key: Any) -> Any:
        return epoch(init_state(net, method, key=key), split, key, jnp.asarray(0))[0].net

    after = networks.quick(run)(before, jax.random.key(1))
    for t, (old, new) in enumerate(zip(before.structure.weights, after.structure.weights, strict=True)):
        topologies.validate_topology(new)
        assert int(new.num_nonzeros) == int(old.num_nonzeros)
        assert set(nets.flat(old)) != set(nets.flat(new))
        patches = after.structure.bank.layers[t]
        if patches is not None:
            held = set(nets.flat(patches.topology))
            assert held and not held & set(nets.flat(new)), f"layer {t}: taken by scaffold and patch"
    assert trees.equal(after.structure.bank, before.structure.bank)
    assert not trees.equal(after.params.patches, before.params.patches)
    counts = count(after.params, after.structure)
    assert int(counts["weights"]) == sum(int(t.num_nonzeros) for t in before.structure.weights)
