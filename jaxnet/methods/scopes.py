"""By what weights are pruned, and over which of them a density is shared out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.methods.base import Sizes
from jaxnet.structure import exists, weights
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Int

SCOPES = ("weight", "global", "lamp", "relative")
"""``weight`` prunes every array to a density by magnitude, ``global`` all of them together, ``lamp``
likewise by :func:`lamp`, ``relative`` likewise by the relative :func:`importance`."""


def scores_of(net: Net, scope: str) -> dict[str, Array]:
    """What decides which weights stay, by path."""
    scores: dict[str, Callable[[Array, Entry], Array]] = {"lamp": lamp}
    scores["relative"] = partial(importance, relative=1.0)
    score = scores.get(scope, _magnitude)
    return {
        path: score(values, entry) for path, (values, entry) in weights(net.params, net.structure).items()
    }


def kept_of(
    there: Mapping[str, Entry], scope: str, number: Callable[[int], Int[Array, ""]]
) -> dict[str, Array] | Array:
    """How many weights stay, by path or of all together; ``number(positions)`` is what the density allows."""
    full = {path: int(np.prod(entry.shape)) for path, entry in there.items()}
    if scope == "weight":
        return {path: jnp.minimum(number(size), there[path].num_nonzeros) for path, size in full.items()}
    all_there = sum((entry.num_nonzeros for entry in there.values()), jnp.zeros((), jnp.int32))
    return jnp.minimum(number(sum(full.values())), all_there)


def budget_of(density: float, scope: str, sizes: Sizes) -> int:
    """How many weights stay where ``sizes`` were at the start."""
    if scope == "weight":
        return sum(min(there, int(density * full)) for there, full in sizes)
    return min(int(density * sum(full for _, full in sizes)), sum(there for there, _ in sizes))


def lamp(values: Array, entry: Entry) -> Array:
    """Layer-adaptive magnitudes: the square of a weight over those of all that are not smaller.

    ``w**2 / sum(v**2 for v not before w)`` with an array's weights in the order of their
    magnitudes, of those that tie the earlier position first; 0 where no weight exists and
    where all of them are 0. The largest weight of an array scores 1, so that no array
    is pruned away before every other one is down to one weight.

    Source: Lee et al. 2021 (LAMP).
    """
    square = jnp.where(exists(entry), jnp.square(values), 0.0).ravel()
    order = jnp.argsort(square, stable=True)
    ascending = square[order]
    rest = jnp.cumsum(ascending[::-1])[::-1]
    score = jnp.where(rest > 0, ascending / jnp.where(rest > 0, rest, 1.0), 0.0)
    # a number that is not finite makes all sums before it so: such an array keeps what it can
    score = jnp.where(jnp.isnan(rest), jnp.nan, score)
    return jnp.zeros_like(square).at[order].set(score, unique_indices=True).reshape(values.shape)


def importance(values: Array, entry: Entry, relative: float) -> Array:
    """By how much each weight matters, of the parameter's shape, 0 where none exists.

    ``|w| / (1 - relative + relative * row) + |w| / (1 - relative + relative * column)``, with the sums
    of magnitudes of the weight's row and column. An array of more axes leads from all others to the last.
    """
    size = jnp.where(exists(entry), jnp.abs(values), 0.0)
    if relative == 0:
        return size
    if isinstance(entry, Topology):
        rows = jnp.zeros(entry.shape[0]).at[entry.rows].add(size, mode="drop")
        cols = jnp.zeros(entry.shape[1]).at[entry.cols].add(size)  # padding adds zero
        row, col = rows.at[entry.rows].get(mode="fill", fill_value=1.0), cols[entry.cols]
    else:
        flat = size.reshape(-1, size.shape[-1])
        row = jnp.broadcast_to(jnp.sum(flat, 1, keepdims=True), flat.shape).reshape(size.shape)
        col = jnp.broadcast_to(jnp.sum(flat, 0, keepdims=True), flat.shape).reshape(size.shape)
    shares = [size / jnp.where(total > 0, 1 - relative + relative * total, 1.0) for total in (row, col)]
    return shares[0] + shares[1]


def _magnitude(values: Array, entry: Entry) -> Array:
    del entry
    return jnp.abs(values)
