"""The patch bank: which patches exist, where they sit, and how they are chosen.

A bank holds, for every layer of the network that patches feed, a fixed number
of **slots**, high patches first, then low ones, and an ``active`` mask over
them. Every slot costs the same shape whether it is active or not, so a bank
lives inside jit and vmap; the values of an inactive slot are zero and stay zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.extrema import Extrema
from jaxnet.masks import Topology
from jaxnet.types import Array, Bool, Float, Int, Key

KINDS = ("mlp", "dense")
"""Kinds of patches; see :mod:`jaxnet.patches.mlp` and :mod:`jaxnet.patches.dense`."""

PLACEMENTS = ("extrema", "random", "least")
"""Where patches are put; see :func:`choose_units`."""


@dataclasses.dataclass(frozen=True)
class PatchRules:
    """How patches are chosen, built and applied (static).

    Attributes:
      kind: one of :data:`KINDS`.
      max_patches: slots per hidden layer and kind of extremum; 0 for no patches.
      placement: one of :data:`PLACEMENTS`.
      order: ``extremeness`` takes the most extreme units, ``index`` the first
        ones by index (a fault of the original). Ties: the lower index first.
      patch_density: fraction of the layer above (below) that a ``dense`` patch
        connects its extremum to, in (0, 1].
      hidden: hidden units of an ``mlp`` patch.
      max_targets: outputs of a high ``mlp`` patch.
      max_inputs: inputs of a low ``mlp`` patch.
      scale_high: factor on the output of a high ``mlp`` patch.
      scale_low: factor on the output of a low ``mlp`` patch.
      first_targets: high ``mlp`` patches all feed units 0, 1, 2, ... of the next
        layer (a fault of the original) instead of targets drawn at random.
      redraw_inputs: low ``mlp`` patches draw their inputs anew in every forward
        pass (a fault of the original) instead of once.
      detach_source: no gradient flows through a high ``mlp`` patch back into its
        extremum (so in the original).
      keep_level: an ``mlp`` patch goes on feeding the layer of the same index
        after another was inserted below it (a fault of the original): it acts
        between units of the same indices in other layers, and does nothing where
        these have no such unit. Without it patches stay at their units.
    """

    kind: str = "mlp"
    max_patches: int = 5
    placement: str = "extrema"
    order: str = "extremeness"
    patch_density: float = 0.5
    hidden: int = 8
    max_targets: int = 4
    max_inputs: int = 20
    scale_high: float = 0.3
    scale_low: float = 0.5
    first_targets: bool = False
    redraw_inputs: bool = False
    detach_source: bool = False
    keep_level: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown patch kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"unknown placement {self.placement!r}: choose one of {', '.join(PLACEMENTS)}")
        if self.order not in ("extremeness", "index"):
            raise ValueError(f"unknown order {self.order!r}: choose extremeness or index")
        if not 0 < self.patch_density <= 1:
            raise ValueError(f"patch density must be above 0 and at most 1: {self.patch_density}")
        for name in ("hidden", "max_targets", "max_inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if self.keep_level and self.kind != "mlp":
            raise ValueError(f"keep_level is for mlp patches, not for {self.kind} ones")
        if self.max_patches < 0:
            raise ValueError(f"max_patches must be 0 or more: {self.max_patches}")


class LayerPatches(flax.struct.PyTreeNode):
    """The patches that feed one layer of shape ``(out, in)``.

    Attributes:
      unit: ``(slot,)`` int32, the extremum: a unit of the layer below for a high
        patch (``in``), of this layer for a low one (``out``).
      active: ``(slot,)`` bool.
      targets: ``(high slot, target)`` int32, outputs of high ``mlp`` patches.
      sources: ``(low slot, input)`` int32, inputs of low ``mlp`` patches.
      topology: the connections of all ``dense`` patches of the layer, or the
        second small layers of all its ``mlp`` patches.
      owner: ``(capacity,)`` int32, slot that each connection of ``dense`` patches belongs to.
      order: ``(capacity,)`` int32, for each weight of the second small layers its
        place among the values of all slots laid end to end.
      num_high: static, the first ``num_high`` slots are high patches.
      reads: static, the layers that the patches read from, as distances: 1 is the
        layer below, 2 the one below that (where a layer was inserted between a
        patch and its extremum). ``in`` is the units of all of them, in this order.
    """

    unit: Int[Array, "slot"]
    active: Bool[Array, "slot"]
    targets: Int[Array, "high target"] | None = None
    sources: Int[Array, "low source"] | None = None
    topology: Topology | None = None
    owner: Int[Array, "nnz"] | None = None
    order: Int[Array, "nnz"] | None = None
    num_high: int = flax.struct.field(pytree_node=False, default=0)
    reads: tuple[int, ...] = flax.struct.field(pytree_node=False, default=(1,))


class PatchBank(flax.struct.PyTreeNode):
    """All patches of a network.

    Attributes:
      layers: for each layer (weight matrix) the patches that feed it, or None.
      rules: static, how they were made and are applied.
    """

    layers: tuple[LayerPatches | None, ...]
    rules: PatchRules = flax.struct.field(pytree_node=False)


def choose_units(
    score: Array,
    is_extremum: Bool[Array, "unit"],
    extremeness: Array,
    slots: int,
    rules: PatchRules,
    *,
    key_place: Key,
) -> tuple[Int[Array, "slot"], Bool[Array, "slot"]]:
    """Chooses the units of one layer that get a patch of one kind.

    ``extrema`` takes extrema, ``random`` as many units drawn at random from the
    whole layer, ``least`` as many units whose means are closest to the layer's
    mean. The number of patches is ``min(extrema, slots)`` in all three, so the
    placements differ in nothing but the place.

    Args:
      score: ``(unit,)``, larger is more extreme.
      is_extremum: ``(unit,)``.
      extremeness: ``(unit,)``, distance from the layer's mean.
      slots: static number of slots, at most the number of units.
      rules: placement and order.
      key_place: PRNG key (used by ``random`` only).

    Returns:
      Units ``(slots,)``, all different, and ``(slots,)`` which slots are active.
    """
    units = score.shape[0]
    number = jnp.minimum(jnp.sum(is_extremum), slots)
    if rules.placement == "random":
        rank = jax.random.uniform(key_place, (units,))
    elif rules.placement == "least":
        rank = -extremeness
    elif rules.order == "index":
        rank = jnp.where(is_extremum, -jnp.arange(units, dtype=jnp.float32), -jnp.inf)
    else:
        rank = jnp.where(is_extremum, score, -jnp.inf)
    unit = jax.lax.top_k(rank, slots)[1].astype(jnp.int32)
    return unit, jnp.arange(slots) < number


def draw_distinct(
    rows: int, size: int, number: int, exclude: Bool[Array, "row size"] | None = None, *, key: Key
) -> tuple[Int[Array, "row number"], Bool[Array, "row number"]]:
    """Draws ``number`` different indices below ``size`` for each of ``rows`` rows.

    Returns:
      The indices, and which of them avoid ``exclude`` (``(rows, size)`` bool):
      excluded indices come last and are marked False.
    """
    return first_by_rank(jax.random.uniform(key, (rows, size)), number, exclude)


def first_by_rank(
    rank: Float[Array, "row size"], number: int, exclude: Bool[Array, "row size"] | None = None
) -> tuple[Int[Array, "row number"], Bool[Array, "row number"]]:
    """As :func:`draw_distinct`, from uniform numbers already drawn."""
    if exclude is not None:
        rank = jnp.where(exclude, -1.0, rank)
    best, index = jax.lax.top_k(rank, number)
    return index.astype(jnp.int32), best >= 0


def draw_ordered(sizes: Int[Array, "row"], number: int, *, key: Key) -> Int[Array, "row number"]:
    """Draws ``number`` different indices below ``sizes[row]`` for each row, in random order.

    Every ordered draw is equally likely. Takes two random numbers per index drawn,
    where ranking all of them takes one for each index there is: what a forward
    pass needs that draws anew.

    Method: R. W. Floyd's sample without replacement (Bentley and Floyd, "A sample
    of brilliance", CACM 30(9), 1987), each index put at a random place among those
    before it (the inside-out form of Fisher and Yates's shuffle).

    Args:
      sizes: ``(row,)``, at least ``number`` each.
      number: static.
      key: PRNG key.
    """
    which, where = jax.random.uniform(key, (2, number, sizes.shape[0]))
    column = jnp.arange(number, dtype=jnp.int32)

    def below(uniform: Float[Array, "row"], bound: Int[Array, "..."]) -> Int[Array, "row"]:
        return jnp.minimum((uniform * jnp.asarray(bound, uniform.dtype)).astype(jnp.int32), bound - 1)

    def step(i: Array, drawn: Int[Array, "row number"]) -> Int[Array, "row number"]:
        top = sizes - number + i
        new = below(which[i], top + 1)
        new = jnp.where(jnp.any(drawn == new[:, None], axis=1), top, new)
        here = column == below(where[i], i + 1)[:, None]
        moved = jnp.sum(jnp.where(here, drawn, 0), axis=1, keepdims=True)
        return jnp.where(here, new[:, None], jnp.where(column == i, moved, drawn))

    start = jnp.full((sizes.shape[0], number), -1, jnp.int32)
    return jax.lax.fori_loop(0, number, step, start)


def draw_uniform(key: Key, *shapes: tuple[int, ...]) -> list[Array]:
    """Uniform numbers in [0, 1) of several shapes from one call of the generator.

    Every separate call costs about half a second of compile time on a CPU.
    """
    sizes = [math.prod(shape) for shape in shapes]
    flat = jax.random.uniform(key, (sum(sizes),))
    parts, start = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        parts.append(flat[start : start + size].reshape(shape))
        start += size
    return parts


def slot_counts(sizes: Sequence[int], rules: PatchRules) -> list[tuple[int, int]]:
    """High and low slots of each layer (weight matrix).

    Layer ``t`` is fed by high patches at the units it reads from (not the
    network's input) and by low patches at its own units (neither in the first
    layer, which has no hidden layer below, nor at the output), as in the original.
    """
    last = len(sizes) - 2
    counts = []
    for t in range(last + 1):
        high = min(rules.max_patches, sizes[t]) if t > 0 else 0
        low = min(rules.max_patches, sizes[t + 1]) if 0 < t < last else 0
        counts.append((high, low))
    return counts


def place(
    extrema: Sequence[Extrema], layer: int, slots: tuple[int, int], rules: PatchRules, *, key_place: Key
) -> tuple[Int[Array, "slot"], Bool[Array, "slot"]]:
    """Chooses the units of the patches that feed ``layer``; high slots first."""
    high, low = slots
    key_high, key_low = (jax.random.fold_in(key_place, k) for k in (0, 1))  # unused unless at random
    parts = []
    if high:
        e = extrema[layer - 1]
        parts.append(choose_units(e.score_high, e.high, e.extremeness, high, rules, key_place=key_high))
    if low:
        e = extrema[layer]
        parts.append(choose_units(e.score_low, e.low, e.extremeness, low, rules, key_place=key_low))
    units, active = zip(*parts, strict=True)
    return jnp.concatenate(units), jnp.concatenate(active)
