"""Banks of growing networks: more patches beside those that are there, and layers that come or widen.

A patch stays where it was: at its extremum, feeding the same units. Where a
layer is inserted between the two, the patch spans it (its distance in
``LayerPatches.reads`` grows by one), so that no index ever points elsewhere and
what the patches compute is unchanged. (Those of the original keep their indices
instead, whatever these then name: :func:`keep_bank_levels`.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxnet.masks import Topology, join_topologies, topology_from_flat, topology_mask
from jaxnet.patches.bank import LayerPatches, PatchBank, PatchRules
from jaxnet.patches.dense import DensePatchParams
from jaxnet.patches.mlp import MlpLayerParams, output_topology
from jaxnet.types import Array, Bool, Int

Values = MlpLayerParams | DensePatchParams
T = TypeVar("T")

_USE = {
    "mlp": ("hidden", "scale_high", "scale_low", "redraw_inputs", "detach_source", "keep_level"),
    "dense": (),
}


def check_same_use(there: PatchRules, new: PatchRules) -> None:
    """Raises ValueError unless patches of both rules can live in one bank."""
    for name in ("kind", *_USE[there.kind]):
        if getattr(there, name) != getattr(new, name):
            raise ValueError(
                f"the patches that are there have {name} {getattr(there, name)!r}, "
                f"new ones cannot have {getattr(new, name)!r}"
            )


def as_wide(rules: PatchRules, there: LayerPatches) -> PatchRules:
    """The rules with inputs and outputs of small networks limited to those of the patches that are there."""
    targets = rules.max_targets if there.targets is None else there.targets.shape[-1]
    sources = rules.max_inputs if there.sources is None else there.sources.shape[-1]
    return dataclasses.replace(rules, max_targets=targets, max_inputs=sources)


def taken_below(there: LayerPatches, sizes: Sequence[int], layer: int) -> Bool[Array, "out in"] | None:
    """Positions between ``layer`` and the layer below that ``dense`` patches hold, or None without any."""
    if there.topology is None or 1 not in there.reads:
        return None
    start = _start(there.reads, 1, sizes, layer)
    return topology_mask(there.topology)[:, start : start + sizes[layer]]


def silenced(values: Values) -> Values:
    """The values with zeros where patches put out."""
    if isinstance(values, DensePatchParams):
        return jax.tree.map(jnp.zeros_like, values)
    high, low = (
        None if part is None else part.replace(w2=jnp.zeros_like(part.w2), b2=jnp.zeros_like(part.b2))
        for part in (values.high, values.low)
    )
    return MlpLayerParams(high, low)


def extend_layer(
    old: tuple[LayerPatches, Values], new: tuple[LayerPatches, Values], sizes: Sequence[int], layer: int
) -> tuple[LayerPatches, Values]:
    """Puts new patches of one layer, which read from the layer below, beside those that are there.

    Slots are in the order high old, high new, low old, low new.

    Args:
      old: the patches that feed the layer, and their values.
      new: as made by :func:`jaxnet.patches.add_patches`.
      sizes: units per layer of the network, input and output included.
      layer: which layer (weight matrix) they feed.
    """
    (a, x), (b, y) = old, new
    reads = a.reads if 1 in a.reads else (*a.reads, 1)
    start = _start(reads, 1, sizes, layer)
    shape = sizes[layer + 1], sum(sizes[layer + 1 - d] for d in reads)
    p, q = a.num_high, b.num_high
    unit = jnp.concatenate([a.unit[:p], b.unit[:q] + start, a.unit[p:], b.unit[q:]])
    active = jnp.concatenate([a.active[:p], b.active[:q], a.active[p:], b.active[q:]])
    patches = LayerPatches(unit, active, num_high=p + q, reads=reads)
    if isinstance(x, DensePatchParams) and isinstance(y, DensePatchParams):
        assert a.topology is not None and a.owner is not None
        assert b.topology is not None and b.owner is not None
        topology, order = join_topologies([(a.topology, 0, 0), (b.topology, 0, start)], shape)
        owner = jnp.concatenate(
            [
                jnp.where(a.owner < p, a.owner, a.owner + q),
                jnp.where(b.owner < q, b.owner, b.owner + a.unit.shape[0] - p) + p,
            ]
        )
        weight = jnp.concatenate([x.weight, y.weight])[order]
        patches = patches.replace(topology=topology, owner=owner[order])
        return patches, DensePatchParams(jnp.where(topology.exists, weight, 0.0))
    assert isinstance(x, MlpLayerParams) and isinstance(y, MlpLayerParams)
    low, sources = y.low, None if b.sources is None else b.sources + start
    if a.sources is not None and sources is not None and low is not None:
        # A layer with fewer units than small networks have inputs: the others read, at first by
        # weights of zero, from the first layer that the old patches read, which has enough units.
        missing = a.sources.shape[1] - sources.shape[1]
        more = jnp.arange(missing, dtype=jnp.int32)
        sources = jnp.concatenate([jnp.broadcast_to(more, (sources.shape[0], missing)), sources], axis=1)
        low = low.replace(w1=jnp.pad(low.w1, ((0, 0), (0, 0), (missing, 0))))
    targets, sources = _both(a.targets, b.targets), _both(a.sources, sources)
    rows = [] if targets is None else [targets]
    rows += [] if sources is None else [unit[p + q :, None]]
    hidden = next(part for part in (y.high, y.low) if part is not None).b1.shape[-1]
    topology, order = output_topology(rows, hidden, shape[0])
    patches = patches.replace(targets=targets, sources=sources, topology=topology, order=order)
    return patches, MlpLayerParams(_both(x.high, y.high), _both(x.low, low))


def insert_bank_layer(bank: PatchBank, at: int) -> PatchBank:
    """The bank of a network into which a layer (weight matrix) was inserted at index ``at``.

    Patches at and above ``at`` move up with the layer that they feed; those that
    read from below the new layer span it. The new layer has no patches.
    """
    above: list[LayerPatches | None] = []
    for t, patches in enumerate(bank.layers[at:], start=at):
        if patches is not None:
            # layer t reads the output of layer t - d; the new layer stands above that of layer at - 1
            reads = tuple(d + 1 if t - d < at else d for d in patches.reads)
            patches = patches.replace(reads=reads)
        above.append(patches)
    return bank.replace(layers=(*bank.layers[:at], None, *above))


def keep_bank_levels(bank: PatchBank, sizes: Sequence[int]) -> PatchBank:
    """The bank of a network that got a layer, with every patch at the layer index that it had.

    The original's fault, see ``PatchRules.keep_level``. ``sizes`` are the units
    per layer after the change. Patches hold their values; what they do not find
    in the layer now at their index does nothing until a change brings it back.
    """
    layers: list[LayerPatches | None] = []
    for t, patches in enumerate(bank.layers):
        if patches is not None:
            rows = [] if patches.targets is None else [patches.targets]
            rows += [] if patches.sources is None else [patches.unit[patches.num_high :, None]]
            topology, order = output_topology(rows, bank.rules.hidden, sizes[t + 1])
            patches = patches.replace(topology=topology, order=order)
        layers.append(patches)
    return bank.replace(layers=(*layers, None))


def widen_bank(bank: PatchBank, layer: int, units: int, sizes: Sequence[int]) -> PatchBank:
    """The bank of a network whose ``layer`` (weight matrix) got ``units`` more outputs, behind the others.

    ``sizes`` are the units per layer before.
    """
    layers: list[LayerPatches | None] = []
    for t, patches in enumerate(bank.layers):
        if patches is not None:
            patches = _widened(patches, t, layer, units, sizes)
        layers.append(patches)
    return bank.replace(layers=tuple(layers))


def _widened(patches: LayerPatches, fed: int, layer: int, units: int, sizes: Sequence[int]) -> LayerPatches:
    """As :func:`widen_bank` for the patches that feed the layer ``fed``."""
    out = sizes[fed + 1] + (units if fed == layer else 0)
    distance = fed - layer
    if distance in patches.reads:
        end = _start(patches.reads, distance, sizes, fed) + sizes[layer + 1]
        n = patches.num_high

        def moved(index: Int[Array, "..."]) -> Int[Array, "..."]:
            return jnp.where(index < end, index, index + units)

        patches = patches.replace(
            unit=jnp.concatenate([moved(patches.unit[:n]), patches.unit[n:]]),
            sources=None if patches.sources is None else moved(patches.sources),
        )
        if patches.topology is not None and patches.owner is not None:
            t = patches.topology
            patches = patches.replace(topology=_resized(t, out, t.shape[1] + units, moved(t.cols)))
    elif fed == layer and patches.topology is not None:
        t = patches.topology
        patches = patches.replace(topology=_resized(t, out, t.shape[1], t.cols))
    return patches


def _resized(t: Topology, num_out: int, num_in: int, cols: Int[Array, "nnz"]) -> Topology:
    """The same weights, in the same order, as those of a larger layer."""
    return topology_from_flat(t.rows * num_in + cols, t.exists, (num_out, num_in))


def _start(reads: Sequence[int], distance: int, sizes: Sequence[int], layer: int) -> int:
    """Where the units of the layer at ``distance`` begin among all that patches of ``layer`` read."""
    return sum(sizes[layer + 1 - d] for d in reads[: reads.index(distance)])


def _both(a: T | None, b: T | None) -> T | None:
    """Both trees end to end along the first axis; either may be missing."""
    if a is None or b is None:
        return b if a is None else a
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
