"""A small network with skip connections, values and moments in every slot, made without JAX; its edits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import optim, rewire, train
from jaxnet.extrema import Extrema
from jaxnet.masks import Topology
from jaxnet.network import LayerParams, NetworkSpec, Params, Structure
from tests import networks

SIZES = (7, 6, 5, 4, 3)
SPEC = NetworkSpec(SIZES, 0.5, "tanh")
TASK = train.Task(SPEC)
COUNTS = (2, 1, 1, 0)


def host_topology(flat: np.ndarray, shape: tuple[int, int], capacity: int) -> Topology:
    """The topology of sorted flat positions, with padding up to ``capacity``."""
    spare = capacity - flat.size
    rows = np.concatenate([flat // shape[1], shape[0] + np.arange(spare)]).astype(np.int32)
    cols = np.concatenate([flat % shape[1], np.zeros(spare)]).astype(np.int32)
    ptr = np.searchsorted(rows, np.arange(shape[0] + 1)).astype(np.int32)
    return Topology(*(jnp.asarray(a) for a in (rows, cols, ptr)), shape)


def flat(topology: Topology) -> np.ndarray:
    """Positions of the weights that exist, ascending."""
    rows, cols = np.asarray(topology.rows), np.asarray(topology.cols)
    return (rows * topology.shape[1] + cols)[rows < topology.shape[0]]


@functools.cache
def network(room: int = 4) -> tuple[Params, Structure, Any]:
    """Values, structure and optimiser state; ``room`` free slots in a layer, 2 of 6 slots of a bank used."""
    rng = np.random.default_rng(1)

    def some(shape: tuple[int, int], count: int, capacity: int) -> Topology:
        return host_topology(np.sort(rng.permutation(shape[0] * shape[1])[:count]), shape, capacity)

    def values(exists: Any) -> jax.Array:
        return jnp.asarray(np.where(exists, rng.normal(size=exists.shape), 0.0), jnp.float32)

    layers = [some((o, i), o * i // 2, o * i // 2 + room) for i, o in zip(SIZES[:-1], SIZES[1:], strict=True)]
    banks = (None, None, some((4, 6), 2, 6), some((3, 6 + 5), 2, 6))
    structure = Structure(tuple(layers), None, banks)
    params = Params(
        tuple(
            LayerParams(values(np.asarray(t.exists)), jnp.asarray(rng.normal(size=t.shape[0]), jnp.float32))
            for t in layers
        ),
        skips=tuple(None if t is None else values(np.asarray(t.exists)) for t in banks),
    )
    shapes = jax.eval_shape(optim.dual_rate_adam(0.01, 0.01).init, params)
    plan = {f".scaffold[{n}].weight": t for n, t in enumerate(layers)}
    plan |= {f".skips[{n}]": t for n, t in enumerate(banks) if t is not None}

    def moment(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        exists = next((np.asarray(t.exists) for key, t in plan.items() if name.endswith(key)), None)
        if not leaf.shape:
            return jnp.asarray(5, leaf.dtype)
        return values(np.ones(leaf.shape, bool) if exists is None else exists)

    return params, structure, jax.tree.map_with_path(moment, shapes)


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


def _exchange(**rules: Any) -> Callable[..., Any]:
    x = jnp.asarray(np.random.default_rng(2).normal(size=(7, 12)), jnp.float32)
    y = jnp.arange(12) % 3

    def run(params: Any, structure: Any, opt_state: Any, key: Any) -> Any:
        chosen = rewire.ExchangeRules(**rules)
        return rewire.rewire_network(TASK, chosen, params, structure, opt_state, 30, x, y, key_rewire=key)

    return run


RULES: dict[str, Callable[..., Any]] = {
    "SET": _exchange(growth="random", fraction=0.3),
    "RigL": _exchange(growth="gradient", fraction=0.3),
    "RigL, decayed": _exchange(growth="gradient", fraction=0.5, every=10, until=100),
    "prune": lambda p, s, o, key: rewire.prune_smallest(p, s, o, COUNTS),
    "grow": lambda p, s, o, key: rewire.grow_random(
        p, s, o, (*COUNTS[:3], 9), (*COUNTS[:3], 9), key_rewire=key
    ),
    "clone": lambda p, s, o, key: rewire.clone_and_prune(p, s, o, extrema(), (2, 2, 1, 1), key_rewire=key),
    "skips": lambda p, s, o, key: rewire.route_skips(
        p, s, o, extrema(), 3, 4, max_incoming=3, key_rewire=key
    ),
    "few skips": lambda p, s, o, key: rewire.route_skips(
        p, s, o, extrema(), 20, 20, max_incoming=1, key_rewire=key
    ),
}


@functools.cache
def compiled() -> Any:
    """All rules as one program: what compiles apart would compile the same pieces again and again."""
    return networks.quick(lambda *args: {name: rule(*args) for name, rule in RULES.items()})


@functools.cache
def edited(seed: int) -> dict[str, Any]:
    """What every rule makes of the network."""
    return dict(compiled()(*network(), jax.random.key(seed)))
