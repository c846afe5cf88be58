"""Compression: scores and masks by hand, refit against NumPy, bits against brute force, wrong input."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import hypothesis
import hypothesis.strategies as some
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxnet
from jaxnet import circuits, compress
from jaxnet.errors import InputError
from jaxnet.nn import Linen
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams, to_dense
from jaxnet.topology import Mask, topology_from_mask
from jaxnet.train import Task
from tests.networks import quick


def by_hand() -> tuple[Task, Params, Structure]:
    """h = relu(x0 - 4 x1, 2 x1), z = (h0, 3 h0 + h1)."""
    masks = [np.array([[1, 1], [0, 1]]), np.array([[1, 0], [1, 1]])]
    values = [jnp.asarray([1.0, -4.0, 2.0]), jnp.asarray([1.0, 3.0, 1.0])]
    layers = tuple(LayerParams(v, jnp.zeros(2)) for v in values)
    structure = Structure.of([topology_from_mask(mask) for mask in masks])
    return Task(MLP(jaxnet.NetworkSpec((2, 2, 2), 1.0))), Params(layers), structure


def test_scores_and_masks_by_hand(key):
    task, params, structure = by_hand()
    x, y = jnp.asarray([[4.0, 0.0], [0.0, 0.0]]), jnp.asarray([0, 0])

    def score(name: str) -> np.ndarray:
        return np.asarray(compress.score(name, task, params, structure, x, y, key=key))

    assert score("magnitude").tolist() == [1, 4, 2, 1, 3, 1]
    # root mean squares: inputs (4, 0) / sqrt 2, hidden (4, 0) / sqrt 2
    root = np.sqrt(8)
    np.testing.assert_allclose(score("weight x activation"), [root, 0, 0, root, 3 * root, 0], rtol=1e-6)
    # logits (4, 12) on the first sample: the gradient is p1 (-1, 1) / 2; dz/dh0 = (1, 3)
    p = 1 / (1 + np.exp(-8)) / 2
    expected = [2 * p * 4, 0, 0, 4 * p, 12 * p, 0]
    np.testing.assert_allclose(score("gradient x weight"), expected, rtol=1e-5)

    size = jnp.asarray(score("magnitude"))
    there = lambda *args: np.asarray(compress.kept(params, structure, size, *args)).astype(int).tolist()  # noqa: E731
    assert there(None, 0.5, "global") == [0, 1, 1, 0, 1, 0]
    assert there(None, 0.5, "layer") == [0, 1, 0, 0, 1, 0]
    assert there(None, 0.5, "row") == [0, 1, 0, 0, 1, 0]  # rows of 2, 1, 1, 2
    assert there(None, 0.34, "layer") == [0, 1, 0, 0, 1, 0]
    assert there(None, 0.33, "layer") == [0, 1, 1, 1, 1, 0]
    circuit = jnp.asarray([1, 0, 0, 0, 0, 1], bool)
    assert there(circuit, 0.5, "global") == [1, 1, 0, 0, 0, 1]
    pruned, left = compress.prune(params, structure, size, circuit, 0.5)
    dense = to_dense(pruned, left)
    np.testing.assert_array_equal(dense.scaffold[0].weight, [[1, -4], [0, 0]])
    np.testing.assert_array_equal(dense.scaffold[1].weight, [[0, 0], [0, 1]])
    masked, masks = jaxnet.to_masked_network(params, structure)
    also = compress.prune(masked, masks, circuits.magnitude(masked, masks), None, 0.5, "layer")[0]
    np.testing.assert_array_equal(also.scaffold[0].weight, [[0, -4], [0, 0]])


def test_a_refit_is_numpys_normal_equations(key):
    mask = np.array(jax.random.bernoulli(key, 0.5, (4, 6)))
    mask[1] = False
    x = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (6, 50)))
    wanted = np.asarray(jax.random.normal(jax.random.fold_in(key, 2), (4, 50)))
    for entry in (topology_from_mask(mask), Mask(jnp.asarray(mask))):
        found = compress.refit_layer(entry, jnp.asarray(x), jnp.asarray(wanted), 0.1)
        weight = to_dense({"w": found.weight}, {"w": entry})["w"]
        for row in range(4):
            a = np.vstack([x[mask[row]], np.ones(50)]).astype(np.float64)
            ridge = np.diag([0.1 * np.mean(x**2) * 50] * int(mask[row].sum()) + [0.0])
            expected = np.linalg.solve(a @ a.T + ridge, a @ wanted[row])
            np.testing.assert_allclose(weight[row][mask[row]], expected[:-1], atol=1e-5)
            np.testing.assert_allclose(found.bias[row], expected[-1], atol=1e-5)
            assert not np.any(np.asarray(weight[row])[~mask[row]])


def trained_like(key: jax.Array) -> tuple[Task, Any, Any, jax.Array]:
    spec = jaxnet.NetworkSpec((12, 16, 10, 3), 0.9)
    params, structure = jaxnet.init(spec, key_mask=key, key_init=jax.random.fold_in(key, 1))
    mix = jax.random.normal(key, (4, 12))  # inputs of four dimensions, so that a refit can help
    x = jax.random.normal(jax.random.fold_in(key, 2), (200, 4)) @ mix
    return Task(MLP(spec)), params, structure, x


@pytest.mark.slow
def test_a_refit_brings_the_outputs_back_and_waves_prune_to_the_ratio(key):
    task, params, structure, x = trained_like(key)

    @quick
    def all_of_it(params: Any, structure: Any, x: jax.Array) -> Any:
        y = jnp.zeros(len(x), jnp.int32)
        score = lambda p, s: compress.score("random", task, p, s, x, y, key=key)  # noqa: E731
        fan_in = (12, 16, 10)
        again = lambda p, s: compress.refit(task, params, structure, p, s, x, fan_in=fan_in)  # noqa: E731
        nets = [compress.prune(params, structure, score(params, structure), None, 0.6)]
        nets.append((again(*nets[0]), nets[0][1]))
        nets.append(compress.waves(params, structure, score, 0.6, 3, again))
        outs = [task.model(*net, x, key_forward=None)[0] for net in ((params, structure), *nets)]
        return [jnp.mean((out - outs[0]) ** 2) for out in outs[1:]], [
            sum(e.num_nonzeros for e in s.weights) for _, s in nets
        ]

    (plain, refitted, in_waves), counts = all_of_it(params, structure, x)
    assert refitted < 0.6 * plain and in_waves < 0.6 * plain
    assert int(counts[0]) == int(counts[1]) and abs(int(counts[2]) - int(counts[0])) <= 2


def test_levels():
    values = jnp.asarray([-1.0, -0.2, 0.0, 0.4, 0.9])
    for bits in (2, 3, 8):
        levels = compress.quantise(values, bits)
        assert float(jnp.max(jnp.abs(levels - values))) <= 1 / (2 ** (bits - 1) - 1) / 2 + 1e-6
    np.testing.assert_allclose(compress.quantise(values, 1), jnp.sign(values) * 0.625)
    loss = lambda p: jnp.sum((p["a"] - values) ** 2 + 10 * (p["b"] - values) ** 2)  # noqa: E731
    params = {"a": values, "b": values}
    found = compress.sensitivity(loss, params, ["['a']", "['b']"], (2, 4))
    np.testing.assert_allclose(found[1], 10 * found[0], rtol=1e-4)
    curved = compress.hessian_sensitivity(loss, params, ["['a']", "['b']"], (2, 4), key=jax.random.key(0))
    # a diagonal Hessian: random signs give its trace exactly; of five values one is zero
    np.testing.assert_allclose(curved, found * 5 / 4, rtol=1e-4)


@hypothesis.given(some.data())
def test_bits_are_optimal_and_in_the_budget(data):
    number = data.draw(some.integers(1, 6))
    bits = (1, 2, 4, 8)
    sizes = data.draw(some.lists(some.integers(1, 30), min_size=number, max_size=number))
    flat = data.draw(some.lists(some.floats(-1, 9), min_size=4 * number, max_size=4 * number))
    sens = np.array(flat).reshape(number, 4)
    budget = data.draw(some.floats(1, 9))
    found = compress.allocate_bits(sens, sizes, budget, bits)
    assert np.dot(found, sizes) <= budget * sum(sizes) + 1e-6

    def loss(chosen: Any) -> float:
        return float(sum(sens[g, bits.index(b)] for g, b in enumerate(chosen)))

    every = [c for c in itertools.product(bits, repeat=number) if np.dot(c, sizes) <= budget * sum(sizes)]
    assert loss(found.tolist()) <= min(map(loss, every)) + 1e-9


@pytest.mark.slow
def test_widths_follow_the_energy_of_squares(key):
    _, params, structure, x = trained_like(key)
    linear = Task(MLP(jaxnet.NetworkSpec((12, 16, 10, 3), 0.9, "identity")))
    widths = compress.effective_widths(linear, params, structure, x, 0.9999)
    assert widths.tolist() == [4, 4]  # the dimension of the inputs
    made, masks, found = compress.resize(linear, params, structure, x, 0.9999)
    assert found == (4, 4) and made.scaffold[0].weight.shape == (4, 12)
    before = linear.model(params, structure, x, key_forward=None)[0]
    after = linear.model(made, masks, x, key_forward=None)[0]
    np.testing.assert_allclose(after, before, atol=0.05 * float(jnp.std(before)))
    # as many dimensions as units: wider, and the same function
    spec = jaxnet.NetworkSpec((12, 2, 2, 3), 1.0, "identity")
    small = Task(MLP(spec))
    net = jaxnet.init(spec, key_mask=key, key_init=key)
    wide, entries, found = compress.resize(small, *net, x, 1.0, spec=spec, key=key)
    assert found == (4, 4)
    np.testing.assert_allclose(
        small.model(wide, entries, x, key_forward=None)[0],
        small.model(*net, x, key_forward=None)[0],
        atol=1e-5,
    )


def test_targets_are_orthonormal_and_met_by_what_spans_them(key):
    h = jax.random.normal(key, (6, 40))
    targets = compress.frozen_targets(h, 1.0)
    np.testing.assert_allclose(targets.T @ targets, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(compress.alignment_loss(targets.T, targets), 0, atol=1e-5)
    other = jax.random.normal(jax.random.fold_in(key, 1), (6, 40))
    grad = jax.grad(compress.alignment_loss)(other, targets)
    assert float(compress.alignment_loss(other - 5 * grad, targets)) < float(
        compress.alignment_loss(other, targets)
    )


def test_any_flax_model_is_pruned(key):
    model = Linen(nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)]))
    x, y = jax.random.normal(key, (20, 5)), jnp.arange(20) % 3
    params, _ = model.init(x, key=key)
    params, structure = jaxnet.sparsify(params, density=1.0, key=key)
    scores = compress.score("gradient x weight", Task(model), params, structure, x, y)
    pruned, left = compress.prune(params, structure, scores, None, 0.75)
    counts = jaxnet.structure.count(pruned, left)
    assert int(counts["weights"]) == 16 and model(pruned, left, x, key_forward=None)[0].shape == (20, 3)


def test_wrong_input_is_said(key):
    task, params, structure = by_hand()
    size = circuits.magnitude(params, structure)
    for ratio in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="a ratio must be at least 0 and below 1"):
            compress.prune(params, structure, size, None, ratio)
    with pytest.raises(InputError, match="6 weights are to be kept, and a ratio of"):
        compress.prune(params, structure, size, jnp.ones(6, bool), 0.5)
    with pytest.raises(InputError, match="weights that are not finite"):
        compress.prune(jax.tree.map(lambda a: a * jnp.nan, params), structure, size)
    with pytest.raises(InputError, match="at least 1 bit"):
        compress.allocate_bits(np.zeros((1, 2)), [4], 0.5, (1, 2))
    with pytest.raises(InputError, match="at least 1 bit"):
        compress.quantise(size, 0)
    with pytest.raises(InputError, match="below the smallest choice"):
        compress.allocate_bits(np.zeros((1, 2)), [4], 1.5, (2, 4))
    with pytest.raises(InputError, match="the teacher knows 2 classes and the student 10"):
        compress.check_teacher(task.model, params, structure, jnp.zeros((1, 2)), 10)
    with pytest.raises(InputError, match="tau"):
        compress.resize(task, params, structure, jnp.zeros((3, 2)), 0)


def test_it_lowers_for_cuda(key):
    task, params, structure, x = trained_like(key)

    def all_of_it(params: Any, structure: Any, x: jax.Array) -> Any:
        y = jnp.zeros(len(x), jnp.int32)
        scores = compress.score("weight x activation", task, params, structure, x, y)
        net = circuits.extract(params, structure, compress.kept(params, structure, scores, None, 0.5, "row"))
        return compress.refit(task, params, structure, *net, x, fan_in=(12, 16, 10))

    assert export.export(jax.jit(all_of_it), platforms=["cuda"])(params, structure, x).mlir_module()
