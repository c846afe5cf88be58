"""Networks that grow step by step, for the tests of operators and of the state that follows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnet import growth, optim
from jaxnet.network import NetworkSpec
from jaxnet.patches import PatchRules
from tests import networks

SPEC = NetworkSpec(networks.SIZES, 0.4)  # 10, 8, 6, 4
RATES = (0.01, 0.05)
OPTIMIZER = optim.dual_rate_adam(*RATES)

# widths of small networks below every layer's, so that all additions are alike
RULES = {kind: PatchRules(kind, 2, hidden=3, max_targets=2, max_inputs=4) for kind in ("mlp", "dense")}
# every kind of patch and every rule in the default run, all pairs of them in the slow one
CASES = [
    ("mlp", "redraw"),
    ("dense", "preserve"),
    pytest.param("mlp", "preserve", marks=pytest.mark.slow),
    pytest.param("dense", "redraw", marks=pytest.mark.slow),
]

# patches that span a layer, others beside them, and a source of both that gets wider
CHAIN = ("insert 0", "patch", "widen 0")

Network = tuple[NetworkSpec, Any, Any]


def grow(step: str, net: Network, kind: str, key: jax.Array, rule: str = "preserve") -> Network:
    """One step of growth, in words: its kind and the hidden layer."""
    spec, _, structure = net
    what, *where = step.split()
    keys = jax.random.split(key, 3)
    if what == "patch":
        found = networks.made_up_extrema(spec.sizes, keys[2])
        return growth.add_patches(*net, found, RULES[kind], rule=rule, key_patch=keys[0])
    at = int(where[0])
    masks: Any = {"rule": rule, "key_mask": keys[0], "key_init": keys[1]}
    if what == "insert":
        below, there = spec.sizes[at + 1], structure.connectivity[at + 1].capacity
        return growth.insert_layer(
            *net, after=at, size=below + 2, nonzeros_in=3 * below, nonzeros_out=there + 3, **masks
        )
    there = structure.connectivity[at + 1].capacity
    return growth.widen(*net, layer=at, units=3, nonzeros_in=7, nonzeros_out=there + 5, **masks)


def start(key: jax.Array, kind: str | None) -> Network:
    params, structure = networks.make(SPEC, None if kind is None else RULES[kind], key, padding=2)
    return SPEC, params, structure


def values_along(
    kind: str, rule: str, chain: tuple[str, ...] = CHAIN
) -> Callable[[jax.Array], list[Network]]:
    """``run(key)``: the network before the chain and after each of its steps."""

    def run(key: jax.Array) -> list[Network]:
        stages = [start(key, kind)]
        for i, step in enumerate(chain):
            stages.append(grow(step, stages[-1], kind, jax.random.fold_in(key, 100 + i), rule))
        return stages

    return run


def along(kind: str, rule: str, chain: tuple[str, ...] = CHAIN) -> Callable[[jax.Array], list[Any]]:
    """``run(key)``: values, structure and optimiser state before the chain and after each of its steps.

    Moments are made up, all different from zero; step counts are 7.
    """

    def run(key: jax.Array) -> list[Any]:
        net = start(key, kind)
        state = jax.tree.map(
            lambda a: (
                jnp.full_like(a, 7)
                if a.ndim == 0
                else (1 + jnp.arange(a.size, dtype=a.dtype) / 8).reshape(a.shape)
            ),
            OPTIMIZER.init(net[1]),
        )
        stages: list[Any] = [(*net[1:], state)]
        for i, step in enumerate(chain):
            k = jax.random.fold_in(key, 100 + i)
            before = net

            def change(params: Any, before: Any = before, step: str = step, k: Any = k) -> Any:
                return grow(step, (before[0], params, before[2]), kind, k, rule)[1]

            state = growth.carry_over(state, OPTIMIZER, net[1], change)
            net = grow(step, net, kind, k, rule)
            stages.append((*net[1:], state))
        return stages

    return run


def specs(kind: str, chain: tuple[str, ...] = CHAIN) -> list[NetworkSpec]:
    """The specifications along a chain, from shapes alone."""
    found: list[NetworkSpec] = []

    def run(key: jax.Array) -> None:
        found.extend(net[0] for net in values_along(kind, "preserve", chain)(key))

    jax.eval_shape(run, jax.random.key(0))
    return found


@functools.cache
def compiled(kind: str, rule: str, many: bool = False) -> Any:
    run = along(kind, rule)
    return networks.quick(jax.vmap(run) if many else run)


@functools.cache
def example(kind: str, rule: str) -> list[tuple[NetworkSpec, Any, Any, Any]]:
    """Specification, values, structure and state before the chain and after each of its steps."""
    stages = compiled(kind, rule)(jax.random.key(5))
    return [(s, *stage) for s, stage in zip(specs(kind), stages, strict=True)]
