"""What a sweep is asked for, and what it gives of every network."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.struct
import jax.numpy as jnp
import optax

from jaxnet.kernels import Product, dense_product
from jaxnet.keys import DRAW, purpose
from jaxnet.nn.params import Params, Structure
from jaxnet.reach import LiveCounts
from jaxnet.structure import LayerParams
from jaxnet.sweep.family import DrawRules, Family, Variant
from jaxnet.train import Method
from jaxnet.train.net import Transform
from jaxnet.types import Array, Bool, Int, Key, PyTree, Scalar

Carried = tuple[Params, PyTree]
"""Values and Adam's state of a whole network. Masks are not in it: they are drawn again from the key."""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How the networks of a sweep are made, trained and measured (static).

    Attributes:
      epochs: passes over the training samples.
      batch_size: samples per step.
      lr: Adam's learning rate; None where every variant brings its own.
      weight_decay: decoupled decay of the weights (AdamW); None where every variant brings its own.
      method: what changes the structure while a network trains, or None.
      draw: masks, initial values and activation.
      common_order: all seeds see the samples in one order, gathered once for all;
        otherwise every seed has its own.
      detector: signal that finds the extrema; one of :data:`jaxnet.signals.SIGNALS`.
      watch: ``pre`` or ``post`` activations for extrema.
      product: the sparse product.
      transform: of the batches that are learned, or None (``transform`` of :class:`jaxnet.train.Task`).
      own_draws: every seed draws for itself what the transform draws.
      shuffle: whether an epoch has an order of its own; otherwise samples come as they are stored.
      outputs: also count the outputs of linear layers beyond two thresholds (:func:`jaxnet.train.outside`).
      persistent: train in one GPU kernel (:mod:`jaxnet.kernels.persistent`); the product is for the rest.
    """

    epochs: int = 5
    batch_size: int = 64
    lr: float | None = 1e-2
    weight_decay: float | None = 0.0
    method: Method | None = None
    draw: DrawRules = dataclasses.field(default_factory=DrawRules)
    common_order: bool = True
    detector: str = "original"
    watch: str = "post"
    product: Product = dense_product
    transform: Transform | None = None
    own_draws: bool = False
    shuffle: bool = True
    outputs: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size must be at least 1: {self.epochs}, {self.batch_size}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be above 0: {self.lr}")
        if self.weight_decay is not None and not (
            math.isfinite(self.weight_decay) and self.weight_decay >= 0
        ):
            raise ValueError(f"weight_decay must be 0 or more: {self.weight_decay}")
        if self.watch not in ("pre", "post"):
            raise ValueError(f"watch must be pre or post: {self.watch!r}")

    def key_of_draws(self, key: Key, key_data: Key, number: Int[Array, ""]) -> Key | None:
        """What the transform draws from in an epoch, by the key of a network and that of the data."""
        if self.transform is None:
            return None
        return purpose(key if self.own_draws else key_data, DRAW, number)

    def optimizer(self, variant: Variant) -> optax.GradientTransformation:
        """Adam, with the rates of a variant where these are data."""
        rate: Any = variant.lr if self.lr is None else self.lr
        decay: Any = variant.weight_decay if self.weight_decay is None else self.weight_decay
        if isinstance(decay, float) and decay == 0:
            return optax.adam(rate)
        return optax.adamw(rate, weight_decay=decay)


class Row(flax.struct.PyTreeNode):
    """What is kept of a seed.

    Attributes:
      accuracy: on the validation samples, a fraction.
      loss: mean training loss (nats) of the last epoch.
      high: high extrema in all hidden layers.
      low: low extrema in all hidden layers.
      high_by_layer: ``(hidden layers,)``, the same layer by layer.
      low_by_layer: likewise.
      dead: fraction of hidden units never active on the watched samples.
      saturated: mean fraction of samples in which a hidden unit was saturated.
      hidden: hidden units.
      nonzeros: weights that exist; those that are not zero where masks are not enforced.
      biases: biases that exist.
      outside: outputs of linear layers beyond two thresholds per sample, where that was asked for, else 0.
      diverged: a loss, a weight or a logit was not finite; ``accuracy`` is NaN then.
      live: what lies on a way from an input to an output (:func:`jaxnet.reach.live`).
    """

    accuracy: Scalar
    loss: Scalar
    high: Int[Array, ""]
    low: Int[Array, ""]
    high_by_layer: Int[Array, "layer"]
    low_by_layer: Int[Array, "layer"]
    dead: Scalar
    saturated: Scalar
    hidden: Int[Array, ""]
    nonzeros: Int[Array, ""]
    biases: Int[Array, ""]
    outside: Scalar
    diverged: Bool[Array, ""]
    live: LiveCounts

    @property
    def extrema_score(self) -> Scalar:
        """Extrema per hidden unit; 0 without hidden units."""
        return (self.high + self.low).astype(jnp.float32) / jnp.maximum(self.hidden, 1).astype(jnp.float32)

    @property
    def patchability(self) -> Scalar:
        """``extrema_score * (1 - accuracy)``."""
        return self.extrema_score * (1 - self.accuracy)

    @property
    def efficiency(self) -> Scalar:
        """Accuracy per 1,000 weights that exist."""
        return 1000 * self.accuracy / jnp.maximum(self.nonzeros, 1).astype(jnp.float32)


class Trained(flax.struct.PyTreeNode):
    """A trained network of a sweep.

    Attributes:
      params: values.
      structure: which weights exist.
      row: results.
      fits: whether the shapes had room for the live part (:mod:`jaxnet.sweep.live`);
        if not, nothing else here has a meaning. :class:`~jaxnet.sweep.Program`
        trains such a network again with room for everything.
      opt_state: Adam's state, its moments in the order of ``params``; only of a
        :func:`make_rung`.
    """

    params: Params
    structure: Structure
    row: Row
    fits: Bool[Array, ""]
    opt_state: PyTree = None

    @property
    def carried(self) -> Carried:
        """What training goes on from."""
        return self.params, self.opt_state


def blank_carried(family: Family, config: SweepConfig) -> Carried:
    """Zeros in the shape of what one network carries from rung to rung."""
    shapes = zip(family.capacities, family.sizes[1:], strict=True)
    params = Params(tuple(LayerParams(jnp.zeros(slots), jnp.zeros(units)) for slots, units in shapes))
    return params, config.optimizer(blank_variant(family, config)).init(params)


def blank_variant(family: Family, config: SweepConfig) -> Variant:
    """Zeros in the shape of a variant, with the rates that are data."""
    layers, rate = len(family.capacities), jnp.zeros(())
    return Variant(
        jnp.zeros(layers + 1, jnp.int32),
        jnp.zeros(layers, jnp.int32),
        rate,
        rate if config.lr is None else None,
        rate if config.weight_decay is None else None,
    )
