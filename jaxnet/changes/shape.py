"""Changes of the shape of a multi-layer perceptron: a layer, more units, more patches.

Every operator is a function of specification, values and structure; for a whole
:class:`~jaxnet.train.Net`, optimiser state included, :func:`grown` carries it
out. An operator comes with two rules:

``redraw``
  The original's: what reads from the new units is drawn afresh, topology and
  values. The function changes.
``preserve``
  The network computes the same before and after, to float tolerance.

Array shapes depend on the arguments only, never on values: an operator runs on
the host for one network and under ``vmap`` for many of equal shape. Patches stay
at their units whichever rule changes the scaffold; see :mod:`jaxnet.patches.bank`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.allocation import dense_counts, drawable_density
from jaxnet.changes.moving import reshape
from jaxnet.changes.patching import check_rule
from jaxnet.masks import free_topology, uniform_topology
from jaxnet.nn.layers import init_layer
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure, sparse
from jaxnet.patches import taken
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology, join_topologies, topology_mask
from jaxnet.train import Net
from jaxnet.types import Array, Key

Shape = tuple[NetworkSpec, Params, Structure]  # what an operator takes and gives
Layer = tuple[Topology, LayerParams]


def grown(
    net: Net, spec: NetworkSpec, operator: Callable[..., Shape], *, part: str | None = None, **how: Any
) -> tuple[Net, NetworkSpec]:
    """A net after an operator of this module; moments and whatever it carries follow.

    Args:
      net: a multi-layer perceptron, or a model that has one.
      spec: the perceptron's specification.
      operator: :func:`insert_layer`, :func:`widen` or :func:`add_patches`.
      part: where it stands in parameters and structure (``head`` of a :class:`jaxnet.nn.Head`).
      how: the operator's own arguments, keys included.

    Returns:
      The net and the specification after it.
    """
    specs: list[NetworkSpec] = []

    def change(params: Any) -> Any:
        here = (params, net.structure) if part is None else (params[part], net.structure[part])
        spec_after, *after = operator(spec, *here, **how)
        specs.append(spec_after)
        wholes = zip((params, net.structure), after, strict=True)
        return tuple(new if part is None else {**whole, part: new} for whole, new in wholes)

    return reshape(net, change), specs[-1]


def insert_layer(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    *,
    after: int,
    size: int,
    nonzeros_in: int,
    nonzeros_out: int,
    rule: str,
    key_mask: Key,
    key_init: Key,
) -> Shape:
    """Inserts a hidden layer.

    ``redraw`` draws the new layer and the one that now reads from it; the others
    keep their weights.

    ``preserve`` passes every unit below on through one weight of 1 and keeps the
    layer above as it is. ReLU lets that through unchanged, for it acts on values
    that are 0 or more. The other ``nonzeros_in - units below`` weights lie
    anywhere else in the new layer: those into the units that pass a value on
    start at zero, those into the extra units at random. The extra units'
    outgoing weights exist with value zero, and the gradient, which for a weight
    is the activity of its input times the error of its output, reaches them first.

    Args:
      spec: specification before.
      params: values before.
      structure: which weights and patches exist before, in the sparse representation.
      after: the hidden layer behind which the new one goes (0 is the first), or
        -1 for directly behind the input.
      size: units of the new layer.
      nonzeros_in: weights of the new layer.
      nonzeros_out: weights of the layer that reads from it, in total.
      rule: one of :data:`RULES`.
      key_mask: decides the topology.
      key_init: decides the values.

    Raises:
      TypeError: the network is in the masked-dense representation.
      ValueError: an argument is out of range, the network has skip connections,
        or ``preserve`` is asked for where no function-preserving layer exists: an
        activation other than ReLU or the identity, fewer units than the layer
        below has, ReLU directly behind the input, which may be negative, or
        patches that keep their level.
    """
    topologies = _growable(structure, rule)
    at = after + 1
    _check_range("after", after, -1, len(spec.sizes) - 3)
    _check_range("size", size, 1, None)
    sizes = (*spec.sizes[: at + 1], size, *spec.sizes[at + 1 :])
    bank, values = structure.bank, params.patches
    if bank is not None:
        bank, values = bank.kind.insert(bank, values, at, sizes, preserve=rule == "preserve")
    below, above = spec.sizes[at], spec.sizes[at + 1]
    keys_mask, keys_init = jax.random.split(key_mask), jax.random.split(key_init)
    if rule == "preserve":
        _check_passes(spec.activation, after, size, below)
        new = _passing_layer(spec, below, size, nonzeros_in, keys_mask[0], keys_init[0])
        reader = _with_silent_columns(
            (topologies[at], params.scaffold[at]), size - below, nonzeros_out, keys_mask[1]
        )
    else:
        _check_range("nonzeros_in", nonzeros_in, 1, size * below)
        _check_range("nonzeros_out", nonzeros_out, 1, above * size)
        new = _drawn(uniform_topology(size, below, nonzeros_in, key_mask=keys_mask[0]), spec, keys_init[0])
        reader = _drawn(
            uniform_topology(above, size, nonzeros_out, key_mask=keys_mask[1]), spec, keys_init[1]
        )
    layers = [*_layers(topologies, params)]
    layers[at : at + 1] = [new, reader]
    return _network(spec, sizes, layers, params.replace(patches=values), structure.replace(bank=bank))


def widen(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    *,
    layer: int,
    units: int,
    nonzeros_in: int,
    nonzeros_out: int,
    rule: str,
    key_mask: Key,
    key_init: Key,
) -> Shape:
    """Adds units to a hidden layer, behind those that are there.

    The new units get random incoming weights under both rules. ``redraw`` draws
    the layer that reads from them afresh. ``preserve`` keeps it and adds outgoing
    weights that exist with value zero. These can be trained: the gradient of a
    weight is the activity of its input times the error of its output, which does
    not vanish with the weight, so that they move in the first step, and from the
    second on the incoming weights get gradients too.

    Args:
      spec: specification before.
      params: values before.
      structure: which weights and patches exist before, in the sparse representation.
      layer: the hidden layer (0 is the first).
      units: how many units are added.
      nonzeros_in: weights into the new units.
      nonzeros_out: weights of the layer that reads from them, in total (``redraw``
        draws fewer where ``dense`` patches leave fewer positions free).
      rule: one of :data:`RULES`.
      key_mask: decides the topology.
      key_init: decides the values.

    Raises:
      TypeError: the network is in the masked-dense representation.
      ValueError: an argument is out of range, or the network has skip connections.
    """
    topologies = _growable(structure, rule)
    _check_range("layer", layer, 0, len(spec.sizes) - 3)
    _check_range("units", units, 1, None)
    below, width, above = spec.sizes[layer : layer + 3]
    _check_range("nonzeros_in", nonzeros_in, 1, units * below)
    keys_mask, keys_init = jax.random.split(key_mask), jax.random.split(key_init)
    layers = [*_layers(topologies, params)]
    bank = structure.bank
    added = _drawn(uniform_topology(units, below, nonzeros_in, key_mask=keys_mask[0]), spec, keys_init[0])
    bias = jnp.concatenate([layers[layer][1].bias, added[1].bias])
    sizes = (*spec.sizes[: layer + 1], width + units, *spec.sizes[layer + 2 :])
    if bank is not None:
        bank = bank.kind.widen(bank, layer, units, spec.sizes)
    if rule == "preserve":
        reader = _with_silent_columns(layers[layer + 1], units, nonzeros_out, keys_mask[1])
    else:
        _check_range("nonzeros_out", nonzeros_out, 1, above * (width + units))
        held = None if bank is None else taken(bank, layer + 1, sizes)
        if held is None:
            drawn = uniform_topology(above, width + units, nonzeros_out, key_mask=keys_mask[1])
        else:  # no position is taken twice, by the scaffold and by a dense patch
            drawn = free_topology(held, nonzeros_out, key_mask=keys_mask[1])
        reader = _drawn(drawn, spec, keys_init[1])
    layers[layer] = _joined([(layers[layer], 0, 0), (added, width, 0)], (width + units, below), bias)
    layers[layer + 1] = reader
    return _network(spec, sizes, layers, params, structure.replace(bank=bank))


def _passing_layer(
    spec: NetworkSpec, below: int, size: int, nonzeros: int, key_mask: Key, key_init: Key
) -> Layer:
    """A layer whose first units pass the units below on."""
    _check_range("nonzeros_in", nonzeros, below, size * below)
    unit = jnp.arange(below, dtype=jnp.int32)
    eye = Topology(unit, unit, jnp.minimum(jnp.arange(size + 1, dtype=jnp.int32), below), (size, below))
    parts: list[tuple[Layer, int, int]] = [((eye, LayerParams(jnp.ones(below), jnp.zeros(size))), 0, 0)]
    bias = jnp.zeros(size)
    if nonzeros > below:
        passes = topology_mask(eye)
        drawn, values = _drawn(free_topology(passes, nonzeros - below, key_mask=key_mask), spec, key_init)
        extra = drawn.rows >= below
        values = values.replace(weight=jnp.where(extra, values.weight, 0.0))
        parts.append(((drawn, values), 0, 0))
        bias = jnp.where(jnp.arange(size) < below, 0.0, values.bias)
    return _joined(parts, (size, below), bias)


def _with_silent_columns(layer: Layer, units: int, nonzeros: int, key_mask: Key) -> Layer:
    """A layer that reads from ``units`` more inputs by weights of value zero, ``nonzeros`` weights in all."""
    topology, values = layer
    num_out, num_in = topology.shape
    most = topology.capacity + num_out * units
    _check_range("nonzeros_out", nonzeros, topology.capacity + (units > 0), most)
    parts = [(layer, 0, 0)]
    if units:
        number = nonzeros - topology.capacity
        silent = uniform_topology(num_out, units, number, key_mask=key_mask)
        parts.append(((silent, LayerParams(jnp.zeros(number), values.bias)), 0, num_in))
    return _joined(parts, (num_out, num_in + units), values.bias)


def _joined(parts: Sequence[tuple[Layer, int, int]], shape: tuple[int, int], bias: Array) -> Layer:
    """Layers laid into one of ``shape``, each moved down and to the right."""
    topology, order = join_topologies([(t, down, right) for (t, _), down, right in parts], shape)
    weight = jnp.concatenate([values.weight for (_, values), _, _ in parts])[order]
    return topology, LayerParams(jnp.where(topology.exists, weight, 0.0), bias)


def _drawn(topology: Topology, spec: NetworkSpec, key_init: Key) -> Layer:
    return topology, init_layer(topology, spec.init, spec.activation, key_init=key_init)


def _layers(topologies: Sequence[Topology], params: Params) -> list[Layer]:
    return list(zip(topologies, params.scaffold, strict=True))


def _network(
    spec: NetworkSpec, sizes: tuple[int, ...], layers: Sequence[Layer], params: Params, structure: Structure
) -> Shape:
    """Puts a grown network together; the specification names its mean density.

    No rule of allocation says where weights of a grown network are; ``uniform``
    at a density that could be drawn stands for it.
    """
    topologies, values = zip(*layers, strict=True)
    weights = sum(t.capacity for t in topologies)
    density = drawable_density(sizes, weights / sum(dense_counts(sizes)))
    grown = dataclasses.replace(spec, sizes=sizes, density=density, allocation="uniform")
    return grown, params.replace(scaffold=values), structure.with_weights(topologies)


def _growable(structure: Structure, rule: str) -> list[Topology]:
    """The topologies of a network whose scaffold can grow by ``rule``."""
    check_rule(rule)
    if structure.skips:
        raise ValueError("a network with banks of skip connections keeps its shape")
    return sparse(structure)


def _check_range(name: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {allowed}: {value}")


def _check_passes(activation: str, after: int, size: int, below: int) -> None:
    """Raises ValueError unless a layer can pass ``below`` units on unchanged."""
    if activation not in ("relu", "identity"):
        raise ValueError(f"no layer of {activation} units passes values on unchanged: choose rule redraw")
    if after < 0 and activation == "relu":
        raise ValueError("relu units behind the input lose its negative values: choose rule redraw")
    if size < below:
        raise ValueError(f"{below} units need a layer of at least {below} to pass them on: {size}")


__all__ = ["grown", "insert_layer", "widen"]
