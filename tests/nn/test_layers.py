"""The sparse layer: initial values of both rules, a product by hand, the two representations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnet import masks, topology, trees
from jaxnet.activations import GAINS
from jaxnet.kernels import dense_product, product
from jaxnet.nn import layers


def padded_topology() -> topology.Topology:
    """Weights at (0, 2), (1, 0) and (1, 1) of a 3x3 layer, two padding slots, unit 2 without inputs."""
    flat, exists = jnp.asarray([2, 3, 4, 0, 0]), jnp.asarray([True, True, True, False, False])
    return topology.topology_from_flat(flat, exists, (3, 3))


def test_linear_by_hand():
    t = padded_topology()
    params = layers.LayerParams(jnp.asarray([1.0, 2.0, 3.0, 50.0, 60.0]), jnp.asarray([0.5, 0.0, -1.0]))
    x = jnp.asarray([[1.0, 0.0], [10.0, 1.0], [100.0, 0.0]])
    y = layers.linear(params, t, x, dense_product)
    # unit 0: x2 + 0.5; unit 1: 2 x0 + 3 x1; unit 2: its bias. Values in padding slots reach nothing.
    assert np.asarray(y).tolist() == [[100.5, 0.5], [32.0, 3.0], [-1.0, -1.0]]


def test_masked_weights_reach_nothing_even_if_they_are_not_finite():
    mask = topology.Mask(jnp.asarray([[True, False]]))
    params = layers.LayerParams(jnp.asarray([[2.0, jnp.nan]]), jnp.zeros(1))

    def out(p):
        return jnp.sum(layers.linear(p, mask, jnp.ones((2, 3)), dense_product))

    value, grad = jax.value_and_grad(out)(params)
    assert float(value) == 6.0
    assert np.asarray(grad.weight).tolist() == [[3.0, 0.0]]


def test_conversion_there_and_back(key):
    t = padded_topology()
    params = layers.init_layer(t, "dense-fan-in", "relu", key_init=key)
    masked, mask = layers.to_masked(params, t)
    assert np.array_equal(mask.mask, topology.topology_mask(t))
    assert np.all(np.asarray(masked.weight)[~np.asarray(mask.mask)] == 0)
    assert trees.equal(layers.to_sparse(masked, t), params)


def many(t: topology.Topology, init: str, activation: str, number: int) -> layers.LayerParams:
    keys = jax.random.split(jax.random.key(11), number)
    draw = jax.vmap(lambda k: layers.init_layer(t, init, activation, key_init=k))
    return jax.tree.map(np.asarray, jax.jit(draw)(keys))


def test_dense_fan_in_is_uniform_in_the_bound_of_all_inputs():
    t = masks.uniform_topology(20, 25, 100, key_mask=jax.random.key(0))
    drawn = many(t, "dense-fan-in", "relu", 100)
    for values in (drawn.weight.ravel(), drawn.bias.ravel()):
        assert np.abs(values).max() <= 0.2 < np.abs(values).max() * 1.01
        assert stats.kstest(values, stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3


@pytest.mark.parametrize("activation", sorted(GAINS))
def test_sparse_fan_in_is_normal_with_the_units_own_fan_in(activation):
    mask = np.zeros((3, 12), bool)
    mask[0], mask[1, :3] = True, True  # fan-in 12, 3 and none
    drawn = many(topology.topology_from_mask(mask), "sparse-fan-in", activation, 400)
    gain = {"relu": 2**0.5, "gelu": 2**0.5}.get(activation, 1.0)
    assert np.all(drawn.bias == 0)
    for part, fan_in in ((drawn.weight[:, :12], 12), (drawn.weight[:, 12:], 3)):
        scaled = part.ravel() * fan_in**0.5 / gain
        assert stats.kstest(scaled, stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("density", [0.02, 0.1, 1.0])
def test_the_variance_of_a_relu_layer_does_not_depend_on_the_density(density):
    nnz = int(density * 200 * 150)
    t = jax.jit(lambda k: masks.uniform_topology(150, 200, nnz, key_mask=k))(jax.random.key(2))
    drawn = many(t, "sparse-fan-in", "relu", 20)
    rng = np.random.default_rng(0)
    below = np.maximum(rng.normal(size=(200, 40)), 0)  # second moment 1/2
    fed = np.asarray(t.fan_in) > 0
    variances = []
    for weight in drawn.weight:
        w = np.zeros((150, 200))
        w[np.asarray(t.rows), np.asarray(t.cols)] = weight
        variances.append((w @ below)[fed].var())
    assert np.mean(variances) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("init", layers.INITS)
def test_padding_slots_start_at_zero(init, key):
    drawn = layers.init_layer(padded_topology(), init, "tanh", key_init=key)
    weight = np.asarray(drawn.weight)
    assert np.all(weight[3:] == 0) and np.all(weight[:3] != 0)
    assert np.isfinite(weight).all() and drawn.bias.shape == (3,)


def test_a_unit_without_inputs_is_its_bias(key):
    t = padded_topology()
    params = layers.init_layer(t, "sparse-fan-in", "relu", key_init=key)
    y = layers.linear(params, t, jnp.ones((3, 2)), dense_product)
    assert np.all(np.asarray(y)[2] == 0)


def test_unknown_names_list_the_known(key):
    with pytest.raises(ValueError, match="dense-fan-in, sparse-fan-in"):
        layers.init_layer(padded_topology(), "he", "relu", key_init=key)
    with pytest.raises(ValueError, match="choose one of dense"):
        product("no such kernel")
