"""Pruning by scores: which weights go, which are kept whatever they score, all at once or in waves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.circuits.ablation import check_network, existing, names_of, per_layer, weight_values
from jaxnet.circuits.attribution import at_values, chain, ends
from jaxnet.circuits.curves import ranking
from jaxnet.circuits.relations import extract
from jaxnet.errors import InputError, check_choice
from jaxnet.structure import weights
from jaxnet.train import Task
from jaxnet.types import Array, Bool, Float, Key

SCORES = ("random", "magnitude", "weight x activation", "gradient x weight")
"""Scores of weights by name; more is more important."""

SCOPES = ("layer", "global", "row")
"""Over what a ratio is shared out: every array by itself, all together, every output unit by itself."""


def score(
    name: str,
    task: Task,
    params: Any,
    structure: Any,
    x: Array,
    y: Array,
    *,
    key: Key | None = None,
) -> Float[Array, "element"]:
    """``(E,)``, a score of :data:`SCORES` from samples; what does not exist scores whatever it likes.

    ``weight x activation`` is ``|w| sqrt(mean x^2)`` (Sun et al. 2024, Wanda), for perceptrons;
    ``gradient x weight`` ``|w dL/dw|`` of the mean loss (as SNIP scores), for any model.

    Raises:
      ValueError: an unknown name, or ``random`` without a key.
    """
    check_choice("score", name, SCORES)
    values = weight_values(params, structure)
    if name == "random":
        if key is None:
            raise ValueError("random scores are drawn from a key: give key")
        return jax.random.uniform(key, values.shape)
    if name == "magnitude":
        return jnp.abs(values)
    if name == "weight x activation":
        seen, parts = chain(task, params, structure, x)[1], []
        for (leaf, entry), h in zip(weights(params, structure).values(), seen, strict=True):
            size = jnp.sqrt(jnp.mean(h**2, 1))
            spread = jnp.broadcast_to(size, entry.shape)
            parts.append((jnp.abs(leaf) * at_values(spread, entry)).ravel())
        return jnp.concatenate(parts)

    def loss(params: Any) -> Array:
        logits, _ = task.model(params, structure, x, key_forward=None)
        return task.loss(logits, y, jnp.ones(y.shape[0]), axis=task.model.class_axis)

    return jnp.abs(values * weight_values(jax.grad(loss)(params), structure))


def kept(
    params: Any,
    structure: Any,
    scores: Float[Array, "element"],
    keep: Bool[Array, "element"] | None,
    ratio: float | Array,
    per: str = "global",
) -> Bool[Array, "element"]:
    """``(E,)``, which weights stay; the arguments are those of :func:`prune`. Pure."""
    check_choice("per", per, SCOPES)
    group: Array
    there = existing(params, structure)
    scores = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    if keep is not None:
        scores = jnp.where(keep, jnp.inf, scores)
    share = 1 - jnp.asarray(ratio, jnp.float32)

    def some(number: Array) -> Array:
        # the small shift: 0.3 * 10 is not below 3
        return jnp.floor(share * number.astype(jnp.float32) + 1e-4).astype(jnp.int32)

    if per == "global":
        return (ranking(scores, there) < some(jnp.sum(there))) & there
    if per == "layer":
        group = jnp.asarray(per_layer(params, structure))
        number = len(names_of(params, structure))
    else:
        group = rows_of(params, structure)
        number = sum(layer.bias.shape[0] for layer in params.scaffold)
    # by group, then by score: the rank within a group is the place less where the group begins
    order = jnp.lexsort((jnp.where(there, -scores, jnp.inf), group))
    begins = jnp.searchsorted(group[order], jnp.arange(number))
    place = (
        jnp.zeros(group.shape, jnp.int32)
        .at[order]
        .set((jnp.arange(group.size) - begins[group[order]]).astype(jnp.int32))
    )
    count = jnp.zeros(number, jnp.int32).at[group].add(there.astype(jnp.int32))
    return (place < some(count)[group]) & there


def rows_of(params: Any, structure: Any) -> Array:
    """``(E,)``, of every weight of a perceptron its output unit, all layers numbered through."""
    start, parts = 0, []
    for layer, (rows, _) in zip(params.scaffold, ends(params, structure), strict=True):
        parts.append(start + jnp.minimum(rows, layer.bias.shape[0] - 1))  # padding counts nowhere
        start += layer.bias.shape[0]
    return jnp.concatenate(parts)


def prune(
    params: Any,
    structure: Any,
    scores: Float[Array, "element"],
    keep: Bool[Array, "element"] | None = None,
    ratio: float = 0.9,
    per: str = "global",
) -> tuple[Any, Any]:
    """The network without a share of its weights, those of the smallest scores; the later go first on ties.

    Args:
      params: of any model.
      structure: of it, with an entry for every weight that may go (``jaxnet.sparsify(params, density=1)``).
      scores: ``(E,)``, more is more important; not a number counts as the largest.
      keep: ``(E,)``, weights that stay whatever they score (a circuit).
      ratio: of the weights that exist, that goes; in [0, 1); counts that stay are rounded down.
      per: one of :data:`SCOPES`; rows are those of a perceptron.

    Raises:
      InputError: a ratio out of range, more weights to keep than may stay, or weights that are not finite.
    """
    check_ratio(ratio)
    check_network(params)
    if keep is not None and not isinstance(keep, jax.core.Tracer):
        there = np.asarray(existing(params, structure))
        wanted, room = int((np.asarray(keep) & there).sum()), int((1 - ratio) * there.sum() + 1e-4)
        if wanted > room:
            raise InputError(f"{wanted} weights are to be kept, and a ratio of {ratio:g} leaves {room}")
    return extract(params, structure, kept(params, structure, scores, keep, ratio, per))


def check_ratio(ratio: Any) -> None:
    """Raises InputError for a ratio outside [0, 1)."""
    if not isinstance(ratio, jax.core.Tracer) and not (math.isfinite(ratio) and 0 <= ratio < 1):
        raise InputError(f"a ratio must be at least 0 and below 1: {ratio}")


def waves(
    params: Any,
    structure: Any,
    score: Callable[[Any, Any], Float[Array, "element"]],
    ratio: float,
    number: int,
    between: Callable[[Any, Any], Any] = lambda params, structure: params,
    per: str = "global",
) -> tuple[Any, Any]:
    """Prunes in waves: each scores anew what the one before and ``between`` (a refit, say) have left.

    The shares that stay fall geometrically: ``(1 - ratio)^(wave / number)``.

    Args:
      params: of the network.
      structure: of it.
      score: ``(params, structure) -> (E,)``.
      ratio: at the end.
      number: of waves.
      between: what is done to the parameters after every wave.
      per: as in :func:`prune`.
    """
    check_ratio(ratio)
    step = 1 - (1 - ratio) ** (1 / number)
    for _ in range(number):
        here = score(params, structure)
        params, structure = extract(params, structure, kept(params, structure, here, None, step, per))
        params = between(params, structure)
    return params, structure
