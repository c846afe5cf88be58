"""The single steps of growth, for one network: start, measure, change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet import extrema, network, train
from jaxnet.extrema import Extrema
from jaxnet.growth.decisions import Decision
from jaxnet.growth.operators import add_patches, insert_layer, widen
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.state import carry_over
from jaxnet.masks import drawable_density
from jaxnet.network import NetworkSpec, Params, Structure
from jaxnet.patches import active_slots
from jaxnet.rewire import ExchangeRules, rewire_network
from jaxnet.train import Split
from jaxnet.types import Array, Int, Key, PyTree

REWIRED = 0.3
"""Share of the weights that move where rewiring stands in for growth."""

_MASK, _INIT, _PATCH, _LOOK = 0, 1, 2, 3  # purposes of a network's key
_GROWTH = 4  # folded in first for the key of a change


class Network(flax.struct.PyTreeNode):
    """Everything one network carries from iteration to iteration."""

    params: Params
    structure: Structure
    opt_state: PyTree


class Measured(flax.struct.PyTreeNode):
    """What is known of a trained network before it is decided about.

    Attributes:
      found: extrema of each hidden layer.
      nonzeros: see :func:`jaxnet.network.count_nonzeros`.
      patches: how many are active.
    """

    found: tuple[Extrema, ...]
    nonzeros: dict[str, Int[Array, ""]]
    patches: Int[Array, ""]


def start_network(plan: GrowthPlan, optimizer: optax.GradientTransformation, key: Key) -> Network:
    """The network before the first iteration; ``key`` determines its masks and values."""
    params, structure = network.init(
        plan.spec, key_mask=jax.random.fold_in(key, _MASK), key_init=jax.random.fold_in(key, _INIT)
    )
    return Network(params, structure, optimizer.init(params))


def measure(
    plan: GrowthPlan,
    spec: NetworkSpec,
    network_: Network,
    watched: Split,
    key: Key,
    number: Int[Array, ""],
) -> Measured:
    """Extrema on the samples watched, and sizes; key and number as for :func:`grow`."""
    params, structure = network_.params, network_.structure
    look = None
    if structure.bank is not None and structure.bank.rules.redraw_inputs:
        look = jax.random.fold_in(_of_change(key, number), _LOOK)
    stats = train.collect_stats(
        plan.task(spec), params, structure, watched, values=plan.detect_on, key_forward=look
    )
    found = tuple(extrema.detect(s, plan.detector) for s in stats)
    bank = structure.bank
    active = jnp.zeros((), jnp.int32) if bank is None else jnp.sum(active_slots(bank), dtype=jnp.int32)
    return Measured(found, network.count_nonzeros(params, structure), active)


def grow(
    plan: GrowthPlan,
    spec: NetworkSpec,
    optimizer: optax.GradientTransformation,
    decision: Decision,
    network_: Network,
    found: Sequence[Extrema],
    key: Key,
    number: Int[Array, ""],
) -> Network:
    """Carries a decision out: patches at the extrema found, then the change of the scaffold.

    Args:
      plan: what to do.
      spec: of the network as it is.
      optimizer: of both groups.
      decision: what was decided (static).
      network_: the network.
      found: its extrema.
      key: of the network.
      number: of the iteration, so that every change draws anew.
    """
    key = _of_change(key, number)
    change = scaffold_change(plan, spec, decision)
    if decision.change == "rewire":
        network_ = _rewired(plan, spec, network_, key)

    def both(params: Params) -> tuple[Params, Structure]:
        structure = network_.structure
        if decision.patches and plan.patches is not None:
            _, params, structure = add_patches(
                spec,
                params,
                structure,
                found,
                plan.patches,
                rule=plan.operator,
                key_patch=jax.random.fold_in(key, _PATCH),
            )
        if change is not None:
            _, params, structure = change(params, structure, key)
        return params, structure

    params, structure = both(network_.params)
    if plan.fresh_optimizer:
        return Network(params, structure, optimizer.init(params))
    state = carry_over(network_.opt_state, optimizer, network_.params, lambda values: both(values)[0])
    return Network(params, structure, state)


def _of_change(key: Key, number: Int[Array, ""]) -> Key:
    """The key of what is done to a network after an iteration."""
    return jax.random.fold_in(jax.random.fold_in(key, _GROWTH), number)


def _rewired(plan: GrowthPlan, spec: NetworkSpec, network_: Network, key: Key) -> Network:
    """The control that adds nothing: the weakest weights of every layer move to random places (SET)."""
    rules = ExchangeRules("random", fraction=REWIRED)
    nothing = jnp.zeros((spec.sizes[0], 1)), jnp.zeros(1, jnp.int32)  # gradients are not read
    params, structure, state, _ = rewire_network(
        plan.task(spec),
        rules,
        network_.params,
        network_.structure,
        network_.opt_state,
        0,
        *nothing,
        key_rewire=jax.random.fold_in(key, _MASK),
    )
    return Network(params, structure, state)


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
        there = network.sparse(structure)[layer + 1].capacity
        keys = {
            "key_mask": jax.random.fold_in(key, _MASK),
            "key_init": jax.random.fold_in(key, _INIT),
        }
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
