"""What a recipe adds to training: the running mean of the weights, several teachers as one, ``jitter``."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import changes, data, losses, optim, train
from jaxnet.data import augment
from jaxnet.topology import Mask
from jaxnet.train import Net

SPEC = jaxnet.NetworkSpec((4, 3, 2), 1.0)


def test_the_running_mean_by_hand_updates_unchanged() -> None:
    optimizer = optax.chain(optax.sgd(0.5), optim.averaged(0.75))
    params = {"w": jnp.array([1.0, -2.0])}
    state, mean = optimizer.init(params), np.array([1.0, -2.0])
    for gradient in ([1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]):
        updates, state = optimizer.update({"w": jnp.array(gradient)}, state, params)
        np.testing.assert_array_equal(updates["w"], -0.5 * np.array(gradient))
        params = optax.apply_updates(params, updates)
        mean = 0.75 * mean + 0.25 * np.asarray(params["w"])
        np.testing.assert_allclose(optim.average_of(state)["w"], mean, rtol=1e-6)


def test_the_running_mean_of_a_weight_that_goes_is_zero_and_of_a_new_one_starts_there() -> None:
    params, there = {"w": jnp.array([1.0, 2.0, 0.0])}, jnp.array([True, True, False])
    optimizer = optax.chain(optax.sgd(0.1), optim.averaged(0.9))
    net = Net.of(params, {"w": Mask(there)}, optimizer)
    after = changes.edit(net, {"w": Mask(jnp.array([True, False, True]))})[0]
    np.testing.assert_array_equal(optim.average_of(after.opt_state)["w"], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="keeps no average"):
        optim.average_of(optax.sgd(0.1).init(params))
    for decay in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="decay must be"):
            optim.averaged(decay)


def test_teachers_together_are_the_mean_of_their_logits() -> None:
    drawn = [jaxnet.init(SPEC, **jaxnet.keys.network_keys(jax.random.key(k))) for k in range(3)]
    x, y = jax.random.normal(jax.random.key(9), (5, 4)), jnp.arange(5) % 2
    alone = np.stack([np.asarray(jaxnet.MLP(SPEC)(*one, x, key_forward=None)[0]) for one in drawn])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    model: Any = train.Together(jaxnet.MLP(SPEC))
    logits, _ = model(*stacked, x, key_forward=None)
    np.testing.assert_allclose(logits, alone.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert model.class_axis == jaxnet.MLP(SPEC).class_axis
    _, taught = train.taught_by(model, *stacked)(x, y, key=jax.random.key(1))
    np.testing.assert_allclose(taught.logits, alone.mean(axis=0), rtol=1e-5, atol=1e-6)
    # taught by its own logits alone, a network has nothing to learn
    task = train.Task(jaxnet.MLP(SPEC), loss=losses.Distillation(0.0, 4.0))
    own = losses.Taught(y, jnp.asarray(alone[0]))
    gradient = jax.grad(
        lambda p: task.loss(task.model(p, drawn[0][1], x, key_forward=None)[0], own, jnp.ones(5), axis=0)
    )
    assert all(np.allclose(leaf, 0, atol=1e-5) for leaf in jax.tree.leaves(gradient(drawn[0][0])))


def test_jitter_is_smaller_than_crops_and_affine_maps_which_go_before_it() -> None:
    digits = data.load("digits")
    images = dataclasses.replace(digits, image_shape=(56, 56, 1))
    alone = augment.augmentation(images, ["jitter"])
    assert (alone.padding, alone.affine) == (2, augment.JITTER)
    assert augment.augmentation(digits, ["jitter"]).padding == 1
    both = augment.augmentation(images, ["jitter", "crop", "affine"])
    assert both == augment.augmentation(images, ["crop", "affine"]) and both.padding == 7


def test_a_taught_epoch_with_a_running_mean_lowers_for_cuda() -> None:
    params, structure = jaxnet.init(SPEC, **jaxnet.keys.network_keys(jax.random.key(0)))
    teacher = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, structure))
    model: Any = train.Together(jaxnet.MLP(SPEC))
    transform = train.taught_by(model, *teacher)
    task = train.Task(jaxnet.MLP(SPEC), 4, loss=losses.Distillation(), transform=transform)
    net = Net.of(params, structure, optax.chain(optax.adam(1e-3), optim.averaged(0.9)))
    split = jaxnet.Split(jnp.ones((8, 4)), jnp.zeros(8, jnp.int32), jnp.zeros(()), jnp.ones(()))
    args = (jaxnet.init_state(net), split, jax.random.key(1), jnp.zeros((), jnp.int32))
    exported = jax.export.export(jax.jit(jaxnet.make_epoch(task)), platforms=["cuda"])(*args)
    assert exported.platforms == ("cuda",)
