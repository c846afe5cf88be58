"""Where patches are put: units by a rule of choice, connections at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.types import Array, Bool, Float, Int, Key, UnitMask, UnitScore
from jaxnet.units import Extrema

Placement = Callable[[UnitScore, UnitMask, UnitScore, Key], UnitScore]
"""``(score, is_extremum, extremeness, key_place)``, as of :func:`choose_units`, to the rank of every unit:
those that rank highest get a patch, of equal ones the first by index."""

PLACEMENTS: dict[str, Placement] = {
    "extrema": lambda score, is_extremum, *_: jnp.where(is_extremum, score, -jnp.inf),
    "random": lambda score, _, __, key_place: jax.random.uniform(key_place, score.shape),
    "least": lambda _, __, extremeness, *___: -extremeness,
}
"""Where patches are put, by name: at the most extreme of the extrema, at as many units drawn at random
from the whole layer, at as many whose means are closest to the layer's mean."""


def choose_units(
    score: UnitScore,
    is_extremum: UnitMask,
    extremeness: UnitScore,
    slots: int,
    placement: str,
    *,
    key_place: Key,
) -> tuple[Int[Array, "slot"], Bool[Array, "slot"]]:
    """Chooses the units of one layer that get a patch of one sort, high or low.

    The number of patches is ``min(extrema, slots)`` whatever the placement, so
    that placements differ in nothing but the place.

    Args:
      score: ``(unit,)``, larger is more extreme.
      is_extremum: ``(unit,)``.
      extremeness: ``(unit,)``, distance from the layer's mean.
      slots: static number of slots, at most the number of units.
      placement: one of :data:`PLACEMENTS`.
      key_place: PRNG key (used by ``random`` only).

    Returns:
      Units ``(slots,)``, all different, and ``(slots,)`` which slots are active.
    """
    rank = PLACEMENTS[placement](score, is_extremum, extremeness, key_place)
    unit = jax.lax.top_k(rank, slots)[1].astype(jnp.int32)
    return unit, jnp.arange(slots) < jnp.minimum(jnp.sum(is_extremum), slots)


def slot_counts(sizes: Sequence[int], max_patches: int, first_layer: bool = False) -> list[tuple[int, int]]:
    """High and low slots of each layer (weight matrix).

    Layer ``t`` is fed by high patches at the units it reads from (not the
    network's input) and by low patches at its own units (neither in the first
    layer, which has no hidden layer below, nor at the output), as in the original. With ``first_layer``
    there are low ones in the first layer too: where its inputs are units of a model below.
    """
    last = len(sizes) - 2
    counts = []
    for t in range(last + 1):
        high = min(max_patches, sizes[t]) if t > 0 else 0
        low = min(max_patches, sizes[t + 1]) if (t > 0 or first_layer) and t < last else 0
        counts.append((high, low))
    return counts


def place(
    extrema: Sequence[Extrema], layer: int, slots: tuple[int, int], placement: str, *, key_place: Key
) -> tuple[Int[Array, "slot"], Bool[Array, "slot"]]:
    """Chooses the units of the patches that feed ``layer``; high slots first."""
    high, low = slots
    key_high, key_low = (jax.random.fold_in(key_place, k) for k in (0, 1))  # unused unless at random
    parts = []
    if high:
        e = extrema[layer - 1]
        parts.append(choose_units(e.score_high, e.high, e.extremeness, high, placement, key_place=key_high))
    if low:
        e = extrema[layer]
        parts.append(choose_units(e.score_low, e.low, e.extremeness, low, placement, key_place=key_low))
    units, active = zip(*parts, strict=True)
    return jnp.concatenate(units), jnp.concatenate(active)


def limited(
    places: Mapping[int, tuple[Int[Array, "slot"], Bool[Array, "slot"]]],
    slots: Mapping[int, tuple[int, int]],
    total: int,
) -> dict[int, tuple[Int[Array, "slot"], Bool[Array, "slot"]]]:
    """Places by layer of which at most ``total`` are active: in turn one of every layer and sort."""
    turns = np.concatenate([np.arange(n) for both in slots.values() for n in both])
    order = np.argsort(turns, kind="stable")
    active = jnp.concatenate([active for _, active in places.values()])[order]
    kept = jnp.zeros_like(active).at[order].set(active & (jnp.cumsum(active) <= total))
    ends = np.cumsum([sum(both) for both in slots.values()])[:-1]
    return {t: (places[t][0], part) for t, part in zip(slots, jnp.split(kept, ends), strict=True)}


def first_by_rank(
    rank: Float[Array, "row size"], number: int, exclude: Bool[Array, "row size"] | None = None
) -> tuple[Int[Array, "row number"], Bool[Array, "row number"]]:
    """The ``number`` indices of the largest rank in each row, which for uniform ranks are drawn at random.

    Args:
      rank: 0 or more.
      number: static, at most ``size``.
      exclude: indices to avoid.

    Returns:
      The indices, all different, and which of them avoid ``exclude``: excluded
      ones come last and are marked False.
    """
    if exclude is not None:
        rank = jnp.where(exclude, -1.0, rank)
    best, index = jax.lax.top_k(rank, number)
    return index.astype(jnp.int32), best >= 0


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
