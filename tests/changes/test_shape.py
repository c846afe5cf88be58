"""Operators: cases by hand, the function kept, counts exact, patches where they were, many at once."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxnet import allocation, changes, trees
from jaxnet import topology as topologies
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, count_nonzeros, to_masked_network
from jaxnet.patches import PatchRules
from jaxnet.structure import LayerParams
from tests import networks, reference
from tests.changes import chains

KEYS: Any = {"key_mask": jax.random.key(1), "key_init": jax.random.key(2)}


def matrices(params, structure) -> list[np.ndarray]:
    return [
        reference.matrix(np.asarray(layer.weight), c)
        for layer, c in zip(params.scaffold, structure.weights, strict=True)
    ]


@functools.cache
def by_hand(*names: str) -> tuple[Params, Structure]:
    """A network with these matrices; zeros are no weights, and biases count the units."""
    layers, found = [], []
    for name in names:
        a = np.asarray(MATRICES[name], np.float32)
        found.append(
            networks.quick(topologies.topology_from_flat, static_argnums=2)(
                jnp.asarray(np.flatnonzero(a), jnp.int32), np.ones(np.count_nonzero(a), bool), a.shape
            )
        )
        layers.append(LayerParams(jnp.asarray(a[a != 0]), jnp.arange(a.shape[0], dtype=jnp.float32)))
    return Params(tuple(layers)), Structure.of(found)


FIRST, SECOND = [[1.0, 0.0], [2.0, 3.0]], [[4.0, 0.0], [5.0, 6.0], [0.0, 7.0]]
MATRICES = {"first": FIRST, "second": SECOND}


def tiny(activation: str = "relu") -> tuple[NetworkSpec, Params, Structure]:
    return NetworkSpec((2, 2, 3), 0.5, activation), *by_hand("first", "second")


def shallow() -> tuple[NetworkSpec, Params, Structure]:
    return NetworkSpec((2, 3), 0.5), *by_hand("second")


def grown(operator: Any, net: tuple[NetworkSpec, Params, Structure], **options: Any) -> Any:
    """What an operator makes of a network, as one program: eager, every operation would be compiled."""
    specs = []

    def run(params, structure):
        spec, *new = operator(net[0], params, structure, **options, **KEYS)
        specs.append(spec)
        return new

    new = networks.quick(run)(*net[1:])
    return specs[0], *new


def test_a_passing_layer_by_hand():
    spec, params, structure = grown(
        changes.insert_layer,
        tiny(),
        after=0,
        size=3,
        nonzeros_in=6,
        nonzeros_out=7,
        rule="preserve",
    )
    assert spec.sizes == (2, 2, 3, 3)
    first, new, reader = matrices(params, structure)
    assert first.tolist() == FIRST
    # all 6 positions exist: the two that pass a value on, two of value zero beside them, two at random
    assert structure.weights[1].exists.sum() == 6
    assert new[:2].tolist() == [[1, 0], [0, 1]] and np.all(new[2] != 0)
    assert params.scaffold[1].bias[:2].tolist() == [0, 0]
    # the old reader, and all 3 positions of the extra unit, of value zero
    assert reader.tolist() == [[*row, 0] for row in SECOND]
    assert np.asarray(structure.weights[2].fan_in).tolist() == [2, 3, 2]
    assert params.scaffold[2].bias.tolist() == [0, 1, 2]


def test_a_redrawn_reader_by_hand():
    spec, params, structure = grown(
        changes.insert_layer,
        tiny("tanh"),
        after=-1,
        size=4,
        nonzeros_in=3,
        nonzeros_out=5,
        rule="redraw",
    )
    assert spec.sizes == (2, 4, 2, 3)
    assert [int(t.num_nonzeros) for t in structure.weights] == [3, 5, 4]
    assert matrices(params, structure)[2].tolist() == SECOND
    assert not set(np.ravel(FIRST)) & set(matrices(params, structure)[1].ravel()) - {0.0}
    # behind the only hidden layer the output layer is drawn afresh
    _, params, structure = grown(
        changes.insert_layer,
        tiny(),
        after=0,
        size=1,
        nonzeros_in=2,
        nonzeros_out=3,
        rule="redraw",
    )
    assert matrices(params, structure)[0].tolist() == FIRST
    assert [t.shape for t in structure.weights] == [(2, 2), (1, 2), (3, 1)]


def test_a_network_without_hidden_layer_grows():
    net = shallow()
    options: Any = {"after": -1, "size": 5, "nonzeros_in": 4, "nonzeros_out": 6}
    spec, _, structure = grown(changes.insert_layer, net, rule="redraw", **options)
    assert spec.sizes == (2, 5, 3) and [int(t.num_nonzeros) for t in structure.weights] == [4, 6]
    with pytest.raises(ValueError, match="negative values: choose rule redraw"):
        grown(changes.insert_layer, net, rule="preserve", **options)


def test_wider_by_hand():
    for rule in changes.RULES:
        spec, params, structure = grown(
            changes.widen,
            tiny("gelu"),
            layer=0,
            units=2,
            nonzeros_in=4,
            nonzeros_out=6,
            rule=rule,
        )
        assert spec.sizes == (2, 4, 3)
        first, reader = matrices(params, structure)
        assert first[:2].tolist() == FIRST and np.all(first[2:] != 0)
        assert params.scaffold[0].bias[:2].tolist() == [0, 1]
        assert [int(t.num_nonzeros) for t in structure.weights] == [3 + 4, 6]
        if rule == "preserve":
            assert reader.tolist() == [[*row, 0, 0] for row in SECOND]
            new = topologies.topology_mask(structure.weights[1])[:, 2:]
            assert int(new.sum()) == 2, "outgoing weights exist"
        else:
            assert not set(np.ravel(SECOND)) & set(reader.ravel()) - {0.0}


def test_the_specification_of_a_small_grown_network_can_be_drawn():
    net = shallow()
    spec, *_ = grown(
        changes.insert_layer,
        net,
        after=-1,
        size=1,
        nonzeros_in=1,
        nonzeros_out=1,
        rule="redraw",
    )
    assert spec.density == pytest.approx(0.5, rel=1e-6) and allocation.allocate(spec.sizes, spec.density)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "after": (
        changes.insert_layer,
        {"after": 1, "size": 2, "nonzeros_in": 2, "nonzeros_out": 2},
        "after must be between -1 and 0: 1",
    ),
    "size": (
        changes.insert_layer,
        {"after": 0, "size": 0, "nonzeros_in": 2, "nonzeros_out": 2},
        "size must be at least 1: 0",
    ),
    "too small to pass on": (
        changes.insert_layer,
        {"after": 0, "size": 1, "nonzeros_in": 2, "nonzeros_out": 4, "rule": "preserve"},
        "a layer of at least 2",
    ),
    "too few to pass on": (
        changes.insert_layer,
        {"after": 0, "size": 3, "nonzeros_in": 1, "nonzeros_out": 5, "rule": "preserve"},
        "nonzeros_in must be between 2 and 6: 1",
    ),
    "more than positions": (
        changes.insert_layer,
        {"after": 0, "size": 2, "nonzeros_in": 5, "nonzeros_out": 2},
        "nonzeros_in must be between 1 and 4: 5",
    ),
    "no silent weight": (
        changes.widen,
        {"layer": 0, "units": 1, "nonzeros_in": 1, "nonzeros_out": 4, "rule": "preserve"},
        "nonzeros_out must be between 5 and 7: 4",
    ),
    "layer": (
        changes.widen,
        {"layer": 1, "units": 1, "nonzeros_in": 1, "nonzeros_out": 4},
        "layer must be between 0 and 0: 1",
    ),
    "units": (
        changes.widen,
        {"layer": 0, "units": 0, "nonzeros_in": 1, "nonzeros_out": 4},
        "units must be at least 1",
    ),
    "rule": (
        changes.widen,
        {"layer": 0, "units": 1, "nonzeros_in": 1, "nonzeros_out": 4, "rule": "keep"},
        "redraw, preserve",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name):
    operator, options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        operator(*tiny(), **{"rule": "redraw", **options}, **KEYS)


def test_what_cannot_be_preserved_or_grown_is_refused():
    options: Any = {"after": 0, "size": 2, "nonzeros_in": 2, "nonzeros_out": 4, "rule": "preserve"}
    tanh: Any = tiny("tanh")
    with pytest.raises(ValueError, match="no layer of tanh units"):
        changes.insert_layer(tanh[0], tanh[1], tanh[2], **options, **KEYS)
    spec, params, structure = tiny()
    masked: Any = to_masked_network(params, structure)
    with pytest.raises(TypeError, match="sparse representation"):
        changes.insert_layer(spec, masked[0], masked[1], **options, **KEYS)
    with pytest.raises(ValueError, match="skip connections"):
        changes.insert_layer(spec, params, structure.replace(skips=(None, None)), **options, **KEYS)


# --- chains of growth, with padding slots and patches of both kinds -----------------------------------


@functools.cache
def outputs(kind: str) -> Any:
    """``run(key, x)``: logits and counts before the chain and after each step."""

    def run(key, x):
        return [
            (mlp.forward(s, p, c, x)[0], count_nonzeros(p, c))
            for s, p, c in chains.values_along(kind, "preserve")(key)
        ]

    return networks.quick(run)


X = jnp.asarray(np.random.default_rng(3).normal(size=(10, 9)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", pytest.param("dense", marks=pytest.mark.slow)])
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=8)
def test_networks_compute_the_same_while_they_grow(kind, seed):
    before, *after = outputs(kind)(jax.random.key(seed), X)
    assert np.abs(before[0]).max() > 1e-2
    for logits, counts in after:
        np.testing.assert_allclose(logits, before[0], rtol=1e-4, atol=1e-5)
        assert int(counts["total"]) > int(before[1]["total"])


@pytest.mark.parametrize(("kind", "rule"), chains.CASES)
def test_counts_are_those_of_the_arguments_and_everything_is_in_order(kind, rule):
    stages = chains.example(kind, rule)
    for step, before, after in zip(chains.CHAIN, stages[:-1], stages[1:], strict=True):
        (old, was), (spec, now) = before, after
        a, params, b = was.structure, now.params, now.structure
        assert [t.shape for t in b.weights] == list(zip(spec.sizes[1:], spec.sizes[:-1], strict=True))
        for t in b.weights:
            topologies.validate_topology(t)
        have, had = ([int(t.num_nonzeros) for t in s.weights] for s in (b, a))
        what, *where = step.split()
        if what == "patch":
            assert have == had
        else:
            at = int(where[0])
            reader = had[at + 1] + (3 if what == "insert" else 5)
            if rule == "redraw":  # the number asked for, whatever was padding before
                reader += a.weights[at + 1].capacity - had[at + 1]
            new = [3 * old.sizes[at + 1], reader] if what == "insert" else [had[at] + 7, reader]
            here = at + 1 if what == "insert" else at
            assert have == [*had[:here], *new, *had[at + 2 :]]
        # what does not exist is zero
        gone = networks.leaves_named(networks.absent(params, b))
        for (path, value), (_, absent) in zip(networks.leaves_named(params), gone, strict=True):
            assert not np.any(value[absent]), path


@pytest.mark.parametrize(("kind", "rule"), chains.CASES)
def test_a_grown_network_computes_what_numpy_says(kind, rule):
    spec, net = chains.example(kind, rule)[-1]
    params, structure = net.params, net.structure
    assert any(p is not None and p.reads == (2, 1) for p in structure.bank.layers)
    logits, _ = mlp.forward(spec, params, structure, X)
    want = reference.forward(
        "relu", reference.to_numpy(params), reference.to_numpy(structure), np.asarray(X, np.float64)
    )[0]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # a population equals its networks alone, in test_population.py
def test_many_grow_as_one_does():
    keys = jax.random.split(jax.random.key(8), 3)
    together = chains.compiled("dense", "redraw", many=True)(keys)
    for i in range(3):
        alone = chains.compiled("dense", "redraw")(keys[i])
        assert trees.allclose(trees.take(together, i), alone, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_redrawn_reader_leaves_the_positions_of_dense_patches_alone():
    spec, net = chains.example("dense", "redraw")[1]
    rules = PatchRules("dense", 2, patch_density=0.9)
    found = networks.made_up_extrema(spec.sizes, jax.random.key(4))

    def run(params, structure):
        patched = changes.add_patches(
            spec, params, structure, found, rules, rule="redraw", key_patch=KEYS["key_mask"]
        )
        return changes.widen(
            *patched, layer=0, units=1, nonzeros_in=2, nonzeros_out=25, rule="redraw", **KEYS
        )[2]

    structure: Any = networks.quick(run)(net.params, net.structure)
    scaffold, patches = structure.weights[1], structure.bank.layers[1].topology
    both = topologies.topology_mask(scaffold) & topologies.topology_mask(patches)
    assert int(scaffold.num_nonzeros) == 25 and not np.any(both)


MANY = ("patch", "insert 0", "widen 0", "patch", "widen 1", "insert 1", "widen 1")
ORDERS = [tuple(str(s) for s in np.random.default_rng(i).permutation(MANY)) for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", chains.RULES)
@pytest.mark.parametrize("number", range(len(ORDERS)))
def test_any_order_of_steps_keeps_the_function(kind, number):

    def run(key):
        stages = chains.values_along(kind, "preserve", ORDERS[number])(key)
        return [mlp.forward(s, p, c, X)[0] for s, p, c in stages]

    compiled = networks.quick(run)
    for seed in range(5):
        before, *after = compiled(jax.random.key(seed))
        for logits in after:
            np.testing.assert_allclose(logits, before, rtol=1e-4, atol=1e-5)
