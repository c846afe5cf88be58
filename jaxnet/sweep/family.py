"""Families: architectures of equal depth that share one compiled program."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.activations import GAINS
from jaxnet.allocation import allocate, check_density, check_sizes
from jaxnet.errors import check_choice
from jaxnet.masks import draw_padded_topology
from jaxnet.nn.layers import INITS
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.structure import LayerParams
from jaxnet.sweep.live import LiveShapes, live_shapes
from jaxnet.topology import Mask, Topology, topology_from_flat
from jaxnet.types import Array, Int, Key, Scalar

SLACK = 6.0
"""Standard deviations of the number of weights that a layer's capacity allows for (Bernoulli masks)."""


MASKS = ("uniform", "bernoulli", "constant-fan-in")
"""Rules by which the weights of a layer are drawn; see :class:`DrawRules`."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures that share one compiled program (static).

    Attributes:
      sizes: units per layer, the largest of any variant.
      capacities: slots per layer, enough for every variant.
      max_densities: per layer, the largest density of any variant.
      live: room for the part that training can change, of any variant; None where
        that is hardly less than everything.
    """

    sizes: tuple[int, ...]
    capacities: tuple[int, ...]
    max_densities: tuple[float, ...]
    live: LiveShapes | None = None


@dataclasses.dataclass(frozen=True)
class DrawRules:
    """How the networks of a family are drawn (static).

    Attributes:
      mask: ``uniform`` (exactly the weights that each layer is given, anywhere in it),
        ``constant-fan-in`` (as many inputs for every unit of a layer) or ``bernoulli``
        (every weight exists with probability ``density``).
      init: ``sparse-fan-in`` or ``dense-fan-in``; see :func:`jaxnet.nn.layers.init_layer`.
      activation: of the hidden layers.
      enforced: False applies the mask to the first values only: every weight between units that exist is
        trained, so that the network fills up (what the texts on the original describe).
    """

    mask: str = "uniform"
    init: str = "sparse-fan-in"
    activation: str = "relu"
    enforced: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown rule."""
        check_choice("mask", self.mask, MASKS)
        check_choice("init", self.init, INITS)
        check_choice("activation", self.activation, GAINS)


class Variant(flax.struct.PyTreeNode):
    """One architecture and density of a family, as data rather than as shapes.

    Attributes:
      widths: ``(layers + 1,)`` int32, units that exist.
      nonzeros: ``(layers,)`` int32, weights of each layer, where counts are exact.
      density: probability of a weight under ``bernoulli`` masks.
      lr: learning rate, where it differs between seeds; see :class:`jaxnet.sweep.SweepConfig`.
      weight_decay: likewise.
    """

    widths: Int[Array, "sizes"]
    nonzeros: Int[Array, "layers"]
    density: Scalar
    lr: Scalar | None = None
    weight_decay: Scalar | None = None


def make_family(
    architectures: Sequence[Sequence[int]],
    densities: Sequence[float],
    mask: str,
    allocation: str = "uniform",
) -> Family:
    """The family of some architectures of equal depth and some densities.

    Raises:
      ValueError: the depths differ, or a size or density is out of range, or the allocation
        gives no architecture a weight in every layer.
    """
    if len({len(a) for a in architectures}) != 1:
        raise ValueError("the architectures of a family must have equal depth")
    for a in architectures:
        check_sizes(a)
    for d in densities:
        check_density(d)
    sizes = tuple(max(column) for column in zip(*architectures, strict=True))
    highest = max(densities)
    if allocation != "uniform":
        return _allocated(architectures, densities, sizes, allocation)
    capacities = []
    for layer in range(len(sizes) - 1):
        full = max(a[layer] * a[layer + 1] for a in architectures)
        expected = highest * full
        if mask == "bernoulli":
            expected += SLACK * math.sqrt(expected * (1 - highest)) + 8
        capacities.append(max(1, min(full, math.ceil(expected))))
    variants = ((a, [d] * len(capacities)) for a, d in itertools.product(architectures, densities))
    densest = (highest,) * len(capacities)
    return Family(sizes, tuple(capacities), densest, live_shapes(variants, sizes, capacities))


def _allocated(
    architectures: Sequence[Sequence[int]],
    densities: Sequence[float],
    sizes: tuple[int, ...],
    allocation: str,
) -> Family:
    """A family whose layers differ in density."""
    counts: list[tuple[Sequence[int], tuple[int, ...]]] = []
    for a, d in itertools.product(architectures, densities):
        with contextlib.suppress(ValueError):  # what cannot be drawn takes no room
            counts.append((a, allocate(a, d, allocation)))
    if not counts:
        allocate(architectures[0], max(densities), allocation)  # says why
    shares = [
        (a, [n / (i * o) for n, i, o in zip(nonzeros, a[:-1], a[1:], strict=True)]) for a, nonzeros in counts
    ]
    capacities = [max(layer) for layer in zip(*(nonzeros for _, nonzeros in counts), strict=True)]
    if allocation == "constant-fan-in":
        for layer, out in enumerate(sizes[1:]):
            capacities[layer] = out * max(nonzeros[layer] // a[layer + 1] for a, nonzeros in counts)
    densest = tuple(max(layer) for layer in zip(*(layers for _, layers in shares), strict=True))
    return Family(sizes, tuple(capacities), densest, live_shapes(shares, sizes, capacities))


def make_variant(
    sizes: Sequence[int],
    density: float,
    mask: str = "uniform",
    allocation: str = "uniform",
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
) -> Variant:
    """An architecture and a density as data, for the family that it belongs to.

    Args:
      sizes: units per layer.
      density: fraction of weights that exist, in (0, 1].
      mask: as in :class:`DrawRules`; ``bernoulli`` may leave a layer without any weight.
      allocation: how exact counts are shared out; one of :data:`jaxnet.allocation.ALLOCATIONS`.
      lr: learning rate of the variant, where the sweep leaves it open.
      weight_decay: likewise.

    Raises:
      ValueError: a size or the density is out of range, or a layer would have no weight
        where counts are exact.
    """
    if mask == "bernoulli":  # counts are drawn: what is expected stands for them
        check_sizes(sizes)
        check_density(density)
        nonzeros = tuple(int(density * i * o) for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    else:
        nonzeros = allocate(sizes, density, allocation)
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
        if rules.mask == "constant-fan-in":
            topology = _draw_fan_in(shape, num_out, num_in, nonzeros // num_out, capacity, key)
        else:
            topology = draw_padded_topology(
                shape, num_out, num_in, nonzeros, capacity, family.max_densities[layer], key_mask=key
            )
        key = jax.random.fold_in(key_init, layer)
        layers.append(_draw_layer(topology, num_out, num_in, rules, key))
        topologies.append(topology)
    outputs = jnp.arange(family.sizes[-1]) < variant.widths[-1]
    return Params(tuple(layers)), Structure.of(topologies).replace(outputs=outputs)


def draw_network(
    family: Family, variant: Variant, rules: DrawRules, *, key_mask: Key, key_init: Key
) -> tuple[Params, Structure]:
    """As :func:`draw_variant`; where masks are not enforced, dense arrays, zero outside the mask."""
    params, structure = draw_variant(family, variant, rules, key_mask=key_mask, key_init=key_init)
    if rules.enforced:
        return params, structure
    params, structure = to_masked_network(params, structure)
    there = [jnp.arange(size) < width for size, width in zip(family.sizes, variant.widths, strict=True)]
    return params, structure.with_weights(
        [Mask(out[:, None] & below) for below, out in zip(there, there[1:], strict=False)]
    )


def _draw_fan_in(
    shape: tuple[int, int], num_out: Array, num_in: Array, fan_in: Array, capacity: int, key: Key
) -> Topology:
    """``fan_in`` different inputs for every unit that exists, the same whatever the padding."""
    out, width = shape
    unit, column = jnp.arange(out, dtype=jnp.int32)[:, None], jnp.arange(width, dtype=jnp.int32)
    bits = jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (width,)))(unit[:, 0])
    late = jnp.broadcast_to((column >= num_in).astype(jnp.int32), shape)
    _, _, cols = jax.lax.sort((late, bits, jnp.broadcast_to(column, shape)), num_keys=3)
    cols = cols[:, : capacity // out]
    exists = (jnp.arange(cols.shape[1]) < fan_in) & (unit < num_out)
    return topology_from_flat((unit * width + cols).ravel(), exists.ravel(), shape)


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
