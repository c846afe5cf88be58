"""Exchange of weights at a constant number: SET and RigL.

The weakest weights of every layer are dropped and as many grown elsewhere:
at random (SET) or where the loss would fall fastest (RigL). The number of
weights of a layer never changes.

Sources: Mocanu et al. 2018 (SET), Evci et al. 2020 (RigL).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxnet import losses
from jaxnet.network import Params, Structure, forward, release_masks, to_masked_network
from jaxnet.rewire.apply import RewireInfo, apply_edit
from jaxnet.rewire.edit import edited, largest, random_score, smallest, topologies
from jaxnet.topology import Topology, topology_mask
from jaxnet.train import Task
from jaxnet.types import Array, Features, Float, Int, Key, Labels, PyTree, Scalar, Weight

GROWTHS = ("random", "gradient")
"""Where new weights go: ``random`` is SET, ``gradient`` is RigL."""


@dataclasses.dataclass(frozen=True)
class ExchangeRules:
    """When and how weights are exchanged (static).

    Attributes:
      growth: one of :data:`GROWTHS`.
      fraction: of the weights of a layer dropped at the first exchange, in [0, 1].
      every: steps between two exchanges (RigL's delta t).
      until: step from which on nothing is exchanged any more; the fraction falls
        along a half cosine to zero there (None: no decay and no end).
    """

    growth: str = "gradient"
    fraction: float = 0.3
    every: int = 100
    until: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.growth not in GROWTHS:
            raise ValueError(f"unknown growth {self.growth!r}: choose one of {', '.join(GROWTHS)}")
        if not (math.isfinite(self.fraction) and 0 <= self.fraction <= 1):
            raise ValueError(f"fraction must be between 0 and 1: {self.fraction}")
        if self.every < 1 or (self.until is not None and self.until < 1):
            raise ValueError(f"every and until must be at least 1 step: {self.every}, {self.until}")

    def is_due(self, step: Int[Array, ""]) -> Array:
        """Whether weights are exchanged after ``step`` steps (traced bool)."""
        due = (step % self.every == 0) & (step > 0)
        return due if self.until is None else due & (step < self.until)

    def fraction_at(self, step: Int[Array, ""]) -> Scalar:
        """The fraction dropped after ``step`` steps."""
        if self.until is None:
            return jnp.full((), self.fraction)
        share = jnp.clip(jnp.asarray(step, jnp.float32) / self.until, 0.0, 1.0)
        return self.fraction / 2 * (1 + jnp.cos(jnp.pi * share))


@dataclasses.dataclass(frozen=True)
class Exchange:
    """SET or RigL as an edit for :func:`jaxnet.train.make_edited_epoch`.

    Attributes:
      task: the network's specification and product.
      rules: when and how.
      key_rewire: PRNG key, folded with the number of the step.
    """

    task: Task
    rules: ExchangeRules
    key_rewire: Key

    def is_due(self, step: Int[Array, ""]) -> Array:
        """Whether weights are exchanged after ``step`` steps."""
        return self.rules.is_due(step)

    def __call__(
        self,
        params: Params,
        structure: Structure,
        opt_state: PyTree,
        x: Features,
        y: Labels,
        weight: Float[Array, "batch"],
        step: Int[Array, ""],
        /,
    ) -> tuple[Params, Structure, PyTree]:
        """See :func:`rewire_network`."""
        key = jax.random.fold_in(self.key_rewire, step)
        return rewire_network(
            self.task, self.rules, params, structure, opt_state, step, x, y, weight, key_rewire=key
        )[:3]


def dense_gradients(
    task: Task,
    params: Params,
    structure: Structure,
    x: Features,
    y: Labels,
    weight: Float[Array, "batch"] | None = None,
    *,
    key_forward: Key | None = None,
) -> tuple[Weight, ...]:
    """Gradients of the mean loss at all positions of every layer, ``(out, in)`` each.

    What the gradient of a weight would be if it existed with the value 0: the
    network is taken as a dense one whose missing weights are zero.

    Args:
      task: the network's specification and product.
      params: the values.
      structure: in the sparse representation.
      x: ``(in, batch)``.
      y: ``(batch,)``.
      weight: ``(batch,)``, 1 for a sample, 0 for padding; all 1 by default.
      key_forward: only for patches that draw their inputs in every pass.
    """
    dense, masked = to_masked_network(params, structure)
    free = release_masks(masked)

    def loss(weights: tuple[Weight, ...]) -> Scalar:
        layers = tuple(p.replace(weight=w) for p, w in zip(dense.scaffold, weights, strict=True))
        logits, _ = forward(
            task.spec, dense.replace(scaffold=layers), free, x, product=task.product, key_forward=key_forward
        )
        return losses.cross_entropy(logits, y, jnp.ones(y.shape[0]) if weight is None else weight)

    return jax.grad(loss)(tuple(p.weight for p in dense.scaffold))


def exchange(
    topology: Topology,
    weight: Float[Array, "nnz"],
    score: Array,
    fraction: Scalar | float,
    at_most: float = 1.0,
) -> Topology:
    """Drops the weights of the smallest magnitude and grows as many where ``score`` is largest.

    ``floor(fraction * weights)`` are exchanged. Every position that is not kept
    can be grown, those just dropped included (as RigL's authors do it): such a
    weight stays as it was.

    Args:
      topology: of one layer.
      weight: ``(capacity,)``, its values.
      score: ``(out, in)``, 0 or more.
      fraction: of the weights, in [0, 1].
      at_most: largest fraction to be expected (static).
    """
    count = topology.num_nonzeros
    # 1e-4: a product such as 0.3 * 10 may come out a rounding error below the whole number
    number = jnp.floor(fraction * count.astype(jnp.float32) + 1e-4).astype(jnp.int32)
    number = jnp.minimum(number, count)
    keep = topology.exists & ~smallest(topology, jnp.abs(weight), number)
    kept = topology_mask(topology).at[topology.rows, topology.cols].set(keep, mode="drop")
    most = max(1, math.floor(at_most * topology.capacity + 1e-4))
    return edited(topology, keep, *largest(score, ~kept, number, most))


def rewire_network(
    task: Task,
    rules: ExchangeRules,
    params: Params,
    structure: Structure,
    opt_state: PyTree,
    step: Int[Array, ""] | int,
    x: Features,
    y: Labels,
    weight: Float[Array, "batch"] | None = None,
    *,
    key_rewire: Key,
) -> tuple[Params, Structure, PyTree, RewireInfo]:
    """Exchanges weights in all layers of one network.

    Args:
      task: the network's specification and product.
      rules: which rule, and the fraction as a function of ``step``. Whether an
        exchange is due is not asked here (:meth:`ExchangeRules.is_due`).
      params: the values.
      structure: in the sparse representation.
      opt_state: any optimiser state; moments follow their weight.
      step: steps trained so far.
      x: ``(in, batch)``, a batch for the gradients; not read by ``random``.
      y: ``(batch,)``.
      weight: ``(batch,)``, 1 for a sample, 0 for padding; all 1 by default.
      key_rewire: PRNG key; not read by ``gradient``.

    Returns:
      Values, structure and optimiser state of the same shapes, and what was done.
    """
    old = topologies(structure)
    if rules.growth == "gradient":
        gradients = dense_gradients(task, params, structure, x, y, weight, key_forward=key_rewire)
        scores: tuple[Array, ...] = tuple(jnp.abs(g) for g in gradients)
    else:
        keys = [jax.random.fold_in(key_rewire, layer) for layer in range(len(old))]
        scores = tuple(random_score(t.shape, key=k) for t, k in zip(old, keys, strict=True))
    fraction = rules.fraction_at(jnp.asarray(step))
    new = tuple(
        exchange(t, layer.weight, score, fraction, rules.fraction)
        for t, layer, score in zip(old, params.scaffold, scores, strict=True)
    )
    return apply_edit(params, structure, opt_state, structure.replace(connectivity=new))
