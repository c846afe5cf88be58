"""By what weights are pruned, and over which of them a density is shared out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from jaxnet.methods.base import Sizes
from jaxnet.structure import exists, weights
from jaxnet.topology import Entry
from jaxnet.train import Net
from jaxnet.types import Array, Int

SCOPES = ("weight", "global", "lamp")
"""``weight`` prunes every array to a density by magnitude, ``global`` all of them together, ``lamp``
likewise by :func:`lamp`."""


def scores_of(net: Net, scope: str) -> dict[str, Array]:
    """What decides which weights stay, by path."""
    score = lamp if scope == "lamp" else _magnitude
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


def _magnitude(values: Array, entry: Entry) -> Array:
    del entry
    return jnp.abs(values)
