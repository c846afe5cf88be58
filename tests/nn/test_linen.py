"""Linen modules as models: unmodified, restored by Orbax, with running statistics and watched layers."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxnet
from jaxnet.data.batches import Split
from jaxnet.nn import Head, Linen
from jaxnet.structure import REMEMBERED


class Base(linen.Module):
    """Two convolutions with normalisation, as anyone writes them."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in (3, 5):
            x = linen.Conv(width, (3, 3), use_bias=False)(x)
            x = linen.max_pool(
                linen.BatchNorm(use_running_average=not train, momentum=0.5)(x), (2, 2), (2, 2)
            )
            x = linen.relu(x)
        return x


MODEL = Linen(Base(), (("train", True),), watch=("Conv_0", "BatchNorm_1"), remembers=True, shape=(8, 8, 1))
SPEC = jaxnet.NetworkSpec((20, 12, 4), density=0.4)


def split(key: jax.Array, size: int = 24) -> Split:
    x = jax.random.uniform(key, (size, 64))
    return Split(x, jnp.arange(size) % 4, jnp.zeros(64), jnp.ones(64))


def start(model: Head, method: Any, key: jax.Array) -> jaxnet.TrainState:
    base: Any = model.base
    params, structure = base.init(jnp.zeros((1, 64)), key=key)
    include = ["*/kernel"]
    params, masks = jaxnet.sparsify(params, density=0.5, allocation="erdos-renyi", include=include, key=key)
    head, wired = jaxnet.init(SPEC, key_mask=key, key_init=key)
    structure = {"base": {**masks, **structure}, "head": wired}
    net = jaxnet.Net.of({"base": params, "head": head}, structure, optax.adam(1e-2))
    return jaxnet.init_state(net, method, key=key)


def test_density_one_changes_nothing_and_parameters_are_plain_orbax(key, tmp_path):
    module: Any = Base()
    x = jax.random.normal(key, (4, 8, 8, 1))
    variables = module.init(key, x)
    params, structure = jaxnet.sparsify(variables["params"], density=1.0, include=["*/kernel"], key=key)
    after = {**variables, "params": params}
    assert jnp.array_equal(module.apply(after, x), module.apply(variables, x))
    count = jaxnet.structure.count(params, structure)
    assert int(count["weights"]) == 3 * 9 + 5 * 27 and int(count["dense"]) == 2 * (3 + 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "params")  # nothing of jaxnet is needed
    assert jnp.array_equal(module.apply({**variables, "params": restored}, x), module.apply(variables, x))


@pytest.mark.slow
def test_a_masked_base_with_running_statistics_and_a_sparse_head_is_rewired_alone_and_among_others(key):
    method = jaxnet.methods.make("rigl", every=2)
    model = Head(MODEL, jaxnet.MLP(SPEC))
    epoch = jaxnet.train.make_watched_epoch(jaxnet.Task(model, batch_size=6), method)
    data, keys = split(key), jax.random.split(key, 2)
    begun = jax.vmap(functools.partial(start, model, method))(keys)
    many, _ = jax.jit(jax.vmap(epoch, (0, None, None, None, None)))(begun, data, data, key, jnp.asarray(0))
    state = jax.tree.map(lambda leaf: leaf[1], many)
    alone, _ = jax.jit(epoch)(start(model, method, keys[1]), data, data, key, jnp.asarray(0))
    for one, other in zip(jax.tree.leaves(alone.net.params), jax.tree.leaves(state.net.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    first = start(model, method, keys[1]).net.structure
    before: dict[str, Any]
    after: dict[str, Any]
    before, after = (jaxnet.structure.entries(s) for s in (first, alone.net.structure))
    name = "['base']['Conv_1']['kernel']"
    assert [int(e.num_nonzeros) for e in after.values()] == [int(e.num_nonzeros) for e in before.values()]
    masks: list[Any] = [found[name] for found in (before, after)]
    assert not jnp.array_equal(masks[0].mask, masks[1].mask)
    kernel = alone.net.params["base"]["Conv_1"]["kernel"]
    assert jnp.all(jnp.where(masks[1].mask, True, kernel == 0))
    # what is remembered moved, belongs to the best values, and is used in judging only
    assert not jnp.array_equal(alone.net.structure["base"][REMEMBERED]["BatchNorm_0"]["mean"], jnp.zeros(3))
    kept = alone.best[1]["base"][REMEMBERED]["BatchNorm_0"]["mean"]
    assert jnp.array_equal(kept, alone.net.structure["base"][REMEMBERED]["BatchNorm_0"]["mean"])


def test_running_statistics_are_flaxs(key):
    data = split(key, 6)
    model: Any = Linen(Flat(), (("train", True),), remembers=True, shape=(8, 8, 1))
    task = jaxnet.Task(model, batch_size=6)
    params, structure = model.init(data.x[:1], key=key)
    net = jaxnet.Net.of(params, structure, optax.sgd(0.0))
    batches = jaxnet.train.Batches(jnp.arange(6)[None], jnp.ones((1, 6)))
    got, _, _ = jaxnet.train.train_batches(task, net, data, batches)
    variables = {"params": params, "batch_stats": structure[REMEMBERED]}
    x = data.x.reshape(-1, 8, 8, 1)
    _, wanted = model.module.apply(variables, x, train=True, mutable=["batch_stats"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        got.structure[REMEMBERED],
        wanted["batch_stats"],
    )


class Flat(linen.Module):
    """The base as a model of its own: its output are logits."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return Base(name="base")(x, train).mean((1, 2))


def test_channels_are_units_whose_samples_are_pixels(key):
    data = split(key)
    params, structure = MODEL.init(data.x[:1], key=key)
    masked, masks = jaxnet.sparsify(params, density=0.5, include=["*/kernel"], key=key)
    first, second = jaxnet.collect_stats(jaxnet.Task(MODEL), masked, {**masks, **structure}, data)
    conv = linen.Conv(3, (3, 3), use_bias=False)
    seen = np.asarray(conv.apply({"params": masked["Conv_0"]}, data.x.reshape(-1, 8, 8, 1)))
    np.testing.assert_allclose(first.mean, seen.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(first.variance, seen.var((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(first.fraction_active, (seen > 0).mean((0, 1, 2)), atol=1e-6)
    assert second.mean.shape == (5,)
    watched = Linen(Base(), watch=("Conv_1",), remembers=True, shape=(8, 8, 1))
    (found,) = jaxnet.signals.find(
        jaxnet.Task(watched), masked, {**masks, **structure}, data, "incoming-norm", quantile=0.3
    )
    norms = np.sqrt((np.asarray(masked["Conv_1"]["kernel"]) ** 2).sum((0, 1, 2)))
    assert np.array_equal(found.high, norms > np.quantile(norms, 0.7))


def test_a_frozen_base_stays_and_a_gradient_ends_at_it(key):
    model = Head(MODEL, jaxnet.MLP(SPEC), frozen=True)
    state = start(model, None, key)
    data = split(key)
    after, _ = jaxnet.make_epoch(jaxnet.Task(model, batch_size=6))(state, data, key, jnp.asarray(0))
    same = jax.tree.map(jnp.array_equal, after.net.params["base"], state.net.params["base"])
    assert jax.tree.all(same) and not model.remembers
    assert not jnp.array_equal(
        after.net.params["head"].scaffold[0].weight, state.net.params["head"].scaffold[0].weight
    )


def test_wrong_input_is_one_line(key):
    with pytest.raises(ValueError, match="are none of"):
        MODEL.init(jnp.zeros((1, 60)), key=key)
    with pytest.raises(ValueError, match=r"also has batch_stats.*remembers=True"):
        Linen(Base()).init(jnp.zeros((1, 8, 8, 1)), key=key)
    params, structure = MODEL.init(jnp.zeros((1, 64)), key=key)
    head, wired = jaxnet.init(jaxnet.NetworkSpec((21, 4), density=1.0), key_mask=key, key_init=key)
    model = Head(MODEL, jaxnet.MLP(jaxnet.NetworkSpec((21, 4), density=1.0)))
    both = {"base": params, "head": head}, {"base": structure, "head": wired}
    with pytest.raises(ValueError, match="gives 20 features and the head reads 21"):
        model(*both, jnp.zeros((2, 64)), key_forward=None)
    with pytest.raises(ValueError, match="without any weight"):
        jaxnet.sparsify(params, density=0.01, include=["*/kernel"], key=key)
    with pytest.raises(ValueError, match="no parameter is called 'Conv_7/kernel'"):
        jaxnet.sparsify(params, density=0.5, include=["Conv_7/kernel"], key=key)
    with pytest.raises(ValueError, match="applies no submodule called 'Conv_9'"):
        lost = Linen(Base(), watch=("Conv_9",), remembers=True, shape=(8, 8, 1))
        lost(params, structure, jnp.zeros((2, 64)), key_forward=None)
    with pytest.raises(ValueError, match="BatchNorm_1 has no kernel"):
        MODEL.incoming(params, structure)
