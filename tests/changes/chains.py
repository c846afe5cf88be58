"""Networks that grow step by step, for the tests of operators and of the state that follows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnet import changes, optim
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.patches import PatchRules
from jaxnet.train import Net
from tests import networks

SPEC = NetworkSpec(networks.SIZES, 0.4)  # 10, 8, 6, 4
RATES = (0.01, 0.05)
OPTIMIZER = optim.dual_rate_adam(*RATES)

# widths of small networks below every layer's, so that all additions are alike
RULES = {kind: PatchRules(kind, 2, hidden=3, max_targets=2, max_inputs=4) for kind in ("mlp", "dense")}
# every kind of patch and every rule in the default run, all pairs of them in the slow one
OTHERS = [("dense", "preserve"), ("mlp", "preserve"), ("dense", "redraw")]
CASES = [
    ("mlp", "redraw"),
    ("dense", "preserve"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS[1:]),
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
        return changes.add_patches(*net, found, RULES[kind], rule=rule, key_patch=keys[0])
    at = int(where[0])
    masks: Any = {"rule": rule, "key_mask": keys[0], "key_init": keys[1]}
    if what == "insert":
        below, there = spec.sizes[at + 1], structure.weights[at + 1].capacity
        return changes.insert_layer(
            *net, after=at, size=below + 2, nonzeros_in=3 * below, nonzeros_out=there + 3, **masks
        )
    there = structure.weights[at + 1].capacity
    return changes.widen(*net, layer=at, units=3, nonzeros_in=7, nonzeros_out=there + 5, **masks)


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


def operator(step: str, kind: str, key: jax.Array, rule: str = "preserve") -> Callable[..., Network]:
    """A step of growth as an operator for :func:`jaxnet.changes.grown`."""

    def run(spec: NetworkSpec, params: Any, structure: Any) -> Network:
        return grow(step, (spec, params, structure), kind, key, rule)

    return run


def made_up(tree: Any) -> Any:
    """Moments, all different from zero; step counts are 7."""
    return jax.tree.map(
        lambda a: (
            jnp.full_like(a, 7)
            if a.ndim == 0
            else (1 + jnp.arange(a.size, dtype=a.dtype) / 8).reshape(a.shape)
        ),
        tree,
    )


def along(kind: str, rule: str, chain: tuple[str, ...] = CHAIN) -> Callable[[jax.Array], list[Net]]:
    """``run(key)``: the net before the chain and after each of its steps; moments and anchor are made up."""

    def run(key: jax.Array) -> list[Net]:
        spec, params, structure = start(key, kind)
        carried = {"anchor": made_up(params), "scale": jnp.float32(7)}
        net = Net(params, structure, made_up(OPTIMIZER.init(params)), carried, optimizer=OPTIMIZER)
        stages = [net]
        for i, step in enumerate(chain):
            how = operator(step, kind, jax.random.fold_in(key, 100 + i), rule)
            net, spec = changes.grown(net, spec, how)
            stages.append(net)
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
def example(kind: str, rule: str) -> list[tuple[NetworkSpec, Any]]:
    """Specification and net before the chain and after each of its steps."""
    return list(zip(specs(kind), compiled(kind, rule)(jax.random.key(5)), strict=True))
