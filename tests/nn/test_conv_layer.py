"""Sparse convolutions for linen and nnx: Flax's layer as the reference, masks, what is missing stays zero."""

from __future__ import annotations

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, structure, trees
from jaxnet.nn import conv_layer
from jaxnet.nn import nnx as own_nnx
from jaxnet.topology import Mask
from tests.nn.test_convolution import draw

OPTIONS: dict[str, Any] = {"strides": (2, 1), "padding": ((1, 1), (0, 2)), "kernel_dilation": (1, 2)}


class Net(flax.linen.Module):
    """Two layers, the second sparse: a quarter of 180 weights."""

    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(nn.SparseConv(4, (3, 3))(x))
        x = nn.SparseConv(5, 3, strides=2, density=0.25, name="sparse")(nn.max_pool(x, 2))
        return x.mean((1, 2))


X = jax.random.normal(jax.random.key(7), (3, 8, 8, 2))
init = jax.jit(Net().init)


def apply(layer, variables, x) -> Any:
    return layer.apply(variables, x)


def rngs(params, structure):
    return {"params": jax.random.key(params), "structure": jax.random.key(structure)}


def test_a_dense_layer_is_flaxs(key):
    x, _ = draw(key, (2, 3, 7, 6, 2), (1,))
    own = nn.SparseConv(4, (3, 2), **OPTIONS)
    flaxs = flax.linen.Conv(4, (3, 2), **OPTIONS)
    variables = jax.jit(own.init)(key, x)
    assert variables.keys() == {"params"}  # no structure
    wanted = jax.jit(flaxs.init)(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, wanted)
    np.testing.assert_allclose(apply(own, variables, x), apply(flaxs, wanted, x), rtol=1e-5, atol=1e-5)
    # an image without a batch axis, as Flax has it
    np.testing.assert_allclose(
        apply(own, variables, x[0, 0]), apply(flaxs, wanted, x[0, 0]), rtol=1e-5, atol=1e-5
    )


def test_a_sparse_layer_is_flaxs_with_zeros(key):
    x, _ = draw(key, (2, 7, 6, 3), (1,))
    own = nn.SparseConv(4, 3, density=0.2, **OPTIONS)
    variables = jax.jit(own.init)(key, x)
    params, entries = variables["params"], variables["structure"]
    kernel = np.asarray(params["kernel"])
    mask = np.asarray(entries["kernel"].mask)
    assert mask.shape == (3, 3, 3, 4) and mask.sum() == int(0.2 * 108) == entries["kernel"].num_nonzeros
    assert np.all(kernel[~mask] == 0) and np.all(kernel[mask] != 0)
    wanted = apply(flax.linen.Conv(4, (3, 3), **OPTIONS), {"params": params}, x)
    spoiled = params | {"kernel": jnp.where(entries["kernel"].mask, params["kernel"], jnp.nan)}

    def loss(params):
        y = apply(own, {"params": params, "structure": entries}, x)
        return jnp.sum(y**2), y

    gradient, y = jax.jit(jax.grad(loss, has_aux=True))(spoiled)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(gradient["kernel"])[~mask] == 0)
    assert np.all(np.asarray(gradient["kernel"])[mask] != 0)
    # without an entry, or with None, the layer is dense
    dense: dict[str, Any]
    for dense in ({}, {"structure": {}}, {"structure": {"kernel": None}}):
        np.testing.assert_array_equal(apply(own, {"params": params, **dense}, x), y)


def test_the_structure_has_a_key_of_its_own():
    first, other, changed = (init(rngs(*keys), X) for keys in ((0, 1), (2, 1), (0, 3)))
    assert first["structure"].keys() == {"sparse"}
    mask, same, different = (v["structure"]["sparse"]["kernel"].mask for v in (first, other, changed))
    assert np.array_equal(mask, same) and not np.array_equal(mask, different)
    kernels = [v["params"]["SparseConv_0"]["kernel"] for v in (first, other, changed)]
    assert np.array_equal(kernels[0], kernels[2]) and not np.array_equal(kernels[0], kernels[1])
    # without the stream, the key of the parameters decides
    assert np.sum(init(jax.random.key(0), X)["structure"]["sparse"]["kernel"].mask) == 45


def test_the_variance_of_a_channel_does_not_depend_on_the_density():
    shape = (3, 3, 40, 60)

    @jax.jit
    def values(key_mask, key_init):
        dense = jax.random.normal(key_init, shape) * (9 * 40) ** -0.5
        return conv_layer.thinned(dense, conv_layer.draw(shape, 0.05, key_mask))

    kernel = np.asarray(values(*jax.random.split(jax.random.key(0))))
    assert np.mean(np.sum(kernel**2, axis=(0, 1, 2))) == pytest.approx(1.0, rel=0.1)
    empty = Mask(jnp.zeros((1, 1, 2, 2), bool))
    assert np.all(np.asarray(conv_layer.thinned(jnp.ones((1, 1, 2, 2)), empty)) == 0)


def test_every_position_is_equally_likely():
    keys = jax.random.split(jax.random.key(2), 2000)
    masks = jax.jit(jax.vmap(lambda key: conv_layer.draw((2, 2, 3, 2), 0.25, key).mask))(keys)
    assert np.all(np.sum(masks, axis=(1, 2, 3, 4)) == 6)
    share = np.mean(masks, axis=0)
    assert np.abs(share - 0.25).max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_networks_train_in_a_scan_under_vmap_each_as_if_alone():
    variables = [init(rngs(seed, seed), X) for seed in range(2)]

    def run(variables):
        def step(params, _):
            def loss(params):
                return jnp.mean((apply(Net(), {**variables, "params": params}, X) - 1) ** 2)

            value, gradient = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        return jax.lax.scan(step, variables["params"], length=4)

    params, losses = jax.jit(jax.vmap(run))(trees.stack(variables))
    assert np.all(losses[:, -1] < losses[:, 0])
    mask = np.asarray(trees.stack(variables)["structure"]["sparse"]["kernel"].mask)
    assert np.all(np.asarray(params["sparse"]["kernel"])[~mask] == 0)
    alone = jax.jit(run)(variables[1])[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6), params, alone)


def test_structures_by_path_hold_for_the_layers_parameters():
    variables = init(rngs(0, 1), X)
    params, entries = variables["params"], variables["structure"]
    assert list(structure.weights(params, entries)) == ["['sparse']['kernel']"]
    counted = structure.count(params, entries)
    assert int(counted["weights"]) == 45 and int(counted["dense"]) == 2 * 4 * 9 + 4 + 5


def test_nnx_is_linen(key):
    x, _ = draw(key, (2, 7, 6, 3), (1,))
    layer = own_nnx.SparseConv(3, 4, 3, density=0.2, rngs=nnx.Rngs(params=0, structure=1), **OPTIONS)
    graph, params, entries, rest = own_nnx.split(layer)
    mask = entries["kernel"].get_value().mask
    assert np.sum(mask) == int(0.2 * 108)
    values = {name: params[name].get_value() for name in ("kernel", "bias")}
    linen = nn.SparseConv(4, 3, density=0.2, **OPTIONS)
    variables = {"params": values, "structure": {"kernel": entries["kernel"].get_value()}}
    np.testing.assert_array_equal(layer(x), apply(linen, variables, x))
    merged = own_nnx.merge(graph, params, entries, rest)
    gradient = nnx.jit(nnx.grad(lambda m: jnp.sum(m(x) ** 2)))(merged)
    assert np.all(np.asarray(gradient.kernel.get_value())[~np.asarray(mask)] == 0)
    # dense: the values of Flax's own layer, and nothing in the structure
    listed = OPTIONS | {"padding": [list(sides) for sides in OPTIONS["padding"]]}
    dense = own_nnx.SparseConv(3, 4, [3, 3], rngs=nnx.Rngs(0), **listed)
    flaxs = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0), **OPTIONS)
    assert dense.structure is None
    np.testing.assert_allclose(dense(x), flaxs(x), rtol=1e-5, atol=1e-5)


def test_wrong_calls_say_what_fits(key):
    x = jnp.zeros((1, 5, 5, 2))
    with pytest.raises(ValueError, match="without any weight: raise the density"):
        nn.SparseConv(2, 3, density=0.01).init(key, x)
    with pytest.raises(ValueError, match="density must be above 0 and at most 1"):
        nn.SparseConv(2, 3, density=1.5).init(key, x)
    with pytest.raises(ValueError, match=r"must be a Mask of that shape: Mask of \(3, 3, 2, 1\)"):
        nn.sparse_conv(jnp.zeros((3, 3, 2, 2)), Mask(jnp.ones((3, 3, 2, 1), bool)), x)
    with pytest.raises(ValueError, match="images must be"):
        nn.sparse_conv(jnp.zeros((3, 3, 2, 2)), None, x[0, 0])
