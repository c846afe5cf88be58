"""Wires: all connections of a chain of layers, whatever holds them, as lists of pairs of units.

Layers of units are counted from 0 (the inputs) to ``L`` (the outputs); weight matrix ``t`` leads
into layer ``t + 1``. Scaffold weights come from the layer below, skip connections and patches that
a layer was inserted under from further down.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp

from jaxnet.nn.mlp import skip_sources
from jaxnet.nn.params import Structure
from jaxnet.patches.dense import DensePatches
from jaxnet.patches.kinds import LayerPatches
from jaxnet.topology import Entry, Topology
from jaxnet.types import Array, Bool, Int


class Wires(flax.struct.PyTreeNode):
    """Connections from one layer to a later one.

    Attributes:
      rows: ``(wire,)``, unit that each leads to.
      cols: ``(wire,)``, unit that each comes from.
      exists: ``(wire,)`` bool; where it is false, ``rows`` and ``cols`` may lie outside.
      source: static, layer of units that they come from.
    """

    rows: Int[Array, "wire"]
    cols: Int[Array, "wire"]
    exists: Bool[Array, "wire"]
    source: int = flax.struct.field(pytree_node=False)


def sizes_of(structure: Structure) -> tuple[int, ...]:
    """Units of every layer, inputs and outputs included."""
    return structure.weights[0].shape[-1], *(entry.shape[-2] for entry in structure.weights)


def wires(structure: Structure) -> tuple[tuple[Wires, ...], ...]:
    """For every weight matrix the connections into its layer; those of its scaffold come first.

    A patch counts as the connections between its extremum and its targets or sources: what it does
    within (a small network of its own) adds no way from one unit to another.
    """
    sizes, found = sizes_of(structure), []
    for t, entry in enumerate(structure.weights):
        rows, cols, exists = _positions(entry)
        here = [Wires(rows, cols, exists, t)]
        if structure.skips and (skips := structure.skips[t]) is not None:
            below = [s + 1 for s in skip_sources(t)]  # hidden layers are counted from 0 there
            here += _apart(skips.rows, skips.cols, skips.exists, below, sizes)
        patches = None if structure.bank is None else structure.bank.layers[t]
        if patches is not None:
            here += _apart(*_patched(patches), [t + 1 - d for d in patches.reads], sizes)
        found.append(tuple(here))
    return tuple(found)


def _positions(entry: Entry) -> tuple[Array, Array, Array]:
    """Rows, columns and existence of the entries of a parameter, in its order, flat."""
    if isinstance(entry, Topology):
        return entry.rows, entry.cols, entry.exists
    out, width = entry.shape
    flat = jnp.arange(out * width, dtype=jnp.int32)
    return flat // width, flat % width, entry.mask.ravel()


def _patched(patches: LayerPatches) -> tuple[Array, Array, Array]:
    """Rows, columns and existence of the connections of the patches in use."""
    if isinstance(patches, DensePatches):
        topology = patches.topology
        return topology.rows, topology.cols, topology.exists & patches.active[patches.owner]
    n, rows, cols, exists = patches.num_high, [], [], []
    for side, high in ((patches.targets, True), (patches.sources, False)):
        if side is None:
            continue
        mine = slice(None, n) if high else slice(n, None)
        unit = jnp.broadcast_to(patches.unit[mine, None], side.shape)
        to, since = (side, unit) if high else (unit, side)
        rows.append(to.ravel())
        cols.append(since.ravel())
        exists.append(jnp.broadcast_to(patches.active[mine, None], side.shape).ravel())
    if not rows:
        return jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool)
    return jnp.concatenate(rows), jnp.concatenate(cols), jnp.concatenate(exists)


def _apart(
    rows: Array, cols: Array, exists: Array, below: Sequence[int], sizes: Sequence[int]
) -> list[Wires]:
    """Connections that count the units of several layers on, layer by layer."""
    found, start = [], 0
    for source in below:
        here = exists & (cols >= start) & (cols < start + sizes[source])
        found.append(Wires(rows, jnp.clip(cols - start, 0, sizes[source] - 1), here, source))
        start += sizes[source]
    return found
