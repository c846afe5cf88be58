"""Small circuits: the fewest elements that reach a loss, and masks that are learned."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.circuits.ablation import Measure, existing, measured
from jaxnet.circuits.curves import ranking
from jaxnet.circuits.suites import Suite, only
from jaxnet.errors import InputError
from jaxnet.train import Task
from jaxnet.types import Array, Bool, Float, Int, Key, Scalar

_GRID = 16
"""Sizes between two that are tried at once."""

_ALL = 256
"""Up to so many elements every size is tried: more elements need not mean less loss."""

CHUNKS = 64
"""Parts of a circuit that are tried to be left out one by one, at the finest."""


class Circuit(NamedTuple):
    """A circuit.

    Attributes:
      keep: ``(E,)``, its elements.
      size: how many.
      loss: with these alone.
      reached: whether that is the target or less; otherwise all elements are kept.
    """

    keep: Bool[Array, "element"]
    size: Int[Array, ""]
    loss: Scalar
    reached: Bool[Array, ""]


def target_loss(full: Array, empty: Array, fraction: float) -> Array:
    """The loss that has a fraction of a network's own gap, from everything gone to the whole network."""
    return empty - fraction * (empty - full)


def check_target(full: Array, target: float | Array) -> None:
    """Raises InputError where a target is below the network's own loss (traced ones pass)."""
    if not any(isinstance(a, jax.core.Tracer) for a in (full, target)):
        own, wanted = np.asarray(full), np.asarray(target)
        if np.any(wanted < own):
            low = int(np.argmax(own - wanted))
            raise InputError(
                f"a target of {np.broadcast_to(wanted, own.shape).flat[low]:.4g} is below the network's own "
                f"loss of {own.flat[low]:.4g}: no circuit need reach it"
            )


def smallest(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    scores: Float[Array, "element"],
    target: float | Scalar,
    *,
    capability: int | Array = 0,
    mode: str = "mean",
    key: Key | None = None,
    wrt: Any = "weight",
    chunks: int = CHUNKS,
) -> Circuit:
    """A small circuit that reaches a loss: the best-ranked elements, then without what is not needed.

    The fewest elements by rank that reach the target are found by trying many sizes at once. Then parts are
    left out, the lowest ranks first, where the loss allows it: 8 parts, then 16, and so on (for ``chunks`` of
    the number of elements or more every element by itself, so that none of the rest can be left out alone).

    Args:
      task: the model and its loss.
      params: of one network.
      structure: of it.
      suite: capabilities and samples.
      scores: ``(E,)``, more is more useful.
      target: nats.
      capability: which one.
      mode: what is left of what is gone.
      key: for ``resample``.
      wrt: what the elements are.
      chunks: parts at the finest (static); 0: ranks only.

    Raises:
      InputError: a target below the network's own loss, where both are known.
    """
    of = measured(task, params, structure, only(suite, capability), mode, key=key, wrt=wrt)
    there = existing(params, structure, wrt)
    check_target(of(jnp.ones(there.shape))[0], target)
    return smallest_of(of, there, scores, target, 0, chunks)


def smallest_of(
    of: Measure,
    there: Bool[Array, "element"],
    scores: Float[Array, "element"],
    target: float | Scalar,
    capability: int | Array = 0,
    chunks: int = CHUNKS,
) -> Circuit:
    """:func:`smallest` for a measure of one's own; pure, for ``jit`` and ``vmap``."""
    place, number = ranking(scores, there), jnp.sum(there)

    def loss(keep: Array) -> Array:
        return of(keep)[capability]

    def reach(sizes: Array) -> Array:
        return jax.lax.map(lambda n: loss(place < n), sizes, batch_size=_GRID) <= target

    def narrow(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends  # low fails, high reaches
        sizes = low + -((high - low) * -(1 + jnp.arange(_GRID)) // _GRID)
        return _between(sizes, reach(sizes), low)

    if there.size <= _ALL:
        sizes = jnp.minimum(1 + jnp.arange(there.size), number)
        _, size = _between(sizes, reach(sizes), jnp.zeros_like(number))
    else:
        steps = np.unique(np.round(np.geomspace(1, there.size, 4 * _GRID)).astype(int))
        sizes = jnp.minimum(jnp.asarray(steps, number.dtype), number)
        widest = float(np.max(np.diff(steps)))
        rounds = math.ceil(math.log(widest, _GRID))
        first = _between(sizes, reach(sizes), jnp.zeros_like(number))
        _, size = jax.lax.fori_loop(0, rounds, narrow, first)
    keep = (place < size) & there
    parts, count = [], 8
    while chunks and count < chunks:
        parts.append(count)
        count *= 2
    for number_of in [*parts, chunks] if chunks else []:
        keep = _leave_out(loss, keep, place, target, number_of)
    last = loss(keep)
    return Circuit(keep, jnp.sum(keep), last, last <= target)


def _between(sizes: Array, found: Array, low: Array) -> tuple[Array, Array]:
    """The size before the first that reaches the target, and that; the last where none does."""
    first = jnp.where(jnp.any(found), jnp.argmax(found), sizes.shape[0] - 1)
    return jnp.where(first > 0, sizes[jnp.maximum(first - 1, 0)], low), sizes[first]


def _leave_out(loss: Any, keep: Array, place: Array, target: Any, parts: int) -> Array:
    """Without every part, the lowest ranks first, that the target does not need."""
    # ranks among what is kept: their order is that of the ranks of all
    count = jnp.sum(keep)
    by_rank = jnp.zeros(keep.shape, jnp.int32).at[place].set(keep.astype(jnp.int32))
    own = (jnp.cumsum(by_rank) - by_rank)[place]
    part = own * parts // jnp.maximum(count, parts)

    def without(keep: Array, number: Array) -> tuple[Array, None]:
        fewer = keep & (part != number)
        # a part without elements costs a pass and changes nothing
        return jnp.where((loss(fewer) <= target), fewer, keep), None

    return jax.lax.scan(without, keep, jnp.arange(parts - 1, -1, -1))[0]


def learned_mask(
    of: Measure,
    there: Bool[Array, "element"],
    target: float | Scalar,
    capability: int | Array = 0,
    *,
    steps: int = 200,
    rate: float = 0.1,
    price: float = 1.0,
) -> Float[Array, "element"]:
    """Scores in [0, 1] from a mask that is learned: a sigmoid per element, by Adam.

    Minimised is the loss above the target, relative to what everything gone costs, plus ``price`` times the
    mean of the mask. What cancels pairwise is driven to zero together, which no ranking by single elements
    does. (In spirit of Louizos, Welling and Kingma 2018, without noise.)

    Args:
      of: the loss of masks (:func:`jaxnet.circuits.measured`), differentiable.
      there: which elements there are.
      target: nats.
      capability: which one.
      steps: of Adam.
      rate: its learning rate, in logits.
      price: of the mask.
    """
    gap = jnp.maximum(of(jnp.zeros(there.shape))[capability] - target, 1e-6)
    adam = optax.adam(rate)

    def whole(logit: Array) -> Array:
        mask = jnp.where(there, jax.nn.sigmoid(logit), 0.0)
        above = jax.nn.relu(of(mask)[capability] - target) / gap
        return above + price * jnp.sum(mask) / jnp.maximum(jnp.sum(there, dtype=jnp.float32), 1)

    def step(carry: Any, _: None) -> Any:
        logit, state = carry
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float
            updates, state = adam.update(jax.grad(whole)(logit), state, logit)
            return (optax.apply_updates(logit, updates), state), None

    start = jnp.full(there.shape, 2.0)
    (logit, _), _ = jax.lax.scan(step, (start, adam.init(start)), None, length=steps)
    return jax.nn.sigmoid(logit)
