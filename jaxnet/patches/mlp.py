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

from jaxnet.patches.bank import LayerPatches, PatchRules, draw_distinct, draw_uniform, first_by_rank
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
        sources, _ = first_by_rank(rank_sources, num_sources)
        low = _init(values[4:], active[num_high:], num_sources, rules.hidden)
    patches = LayerPatches(unit, active, targets=targets, sources=sources, num_high=num_high)
    return patches, MlpLayerParams(high, low)


def apply_mlp_patches(
    params: MlpLayerParams,
    patches: LayerPatches,
    rules: PatchRules,
    pre_below: Features,
    post_below: Features,
    num_out: int,
    *,
    key_forward: Key | None = None,
) -> Features:
    """What the ``mlp`` patches add to the pre-activations of their layer.

    Args:
      params: their values.
      patches: their places.
      rules: scales and the original's faults.
      pre_below: ``(in, batch)``, pre-activations of the layer below.
      post_below: ``(in, batch)``, its post-activations.
      num_out: units of the layer.
      key_forward: with ``rules.redraw_inputs``, the key from which this forward
        pass draws the inputs of low patches; without it the stored inputs serve.

    Returns:
      ``(out, batch)``.
    """
    total = jnp.zeros((num_out, pre_below.shape[1]), pre_below.dtype)
    n = patches.num_high
    if params.high is not None and patches.targets is not None:
        source = pre_below[patches.unit[:n]]
        if rules.detach_source:
            source = jax.lax.stop_gradient(source)
        hidden = params.high.w1 * source[:, None, :] + params.high.b1[:, :, None]
        scale = jnp.where(patches.active[:n], rules.scale_high, 0.0)
        total += _spread(params.high, jax.nn.relu(hidden), patches.targets, scale, num_out)
    if params.low is not None and patches.sources is not None:
        sources = patches.sources
        num_in = post_below.shape[0]
        if rules.redraw_inputs and key_forward is not None:
            sources, _ = draw_distinct(sources.shape[0], num_in, sources.shape[1], key=key_forward)
        # The first small layers as one (slot * hidden, in) matrix: a product instead of a row gather.
        slots, width, _ = params.low.w1.shape
        slot, row = jnp.arange(slots)[:, None, None], jnp.arange(width)[None, :, None]
        place = jnp.zeros((slots, width, num_in)).at[slot, row, sources[:, None, :]]
        matrix = place.set(params.low.w1, unique_indices=True, mode="promise_in_bounds")
        hidden = (matrix.reshape(slots * width, num_in) @ post_below).reshape(slots, width, -1)
        hidden = jax.nn.relu(hidden + params.low.b1[:, :, None])
        scale = jnp.where(patches.active[n:], rules.scale_low, 0.0)
        total += _spread(params.low, hidden, patches.unit[n:, None], scale, num_out)
    return total


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


def _spread(
    params: MlpParams,
    hidden: Float[Array, "slot hidden batch"],
    rows: Int[Array, "slot output"],
    scale: Float[Array, "slot"],
    num_out: int,
) -> Features:
    """Second small layers, scaled and added to the rows of the layer that they feed."""
    slots, width = hidden.shape[:2]
    slot, column = jnp.arange(slots)[:, None, None], jnp.arange(width)[None, None, :]
    place = jnp.zeros((num_out, slots, width)).at[rows[:, :, None], slot, column]
    weights = place.set(params.w2 * scale[:, None, None], unique_indices=True, mode="promise_in_bounds")
    bias = jnp.zeros(num_out).at[rows].add(params.b2 * scale[:, None])
    out = weights.reshape(num_out, slots * width) @ hidden.reshape(slots * width, -1)
    return out + bias[:, None]


def _shapes(slots: int, inputs: int, hidden: int, outputs: int) -> list[tuple[int, ...]]:
    return [(slots, hidden, inputs), (slots, hidden), (slots, outputs, hidden), (slots, outputs)]


def _init(draws: Sequence[Array], active: Bool[Array, "slot"], inputs: int, hidden: int) -> MlpParams:
    """Scales uniform draws to ``±1/sqrt(fan_in)``; zero in inactive slots."""
    w1, b1, w2, b2 = (
        jnp.where(active.reshape(-1, *(1,) * (u.ndim - 1)), (2 * u - 1) * fan_in**-0.5, 0.0)
        for u, fan_in in zip(draws, (inputs, inputs, hidden, hidden), strict=True)
    )
    return MlpParams(w1, b1, w2, b2)
