"""A small network with skip connections, values and moments in every slot, made without JAX; its edits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import changes, methods, optim
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology
from jaxnet.train import Net, Task, dense_gradient
from jaxnet.units import Extrema
from tests import networks

SIZES = (7, 6, 5, 4, 3)
SPEC = NetworkSpec(SIZES, 0.5, "tanh")
TASK = Task(MLP(SPEC))
OPTIMIZER = optim.dual_rate_adam(0.01, 0.01)
COUNTS = (2, 1, 1, 0)


def host_topology(flat: np.ndarray, shape: tuple[int, int], capacity: int) -> Topology:
    """The topology of sorted flat positions, with padding up to ``capacity``."""
    spare = capacity - flat.size
    rows = np.concatenate([flat // shape[1], shape[0] + np.arange(spare)]).astype(np.int32)
    cols = np.concatenate([flat % shape[1], np.zeros(spare)]).astype(np.int32)
    ptr = np.searchsorted(rows, np.arange(shape[0] + 1)).astype(np.int32)
    return Topology(jnp.asarray(rows), jnp.asarray(cols), jnp.asarray(ptr), shape)


def flat(topology: Any) -> np.ndarray:
    """Positions of the weights that exist, ascending."""
    rows, cols = np.asarray(topology.rows), np.asarray(topology.cols)
    return (rows * topology.shape[1] + cols)[rows < topology.shape[0]]


@functools.cache
def network(room: int = 4) -> Net:
    """A net with values, moments and an anchor; ``room`` free slots in a layer, a third of a bank used."""
    rng = np.random.default_rng(1)

    def some(shape: tuple[int, int], count: int, capacity: int) -> Topology:
        return host_topology(np.sort(rng.permutation(shape[0] * shape[1])[:count]), shape, capacity)

    def values(exists: Any) -> jax.Array:
        return jnp.asarray(np.where(exists, rng.normal(size=exists.shape), 0.0), jnp.float32)

    layers = [some((o, i), o * i // 2, o * i // 2 + room) for i, o in zip(SIZES[:-1], SIZES[1:], strict=True)]
    banks = (None, None, some((4, 6), 2, 6), some((3, 6 + 5), 2, 6))
    structure = Structure.of(layers).replace(skips=banks)
    params = Params(
        tuple(
            LayerParams(values(np.asarray(t.exists)), jnp.asarray(rng.normal(size=t.shape[0]), jnp.float32))
            for t in layers
        ),
        skips=tuple(None if t is None else values(np.asarray(t.exists)) for t in banks),
    )
    plan = {f".scaffold[{n}].weight": t for n, t in enumerate(layers)}
    plan |= {f".skips[{n}]": t for n, t in enumerate(banks) if t is not None}

    def moment(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        exists = next((np.asarray(t.exists) for key, t in plan.items() if name.endswith(key)), None)
        if not leaf.shape:
            return jnp.asarray(5, leaf.dtype)
        drawn = values(np.ones(leaf.shape, bool) if exists is None else exists)
        return jnp.abs(drawn) if ".nu" in name else drawn

    opt_state = jax.tree.map_with_path(moment, jax.eval_shape(OPTIMIZER.init, params))
    carried = {"anchor": jax.tree.map_with_path(moment, params)}
    return Net(params, structure, opt_state, carried, optimizer=OPTIMIZER)


def extrema() -> tuple[Extrema, ...]:
    """Units 0 and 1 of every hidden layer are high, 2 and 3 low."""
    found = []
    for units in SIZES[1:-1]:
        unit = np.arange(units)
        none = jnp.zeros(units, bool)
        score = jnp.zeros(units)
        found.append(
            Extrema(jnp.asarray(unit < 2), jnp.asarray((unit > 1) & (unit < 4)), score, score, score, none)
        )
    return tuple(found)


def batch() -> tuple[jax.Array, jax.Array]:
    """Twelve samples and their labels."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(12, 7)), jnp.float32)
    return x, jnp.arange(12) % 3


def _method(name: str, **options: Any) -> Callable[..., Any]:
    method = methods.make(name, **options)

    def run(net: Net, key: Any) -> Any:
        def gradient() -> Any:
            return dense_gradient(TASK, net, *batch(), jnp.ones(12))

        net, _, info = method.update(net, (), gradient, jnp.asarray(30), key=key)
        return net, info

    return run


def by_layer(counts: Sequence[int]) -> dict[str, int]:
    """Numbers of weights by path."""
    return {changes.scaffold_path(layer): count for layer, count in enumerate(counts)}


RULES: dict[str, Callable[..., Any]] = {
    "SET": _method("set", fraction=0.3),
    "RigL": _method("rigl", fraction=0.3),
    "RigL, decayed": _method("rigl", fraction=0.5, every=10, until=100),
    "prune": lambda net, key: changes.prune_smallest(net, by_layer(COUNTS)),
    "grow": lambda net, key: changes.grow_random(
        net, by_layer((*COUNTS[:3], 9)), by_layer((*COUNTS[:3], 9)), key=key
    ),
    "clone": lambda net, key: changes.clone_and_prune(net, extrema(), (2, 2, 1, 1), key=key),
    "skips": lambda net, key: changes.route_skips(net, extrema(), 3, 4, max_incoming=3, key=key),
    "few skips": lambda net, key: changes.route_skips(net, extrema(), 20, 20, max_incoming=1, key=key),
}


@functools.cache
def compiled() -> Any:
    """All rules as one program: what compiles apart would compile the same pieces again and again."""
    return networks.quick(lambda *args: {name: rule(*args) for name, rule in RULES.items()})


@functools.cache
def edited(seed: int) -> dict[str, Any]:
    """What every rule makes of the network."""
    return dict(compiled()(network(), jax.random.key(seed)))
