"""``mlp`` patches: the original's small dense networks around an extremum.

A **high** patch reads its extremum's pre-activation and adds the output of a
1 → 8 → ReLU → 4 network, times 0.3, to units of the next layer. A **low** patch
adds the output of a 20 → 8 → ReLU → 1 network on units of the layer below, times
0.5, to its extremum.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.kernels import Product
from jaxnet.patches.kinds import Kind, LayerPatches, PatchRules, SlotParams
from jaxnet.patches.places import draw_uniform, first_by_rank
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Bool, Features, Float, Int, Key


class MlpPatches(LayerPatches, kw_only=True):
    """The ``mlp`` patches that feed one layer.

    Attributes:
      topology: the second small layers of all of them, as one layer ``(out, slot * hidden)``.
      order: ``(capacity,)`` int32, for each of its weights the place among the
        ``w2`` of all slots laid end to end.
    """

    topology: Topology
    order: Int[Array, "nnz"]

    @property
    def hidden(self) -> int:
        """Hidden units of a patch (static)."""
        return self.topology.shape[1] // self.unit.shape[-1]


class MlpParams(flax.struct.PyTreeNode):
    """Values of the ``mlp`` patches of one sort that feed one layer.

    Attributes:
      w1: ``(slot, hidden, input)``.
      b1: ``(slot, hidden)``.
      w2: ``(slot, output, hidden)``.
      b2: ``(slot, output)``.
    """

    w1: Float[Array, "slot hidden input"]
    b1: Float[Array, "slot hidden"]
    w2: Float[Array, "slot output hidden"]
    b2: Float[Array, "slot output"]


class Mlp(Kind[MlpPatches]):
    """See :mod:`jaxnet.patches.mlp`. Values are :class:`SlotParams` of :class:`MlpParams`."""

    shared: tuple[str, ...] = ("hidden", "scale_high", "scale_low")

    def make(
        self,
        placed: LayerPatches,
        taken: Bool[Array, "out in"],
        rules: PatchRules,
        *,
        key_patch: Key,
        there: MlpPatches | None = None,
    ) -> tuple[MlpPatches, SlotParams]:
        """Draws inputs and targets once, all different within a patch, as many as the patches there have.

        Values are uniform in ``±1/sqrt(inputs)`` of each small layer (the original's).
        """
        num_out, num_in = taken.shape
        num_high, num_low = placed.num_high, placed.unit.shape[0] - placed.num_high
        num_targets = min(_width(None if there is None else there.targets, rules.max_targets), num_out)
        num_sources = min(_width(None if there is None else there.sources, rules.max_inputs), num_in)
        shapes_high = _shapes(num_high, 1, rules.hidden, num_targets)
        shapes_low = _shapes(num_low, num_sources, rules.hidden, 1)
        rank_targets, rank_sources, *values = draw_uniform(
            key_patch, (num_high, num_out), (num_low, num_in), *shapes_high, *shapes_low
        )
        targets = sources = high = low = None
        if num_high:
            targets, _ = first_by_rank(rank_targets, num_targets)
            high = _init(values[:4], 1, rules.hidden)
        if num_low:
            # ascending, as in a topology: the values are drawn alike for all inputs
            sources = jnp.sort(first_by_rank(rank_sources, num_sources)[0], axis=1)
            low = _init(values[4:], num_sources, rules.hidden)
        placed = placed.replace(targets=targets, sources=sources)
        topology, order = _second_layers(placed, rules.hidden, num_out)
        patches = MlpPatches(
            placed.unit, placed.active, targets, sources, num_high, topology=topology, order=order
        )
        return patches, self.remove(SlotParams(high, low), patches)

    def apply(
        self,
        values: SlotParams,
        patches: MlpPatches,
        rules: PatchRules,
        pre: Features,
        post: Features,
        num_out: int,
        product: Product,
    ) -> Features:
        """What the small networks put out.

        The small layers of all slots are two sparse layers: from the layer below to
        the hidden units of the patches, and from these to the layer that they feed.
        """
        n, (num_in, batch) = patches.num_high, pre.shape
        hidden, weights, biases, rows = [], [], [], []
        if values.high is not None and patches.targets is not None:
            source = pre[patches.unit[:n]]
            first = values.high.w1 * source[:, None, :] + values.high.b1[:, :, None]
            hidden.append(first.reshape(-1, batch))
            rows.append(patches.targets.ravel())
        if values.low is not None and patches.sources is not None:
            inputs = _first_layers(patches.sources, rules.hidden, num_in)
            hidden.append(product(values.low.w1.ravel(), inputs, post) + values.low.b1.reshape(-1, 1))
            rows.append(patches.unit[n:])
        for part, active, factor in (
            (values.high, patches.active[:n], rules.scale_high),
            (values.low, patches.active[n:], rules.scale_low),
        ):
            if part is not None:
                scale = jnp.where(active, factor, 0.0)
                weights.append((part.w2 * scale[:, None, None]).ravel())
                biases.append((part.b2 * scale[:, None]).ravel())
        second = jnp.concatenate(weights)[patches.order]
        out = product(second, patches.topology, jax.nn.relu(jnp.concatenate(hidden)))
        # mode drop: targets that the layer lacks
        bias = jnp.zeros(num_out).at[jnp.concatenate(rows)].add(jnp.concatenate(biases), mode="drop")
        return out + bias[:, None]

    def extend(
        self,
        old: tuple[MlpPatches, SlotParams],
        new: tuple[MlpPatches, SlotParams],
        shape: tuple[int, int],
    ) -> tuple[MlpPatches, SlotParams]:
        """New low patches read from a layer that may have fewer units than small networks have inputs.

        The other inputs, at first with weights of zero, are the first units that
        the old patches read.
        """
        (a, x), (b, y) = old, new
        if a.sources is not None and b.sources is not None:
            missing = a.sources.shape[1] - b.sources.shape[1]
            more = jnp.broadcast_to(jnp.arange(missing, dtype=jnp.int32), (b.sources.shape[0], missing))
            b = b.replace(sources=jnp.concatenate([more, b.sources], axis=1))
            low = y.low.replace(w1=jnp.pad(y.low.w1, ((0, 0), (0, 0), (missing, 0))))
            y = y.replace(low=low)
        patches, values = super().extend((a, x), (b, y), shape)
        topology, order = _second_layers(patches, a.hidden, shape[0])
        return patches.replace(topology=topology, order=order), values

    def silence(self, values: SlotParams) -> SlotParams:
        """The values with zeros in ``w2`` and ``b2``, which the first gradients reach."""
        high, low = (
            None if part is None else part.replace(w2=jnp.zeros_like(part.w2), b2=jnp.zeros_like(part.b2))
            for part in (values.high, values.low)
        )
        return SlotParams(high, low)

    def refit(self, patches: MlpPatches, shape: tuple[int, int], beyond: int = 0, by: int = 0) -> MlpPatches:
        """Outputs to units that the layer lacks do not exist until it has them."""
        patches = super().refit(patches, shape, beyond, by)
        topology, order = _second_layers(patches, patches.hidden, shape[0])
        return patches.replace(topology=topology, order=order)


def _width(places: Int[Array, "slot width"] | None, otherwise: int) -> int:
    return otherwise if places is None else places.shape[-1]


def _first_layers(sources: Int[Array, "slot input"], hidden: int, num_in: int) -> Topology:
    """First small layers of low patches: every hidden unit of a slot reads all inputs of the slot."""
    slots, width = sources.shape
    units = slots * hidden
    rows = jnp.repeat(jnp.arange(units, dtype=jnp.int32), width, total_repeat_length=units * width)
    cols = jnp.broadcast_to(sources[:, None, :], (slots, hidden, width)).ravel()
    row_ptr = jnp.arange(units + 1, dtype=jnp.int32) * width
    return Topology(rows, cols, row_ptr, (units, num_in))


def _second_layers(patches: LayerPatches, hidden: int, num_out: int) -> tuple[Topology, Int[Array, "nnz"]]:
    """Topology and order of :class:`MlpPatches`; outputs to units beyond ``num_out`` do not exist."""
    rows = [] if patches.targets is None else [patches.targets]
    rows += [] if patches.sources is None else [patches.unit[patches.num_high :, None]]
    units = sum(r.shape[0] for r in rows) * hidden
    flat, start = [], 0
    for r in rows:
        cols = start + jnp.arange(r.shape[0] * hidden, dtype=jnp.int32).reshape(-1, 1, hidden)
        flat.append((r[:, :, None] * units + cols).ravel())
        start += r.shape[0] * hidden
    positions = jnp.concatenate(flat)
    topology = topology_from_flat(positions, positions < num_out * units, (num_out, units))
    return topology, jnp.argsort(positions).astype(jnp.int32)


def _shapes(slots: int, inputs: int, hidden: int, outputs: int) -> list[tuple[int, ...]]:
    return [(slots, hidden, inputs), (slots, hidden), (slots, outputs, hidden), (slots, outputs)]


def _init(draws: Sequence[Array], inputs: int, hidden: int) -> MlpParams:
    """Scales uniform draws to ``±1/sqrt(fan_in)``."""
    return MlpParams(
        *(
            (2 * u - 1) * fan_in**-0.5
            for u, fan_in in zip(draws, (inputs, inputs, hidden, hidden), strict=True)
        )
    )
