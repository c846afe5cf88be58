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
from jaxnet.masks import Topology, topology_from_flat
from jaxnet.patches.bank import LayerPatches, PatchRules, draw_uniform, first_by_rank
from jaxnet.types import Array, Bool, Features, Float, Int, Key


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


class MlpLayerParams(flax.struct.PyTreeNode):
    """Values of all ``mlp`` patches that feed one layer."""

    high: MlpParams | None
    low: MlpParams | None


def make_mlp_patches(
    unit: Int[Array, "slot"],
    active: Bool[Array, "slot"],
    num_high: int,
    shape: tuple[int, int],
    rules: PatchRules,
    *,
    key_patch: Key,
) -> tuple[LayerPatches, MlpLayerParams]:
    """Builds the ``mlp`` patches that feed a layer of shape ``(out, in)``.

    Inputs and targets are drawn once, all different within a patch. Values are
    uniform in ``±1/sqrt(inputs)`` of each small layer (the original's), zero in
    inactive slots.
    """
    num_out, num_in = shape
    num_low = unit.shape[0] - num_high
    num_targets, num_sources = min(rules.max_targets, num_out), min(rules.max_inputs, num_in)
    shapes_high = _shapes(num_high, 1, rules.hidden, num_targets)
    shapes_low = _shapes(num_low, num_sources, rules.hidden, 1)
    rank_targets, rank_sources, *values = draw_uniform(
        key_patch, (num_high, num_out), (num_low, num_in), *shapes_high, *shapes_low
    )
    targets = sources = high = low = None
    if num_high:
        if rules.first_targets:
            targets = jnp.broadcast_to(jnp.arange(num_targets, dtype=jnp.int32), (num_high, num_targets))
        else:
            targets, _ = first_by_rank(rank_targets, num_targets)
        high = _init(values[:4], active[:num_high], 1, rules.hidden)
    if num_low:
        # ascending, as in a topology: the values are drawn alike for all inputs
        sources = jnp.sort(first_by_rank(rank_sources, num_sources)[0], axis=1)
        low = _init(values[4:], active[num_high:], num_sources, rules.hidden)
    rows = [] if targets is None else [targets]
    rows += [] if sources is None else [unit[num_high:, None]]
    topology, order = output_topology(rows, rules.hidden, num_out)
    patches = LayerPatches(
        unit, active, targets=targets, sources=sources, topology=topology, order=order, num_high=num_high
    )
    return patches, MlpLayerParams(high, low)


def apply_mlp_patches(
    params: MlpLayerParams,
    patches: LayerPatches,
    rules: PatchRules,
    pre_below: Features,
    post_below: Features,
    product: Product,
    *,
    inputs: Int[Array, "slot input"] | None = None,
) -> Features:
    """What the ``mlp`` patches add to the pre-activations of their layer.

    The small layers of all slots are two sparse layers: from the layer below to
    the hidden units of the patches, and from these to the layer that they feed.

    Args:
      params: their values.
      patches: their places.
      rules: scales and the original's faults.
      pre_below: ``(in, batch)``, pre-activations of the layer below.
      post_below: ``(in, batch)``, its post-activations.
      product: the sparse product.
      inputs: what low patches read in this forward pass, in any order, where it
        is not what is stored.

    Returns:
      ``(out, batch)``.
    """
    assert patches.topology is not None and patches.order is not None
    num_out = patches.topology.shape[0]
    n, (num_in, batch) = patches.num_high, pre_below.shape
    active = patches.active
    if rules.keep_level:  # the layers between which a patch acts may lack its units
        active = active & (patches.unit < jnp.where(jnp.arange(active.shape[0]) < n, num_in, num_out))
    hidden, weights, biases, rows = [], [], [], []
    if params.high is not None and patches.targets is not None:
        source = pre_below[patches.unit[:n]]
        if rules.detach_source:
            source = jax.lax.stop_gradient(source)
        hidden.append((params.high.w1 * source[:, None, :] + params.high.b1[:, :, None]).reshape(-1, batch))
        scale = jnp.where(active[:n], rules.scale_high, 0.0)
        weights.append((params.high.w2 * scale[:, None, None]).ravel())
        biases.append((params.high.b2 * scale[:, None]).ravel())
        rows.append(patches.targets.ravel())
    if params.low is not None and patches.sources is not None:
        sources, w1 = patches.sources if inputs is None else inputs, params.low.w1
        if rules.keep_level and (inputs is None or inputs.shape[1] > num_in):
            w1 = jnp.where((sources < num_in)[:, None, :], w1, 0.0)
            sources = jnp.minimum(sources, num_in - 1)
        first = product(w1.ravel(), _input_topology(sources, rules.hidden, num_in), post_below)
        hidden.append(first + params.low.b1.reshape(-1, 1))
        scale = jnp.where(active[n:], rules.scale_low, 0.0)
        weights.append((params.low.w2 * scale[:, None, None]).ravel())
        biases.append((params.low.b2 * scale[:, None]).ravel())
        rows.append(patches.unit[n:])
    values = jnp.concatenate(weights)[patches.order]
    out = product(values, patches.topology, jax.nn.relu(jnp.concatenate(hidden)))
    # mode drop: targets that the layer lacks
    bias = jnp.zeros(num_out).at[jnp.concatenate(rows)].add(jnp.concatenate(biases), mode="drop")
    return out + bias[:, None]


def mlp_sizes(params: MlpLayerParams) -> Int[Array, "slot"]:
    """``(slot,)``, number of values (weights and biases) of each slot."""
    sizes = []
    for part in (params.high, params.low):
        if part is not None:
            # the last axes only: a leading seed axis may be there
            hidden, inputs = part.w1.shape[-2:]
            outputs = part.w2.shape[-2]
            size = hidden * (inputs + 1) + outputs * (hidden + 1)
            sizes.append(jnp.full(part.w1.shape[-3], size, jnp.int32))
    return jnp.concatenate(sizes)


def _input_topology(sources: Int[Array, "slot input"], hidden: int, num_in: int) -> Topology:
    """First small layers of low patches: every hidden unit of a slot reads all inputs of the slot."""
    slots, width = sources.shape
    units = slots * hidden
    rows = jnp.repeat(jnp.arange(units, dtype=jnp.int32), width, total_repeat_length=units * width)
    cols = jnp.broadcast_to(sources[:, None, :], (slots, hidden, width)).ravel()
    row_ptr = jnp.arange(units + 1, dtype=jnp.int32) * width
    return Topology(rows, cols, row_ptr, (units, num_in))


def output_topology(
    rows: Sequence[Int[Array, "slot output"]], hidden: int, num_out: int
) -> tuple[Topology, Int[Array, "nnz"]]:
    """Second small layers of all slots, high ones first, as one sparse layer.

    Outputs to units that a layer of ``num_out`` lacks do not exist.

    Returns:
      The topology of shape ``(out, slot * hidden)``, and where each of its
      weights stands among the ``w2`` of all slots laid end to end.
    """
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


def _init(draws: Sequence[Array], active: Bool[Array, "slot"], inputs: int, hidden: int) -> MlpParams:
    """Scales uniform draws to ``±1/sqrt(fan_in)``; zero in inactive slots."""
    w1, b1, w2, b2 = (
        jnp.where(active.reshape(-1, *(1,) * (u.ndim - 1)), (2 * u - 1) * fan_in**-0.5, 0.0)
        for u, fan_in in zip(draws, (inputs, inputs, hidden, hidden), strict=True)
    )
    return MlpParams(w1, b1, w2, b2)
