"""Epochs against NumPy, evaluation, early stopping per network, one compilation, a program for CUDA."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import extrema, network, optim, train, trees
from jaxnet.network import NetworkSpec
from tests import networks, reference

RATES = (0.01, 0.05)
OPTIMIZER = optim.dual_rate_adam(*RATES)
SPLIT = networks.samples(14)  # 14 samples in batches of 4: the last one has 2


def task(spec: NetworkSpec, batch_size: int = 4, eval_batch_size: int = 5) -> train.Task:
    return train.Task(spec, batch_size, eval_batch_size)


def start(params: network.Params) -> train.TrainState:
    return train.init_state(params, OPTIMIZER.init(params))


def order_of(key: jax.Array, number: int, size: int = 14, batch: int = 4) -> tuple[Any, Any]:
    """The batches of one epoch as documented: a function of the data key and the epoch's number."""
    key_order, _ = jax.random.split(jax.random.fold_in(key, number))
    index, weight = train.epoch_batches(size, batch, key_order)
    return np.asarray(index), np.asarray(weight)


# --- batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(14, 4), (12, 4), (3, 5), (1, 1)])
def test_an_epoch_visits_every_sample_once(size, batch, key):
    for k in (key, None):
        index, weight = train.epoch_batches(size, batch, k)
        assert index.shape == weight.shape == (-(-size // batch), batch)
        visited = np.asarray(index)[np.asarray(weight) == 1]
        assert np.array_equal(np.sort(visited), np.arange(size))
        assert np.sum(np.asarray(weight)) == size
        # all padding stands in the last batch
        assert np.all(np.asarray(weight)[:-1] == 1)
    assert np.array_equal(visited, np.arange(size))  # in order without a key


def test_the_order_changes_with_the_epoch_and_the_key_only(key):
    first, again, later = order_of(key, 0), order_of(key, 0), order_of(key, 1)
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], later[0])
    assert not np.array_equal(first[0], order_of(jax.random.fold_in(key, 9), 0)[0])


# --- training -----------------------------------------------------------------------------------------


@functools.cache
def epoch_of(name: str, kind: str | None) -> Any:
    spec, _, _ = networks.small(kind, name)
    return networks.quick(train.make_epoch(task(spec), OPTIMIZER))


@pytest.mark.parametrize(("name", "kind"), [("tanh", None), ("tanh", "mlp"), ("gelu", "dense")])
def test_two_epochs_equal_numpy(name, kind, key):
    _, params, structure = networks.small(kind, name)
    state = start(params)
    plan, values = reference.to_numpy(structure), reference.to_numpy(params)
    adam = reference.Adam(values, *RATES)
    x, y = np.asarray(SPLIT.x, np.float64).T, np.asarray(SPLIT.y)
    for number in range(2):
        state, info = epoch_of(name, kind)(state, structure, SPLIT, key, jnp.int32(number))
        total, hits = 0.0, 0
        for rows, weight in zip(*order_of(key, number), strict=True):
            rows = rows[weight == 1]
            logits, *_ = reference.forward(name, values, plan, x[:, rows])
            hits += int(np.sum(logits.argmax(0) == y[rows]))
            loss, grads = reference.gradient(name, values, plan, x[:, rows], y[rows])
            total += loss * len(rows)
            values = adam.step(values, grads)
        assert float(info.loss) == pytest.approx(total / 14, rel=1e-4)
        assert float(info.accuracy) == pytest.approx(hits / 14)
        assert int(state.epoch) == number + 1
    for (path, a), (_, b) in zip(
        networks.leaves_named(state.params), networks.leaves_named(values), strict=True
    ):
        # Adam turns the rounding of a tiny gradient into a step: the tolerance is a twentieth of one step
        np.testing.assert_allclose(a, b, atol=5e-4, err_msg=path)


def test_pixels_are_normalised_on_the_device(key):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (14, 10), dtype=np.uint8)
    mean, std = jnp.float32(0.3), jnp.float32(0.2)
    raw = train.Split(jnp.asarray(pixels), SPLIT.y, mean, std)
    x, y = raw.batch(jnp.asarray([3, 0]))
    np.testing.assert_allclose(x.T, (pixels[[3, 0]] / 255.0 - 0.3) / 0.2, rtol=1e-5, atol=1e-6)
    assert np.array_equal(y, np.asarray(SPLIT.y)[[3, 0]])
    assert raw.size == 14


def test_jitted_and_not_jitted_are_the_same(key):
    _, params, structure = networks.small(None, "tanh")
    spec = NetworkSpec(networks.SIZES, 0.4, "tanh")
    compiled = epoch_of("tanh", None)(start(params), structure, SPLIT, key, jnp.int32(0))
    plain = train.make_epoch(task(spec), OPTIMIZER)(start(params), structure, SPLIT, key, jnp.int32(0))
    assert trees.allclose(compiled[0].params, plain[0].params, rtol=1e-4, atol=1e-5)
    assert float(compiled[1].loss) == pytest.approx(float(plain[1].loss), rel=1e-5)


@functools.cache
def population(common: bool) -> Any:
    """Three networks trained for an epoch together."""
    spec = NetworkSpec(networks.SIZES, 0.4)
    one = train.make_epoch(task(spec), OPTIMIZER)
    return networks.quick(jax.vmap(one, in_axes=(0, 0, None, None if common else 0, None)))


@functools.cache
def three() -> tuple[train.TrainState, network.Structure]:
    spec = NetworkSpec(networks.SIZES, 0.4)

    def make(k):
        params, structure = network.init(spec, key_mask=k, key_init=jax.random.fold_in(k, 1))
        return start(params), structure

    return networks.quick(jax.vmap(make))(jax.random.split(jax.random.key(1), 3))


def test_many_networks_equal_one_by_one_on_common_and_own_data(key):
    state, structure = three()
    spec = NetworkSpec(networks.SIZES, 0.4)
    alone = networks.quick(train.make_epoch(task(spec), OPTIMIZER))
    keys = jax.random.split(key, 3)
    for common in (True, False):
        got, info = population(common)(state, structure, SPLIT, key if common else keys, jnp.int32(4))
        for i in range(3):
            mine = trees.take((state, structure), i)
            want, one = alone(*mine, SPLIT, key if common else keys[i], jnp.int32(4))
            assert trees.allclose(trees.take(got, i), want, rtol=1e-4, atol=1e-5)
            assert float(info.loss[i]) == pytest.approx(float(one.loss), rel=1e-5)


def test_the_second_call_does_not_compile_again(key):
    spec, params, structure = networks.small("mlp")
    one, traced = train.make_epoch(task(spec), OPTIMIZER), []

    @networks.quick
    def epoch(*args):
        traced.append(args)  # runs when it is traced, once for every compilation
        return one(*args)

    state, _ = epoch(start(params), structure, SPLIT, key, jnp.int32(0))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start(params))
    epoch(state, structure, SPLIT, jax.random.fold_in(key, 1), jnp.int32(1))
    assert len(traced) == 1


@pytest.mark.parametrize("kind", [None, "mlp", "dense"])
def test_an_epoch_can_be_lowered_for_cuda_without_a_gpu(kind, key):
    spec, params, structure = networks.small(kind)
    state = jax.tree.map(lambda a: jnp.stack([a, a]), start(params))
    structure = jax.tree.map(lambda a: jnp.stack([a, a]), structure)
    epoch = jax.vmap(train.make_epoch(task(spec), OPTIMIZER), in_axes=(0, 0, None, None, None))
    # keys as raw bits: an exported program takes no typed key
    program = jax.export.export(
        jax.jit(lambda s, t, d, k, n: epoch(s, t, d, jax.random.wrap_key_data(k), n)), platforms=["cuda"]
    )(state, structure, SPLIT, jax.random.key_data(key), jnp.int32(0))
    assert program.platforms == ("cuda",)
    assert "dot_general" in program.mlir_module()


# --- early stopping -----------------------------------------------------------------------------------


note = jax.jit(train.track_best, static_argnums=2)


def test_patience_and_ties_by_hand():
    _, params, _ = networks.small(None)
    state, seen = start(params), []
    # best at 2; the tie at 4 is no new best: with patience 3 it stops after epoch 5
    for epoch, accuracy in enumerate([0.5, 0.6, 0.4, 0.6, 0.6, 0.9], start=1):
        values = jax.tree.map(lambda a, e=epoch: jnp.full_like(a, e), params)
        if not state.stopped:
            state = state.replace(params=values, epoch=jnp.int32(epoch))
        state = note(state, jnp.float32(accuracy), 3)
        seen.append((int(state.best_epoch), round(float(state.best_accuracy), 6), bool(state.stopped)))
    assert seen == [(1, 0.5, False), *[(2, 0.6, False)] * 3, (2, 0.6, True), (2, 0.6, True)]
    assert all(np.all(leaf == 2) for _, leaf in networks.leaves_named(state.best_params))
    assert int(state.epoch) == 5


def test_without_patience_nothing_stops():
    _, params, _ = networks.small(None)
    state = start(params)
    for epoch in range(1, 30):
        state = note(state.replace(epoch=jnp.int32(epoch)), jnp.float32(0.1), None)
    assert not bool(state.stopped) and int(state.best_epoch) == 1


def test_an_accuracy_that_is_not_a_number_is_never_the_best():
    _, params, _ = networks.small(None)
    state = note(start(params).replace(epoch=jnp.int32(1)), jnp.float32(jnp.nan), None)
    assert int(state.best_epoch) == 0 and float(state.best_accuracy) == -1.0


def test_one_network_stops_and_the_others_go_on(key):
    state, structure = three()
    several = jax.jit(jax.vmap(functools.partial(train.track_best, patience=2)))
    curves = jnp.asarray([[0.5, 0.4, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.2, 0.2]])
    history = []
    for number in range(4):
        state, _ = population(True)(state, structure, SPLIT, key, jnp.int32(number))
        state = several(state, curves[:, number])
        history.append(state)
    assert [s.stopped.tolist() for s in history] == [
        [False] * 3,
        [False] * 3,
        [True, False, False],
        [True, False, False],
    ]
    assert trees.equal(trees.take(history[3], 0), trees.take(history[2], 0))  # to the bit, Adam's moments too
    assert state.epoch.tolist() == [3, 4, 4] and state.best_epoch.tolist() == [1, 4, 3]
    assert not trees.equal(trees.take(history[3].params, 1), trees.take(history[2].params, 1))
    # the best values are those after the best epoch
    assert trees.equal(trees.take(state.best_params, 0), trees.take(history[0].params, 0))
    assert trees.equal(trees.take(state.best_params, 2), trees.take(history[2].params, 2))


# --- evaluation and statistics ------------------------------------------------------------------------


@pytest.mark.parametrize("eval_batch_size", [1, 5, 14, 1000])
def test_evaluation_equals_numpy_for_any_batch_size(eval_batch_size):
    spec, params, structure = networks.small("mlp")
    evaluate = networks.quick(functools.partial(train.evaluate, task(spec, 4, eval_batch_size)))
    got = evaluate(params, structure, SPLIT)
    x, y = np.asarray(SPLIT.x, np.float64).T, np.asarray(SPLIT.y)
    logits, *_ = reference.forward("relu", reference.to_numpy(params), reference.to_numpy(structure), x)
    assert float(got.accuracy) == pytest.approx(np.mean(logits.argmax(0) == y), abs=1e-7)
    assert float(got.loss) == pytest.approx(reference.loss_of(logits, y), rel=1e-5)


@pytest.mark.parametrize("values", ["pre", "post"])
def test_statistics_over_a_split_equal_numpy(values):
    spec, params, structure = networks.small("dense", "tanh")
    collect = networks.quick(functools.partial(train.collect_stats, task(spec), values=values))
    stats = collect(params, structure, SPLIT)
    _, pre, post = reference.forward(
        "tanh", reference.to_numpy(params), reference.to_numpy(structure), np.asarray(SPLIT.x, float).T
    )
    assert len(stats) == 2
    for s, z, a in zip(stats, pre[1:], post[1:], strict=True):
        watched = z if values == "pre" else a
        assert float(s.count) == 14
        np.testing.assert_allclose(s.mean, watched.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(s.variance, watched.var(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(s.active, (a > 0).sum(1))
    assert isinstance(extrema.detect(stats[0]), extrema.Extrema)


def test_a_network_without_hidden_layers_has_no_statistics(key):
    spec = NetworkSpec((10, 4), 0.5)

    @networks.quick
    def stats(k):
        params, structure = network.init(spec, key_mask=k, key_init=k)
        return train.collect_stats(task(spec), params, structure, SPLIT)

    assert stats(key) == ()


def test_wrong_values_are_refused():
    spec, params, structure = networks.small(None)
    with pytest.raises(ValueError, match="batch_size must be at least 1: 0"):
        train.Task(spec, batch_size=0)
    with pytest.raises(ValueError, match="eval_batch_size must be at least 1"):
        train.Task(spec, eval_batch_size=0)
    with pytest.raises(ValueError, match="pre or post: 'mid'"):
        train.collect_stats(task(spec), params, structure, SPLIT, values="mid")
