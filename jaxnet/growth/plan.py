"""What growth is to do (static), and the single steps of it for one network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet import extrema, network, optim, train
from jaxnet.extrema import Extrema
from jaxnet.growth.decisions import Decision, DecisionRules
from jaxnet.growth.operators import RULES, add_patches, insert_layer, widen
from jaxnet.growth.state import carry_over
from jaxnet.kernels import Product, dense_product
from jaxnet.masks import allocate, drawable_density
from jaxnet.network import NetworkSpec, Params, Structure
from jaxnet.patches import PatchRules, active_slots
from jaxnet.rewire import ExchangeRules, rewire_network
from jaxnet.train import Split, Task
from jaxnet.types import Array, Int, Key, PyTree

SELECTIONS = ("best", "last")
SCHEDULES = ("constant", "cosine")
_MASK, _INIT, _PATCH, _DRAW = 0, 1, 2, 3  # purposes of a network's key
REWIRED = 0.3
"""Share of the weights that move where rewiring stands in for growth."""

_GROWTH = 4  # and of the key of its n-th change


@dataclasses.dataclass(frozen=True)
class GrowthPlan:
    """How networks are trained and changed (static).

    Attributes:
      spec: the network at the start.
      decisions: when, where and by how much to change.
      operator: ``redraw`` or ``preserve``; see :mod:`jaxnet.growth.operators`.
      added: weights that every change of the scaffold adds; None to give a new
        layer, or new units, the density of the start.
      patches: how patches are made, or None for none.
      epochs: of an iteration, at most.
      patience: epochs without a new best after which an iteration ends early; None for never.
      lr: learning rate of the scaffold.
      lr_patch: learning rate of the patches.
      schedule: ``constant``, or ``cosine`` to zero in every iteration.
      select: network that is judged, grown and returned: that of the ``best``
        epoch of an iteration, or the ``last``. The accuracy of an iteration is
        that of the best epoch with patience or ``best``, otherwise the last's.
      judge_best: report the best epoch's accuracy although the last network goes
        on (the original's optimistic way).
      fresh_optimizer: a new optimiser in every iteration, else its state is carried over.
      exchange: weights exchanged while training, or None.
      detector: of :func:`jaxnet.extrema.detect`.
      detect_on: ``pre`` or ``post`` activations.
      batch_size: samples per step.
      product: the sparse product.
    """

    spec: NetworkSpec
    decisions: DecisionRules = dataclasses.field(default_factory=DecisionRules)
    operator: str = "preserve"
    added: int | None = None
    patches: PatchRules | None = None
    epochs: int = 20
    patience: int | None = 5
    lr: float = 1e-3
    lr_patch: float = 1e-3
    schedule: str = "constant"
    select: str = "best"
    judge_best: bool = False
    fresh_optimizer: bool = False
    exchange: ExchangeRules | None = None
    detector: str = "original"
    detect_on: str = "pre"
    batch_size: int = 64
    product: Product = dense_product

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for value, allowed, what in (
            (self.operator, RULES, "operator"),
            (self.select, SELECTIONS, "selection"),
            (self.schedule, SCHEDULES, "schedule"),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(allowed)}")
        for name in ("added", "epochs", "patience", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")
        for name in ("lr", "lr_patch"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0: {value}")
        if self.exchange is not None and self.select == "best":
            raise ValueError("weights exchanged while training leave no best network behind: select last")
        if self.schedule == "cosine" and self.patience is not None:
            raise ValueError("a cosine schedule needs iterations of equal length: patience must be None")
        if self.decisions.patches and self.patches is None:
            raise ValueError("decisions that add patches need rules for them")
        if len(self.spec.sizes) < 3:
            raise ValueError(f"growth needs a hidden layer: {list(self.spec.sizes)}")

    def task(self, spec: NetworkSpec) -> Task:
        """What training needs to know of a grown network."""
        return Task(spec, self.batch_size, product=self.product)

    def optimizer(self, samples: int) -> optax.GradientTransformation:
        """Adam with a rate per group; a cosine schedule starts anew after ``epochs`` times ``samples``."""
        period = self.epochs * -(-samples // self.batch_size)

        def rate(lr: float) -> Any:
            if self.schedule == "constant":
                return lr
            return lambda count: lr / 2 * (1 + jnp.cos(jnp.pi * (count % period) / period))

        return optim.grouped(
            {"scaffold": optax.adam(rate(self.lr)), "patch": optax.adam(rate(self.lr_patch))}
        )


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


def measure(plan: GrowthPlan, spec: NetworkSpec, network_: Network, watched: Split) -> Measured:
    """Extrema on the samples watched, and sizes."""
    params, structure = network_.params, network_.structure
    stats = train.collect_stats(plan.task(spec), params, structure, watched, values=plan.detect_on)
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
    key = jax.random.fold_in(jax.random.fold_in(key, _GROWTH), number)
    change = scaffold_change(plan, spec, decision)

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

    if decision.change == "rewire":
        return _rewired(plan, spec, optimizer, network_, key)
    params, structure = both(network_.params)
    if plan.fresh_optimizer:
        return Network(params, structure, optimizer.init(params))
    state = carry_over(network_.opt_state, optimizer, network_.params, lambda values: both(values)[0])
    return Network(params, structure, state)


def _rewired(
    plan: GrowthPlan, spec: NetworkSpec, optimizer: optax.GradientTransformation, network_: Network, key: Key
) -> Network:
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
    return Network(params, structure, optimizer.init(params) if plan.fresh_optimizer else state)


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
    below = spec.sizes[layer + 1] if decision.change == "insert" else spec.sizes[layer]
    above = spec.sizes[layer + 2]

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

    Raises:
      ValueError: they have no room for ``plan.added`` weights, or too few of them for two layers.
    """
    full = below * size + size * above
    if plan.added is None:
        density = plan.spec.density
        return max(1, int(density * below * size)), max(1, int(density * size * above))
    if plan.added > full:
        raise ValueError(f"{size} units between {below} and {above} have no room for {plan.added} weights")
    density = min(1.0, (plan.added + 0.5) / full)  # so that int(density * full) is what is wanted
    into, _ = allocate((below, size, above), density, plan.spec.allocation)
    return into, plan.added - into


__all__ = [
    "GrowthPlan",
    "Measured",
    "Network",
    "grow",
    "grown_spec",
    "measure",
    "new_weights",
    "scaffold_change",
    "start_network",
]
