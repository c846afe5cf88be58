"""Epochs and their hooks against NumPy, evaluation, divergence and early stopping, one compilation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optim, signals, train, trees, units
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.methods import SET
from jaxnet.nn import mlp
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import to_masked_network
from tests import networks, reference

RATES = (0.01, 0.05)
OPTIMIZER = optim.dual_rate_adam(*RATES)
SPLIT = networks.samples(14)  # 14 samples in batches of 4: the last one has 2


def task(spec: NetworkSpec, batch_size: int = 4, eval_batch_size: int = 5, **hooks: Any) -> train.Task:
    return train.Task(MLP(spec), batch_size, eval_batch_size, **hooks)


def start(params: Any, structure: Any, optimizer: Any = OPTIMIZER, **more: Any) -> train.TrainState:
    return train.init_state(train.Net.of(params, structure, optimizer, **more))


def order_of(key: jax.Array, number: int, size: int = 14, batch: int = 4) -> tuple[Any, Any]:
    """The batches of one epoch as documented: a function of the data key and the epoch's number."""
    key_order, _ = jax.random.split(jax.random.fold_in(key, number))
    index, weight = epoch_batches(size, batch, key_order)
    return np.asarray(index), np.asarray(weight)


# --- batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(14, 4), (12, 4), (3, 5), (1, 1)])
def test_an_epoch_visits_every_sample_once(size, batch, key):
    for k in (key, None):
        index, weight = epoch_batches(size, batch, k)
        assert index.shape == weight.shape == (-(-size // batch), batch)
        visited = np.asarray(index)[np.asarray(weight) == 1]
        assert np.array_equal(np.sort(visited), np.arange(size))
        assert np.sum(np.asarray(weight)) == size
        # all padding stands in the last batch, and repeats the epoch from its beginning
        assert np.all(np.asarray(weight)[:-1] == 1)
        assert np.array_equal(np.ravel(index), np.resize(visited, index.size))
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
    return networks.quick(train.make_epoch(task(spec)))


@pytest.mark.parametrize(
    ("name", "kind"), [("tanh", None), ("tanh", "mlp"), pytest.param("gelu", "dense", marks=pytest.mark.slow)]
)
def test_two_epochs_equal_numpy(name, kind, key):
    _, params, structure = networks.small(kind, name)
    state = start(params, structure)
    plan, values = reference.to_numpy(structure), reference.to_numpy(params)
    adam = reference.Adam(values, *RATES)
    x, y = np.asarray(SPLIT.x, np.float64).T, np.asarray(SPLIT.y)
    for number in range(2):
        state, info = epoch_of(name, kind)(state, SPLIT, key, jnp.int32(number))
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
    assert trees.equal(state.net.structure, structure) and not state.diverged
    for (path, a), (_, b) in zip(
        networks.leaves_named(state.net.params), networks.leaves_named(values), strict=True
    ):
        # Adam turns the rounding of a tiny gradient into a step: the tolerance is a twentieth of one step
        np.testing.assert_allclose(a, b, atol=5e-4, err_msg=path)


def test_pixels_are_normalised_on_the_device(key):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (14, 10), dtype=np.uint8)
    mean, std = jnp.float32(0.3), jnp.float32(0.2)
    raw = Split(jnp.asarray(pixels), SPLIT.y, mean, std)
    x, y = raw.batch(jnp.asarray([3, 0]))
    np.testing.assert_allclose(x, (pixels[[3, 0]] / 255.0 - 0.3) / 0.2, rtol=1e-5, atol=1e-6)
    assert np.array_equal(y, np.asarray(SPLIT.y)[[3, 0]])
    assert raw.size == 14
    shaped, _ = raw.replace(shape=(5, 2)).batch(jnp.asarray([3, 0]))
    assert np.array_equal(shaped, np.asarray(x).reshape(2, 5, 2))


def test_jitted_and_not_jitted_are_the_same(key):
    _, params, structure = networks.small(None, "tanh")
    spec = NetworkSpec(networks.SIZES, 0.4, "tanh")
    compiled = epoch_of("tanh", None)(start(params, structure), SPLIT, key, jnp.int32(0))
    plain = train.make_epoch(task(spec))(start(params, structure), SPLIT, key, jnp.int32(0))
    assert trees.allclose(compiled[0].net.params, plain[0].net.params, rtol=1e-4, atol=1e-5)
    assert float(compiled[1].loss) == pytest.approx(float(plain[1].loss), rel=1e-5)


@pytest.mark.parametrize("method", [None, SET(every=2)], ids=["plain", "set"])
def test_a_fresh_state_can_be_donated_whole(method, key):
    # drawn eagerly, as a user does: arrays that one call hands out twice could not be given away
    spec = NetworkSpec(networks.SIZES, 0.4)
    params, structure = mlp.init(spec, key_mask=key, key_init=key)
    net = train.Net.of(params, structure, OPTIMIZER)
    state = train.init_state(net, method, key=None if method is None else jax.random.fold_in(key, 2))
    kept = jax.tree.map(jnp.shape, state)
    epoch = jax.jit(train.make_epoch(task(spec), method), donate_argnums=0)
    after, info = epoch(state, SPLIT, key, jnp.int32(0))
    assert params.scaffold[0].weight.is_deleted() and state.best_params.scaffold[0].weight.is_deleted()
    assert jax.tree.map(jnp.shape, after) == kept and np.isfinite(info.loss)
    again, _ = epoch(after, SPLIT, key, jnp.int32(1))
    assert int(again.epoch) == 2


@functools.cache
def population(common: bool) -> Any:
    """Three networks trained for an epoch together."""
    spec = NetworkSpec(networks.SIZES, 0.4)
    one = train.make_epoch(task(spec))
    return networks.quick(jax.vmap(one, in_axes=(0, None, None if common else 0, None)))


@functools.cache
def three() -> train.TrainState:
    spec = NetworkSpec(networks.SIZES, 0.4)

    def make(k):
        params, structure = mlp.init(spec, key_mask=k, key_init=jax.random.fold_in(k, 1))
        return start(params, structure)

    return networks.quick(jax.vmap(make))(jax.random.split(jax.random.key(1), 3))


def test_many_networks_equal_one_by_one_on_common_and_own_data(key):
    state = three()
    spec = NetworkSpec(networks.SIZES, 0.4)
    alone = networks.quick(train.make_epoch(task(spec)))
    keys = jax.random.split(key, 3)
    for common in (True, False):
        got, info = population(common)(state, SPLIT, key if common else keys, jnp.int32(4))
        for i in range(3):
            want, one = alone(trees.take(state, i), SPLIT, key if common else keys[i], jnp.int32(4))
            assert trees.allclose(trees.take(got, i), want, rtol=1e-4, atol=1e-5)
            assert float(info.loss[i]) == pytest.approx(float(one.loss), rel=1e-5)


def test_the_second_call_does_not_compile_again(key):
    spec, params, structure = networks.small("mlp")
    one, traced = train.make_epoch(task(spec)), []

    @networks.quick
    def epoch(*args):
        traced.append(args)  # runs when it is traced, once for every compilation
        return one(*args)

    state, _ = epoch(start(params, structure), SPLIT, key, jnp.int32(0))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start(params, structure))
    epoch(state, SPLIT, jax.random.fold_in(key, 1), jnp.int32(1))
    assert len(traced) == 1


@pytest.mark.parametrize("kind", [None, "mlp", "dense"])
def test_an_epoch_can_be_lowered_for_cuda_without_a_gpu(kind, key):
    spec, params, structure = networks.small(kind)
    state = jax.tree.map(lambda a: jnp.stack([a, a]), start(params, structure))
    epoch = jax.vmap(train.make_epoch(task(spec)), in_axes=(0, None, None, None))
    # keys as raw bits: an exported program takes no typed key
    program = jax.export.export(
        jax.jit(lambda s, d, k, n: epoch(s, d, jax.random.wrap_key_data(k), n)), platforms=["cuda"]
    )(state, SPLIT, jax.random.key_data(key), jnp.int32(0))
    assert program.platforms == ("cuda",)
    assert "dot_general" in program.mlir_module()


# --- hooks --------------------------------------------------------------------------------------------


def test_a_transform_of_batches_is_training_on_other_data(key):
    spec, params, structure = networks.small(None, "tanh")
    order = np.random.default_rng(1).permutation(10)
    other = SPLIT.replace(x=SPLIT.x[:, order])

    def permute(x, y, *, key):
        assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
        return x[:, order], y

    hooked = task(spec, transform=permute)
    got, info = networks.quick(train.make_epoch(hooked))(start(params, structure), SPLIT, key, jnp.int32(0))
    want, same = epoch_of("tanh", None)(start(params, structure), other, key, jnp.int32(0))
    assert trees.equal((got, info), (want, same))
    # evaluation sees the data as they are
    evaluate = [networks.quick(functools.partial(train.evaluate, t)) for t in (hooked, task(spec))]
    assert trees.equal(*(run(params, structure, SPLIT) for run in evaluate))


def test_a_transform_draws_anew_in_every_step_and_epoch(key):
    spec, params, structure = networks.small(None)
    drawn = []

    def note_draw(x, y, *, key):
        jax.debug.callback(lambda bits: drawn.append(int(bits)), jax.random.bits(key))
        return x, y

    epoch = networks.quick(train.make_epoch(task(spec, transform=note_draw)))
    for number in (0, 1, 0):
        jax.block_until_ready(epoch(start(params, structure), SPLIT, key, jnp.int32(number)))
        jax.effects_barrier()
    assert len(drawn) == 12 and len(set(drawn[:8])) == 8
    assert set(drawn[8:]) == set(drawn[:4])  # and the same in the same epoch


def test_a_penalty_on_what_a_batch_does_is_added_to_the_loss(key):
    spec, params, structure = networks.small(None, "tanh")

    def activity(seen, params, x, weight, carried):
        return carried * jnp.sum(seen.post[0] ** 2 * weight) / jnp.sum(weight)

    hooked = task(spec, activity=activity)
    batch = SPLIT.batch(jnp.arange(4))
    weight = jnp.asarray([1.0, 1, 1, 0])
    whole, (loss, _, _) = train.batch.batch_loss(
        hooked, params, structure, jnp.asarray(0.5), *batch, weight, None
    )
    post = hooked.model(params, structure, batch[0], key_forward=None)[1].post[0]
    assert np.isclose(whole - loss, 0.5 * np.mean(np.sum(np.asarray(post)[:, :3] ** 2, 0)))


@pytest.mark.parametrize("masked", [False, True], ids=["sparse", "masked"])
def test_a_penalty_towards_what_is_carried_equals_sgd_in_numpy(masked, key):
    spec, params, structure = networks.small(None, "tanh")
    if masked:
        params, structure = to_masked_network(params, structure)
    rate, strength = 0.1, 0.3
    # an anchor that is not zero where there is no weight: nothing may be drawn there
    anchor = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=jnp.float32)).reshape(a.shape), params)

    def pull(params, carried):
        squares = jax.tree.map(lambda p, a: jnp.sum(jnp.square(p - a)), params, carried["anchor"])
        return 0.5 * strength * jax.tree.reduce(jnp.add, squares)

    hooked = task(spec, penalty=pull)
    state = start(params, structure, optax.sgd(rate), carried={"anchor": anchor})
    state, info = networks.quick(train.make_epoch(hooked))(state, SPLIT, key, jnp.int32(0))

    plan, values, goal = reference.to_numpy(structure), reference.to_numpy(params), reference.to_numpy(anchor)
    gone = networks.absent(params, structure)
    x, y = np.asarray(SPLIT.x, np.float64).T, np.asarray(SPLIT.y)
    total = 0.0
    for rows, weight in zip(*order_of(key, 0), strict=True):
        rows = rows[weight == 1]
        loss, grads = reference.gradient("tanh", values, plan, x[:, rows], y[rows])
        total += loss * len(rows)
        values = jax.tree.map(
            lambda p, g, a, no: np.where(no, 0, p - rate * (g + strength * (p - a))),
            values,
            grads,
            goal,
            gone,
        )
    for (path, a), (_, b) in zip(
        networks.leaves_named(state.net.params), networks.leaves_named(values), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)
    # what is reported is the loss alone, and what is carried stays
    assert float(info.loss) == pytest.approx(total / 14, rel=1e-5)
    assert trees.equal(state.net.carried["anchor"], anchor)
    assert float(train.evaluate(hooked, params, structure, SPLIT).loss) == pytest.approx(
        float(train.evaluate(task(spec), params, structure, SPLIT).loss)
    )


# --- networks that diverge ----------------------------------------------------------------------------


def test_a_diverged_network_is_never_the_best_and_leaves_the_others_alone(key):
    spec = NetworkSpec(networks.SIZES, 0.4)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.05)

    def make(k, rate):
        params, structure = mlp.init(spec, key_mask=k, key_init=jax.random.fold_in(k, 1))
        state = start(params, structure, optimizer)
        opt_state = state.net.opt_state
        opt_state = opt_state._replace(hyperparams={"learning_rate": rate})
        return state.replace(net=state.net.replace(opt_state=opt_state))

    many = networks.quick(jax.vmap(make))
    watched = train.make_watched_epoch(task(spec), patience=5)
    epoch = networks.quick(jax.vmap(watched, in_axes=(0, None, None, None, None)))

    def run(rates):
        state = many(jax.random.split(jax.random.key(4), 3), jnp.asarray(rates))
        first = state.net.params
        for number in range(3):
            state, result = epoch(state, SPLIT, networks.samples(12), key, jnp.int32(number))
        return first, state, result

    (_, calm, fine), (first, state, result) = run([0.05, 0.05, 0.05]), run([0.05, 1e30, 0.05])
    assert calm.diverged.tolist() == [False] * 3 and np.isfinite(fine.evaluation.accuracy).all()
    assert state.diverged.tolist() == [False, True, False]
    assert np.isnan(result.evaluation.accuracy).tolist() == [False, True, False]
    assert int(state.best_epoch[1]) == 0 and float(state.best_accuracy[1]) == -1.0
    assert trees.equal(trees.take(state.best_params, 1), trees.take(first, 1))
    assert int(calm.best_epoch[1]) > 0  # but for the rate it would have had one
    for i in (0, 2):
        assert trees.equal(trees.take((state, result), i), trees.take((calm, fine), i))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_the_accuracy_of_a_network_that_is_not_finite_is_not_a_number(value):
    spec, params, structure = networks.small(None)
    evaluate = networks.quick(functools.partial(train.evaluate, task(spec)))
    layers = [layer.replace(bias=layer.bias.at[0].set(value)) for layer in params.scaffold]
    # 1e30 on the way to 1e60: the weights are finite and the logits are not
    layers[1] = layers[1].replace(weight=layers[1].weight * 1e30) if value == 1e30 else layers[1]
    got = evaluate(params.replace(scaffold=tuple(layers)), structure, SPLIT)
    assert np.isnan(got.accuracy)
    assert np.isfinite(evaluate(params, structure, SPLIT).accuracy)


# --- early stopping -----------------------------------------------------------------------------------


note = jax.jit(train.track_best, static_argnums=2)


def test_patience_and_ties_by_hand():
    _, params, structure = networks.small(None)
    state, seen = start(params, structure), []
    # best at 2; the tie at 4 is no new best: with patience 3 it stops after epoch 5
    for epoch, accuracy in enumerate([0.5, 0.6, 0.4, 0.6, 0.6, 0.9], start=1):
        values = jax.tree.map(lambda a, e=epoch: jnp.full_like(a, e), params)
        if not state.stopped:
            state = state.replace(net=state.net.replace(params=values), epoch=jnp.int32(epoch))
        state = note(state, jnp.float32(accuracy), 3)
        seen.append((int(state.best_epoch), round(float(state.best_accuracy), 6), bool(state.stopped)))
    assert seen == [(1, 0.5, False), *[(2, 0.6, False)] * 3, (2, 0.6, True), (2, 0.6, True)]
    assert all(np.all(leaf == 2) for _, leaf in networks.leaves_named(state.best_params))
    assert int(state.epoch) == 5


def test_without_patience_nothing_stops():
    _, params, structure = networks.small(None)
    state = start(params, structure)
    for epoch in range(1, 30):
        state = note(state.replace(epoch=jnp.int32(epoch)), jnp.float32(0.1), None)
    assert not bool(state.stopped) and int(state.best_epoch) == 1


def test_an_accuracy_that_is_not_a_number_is_never_the_best():
    _, params, structure = networks.small(None)
    state = note(start(params, structure).replace(epoch=jnp.int32(1)), jnp.float32(jnp.nan), None)
    assert int(state.best_epoch) == 0 and float(state.best_accuracy) == -1.0 and bool(state.diverged)
    # and neither is what comes after it: a diverged network is never the best
    state = note(state.replace(epoch=jnp.int32(2)), jnp.float32(0.9), None)
    assert int(state.best_epoch) == 0 and bool(state.diverged)


def test_one_network_stops_and_the_others_go_on(key):
    state = three()
    several = jax.jit(jax.vmap(functools.partial(train.track_best, patience=2)))
    curves = jnp.asarray([[0.5, 0.4, 0.4, 0.9], [0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.2, 0.2]])
    history = []
    for number in range(4):
        state, _ = population(True)(state, SPLIT, key, jnp.int32(number))
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
    assert not trees.equal(trees.take(history[3].net.params, 1), trees.take(history[2].net.params, 1))
    # the best values are those after the best epoch
    assert trees.equal(trees.take(state.best_params, 0), trees.take(history[0].net.params, 0))
    assert trees.equal(trees.take(state.best_params, 2), trees.take(history[2].net.params, 2))


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
    assert isinstance(signals.detect(stats[0]), units.Extrema)


def test_outputs_beyond_two_thresholds_are_counted_as_in_numpy():
    spec, params, structure = networks.small("mlp")
    count = networks.quick(functools.partial(train.outside, task(spec, 4, 5), low=-0.1, high=0.3))
    x = np.asarray(SPLIT.x, np.float64).T
    logits, pre, _ = reference.forward("relu", reference.to_numpy(params), reference.to_numpy(structure), x)
    layers = [*pre[1:], logits]
    beyond = [((z < -0.1) | (z > 0.3)).sum(1) for z in layers]  # of every unit
    assert float(count(params, structure, SPLIT)) == pytest.approx(sum(b.sum() for b in beyond) / 14)
    some = [np.arange(len(b)) % 2 == 0 for b in beyond]
    there = sum(b[here].sum() for b, here in zip(beyond, some, strict=True))
    assert float(count(params, structure, SPLIT, exist=some)) == pytest.approx(there / 14)


def test_a_network_without_hidden_layers_has_no_statistics(key):
    spec = NetworkSpec((10, 4), 0.5)

    @networks.quick
    def stats(k):
        params, structure = mlp.init(spec, key_mask=k, key_init=k)
        return train.collect_stats(task(spec), params, structure, SPLIT)

    assert stats(key) == ()


def readers(spec: NetworkSpec, params: Any, structure: Any, key: jax.Array) -> dict[str, Any]:
    """What takes a split."""
    state = start(params, structure)
    return {
        "epoch": lambda data: train.make_epoch(task(spec))(state, data, key, jnp.int32(0)),
        "watched": lambda data: train.make_watched_epoch(task(spec))(state, SPLIT, data, key, jnp.int32(0)),
        "evaluate": lambda data: train.evaluate(task(spec), params, structure, data),
        "statistics": lambda data: train.collect_stats(task(spec), params, structure, data),
    }


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("reader", ["epoch", "watched", "evaluate", "statistics"])
def test_samples_without_labels_and_no_samples_are_refused_at_entry(reader, jitted, key):
    read = readers(*networks.small(None), key)[reader]
    short = SPLIT.replace(y=SPLIT.y[:11])
    empty = SPLIT.replace(x=SPLIT.x[:0], y=SPLIT.y[:0])
    for data, message in ((short, "14 samples and labels of shape"), (empty, "there are no samples")):
        with pytest.raises(ValueError, match=message):
            (jax.jit(read) if jitted else read)(data)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused_or_seen_in_the_loss(label, key):
    spec, params, structure = networks.small(None)
    wrong = SPLIT.replace(y=SPLIT.y.at[5].set(label))
    with pytest.raises(ValueError, match=r"labels must be 0 to 3: .*(-1|4)"):
        train.evaluate(task(spec), params, structure, wrong)
    state, info = epoch_of("relu", None)(start(params, structure), wrong, key, jnp.int32(0))
    assert np.isnan(info.loss) and bool(state.diverged)
    # the first and the last class are none of these
    every = SPLIT.replace(y=jnp.arange(14, dtype=jnp.int32) % 4)
    state, info = epoch_of("relu", None)(start(params, structure), every, key, jnp.int32(0))
    assert np.isfinite(info.loss) and not bool(state.diverged)
    seen = networks.quick(functools.partial(train.evaluate, task(spec)))(params, structure, wrong)
    assert np.isnan(seen.loss) and np.isnan(seen.accuracy)


def test_wrong_values_are_refused():
    spec, params, structure = networks.small(None)
    with pytest.raises(ValueError, match="batch_size must be at least 1: 0"):
        task(spec, batch_size=0)
    with pytest.raises(ValueError, match="eval_batch_size must be at least 1"):
        task(spec, eval_batch_size=0)
    with pytest.raises(ValueError, match="give key"):
        train.init_state(train.Net.of(params, structure, OPTIMIZER), SET())
    with pytest.raises(ValueError, match="pre or post: 'mid'"):
        train.collect_stats(task(spec), params, structure, SPLIT, values="mid")
