"""Skip connections: from high extrema to low ones within the limit, the forward pass, empty banks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import changes, optim
from jaxnet.nn import mlp
from jaxnet.nn.params import count_nonzeros
from jaxnet.train import Net
from tests import networks, reference
from tests.changes import nets

SEEDS = (0, 1)


def without_banks() -> Net:
    net = nets.network()
    params, structure = net.params.replace(skips=()), net.structure.replace(skips=())
    return Net.of(params, structure, nets.OPTIMIZER)


@pytest.mark.parametrize(("name", "limit"), [("skips", 3), ("few skips", 1)])
@pytest.mark.parametrize("seed", SEEDS)
def test_skips_lead_from_high_to_low_within_the_limit(name, limit, seed):
    structure = nets.network().structure
    net, added = nets.edited(seed)[name]
    total = 0
    for target, sources in ((2, [0]), (3, [0, 1])):
        old, new = structure.skips[target], net.structure.skips[target]
        assert old is not None and new is not None
        units = [(s, u) for s in sources for u in range(nets.SIZES[s + 1])]
        grown = set(nets.flat(new)) - set(nets.flat(old))
        total += len(grown)
        fan_in = structure.weights[target].fan_in + old.fan_in
        for place in grown:
            row, (_, unit) = place // new.shape[1], units[place % new.shape[1]]
            assert unit < 2, "not from a high extremum"
            assert row in (2, 3) if target < 3 else fan_in[row] < limit, "not to a low one"
        assert (np.asarray(new.fan_in) <= np.maximum(limit, np.asarray(old.fan_in))).all()
    assert total == int(added) <= (3 if name == "skips" else 20)
    if name == "skips":
        assert total == 3


def test_a_network_with_skips_equals_numpy():
    net = nets.network()
    split = networks.samples(12, 7, 3)
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)

    def loss(p):
        logits, _ = mlp.forward(nets.SPEC, p, net.structure, split.x.T)
        return -jnp.mean(jax.nn.log_softmax(logits, axis=0)[split.y, jnp.arange(12)])

    value, grads = networks.quick(jax.value_and_grad(loss))(net.params)
    want, want_grads = reference.gradient(
        "tanh", reference.to_numpy(net.params), reference.to_numpy(net.structure), x, y
    )
    assert float(value) == pytest.approx(want, rel=1e-5)
    for (path, a), (_, b) in zip(
        networks.leaves_named(grads), networks.leaves_named(want_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)
    assert np.abs(want_grads.skips[3]).max() > 1e-3


def test_empty_banks_change_nothing_and_count_apart():
    bare = without_banks()
    split = networks.samples(12, 7, 3)

    def run(net):
        with jax.numpy_dtype_promotion("standard"):  # moments that are not zero
            net = net.replace(opt_state=nets.OPTIMIZER.update(net.params, net.opt_state, net.params)[1])
        with_banks, info = changes.with_skips(net, 5)
        assert info is None
        logits = [mlp.forward(nets.SPEC, n.params, n.structure, split.x.T)[0] for n in (net, with_banks)]
        return net.opt_state, with_banks, logits

    before, with_banks, outputs = networks.quick(run)(bare)
    np.testing.assert_array_equal(*outputs)
    assert [None if t is None else t.capacity for t in with_banks.structure.skips] == [None, None, 5, 5]
    # moments and the count of steps go on; those of the empty banks are zero
    was, now = networks.leaves_named(before), dict(networks.leaves_named(with_banks.opt_state))
    assert sum(bool(value.any()) for _, value in was) > 16
    assert all(np.array_equal(now.pop(path), value) for path, value in was)
    assert len(now) == 4 and not any(value.any() for value in now.values())
    assert "skip" not in count_nonzeros(bare.params, bare.structure)
    net = nets.network()
    counts = {name: int(n) for name, n in count_nonzeros(net.params, net.structure).items()}
    assert counts["skip"] == 4 and counts["total"] == counts["scaffold"] + counts["bias"] + 4
    labels: Any = optim.label_params(net.params)
    assert labels.skips == (None, None, "scaffold", "scaffold")


def test_wrong_calls_are_refused():
    net = nets.network()
    with pytest.raises(ValueError, match="already"):
        changes.with_skips(net, 5)
    bare = without_banks()
    with pytest.raises(ValueError, match="with_skips"):
        changes.route_skips(bare, nets.extrema(), 1, 1, key=jax.random.key(0))
    short = bare.replace(structure=bare.structure.replace(scaffold=bare.structure.scaffold[:2]))
    with pytest.raises(ValueError, match="two hidden layers"):
        changes.with_skips(short, 5)
