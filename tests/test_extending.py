"""The examples of docs/extending.md, run as they stand: each kind of part in under 30 lines."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import methods, patches, signals
from jaxnet.data.batches import Split
from jaxnet.nn.mlp import MLP, NetworkSpec, init
from jaxnet.structure import count
from jaxnet.topology import Topology, topology_mask
from jaxnet.train import Net, Task, init_state, make_epoch

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def parts():
    """What the page defines; the registries are as before afterwards."""
    registries: list[dict] = [methods.METHODS, signals.SIGNALS, patches.KINDS]
    before = [dict(registry) for registry in registries]
    defined: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        assert len(block.splitlines()) < 30
        exec(compile(block, str(PAGE), "exec"), defined)
    yield defined
    for registry, old in zip(registries, before, strict=True):
        registry.clear()
        registry.update(old)


def test_the_parts_work_together(parts, key):
    """The method moves weights of the first layer only, on the data set, and the signal finds units."""
    spec = NetworkSpec((6, 8, 3), 0.5)
    net = Net.of(*init(spec, key_mask=key, key_init=key), optax.adam(0.01))
    x = jax.random.normal(key, (20, 6))
    data = parts["Doubled"](x, jnp.arange(20) % 3)
    np.testing.assert_array_equal(data.batch(jnp.asarray([3, 23]))[0], [x[3], x[3][::-1]])
    method, task = methods.make("shuffle", fraction=0.5, every=2), Task(MLP(spec), batch_size=8)
    state, _ = jax.jit(make_epoch(task, method))(init_state(net, method, key=key), data, key, jnp.asarray(0))
    after = state.net.structure
    moved = [
        bool(jnp.any(topology_mask(a) != topology_mask(b)))
        for a, b in zip(net.structure.weights, after.weights, strict=True)
        if isinstance(a, Topology) and isinstance(b, Topology)
    ]
    assert moved == [True, False]
    assert int(count(state.net.params, after)["weights"]) == int(count(net.params, net.structure)["weights"])
    split = Split(x, data.y, jnp.zeros(()), jnp.ones(()))
    (found,) = signals.find(task, net.params, net.structure, split, "restless", quantile=0.2)
    assert found.high.any() and found.low.any() and not (found.high & found.low).any()
