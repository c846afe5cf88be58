"""Wrong input of methods: refused in one line that says what is allowed."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import methods
from jaxnet.structure import is_entry
from jaxnet.topology import Mask, Topology
from jaxnet.train import Net, init_state
from tests.changes import nets

KEY = jax.random.key(0)


def masked(optimizer: Any = None) -> Net:
    """Large enough for adafactor to factor it."""
    params = {"w": jnp.ones((128, 128))}
    return Net.of(params, {"w": Mask(jnp.ones((128, 128), bool))}, optimizer or optax.sgd(0.1))


def test_methods_are_made_by_name():
    assert methods.make("rigl", fraction=0.2, until=50) == methods.RigL(fraction=0.2, until=50)
    for name, method in methods.METHODS.items():
        assert methods.make(name) == method() and hash(methods.make(name)) == hash(method())
        assert all(is_entry(object.__new__(kind)) for kind in method.serves)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sett", {}, "unknown method 'sett': choose one of static, set, rigl, magnitude, snip"),
        ("set", {"density": 0.1}, "set has no option 'density': it has fraction, every, until"),
        ("static", {"every": 1}, "static has no option 'every': it has none"),
        ("set", {"fraction": 1.5}, "fraction must be between 0 and 1: 1.5"),
        ("rigl", {"fraction": -0.1}, "fraction must be between 0 and 1: -0.1"),
        ("rigl", {"fraction": float("nan")}, "fraction must be between 0 and 1: nan"),
        ("set", {"every": 0}, "every and until must be at least 1 step: 0"),
        ("rigl", {"until": 0}, "every and until must be at least 1 step: 100, 0"),
        ("snip", {"density": 0.0}, "density must be above 0 and at most 1: 0.0"),
        ("snip", {"density": float("nan")}, "density must be above 0 and at most 1: nan"),
        ("magnitude", {"density": 1.5}, "density must be above 0 and at most 1: 1.5"),
        ("magnitude", {"start": 0.0}, "density must be above 0 and at most 1: 0.0"),
        ("magnitude", {"schedule": "linear"}, "unknown schedule 'linear': choose one of constant, cubic"),
        ("magnitude", {"scope": "layer"}, "unknown scope 'layer': choose one of weight, global, lamp"),
        ("granet", {"scope": "layer"}, "unknown scope 'layer': choose one of weight, global, lamp"),
        ("granet", {"begin": 9, "end": 8}, "begin must be at least 1 and not after end: 9, 8"),
        ("granet", {"until": 8}, "until must not be before end: 8, 1000"),
        ("chtss", {"density": 0.6}, "density must be at most start: 0.6, 0.5"),
        ("chtss", {"steepness": 0.0}, "steepness must be above 0: 0.0"),
        ("chts", {"delta": 1.5}, "delta must be between 0 and 1: 1.5"),
        ("chts", {"rule": "ch4"}, "unknown rule 'ch4': choose one of ch2, ch3"),
        ("extrema", {"signal": "loud"}, "unknown signal 'loud': choose one of original, adaptive"),
        ("extrema", {"gradient": "sum"}, "unknown gradient 'sum': choose one of none, product, rank"),
        ("sparse-momentum", {"beta": 1.0}, "beta must be at least 0 and below 1: 1.0"),
        ("revive", {"norm": "l3"}, "unknown norm 'l3': choose one of l2, l1"),
        ("revive", {"most": 0}, "most must be at least 1: 0"),
        ("magnitude", {"begin": 0}, "begin must be at least 1 and not after end: 0, 1000"),
        ("magnitude", {"begin": 7, "end": 6}, "begin must be at least 1 and not after end: 7, 6"),
        ("magnitude", {"schedule": "constant", "begin": 0}, "begin must be at least 1"),
        ("magnitude", {"every": 0}, "every must be at least 1"),
        ("magnitude", {"density": 0.5, "start": 0.4}, "density at most start"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError) as error:
        methods.make(name, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


@dataclasses.dataclass(frozen=True)
class OnlySparse(methods.SET):
    serves: ClassVar[tuple[type, ...]] = (Topology,)


def test_a_structure_that_a_method_does_not_serve_is_refused():
    with pytest.raises(ValueError, match=r"OnlySparse serves Topology, and \['w'\] is a Mask"):
        init_state(masked(), OnlySparse(), key=KEY)
    topology = nets.host_topology(np.arange(4), (2, 3), 5)
    init_state(Net.of({"w": jnp.zeros(5)}, {"w": topology}, optax.sgd(0.1)), OnlySparse(), key=KEY)
    dense = Net.of({"w": jnp.ones(3)}, {"w": None}, optax.sgd(0.1))
    for name in methods.METHODS:
        with pytest.raises(ValueError, match="no entry for any weight"):
            init_state(dense, methods.make(name), lambda: {"w": jnp.ones(3)}, key=KEY)


@pytest.mark.parametrize(
    ("optimizer", "name"), [(optax.adafactor(0.1), "adafactor"), (optax.sm3(0.1), "sm3")]
)
def test_an_optimiser_that_cannot_follow_is_refused(optimizer, name):
    net = masked(optimizer)
    for method in [name for name, each in methods.METHODS.items() if Mask in each.serves]:
        with pytest.raises(ValueError, match=f"{name} .* cannot follow"):
            init_state(net, methods.make(method), lambda: net.params, key=KEY)
    init_state(net)  # where the structure stays it may be anything


def test_what_a_method_needs_must_be_given():
    with pytest.raises(ValueError, match="give key"):
        init_state(masked(), methods.make("set"))
    with pytest.raises(ValueError, match="give dense_gradient to init_state"):
        init_state(masked(), methods.make("snip"), key=KEY)
