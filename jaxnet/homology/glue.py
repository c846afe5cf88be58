"""Gluing: what windows say of the positions that they share, and whether it is one thing."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.types import Array, Float


class Glued(NamedTuple):
    """The nearest section of the whole (means over windows), mean squared distance from it, dimensions."""

    glued: Float[Array, "B position D"]
    loss: Float[Array, "B"]
    h0: int
    h1: int


def cover(windows: int, width: int, stride: int, triples: bool = False) -> list[np.ndarray]:
    """The Čech complex of windows, a number per position: differences on overlaps of two, and of three."""
    if min(windows, width, stride) < 1 or stride > width:
        raise InputError(f"windows need 1 <= stride <= width: {windows} of width {width}, stride {stride}")
    there = [set(range(u * stride, u * stride + width)) for u in range(windows)]
    cells = []
    for n in range(1, 3 + triples):
        shared = ((us, set.intersection(*(there[u] for u in us))) for us in combinations(range(windows), n))
        cells.append([(us, t) for us, positions in shared for t in sorted(positions)])
    maps = [np.zeros((len(high), len(low))) for low, high in zip(cells, cells[1:], strict=False)]
    for m, low, high in zip(maps, cells, cells[1:], strict=False):
        place = {cell: i for i, cell in enumerate(low)}
        for row, (us, t) in enumerate(high):
            for i in range(len(us)):
                m[row, place[us[:i] + us[i + 1 :], t]] = (-1) ** i
    return maps


def gluing(s: Float[Array, "B U w D"], stride: int, triples: bool = False) -> Glued:
    """Glues sections: ``s[b, u, i]`` is what window u says of position ``u * stride + i``.

    Of pairs alone, m windows over a position give ``(m - 1)(m - 2) / 2`` classes of H1 that mean nothing: use
    ``stride >= w / 2``, so that there are two at most, or ``triples``.
    """
    if s.ndim != 4:
        raise InputError(f"sections are (sample, window, position, feature): {s.shape}")
    maps = cover(s.shape[1], s.shape[2], stride, triples)
    rank = [int(np.linalg.matrix_rank(m)) if m.size else 0 for m in maps]
    place = np.arange(s.shape[1])[:, None] * stride + np.arange(s.shape[2])  # (window, position in it)
    total = jnp.zeros((len(s), int(place.max()) + 1, s.shape[3]), s.dtype).at[:, place].add(s)
    glued = total / jnp.asarray(np.bincount(place.ravel())[:, None], s.dtype)
    free = (maps[0].shape[1] - rank[0]) * s.shape[3], (len(maps[0]) - sum(rank)) * s.shape[3]
    return Glued(glued, jnp.mean((s - glued[:, place]) ** 2, (1, 2, 3)), *free)
