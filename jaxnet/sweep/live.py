"""Training only what can change.

A hidden unit that no output reads, directly or through other units, has a
gradient of exactly zero, and so have its weights and its bias: Adam never moves
them. In a network at density 0.02 these are most units: of [784, 128, 10] the
25 weights of the output layer read 25 of the 128 hidden units at most. The rest
of the network is as good as not there while it trains, so it is left out of the
products and of the optimiser, and put back afterwards. The trained network is
the same. With a dense output layer there is nothing to leave out.

How many units and weights are live differs from seed to seed, but shapes must
not: :func:`live_shapes` allows for more than a seed ever has in practice, and
:class:`LivePart` says whether that was enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import flax.struct
import jax.numpy as jnp

from jaxnet.nn.params import Params, Structure
from jaxnet.reach import read_by_outputs
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology
from jaxnet.types import Array, Bool, Int

DEVIATIONS = 7.0
"""Standard deviations above what is expected that the shapes allow for: next to never too few."""

WORTH_IT = 0.8
"""Live weights over all weights, up to which leaving out the rest is worth the trouble."""


@dataclasses.dataclass(frozen=True)
class LiveShapes:
    """Room for the part of a network that can change (static).

    Attributes:
      sizes: units per layer; input and output are complete.
      capacities: slots per layer.
    """

    sizes: tuple[int, ...]
    capacities: tuple[int, ...]


class LivePart(flax.struct.PyTreeNode):
    """The part of one network that can change, as a network of its own.

    Attributes:
      params: values.
      structure: topology between the live units, in the order they had.
      slots: for each layer ``(live capacity,)``, the slot that each weight came from;
        the whole layer's capacity where there is none.
      units: for each layer ``(live out,)``, the unit that each output unit was.
      fits: whether the shapes had room for all of it.
    """

    params: Params
    structure: Structure
    slots: tuple[Int[Array, "slot"], ...]
    units: tuple[Int[Array, "unit"], ...]
    fits: Bool[Array, ""]


def live_shapes(
    variants: Iterable[tuple[Sequence[int], Sequence[float]]], sizes: Sequence[int], capacities: Sequence[int]
) -> LiveShapes | None:
    """Shapes with room for the live part of every variant of a family.

    Args:
      variants: sizes of every variant, and the density of each of its layers.
      sizes: of the whole family.
      capacities: of the whole family.

    Returns:
      The shapes, or None where they are hardly smaller than the family's own.
    """
    room_sizes, room_capacities = [0] * len(sizes), [0] * len(capacities)
    for widths, densities in variants:
        live = float(widths[-1])
        room_sizes[-1] = sizes[-1]
        for layer in reversed(range(len(capacities))):
            density = densities[layer]
            expected = density * widths[layer] * live
            weights = min(capacities[layer], expected + DEVIATIONS * math.sqrt(expected) + 12)
            room_capacities[layer] = max(room_capacities[layer], math.ceil(weights))
            read = 1 - (1 - density) ** live  # a unit below is read by one of the live ones at least
            expected = widths[layer] * read
            live = min(widths[layer], weights, expected + DEVIATIONS * math.sqrt(expected * (1 - read)) + 4)
            room_sizes[layer] = max(room_sizes[layer], math.ceil(live))
    room_sizes[0] = sizes[0]
    if sum(room_capacities) > WORTH_IT * sum(capacities):
        return None
    return LiveShapes(tuple(room_sizes), tuple(room_capacities))


def take_live(params: Params, structure: Structure, shapes: LiveShapes) -> LivePart:
    """Takes the part that can change out of a network; see :class:`LivePart`.

    Args:
      params: of one network in the sparse representation, without patches.
      structure: likewise.
      shapes: room for it.
    """
    topologies: list[Topology] = []
    slots: list[Array] = []
    units: list[Array] = []
    read = read_by_outputs(structure.replace(outputs=None))  # what can change; the outputs all stay
    place = jnp.arange(shapes.sizes[-1])  # where the output units of a layer go
    fits = jnp.ones((), bool)
    for layer in reversed(range(len(shapes.capacities))):
        whole = structure.weights[layer]
        assert isinstance(whole, Topology)
        num_out, num_in, capacity = shapes.sizes[layer + 1], shapes.sizes[layer], shapes.capacities[layer]
        live, below = read[layer + 1], read[layer]
        kept = live.at[whole.rows].get(mode="fill", fill_value=False)
        # weights that are kept before each slot: where a kept one goes
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(kept, dtype=jnp.int32)])
        slot = _invert(before[:-1], kept, capacity)
        unit = _invert(place, live, num_out)
        fits &= (before[-1] <= capacity) & (jnp.sum(live) <= num_out)
        above = place
        # the input stays complete
        place = jnp.arange(num_in) if layer == 0 else jnp.cumsum(below, dtype=jnp.int32) - 1
        # without room the layer is left empty: cut off anywhere, its rows would not fit
        number = jnp.where(fits, before[-1], 0)
        row_ptr = jnp.minimum(before.at[whole.row_ptr.at[unit].get(mode="clip")].get(mode="clip"), number)
        row_ptr = jnp.append(jnp.where(unit < whole.shape[0], row_ptr, number), number)
        exists = jnp.arange(capacity) < number
        new_row = above.at[whole.rows.at[slot].get(mode="clip")].get(mode="clip")
        # padding stands at the end, its rows ascending from the number of output units
        rows = jnp.where(exists, new_row, num_out + jnp.arange(capacity) - number)
        col = place.at[whole.cols.at[slot].get(mode="clip")].get(mode="clip")
        cols = jnp.where(exists, jnp.minimum(col, num_in - 1), 0)
        rows, cols, row_ptr = (index.astype(jnp.int32) for index in (rows, cols, row_ptr))
        topologies.insert(0, Topology(rows, cols, row_ptr, (num_out, num_in)))
        slots.insert(0, slot)
        units.insert(0, unit)
    wired = Structure.of(topologies).replace(outputs=structure.outputs)
    part = LivePart(params, wired, tuple(slots), tuple(units), fits)
    return part.replace(params=take_values(params, part))


def _invert(place: Int[Array, "n"], chosen: Bool[Array, "n"], room: int) -> Int[Array, "room"]:
    """Which index has each place; ``n`` where none of the chosen ones has it, or there is no room."""
    number = place.shape[0]
    index = jnp.arange(number)
    return jnp.full(room, number).at[jnp.where(chosen, place, room)].set(index, mode="drop")


def take_values(whole: Params, part: LivePart) -> Params:
    """The values of a live part out of values of the whole network; what :func:`put_back` undoes."""
    layers = [
        LayerParams(
            layer.weight.at[slot].get(mode="fill", fill_value=0.0),
            layer.bias.at[unit].get(mode="fill", fill_value=0.0),
        )
        for layer, slot, unit in zip(whole.scaffold, part.slots, part.units, strict=True)
    ]
    return Params(tuple(layers))


def put_back(whole: Params, part: LivePart, trained: Params) -> Params:
    """The whole network with the values that its live part has after training."""
    layers = [
        LayerParams(
            layer.weight.at[slot].set(new.weight, mode="drop"),
            layer.bias.at[unit].set(new.bias, mode="drop"),
        )
        for layer, new, slot, unit in zip(
            whole.scaffold, trained.scaffold, part.slots, part.units, strict=True
        )
    ]
    return Params(tuple(layers))
