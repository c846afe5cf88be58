"""Sparse dense layers for Flax, and a wrapped optimiser's state saved by plain Orbax."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import jaxnet
from jaxnet import structure as structures
from jaxnet import trees
from jaxnet.nn import SparseDense
from jaxnet.nn import nnx as sparse_nnx
from jaxnet.topology import densify


class Model(nn.Module):
    """A sparse and a dense layer."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(SparseDense(5, density=0.3)(x)))


def test_linen_layer_is_its_dense_matrix(key):
    """Values and gradients equal those of the dense matrix; the dense gradient has them at the weights."""
    model, x = Model(), jax.random.normal(key, (4, 2, 6))
    variables = model.init(key, x)
    params, structure = variables["params"], variables["structure"]
    entry = structure["SparseDense_0"]["kernel"]
    assert params["SparseDense_0"]["kernel"].shape == (int(0.3 * 6 * 5),)

    def loss(params, structure):
        out: Any = model.apply({"params": params, "structure": structure}, x)
        return jnp.sum(jnp.square(out))

    dense = {**params, "SparseDense_0": {**params["SparseDense_0"]}}
    matrix = densify(params["SparseDense_0"]["kernel"], entry)

    def by_hand(matrix):
        hidden = nn.relu(x @ matrix.T + params["SparseDense_0"]["bias"])
        return jnp.sum(jnp.square(hidden @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"]))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params, structure)
    expected, full = jax.value_and_grad(by_hand)(matrix)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    at_weights = full[entry.rows, entry.cols]
    np.testing.assert_allclose(gradient["SparseDense_0"]["kernel"], at_weights, rtol=1e-4, atol=1e-5)
    everywhere = structures.dense_gradient(loss, params, structure)["SparseDense_0"]["kernel"]
    np.testing.assert_allclose(everywhere, full, rtol=1e-4, atol=1e-5)


def test_nnx_layer_goes_apart_and_together():
    model, x = sparse_nnx.SparseDense(6, 5, density=0.3, rngs=nnx.Rngs(0)), jnp.ones((2, 6))
    graph, params, structure, rest = sparse_nnx.split(model)
    assert int(structures.count(params, structure)["weights"]) == int(0.3 * 6 * 5)
    np.testing.assert_array_equal(sparse_nnx.merge(graph, params, structure, rest)(x), model(x))


def test_parameters_structure_and_state_are_saved_by_plain_orbax(key, tmp_path):
    """What comes back goes on to the same bits."""
    params, structure = jaxnet.sparsify({"w": jax.random.normal(key, (6, 5))}, density=0.4, key=key)
    optimizer = jaxnet.wrap(optax.adam(0.1), jaxnet.methods.make("set", every=2), structure, key=key)
    state = optimizer.init(params)

    def step(params, state):
        gradient = jax.tree.map(jnp.cos, params)
        updates, state = optimizer.update(gradient, state, params)
        return jaxnet.act(optax.apply_updates(params, updates), state, gradient)

    params, state = step(params, state)
    leaves, tree = jax.tree.flatten((params, state.replace(key=jax.random.key_data(state.key))))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "saved", leaves)
        saver.wait_until_finished()
        back = saver.restore(tmp_path / "saved", leaves)
    params_back, state_back = jax.tree.unflatten(tree, back)
    state_back = state_back.replace(key=jax.random.wrap_key_data(state_back.key, impl="threefry2x32"))
    again, expected = step(params_back, state_back), step(params, state)
    assert trees.equal(again[0], expected[0])
    assert trees.equal(again[1].structure, expected[1].structure)
