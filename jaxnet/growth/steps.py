"""The single steps of growth, for one network: start, measure, change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import optax

from jaxnet import signals
from jaxnet.allocation import drawable_density
from jaxnet.changes import add_patches, insert_layer, reshape, widen
from jaxnet.data.batches import Split
from jaxnet.growth.decisions import Decision
from jaxnet.growth.plan import GrowthPlan
from jaxnet.keys import CHANGE, LOOK, MASK, PATCH, network_keys, purpose
from jaxnet.methods import SET
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, count_nonzeros, sparse
from jaxnet.patches import active_slots
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key
from jaxnet.units import Extrema

REWIRED = 0.3
"""Share of the weights that move where rewiring stands in for growth."""


class Measured(flax.struct.PyTreeNode):
    """What is known of a trained network before it is decided about.

    Attributes:
      found: extrema of each hidden layer.
      nonzeros: see :func:`jaxnet.nn.params.count_nonzeros`.
      patches: how many are active.
    """

    found: tuple[Extrema, ...]
    nonzeros: dict[str, Int[Array, ""]]
    patches: Int[Array, ""]


def start_net(plan: GrowthPlan, optimizer: optax.GradientTransformation, key: Key) -> Net:
    """The network before the first iteration; ``key`` determines its masks and values."""
    params, structure = mlp.init(plan.spec, **network_keys(key))
    return Net.of(params, structure, optimizer)


def measure(
    plan: GrowthPlan, spec: NetworkSpec, net: Net, watched: Split, key: Key, number: Int[Array, ""]
) -> Measured:
    """Extrema on the samples watched, and sizes; key and number as for :func:`grow`."""
    found = signals.find(
        plan.task(spec),
        net.params,
        net.structure,
        watched,
        plan.detector,
        values=plan.detect_on,
        key_forward=purpose(key, CHANGE, number, LOOK),
    )
    bank = net.structure.bank
    active = jnp.zeros((), jnp.int32) if bank is None else jnp.sum(active_slots(bank), dtype=jnp.int32)
    return Measured(found, count_nonzeros(net.params, net.structure), active)


def grow(
    plan: GrowthPlan,
    spec: NetworkSpec,
    decision: Decision,
    net: Net,
    found: Sequence[Extrema],
    key: Key,
    number: Int[Array, ""],
) -> Net:
    """Carries a decision out: patches at the extrema found, then the change of the scaffold.

    Args:
      plan: what to do.
      spec: of the network as it is.
      decision: what was decided (static).
      net: the network.
      found: its extrema.
      key: of the network.
      number: of the iteration, so that every change draws anew.
    """
    key = purpose(key, CHANGE, number)
    change = scaffold_change(plan, spec, decision)
    if decision.change == "rewire":  # the control that adds nothing
        net, _, _ = SET(fraction=REWIRED).update(
            net, (), _no_gradient, jnp.zeros((), jnp.int32), key=purpose(key, MASK)
        )

    def both(params: Params) -> tuple[Params, Structure]:
        structure = net.structure
        if decision.patches and plan.patches is not None:
            _, params, structure = add_patches(
                spec,
                params,
                structure,
                found,
                plan.patches,
                rule=plan.operator,
                key_patch=purpose(key, PATCH),
            )
        if change is not None:
            _, params, structure = change(params, structure, key)
        return params, structure

    if plan.fresh_optimizer:
        params, structure = both(net.params)
        return Net.of(params, structure, net.optimizer)
    return reshape(net, both)


def _no_gradient() -> Any:
    raise AssertionError("SET reads no gradient")


def grown_spec(spec: NetworkSpec, decision: Decision) -> NetworkSpec:
    """Sizes after a decision; density and allocation stay those of the start, which new parts are given."""
    sizes = list(spec.sizes)
    if decision.change == "insert":
        assert decision.layer is not None
        sizes.insert(decision.layer + 2, decision.size)
    elif decision.change == "widen":
        assert decision.layer is not None
        sizes[decision.layer + 1] += decision.size
    density = drawable_density(sizes, spec.density)
    return dataclasses.replace(spec, sizes=tuple(sizes), density=density, allocation="uniform")


def scaffold_change(
    plan: GrowthPlan, spec: NetworkSpec, decision: Decision
) -> Callable[[Params, Structure, Key], tuple[NetworkSpec, Params, Structure]] | None:
    """The operator of a decision with its numbers of weights, or None where the scaffold stays."""
    layer = decision.layer
    if layer is None or decision.change not in ("insert", "widen"):
        return None
    below, above = _around(spec, decision)

    def change(params: Params, structure: Structure, key: Key) -> tuple[NetworkSpec, Params, Structure]:
        there = sparse(structure)[layer + 1].capacity
        keys = network_keys(key)
        size, kept = decision.size, plan.operator == "preserve"
        if decision.change == "insert":
            into, out = new_weights(plan, below, size, above)
            if kept:  # one weight for each unit that is passed on; what reads from the layer is kept
                into, out = max(into, below), there + (out if size > below else 0)
            return insert_layer(
                spec,
                params,
                structure,
                after=layer,
                size=size,
                nonzeros_in=into,
                nonzeros_out=out,
                rule=plan.operator,
                **keys,
            )
        into, out = new_weights(plan, below, size, above)
        return widen(
            spec,
            params,
            structure,
            layer=layer,
            units=size,
            nonzeros_in=into,
            nonzeros_out=there + out,
            rule=plan.operator,
            **keys,
        )

    return change


def new_weights(plan: GrowthPlan, below: int, size: int, above: int) -> tuple[int, int]:
    """Weights into and out of ``size`` new units between ``below`` and ``above`` others.

    ``plan.added`` weights are shared out as in the network at the start: at one
    density, or at densities as of Erdős–Rényi.

    Raises:
      ValueError: there is no room for ``plan.added`` weights.
    """
    full = below * size, size * above
    if plan.added is None:
        return tuple(max(1, int(plan.spec.density * n)) for n in full)  # type: ignore[return-value]
    if plan.added > sum(full):
        raise ValueError(f"{size} units between {below} and {above} have no room for {plan.added} weights")
    share = (below + size, size + above) if plan.spec.allocation == "erdos-renyi" else full
    into = round(plan.added * share[0] / sum(share))
    into = min(max(into, 1, plan.added - full[1]), full[0], plan.added - 1)
    return into, plan.added - into


def fitted(plan: GrowthPlan, spec: NetworkSpec, decision: Decision) -> Decision:
    """The decision with as many units as it takes: for the weights to add, for a layer that passes all on."""
    if decision.layer is None:
        return decision
    below, above = _around(spec, decision)
    size = decision.size
    if plan.added is not None:
        size = max(size, -(-plan.added // (below + above)))
    if plan.operator == "preserve" and decision.change == "insert":
        size = max(size, below)
    return dataclasses.replace(decision, size=size)


def _around(spec: NetworkSpec, decision: Decision) -> tuple[int, int]:
    """Units below and above those that a decision adds."""
    assert decision.layer is not None
    below = decision.layer + (decision.change == "insert")
    return spec.sizes[below], spec.sizes[decision.layer + 2]
