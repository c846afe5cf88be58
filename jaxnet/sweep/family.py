"""Families: architectures of equal depth that share one compiled program."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.activations import GAINS
from jaxnet.masks import allocate, check_density, check_sizes, draw_padded_topology
from jaxnet.nn.layers import INITS
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.sweep.live import LiveShapes, live_shapes
from jaxnet.topology import Topology
from jaxnet.types import Array, Int, Key, Scalar

SLACK = 6.0
"""Standard deviations of the number of weights that a layer's capacity allows for (Bernoulli masks)."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures that share one compiled program (static).

    Attributes:
      sizes: units per layer, the largest of any variant.
      capacities: slots per layer, enough for every variant.
      max_density: the largest density of any variant.
      live: room for the part that training can change, of any variant; None where
        that is hardly less than everything.
    """

    sizes: tuple[int, ...]
    capacities: tuple[int, ...]
    max_density: float
    live: LiveShapes | None = None


@dataclasses.dataclass(frozen=True)
class DrawRules:
    """How the networks of a family are drawn (static).

    Attributes:
      mask: ``uniform`` (exactly ``int(density * in * out)`` weights per layer) or
        ``bernoulli`` (every weight exists with probability ``density``).
      init: ``sparse-fan-in`` or ``dense-fan-in``; see :func:`jaxnet.nn.layers.init_layer`.
      activation: of the hidden layers.
    """

    mask: str = "uniform"
    init: str = "sparse-fan-in"
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown rule."""
        if self.mask not in ("uniform", "bernoulli"):
            raise ValueError(f"mask must be uniform or bernoulli: {self.mask!r}")
        if self.init not in INITS:
            raise ValueError(f"unknown init {self.init!r}: choose one of {', '.join(INITS)}")
        if self.activation not in GAINS:
            raise ValueError(f"unknown activation {self.activation!r}: choose one of {', '.join(GAINS)}")


class Variant(flax.struct.PyTreeNode):
    """One architecture and density of a family, as data rather than as shapes.

    Attributes:
      widths: ``(layers + 1,)`` int32, units that exist.
      nonzeros: ``(layers,)`` int32, weights of each layer under ``uniform`` masks.
      density: probability of a weight under ``bernoulli`` masks.
      lr: learning rate, where it differs between seeds; see :class:`jaxnet.sweep.SweepConfig`.
      weight_decay: likewise.
    """

    widths: Int[Array, "sizes"]
    nonzeros: Int[Array, "layers"]
    density: Scalar
    lr: Scalar | None = None
    weight_decay: Scalar | None = None


def make_family(architectures: Sequence[Sequence[int]], densities: Sequence[float], mask: str) -> Family:
    """The family of some architectures of equal depth and some densities.

    Raises:
      ValueError: the depths differ, or a size or density is out of range.
    """
    if len({len(a) for a in architectures}) != 1:
        raise ValueError("the architectures of a family must have equal depth")
    for a in architectures:
        check_sizes(a)
    for d in densities:
        check_density(d)
    sizes = tuple(max(column) for column in zip(*architectures, strict=True))
    highest = max(densities)
    capacities = []
    for layer in range(len(sizes) - 1):
        full = max(a[layer] * a[layer + 1] for a in architectures)
        expected = highest * full
        if mask == "bernoulli":
            expected += SLACK * math.sqrt(expected * (1 - highest)) + 8
        capacities.append(max(1, min(full, math.ceil(expected))))
    live = live_shapes(itertools.product(architectures, densities), sizes, capacities)
    return Family(sizes, tuple(capacities), highest, live)


def make_variant(
    sizes: Sequence[int],
    density: float,
    mask: str = "uniform",
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
) -> Variant:
    """An architecture and a density as data, for the family that it belongs to.

    Args:
      sizes: units per layer.
      density: fraction of weights that exist, in (0, 1].
      mask: as in :class:`DrawRules`; ``bernoulli`` may leave a layer without any weight.
      lr: learning rate of the variant, where the sweep leaves it open.
      weight_decay: likewise.

    Raises:
      ValueError: a size or the density is out of range, or a layer of a
        ``uniform`` mask has no weight.
    """
    if mask == "bernoulli":  # counts are drawn: what is expected stands for them
        check_sizes(sizes)
        check_density(density)
        nonzeros = tuple(int(density * i * o) for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    else:
        nonzeros = allocate(sizes, density)
    return Variant(
        jnp.asarray(sizes, jnp.int32),
        jnp.asarray(nonzeros, jnp.int32),
        jnp.asarray(density, jnp.float32),
        None if lr is None else jnp.asarray(lr, jnp.float32),
        None if weight_decay is None else jnp.asarray(weight_decay, jnp.float32),
    )


def draw_variant(
    family: Family, variant: Variant, rules: DrawRules, *, key_mask: Key, key_init: Key
) -> tuple[Params, Structure]:
    """Draws one network of a family; units that do not exist have no weights and bias 0."""
    layers, topologies = [], []
    for layer, capacity in enumerate(family.capacities):
        shape = family.sizes[layer + 1], family.sizes[layer]
        num_in, num_out = variant.widths[layer], variant.widths[layer + 1]
        key = jax.random.fold_in(key_mask, layer)
        if rules.mask == "bernoulli":
            size = (num_in * num_out).astype(jnp.float32)
            number = jax.random.binomial(jax.random.fold_in(key, 1), size, variant.density)
            nonzeros = jnp.minimum(number.astype(jnp.int32), capacity)
        else:
            nonzeros = variant.nonzeros[layer]
        topology = draw_padded_topology(
            shape, num_out, num_in, nonzeros, capacity, family.max_density, key_mask=key
        )
        key = jax.random.fold_in(key_init, layer)
        layers.append(_draw_layer(topology, num_out, num_in, rules, key))
        topologies.append(topology)
    outputs = jnp.arange(family.sizes[-1]) < variant.widths[-1]
    return Params(tuple(layers)), Structure.of(topologies).replace(outputs=outputs)


def _draw_layer(topology: Topology, num_out: Array, num_in: Array, rules: DrawRules, key: Key) -> LayerParams:
    """Initial values as in :func:`jaxnet.nn.layers.init_layer`, for a layer with units that do not exist."""
    out = topology.shape[0]
    key_weight, key_bias = jax.random.split(key)
    if rules.init == "dense-fan-in":
        bound = 1.0 / jnp.sqrt(num_in.astype(jnp.float32))
        weight = jax.random.uniform(key_weight, (topology.capacity,), minval=-1.0) * bound
        bias = jax.random.uniform(key_bias, (out,), minval=-1.0) * bound
    else:
        scale = GAINS[rules.activation] / jnp.sqrt(jnp.maximum(topology.fan_in, 1).astype(jnp.float32))
        weight = jax.random.normal(key_weight, (topology.capacity,))
        weight = weight * scale.at[topology.rows].get(mode="fill", fill_value=0.0)
        bias = jnp.zeros(out)
    return LayerParams(
        jnp.where(topology.exists, weight, 0.0), jnp.where(jnp.arange(out) < num_out, bias, 0.0)
    )
