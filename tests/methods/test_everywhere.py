"""Every method in a sweep and around a user's own optimiser: the number of weights is the budget's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import trees
from jaxnet.structure import count, entries
from jaxnet.sweep import make_family, make_run, make_variant
from jaxnet.topology import Mask, Topology, topology_mask
from jaxnet.train import BatchView
from tests import networks
from tests.methods import tiny
from tests.methods.test_methods import CASES, PAIRS, small
from tests.sweep import small as sweeps

BEFORE = ["snip"]
"""Methods that look at a gradient before they start: a sweep has none."""


def numbers(structure: Any) -> list[tuple[int, int]]:
    return [(int(np.asarray(e.num_nonzeros)), int(np.prod(e.shape))) for e in entries(structure).values()]


@functools.cache
def family() -> Any:
    return make_family([sweeps.LARGE], [0.4], "uniform")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in PAIRS if kind is Topology and name not in BEFORE])
def test_a_sweep_takes_any_method(name):
    """A seed alone equals its row; another seed differs; the counts are the budget's."""
    method, config = small(name), sweeps.config("dense", method=small(name))
    run, variant = make_run(family(), config), make_variant(sweeps.LARGE, 0.4)
    given = (jax.random.key(7), variant, *sweeps.splits())
    many = networks.quick(jax.vmap(run, in_axes=(0, None, None, None, None, None)))(sweeps.keys(2), *given)
    alone = networks.quick(run)(sweeps.keys(2)[1], *given)
    second = trees.take(many, 1)
    sweeps.assert_close(alone.params, second.params, 1e-4)
    assert trees.equal(alone.structure, second.structure)
    still = networks.quick(make_run(family(), sweeps.config("dense")))(sweeps.keys(2)[1], *given)
    steps = 6 * config.epochs  # 90 samples in batches of 16
    assert int(count(alone.params, alone.structure)["weights"]) == method.budget(
        steps, numbers(still.structure)
    )
    if name != "static":
        pairs = zip(alone.structure.weights, still.structure.weights, strict=True)
        assert any((topology_mask(a) != topology_mask(b)).any() for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_any_method_goes_around_an_optimiser(name, kind):
    method, (task, data, _) = small(name), tiny.KINDS[kind]
    net = jax.tree.map(jnp.asarray, tiny.at(tiny.stack(kind), 0))
    x, y = data.batch(jnp.arange(tiny.BATCH))
    weight = jnp.ones(tiny.BATCH)

    def view(params: Any, structure: Any) -> BatchView:
        return BatchView(task, net.replace(params=params, structure=structure), x, y, weight)

    optimizer = jaxnet.wrap(
        optax.adam(0.05), method, net.structure, key=jax.random.key(2), dense_gradient=view(*start(net))
    )

    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, _ = task.model(params, state.structure, x, key_forward=None)
            return task.loss(logits, y, weight, axis=task.model.class_axis)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return jaxnet.act(params, state, dense_gradient=view(params, state.structure))

    state, params = optimizer.init(net.params), net.params
    for path, entry in entries(state.structure).items():
        assert isinstance(entry, Topology | Mask), path
    one = networks.quick(step)
    for number in range(1, 7):
        params, state = one(params, state)
        assert int(count(params, state.structure)["weights"]) == method.budget(number, numbers(net.structure))
    assert one._cache_size() == 1


def start(net: Any) -> tuple[Any, Any]:
    return net.params, net.structure
