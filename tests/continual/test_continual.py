"""Streams by hand, what is measured, what learners leave alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import continual
from jaxnet.continual.streams import turn
from jaxnet.errors import InputError
from jaxnet.nn.params import to_masked_network


def images(number: int = 12, side: int = 4) -> jaxnet.Split:
    """Random grey images of three classes."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (number, side * side)), jnp.uint8)
    return jaxnet.Split(x, jnp.arange(number) % 3, jnp.full(side * side, 0.2), jnp.full(side * side, 0.5))


def test_a_permuted_stream_is_the_same_pixels_in_another_order(key):
    split = images()
    stream = continual.permuted(split, 3, key=key)
    plain, _ = split.batch(jnp.arange(5))
    first, second = (stream.task(t).batch(jnp.arange(5))[0] for t in (0, 1))
    assert jnp.array_equal(first, plain) and not jnp.array_equal(second, plain)
    assert jnp.array_equal(jnp.sort(second, 1), jnp.sort(plain, 1))
    # a sample of any task by its number in the whole stream
    mixed, y = stream.batch(jnp.asarray([2, 12 + 2, 24 + 5]))
    assert jnp.array_equal(mixed[1], second[2]) and jnp.array_equal(mixed[0], plain[2])
    assert y.tolist() == [2, 2, 2] and stream.size == 36


def test_turned_images_are_those_of_numpy():
    split = images()
    stream = continual.rotated(split, (0.0, 90.0, 180.0, 45.0), (4, 4, 1))
    plain = np.asarray(split.batch(jnp.arange(12))[0]).reshape(-1, 4, 4)
    for t, turns in ((0, 0), (1, 1), (2, 2)):
        found = np.asarray(stream.task(t).batch(jnp.arange(12))[0]).reshape(-1, 4, 4)
        np.testing.assert_allclose(found, np.rot90(plain, turns, (1, 2)), atol=1e-5)
    inside = turn(45, 8, 8)[1].sum(0).reshape(8, 8)
    assert inside[0, 0] == 0 and inside[4, 4] == pytest.approx(1)  # a corner is outside: black
    mixed = stream.batch(jnp.asarray([12 + 3]))[0]
    np.testing.assert_allclose(mixed[0], stream.task(1).batch(jnp.asarray([3]))[0][0], atol=1e-6)


def test_split_classes_and_what_is_refused(key):
    split = images()
    stream = continual.split_classes(split, 3, 3)
    for t in range(3):
        assert set(np.asarray(stream.task(t).batch(jnp.arange(stream.per_task))[1])) == {t}
    with pytest.raises(InputError, match="4 tasks need as many classes, and there are 3"):
        continual.split_classes(split, 4, 3)
    for make in (
        lambda: continual.permuted(split, 1, key=key),
        lambda: continual.rotated(split, (0.0,), (4, 4)),
    ):
        with pytest.raises(InputError, match="2 tasks or more: 1"):
            make()
    with pytest.raises(InputError, match="one channel"):
        continual.rotated(split, (0.0, 1.0), (16,))


def test_what_is_measured_by_hand():
    a = jnp.asarray([[0.9, 0.2, 0.1], [0.7, 0.8, 0.1], [0.5, 0.9, 0.7]])
    assert float(continual.average(a)) == pytest.approx(0.7)
    assert float(continual.learning(a)) == pytest.approx(0.8)
    # the first fell from 0.9 to 0.5; of the second the best before the end is 0.8, and it gained
    assert float(continual.forgetting(a)) == pytest.approx((0.4 - 0.1) / 2)
    moved = continual.transfer(a, jnp.asarray([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(moved[1], [-0.2, 0.6, 0.0], atol=1e-6)


def test_interference_of_a_task_with_itself_and_its_opposite(key):
    spec = jaxnet.NetworkSpec((16, 8, 2), 0.5)
    key_mask, key_init = jax.random.split(key)
    params, structure = jaxnet.init(spec, key_mask=key_mask, key_init=key_init)
    one = images().replace(y=jnp.zeros(12, jnp.int32))
    other = one.replace(y=jnp.ones(12, jnp.int32))
    task = jaxnet.Task(jaxnet.MLP(spec))
    found = continual.interference(task, params, structure, [one, one, other], jnp.arange(12))
    np.testing.assert_allclose([found[0, 0], found[0, 1]], 1, atol=1e-5)
    assert -1.001 <= float(found[0, 2]) < -0.5


def start(name: str, key: jax.Array, dial: float, dense: bool) -> tuple[Any, Any, Any]:
    """A learner on a small network."""
    spec = jaxnet.NetworkSpec((16, 24, 20, 3), 0.5)
    key_mask, key_init = jax.random.split(key)
    params, structure = jaxnet.init(spec, key_mask=key_mask, key_init=key_init)
    if dense:
        params, structure = to_masked_network(params, structure)
    learner = continual.LEARNERS[name]
    fan_in = tuple(int(jnp.max(jnp.sum(jaxnet.structure.present(e), 1))) for e in structure.weights)
    task = jaxnet.Task(jaxnet.MLP(spec), 6)
    setting = continual.Setting(task, optax.adam(1e-2), 2, look=12, buffer=5, fan_in=fan_in)
    return setting, learner, continual.begin(setting, learner, params, structure, jnp.asarray(dial), key)


@pytest.mark.slow
@pytest.mark.parametrize("name", continual.LEARNERS)
def test_every_learner_learns_two_tasks_and_leaves_missing_weights_alone(name, key, standard_promotion):
    setting, learner, progress = start(name, key, learner_dial(name), False)
    stream = continual.permuted(images(), 2, key=key)
    learn = jax.jit(
        lambda p, t: continual.learn(setting, learner, p, stream, t, continual.order(12, 6, 4, key, t))
    )
    first = learn(progress, jnp.asarray(0))
    before = jaxnet.structure.to_dense(first.net.params, first.net.structure)
    if hasattr(learner, "grow"):
        first = continual.grown(setting, learner, first, stream)
    second = learn(first, jnp.asarray(1))
    row = continual.judge(
        setting, learner, second.net.params, second.memory, second.net.structure, stream, jnp.asarray(1)
    )
    assert row.shape == (2,) and bool(jnp.all(jnp.isfinite(row)))
    after = jaxnet.structure.to_dense(second.net.params, second.net.structure)
    moved = 0.0
    for old, new, entry in zip(before.scaffold, after.scaffold, second.net.structure.weights, strict=True):
        assert bool(jnp.all(jnp.where(jaxnet.structure.present(entry), 0, new.weight) == 0))
        moved += float(jnp.abs(new.weight - old.weight).sum())
    assert (moved > 0) == (name != "patches")
    if learner.knows_task:  # what the first task says does not change
        answers = [
            learner.answers(p.net.params, p.memory, p.net.structure, jnp.asarray(0)) for p in (first, second)
        ]
        x = stream.task(0).batch(jnp.arange(12))[0]
        logits = [setting.task.model(a, second.net.structure, x, key_forward=None)[0] for a in answers]
        np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


def learner_dial(name: str) -> float:
    """A middling value of a learner's dial."""
    return float(continual.LEARNERS[name].values[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["row-projection", "free-weights", "ewc"])
def test_a_task_can_be_lowered_for_cuda_without_a_gpu(name, key, standard_promotion):
    setting, learner, progress = start(name, key, learner_dial(name), False)
    stream, batches = continual.permuted(images(), 2, key=key), continual.order(12, 6, 1, key, jnp.asarray(0))

    def learn(progress: Any, raw: jax.Array) -> Any:  # an exported program takes no typed key
        here = progress.replace(key=jax.random.wrap_key_data(raw))
        return continual.learn(setting, learner, here, stream, jnp.asarray(1), batches).net.params

    args = progress.replace(key=None), jax.random.key_data(key)
    assert jax.export.export(jax.jit(learn), platforms=["cuda"])(*args).platforms == ("cuda",)
