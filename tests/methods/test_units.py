"""Rewiring led by extrema, sparse momentum's shares and revival: by hand and against plain NumPy."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import methods
from jaxnet.methods.extrema import position_scores
from jaxnet.methods.sparse_momentum import mean_magnitude, shared_out
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Mask, topology_from_mask
from jaxnet.train import BatchView, Net, Task
from jaxnet.units import Extrema
from tests import networks

KEY = jax.random.key(0)


def extrema(high: list[float], low: list[float]) -> Extrema:
    up, down = jnp.asarray(high), jnp.asarray(low)
    return Extrema(up > 0, down > 0, up, down, jnp.abs(up), jnp.zeros(up.shape, bool))


def test_position_scores_by_hand():
    """The rank of a target among low scores times the rank of a source among high ones."""
    targets = extrema([0, 0, 0], [-1, 2, -np.inf])
    sources = extrema([3, 1], [0, 0])
    got = position_scores((3, 2), targets, sources)
    np.testing.assert_allclose(got, np.outer([2 / 3, 1, 1 / 3], [1, 1 / 2]), rtol=1e-6)
    # inputs and outputs of the network are no extrema
    np.testing.assert_allclose(position_scores((3, 4), targets, None), np.outer([2 / 3, 1, 1 / 3], [1] * 4))
    np.testing.assert_allclose(position_scores((3, 2), None, sources), np.outer([1] * 3, [1, 1 / 2]))
    # units that tie share the larger rank
    tied = extrema([0, 0], [5, 5])
    np.testing.assert_array_equal(position_scores((2, 1), tied, None), [[1], [1]])


SIZES = (4, 5, 4, 3)


@functools.cache
def network() -> tuple[Net, list[np.ndarray]]:
    """Three layers with their masks."""
    rng = np.random.default_rng(2)
    masks = [rng.random((o, i)) < 0.5 for i, o in zip(SIZES[:-1], SIZES[1:], strict=True)]
    masks[0][3] = False  # the fourth unit of the first layer has no inputs
    layers = [
        LayerParams(jnp.asarray(rng.normal(size=m.sum()), jnp.float32), jnp.full(m.shape[0], 0.1))
        for m in masks
    ]
    structure = Structure.of([topology_from_mask(m) for m in masks])
    return Net.of(Params(tuple(layers)), structure, optax.adam(0.1)), masks


def view(net: Net) -> BatchView:
    x = np.random.default_rng(4).normal(size=(6, SIZES[0])).astype(np.float32)
    task = Task(MLP(NetworkSpec(SIZES, 0.5)))
    return BatchView(task, net, jnp.asarray(x), jnp.zeros(6, jnp.int32), jnp.ones(6))


def dense(net: Net, layer: int) -> np.ndarray:
    entry, values = net.structure.weights[layer], np.asarray(net.params.scaffold[layer].weight)
    matrix, there = np.full(entry.shape, np.nan), np.asarray(entry.exists)
    matrix[np.asarray(entry.rows)[there], np.asarray(entry.cols)[there]] = values[there]
    return matrix


def activations(net: Net) -> list[np.ndarray]:
    """Mean activation of every hidden unit after its activation, in NumPy."""
    x, means = np.asarray(view(net).x).T, []
    for layer in range(len(SIZES) - 2):
        x = np.maximum(np.nan_to_num(dense(net, layer)) @ x + 0.1, 0)
        means.append(x.mean(1))
    return means


@pytest.mark.parametrize("gradient", [pytest.param("none", marks=pytest.mark.slow), "product", "rank"])
def test_extrema_grow_what_numpy_grows(gradient):
    """Deterministic: the weakest go, the positions of the largest score come."""
    net, _ = network()
    method = methods.make("extrema", fraction=0.5, delta=1.0, gradient=gradient)
    after = networks.quick(lambda net: method.update(net, (), view(net), jnp.int32(100), key=KEY)[0])(net)
    slopes = [np.abs(np.asarray(layer.weight)) for layer in view(net)().scaffold]
    ranks = [
        [np.mean(m <= each) for each in m] for m in activations(net)
    ]  # of high scores; low is the reverse
    lows = [[np.mean(-m <= -each) for each in m] for m in activations(net)]
    for layer, slope in enumerate(slopes):
        before, got = dense(net, layer), dense(after, layer)
        there = np.flatnonzero(~np.isnan(before))
        number = there.size // 2
        kept = there[np.argsort(np.abs(before.ravel()[there]), kind="stable")][number:]
        free = np.setdiff1d(np.arange(before.size), kept)
        targets = lows[layer] if layer < 2 else np.ones(SIZES[layer + 1])
        sources = ranks[layer - 1] if layer else np.ones(SIZES[layer])
        score: Any = np.outer(targets, sources).astype(np.float32).ravel()[free]
        steep = slope.ravel()[free]
        if gradient == "product":
            score = score * steep
        elif gradient == "rank":
            pairs = zip(score, steep, strict=True)
            score = np.array([(np.mean(score <= a) + np.mean(steep <= b)) / 2 for a, b in pairs], np.float32)
        chosen = ~np.isnan(got.ravel())
        assert chosen[kept].all() and chosen.sum() == there.size
        grown = np.setdiff1d(np.flatnonzero(chosen), kept)
        # as sets of scores: which of equal ones come is the code's own order
        np.testing.assert_allclose(
            np.sort(score[np.isin(free, grown)]), np.sort(score)[free.size - number :], rtol=1e-5
        )


def test_methods_that_look_at_units_say_so():
    net, _ = network()
    for name in ("extrema", "revive"):
        with pytest.raises(ValueError, match="give act a dense_gradient with a method stats"):
            _, state = methods.make(name).init(net, view(net), key=KEY)
            methods.make(name).update(net, state, lambda: None, jnp.int32(100), key=KEY)
        loose = Net.of({"w": jnp.zeros(4)}, {"w": topology_from_mask(np.ones((2, 2), bool))}, optax.sgd(0.1))
        with pytest.raises(ValueError, match="serves the scaffold of a multi-layer perceptron"):
            methods.make(name).init(loose, view(net), key=KEY)


def test_shares_by_hand():
    def shared(total: int, share: list[float], room: list[int]) -> list[int]:
        return np.asarray(
            shared_out(jnp.int32(total), jnp.asarray(share, jnp.float32), jnp.asarray(room, jnp.int32))
        ).tolist()

    assert shared(10, [3, 1, 1], [99, 99, 99]) == [6, 2, 2]
    assert shared(10, [3, 1, 1], [2, 99, 99]) == [2, 4, 4], "what does not fit goes to the others"
    assert shared(5, [1, 1], [99, 99]) == [3, 2], "the rest to the first of equals"
    assert shared(5, [0, 0], [2, 9]) == [2, 3], "without any share, in order"
    assert shared(7, [1, 0], [3, 9]) == [3, 4]
    assert shared(4, [1, 2], [1, 1]) == [1, 1], "no more than there is room for"


def test_sparse_momentum_by_hand():
    """Two masks: the smoothed gradient of two steps says where, and how much of what went is for whom."""
    params = {"a": jnp.asarray([4.0, 1.0, 3.0, 2.0, 0, 0, 0, 0]), "b": jnp.asarray([1.0, 2.0, 0, 0, 0, 0])}
    structure = {name: Mask(w != 0) for name, w in params.items()}
    net = Net.of(params, structure, optax.sgd(0.1))
    method = methods.make("sparse-momentum", fraction=0.5, every=4, gather=2, beta=0.5)
    assert [s for s in range(9) if method.due(jnp.asarray(s))] == [3, 4, 7, 8]
    _, state = method.init(net, lambda: params, key=KEY)
    first = {"a": jnp.asarray([1.0, 1, 1, 1, 8, 0, 0, 0]), "b": jnp.asarray([2.0, 2, 0, 0, 0, 4])}
    second = {"a": jnp.asarray([1.0, 1, 1, 1, 0, 0, 0, -1]), "b": jnp.asarray([5.0, 5, 3, 0, 0, 0])}
    same, state, _ = method.update(net, state, lambda: first, jnp.int32(3), key=KEY)
    assert np.array_equal(same.params["a"], params["a"])
    # m is first / 4 + second / 2: [0.75 x 4, 2, 0, 0, -0.5] and [3, 3, 1.5, 0, 0, 1]
    after, state, _ = method.update(net, state, lambda: second, jnp.int32(4), key=KEY)
    np.testing.assert_allclose(state["['b']"], [3, 3, 1.5, 0, 0, 1])
    assert float(mean_magnitude(state["['a']"], structure["a"])) == 0.75
    # 2 of a and 1 of b go (1, 2; 1); shares 0.75 : 3 of these 3, floors 0 and 2, one left for b:
    # its largest are 3 (just dropped: stays), 1.5 and 1
    assert np.array_equal(after.structure["a"].mask, [1, 0, 1, 0, 0, 0, 0, 0])
    assert np.array_equal(after.params["b"], [1, 2, 0, 0, 0, 0])
    assert np.array_equal(after.structure["b"].mask, [1, 1, 1, 0, 0, 1])


@functools.cache
def revived(**options: Any) -> Any:
    method = methods.make("revive", every=10, **options)

    def run(net: Net, key: Any) -> Any:
        _, state = method.init(net, view(net), key=key)
        return method.update(net, state, view(net), jnp.int32(10), key=key)[0]

    return networks.quick(run)


def test_a_unit_without_inputs_is_redrawn_and_all_else_stays():
    """The fourth unit of the first layer: two weights into it, two new ones out of it, the smallest go."""
    net, masks = network()
    after = revived(silent=False, incoming=2, outgoing=2)(net, KEY)
    for layer, mask in enumerate(masks):
        before, got = dense(net, layer), dense(after, layer)
        new = ~np.isnan(got) & np.isnan(before)
        assert (~np.isnan(got)).sum() == mask.sum()
        gone = ~np.isnan(before) & np.isnan(got)
        stays = ~np.isnan(before) & ~np.isnan(got)
        assert np.array_equal(got[stays], before[stays])
        if layer == 0:
            assert new[3].sum() == 2 and new.sum() == 2 and (got[new] != 0).all()
            weakest = np.sort(np.abs(before[~np.isnan(before)]))[:2]
            np.testing.assert_array_equal(np.sort(np.abs(before[gone])), weakest)
        elif layer == 1:
            free = np.isnan(before[:, 3]).sum()
            assert new[:, 3].sum() == min(2, free) == new.sum()
            others = np.delete(before, 3, axis=1)
            weakest = np.sort(np.abs(others[~np.isnan(others)]))[: new.sum()]
            np.testing.assert_array_equal(np.sort(np.abs(before[gone])), weakest)
        else:
            assert not new.any()
    bias = [np.asarray(layer.bias) for layer in after.params.scaffold]
    assert bias[0][3] == 0 and (np.delete(bias[0], 3) == np.float32(0.1)).all()
    assert all((b == np.float32(0.1)).all() for b in bias[1:])


def test_a_silent_unit_is_redrawn_where_its_weights_stand():
    """Its bias holds it down: no sample makes it active."""
    net, masks = network()
    layers = list(net.params.scaffold)
    layers[1] = layers[1].replace(bias=layers[1].bias.at[2].set(-50.0))
    net = net.replace(params=Params(tuple(layers)))
    after = revived(threshold=0.0, incoming=1, outgoing=1)(net, KEY)
    before, got = dense(net, 1)[2], dense(after, 1)[2]
    assert (~np.isnan(got)).sum() == max(1, masks[1][2].sum())
    assert not np.intersect1d(before[~np.isnan(before)], got[~np.isnan(got)]).size
    assert float(after.params.scaffold[1].bias[2]) == 0


def test_revival_acts_beside_another_method():
    base = methods.make("magnitude", schedule="constant", begin=3, density=0.2)
    both = methods.make("revive", every=10, gather=2, until=20, base=base)
    assert [step for step in range(30) if both.due(jnp.asarray(step))] == [3, 9, 10, 19]
    assert both.budget(2, [(50, 100)]) == 50 and both.budget(3, [(50, 100)]) == 20
    plain = methods.make("revive", every=10, silent=False)
    assert [step for step in range(30) if plain.due(jnp.asarray(step))] == [10, 20]
