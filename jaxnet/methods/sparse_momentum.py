"""Sparse momentum: weights go where the gradient has long been pointing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.changes import edit
from jaxnet.changes.weights import after_keeping, smallest
from jaxnet.methods.base import DenseGradient, Periodic, at_weights, dense_by_path, near
from jaxnet.methods.soft import most_of, number_of, regrown
from jaxnet.structure import exists, reserved, weights, with_entries
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree


@dataclasses.dataclass(frozen=True)
class SparseMomentum(Periodic):
    """Drops the weights of the smallest magnitude and grows as many where the smoothed gradient is largest.

    In every array the same fraction goes. What went, of all arrays together, is shared out over
    them in proportion to the mean magnitude of the smoothed gradient at the weights that
    existed, as far as positions (and, in a topology, slots: see
    :func:`jaxnet.changes.with_room`) are free; the rest goes to the others. The number of
    all weights together stays.

    The smoothed gradient ``m = beta m + (1 - beta) g`` at all positions is the method's own
    state, kept from change to change.

    Source: Dettmers and Zettlemoyer 2019. Different here: where a weight is missing its gradient is
    computed for this alone, so that it is only done in the last ``gather`` steps before a change
    (with ``gather`` equal to ``every`` it is the paper's, at the cost of a dense gradient in
    every step); and the optimiser's own momentum is not read.

    Attributes:
      beta: of the smoothing, in [0, 1).
      gather: steps before a change, its own included, whose dense gradients are smoothed.
      redistribute: share out over the arrays; otherwise each keeps its number.
    """

    beta: float = 0.9
    gather: int = 10
    redistribute: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        super().__post_init__()
        if not (math.isfinite(self.beta) and 0 <= self.beta < 1):
            raise ValueError(f"beta must be at least 0 and below 1: {self.beta}")
        if self.gather < 1:
            raise ValueError(f"gather must be at least 1 step: {self.gather}")

    def init(self, net: Net, dense_gradient: DenseGradient, *, key: Key) -> tuple[Net, PyTree]:
        """Nothing has been smoothed yet."""
        net, _ = super().init(net, dense_gradient, key=key)
        return net, {
            path: jnp.zeros(entry.shape, values.dtype)
            for path, (values, entry) in weights(net.params, net.structure).items()
        }

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Also in the steps before a change."""
        due = near(step, self.every, self.gather)
        return due if self.until is None else due & (step < self.until)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Smooths the gradient, and exchanges every ``every`` steps; nothing is drawn."""
        del key
        gradient = dense_by_path(dense_gradient(), net.structure)
        smoothed = {path: self.beta * m + (1 - self.beta) * gradient[path] for path, m in state.items()}
        net = jax.lax.cond(
            step % self.every == 0,
            lambda net: self._exchanged(net, smoothed, step),
            lambda net: net,
            net,
        )
        return net, smoothed, None

    def _exchanged(self, net: Net, smoothed: dict[str, Array], step: Int[Array, ""]) -> Net:
        there, taken = weights(net.params, net.structure), reserved(net.structure)
        fraction, most = self.fraction_at(step), 0
        kept, frees, numbers, means, rooms = {}, {}, [], [], []
        for path, (values, entry) in there.items():
            number = number_of(fraction, entry.num_nonzeros)
            kept[path] = keep = ~smallest(entry, jnp.abs(values), number)
            free = ~after_keeping(entry, keep)
            frees[path] = free & ~taken[path] if path in taken else free
            room = jnp.sum(frees[path], dtype=jnp.int32)
            if isinstance(entry, Topology):
                room = jnp.minimum(room, entry.capacity - entry.num_nonzeros + number)
            numbers.append(number)
            rooms.append(room)
            means.append(mean_magnitude(smoothed[path], entry))
            most += most_of(self.fraction, values.size)
        grown = jnp.stack(numbers)
        if self.redistribute:
            grown = shared_out(jnp.sum(grown), jnp.stack(means), jnp.stack(rooms))
        new = {}
        for place, (path, (values, entry)) in enumerate(there.items()):
            at_most = min(most if self.redistribute else most_of(self.fraction, values.size), *_limits(entry))
            new[path] = regrown(
                entry, kept[path], jnp.abs(smoothed[path]), grown[place], at_most, taken.get(path)
            )
        return edit(net, with_entries(net.structure, new))[0]


def mean_magnitude(dense: Array, entry: Entry) -> Array:
    """Mean magnitude of a dense array at the weights that exist; 0 without any or where it is not finite."""
    total = jnp.sum(jnp.where(exists(entry), jnp.abs(at_weights(dense, entry)), 0.0))
    mean = total / jnp.maximum(entry.num_nonzeros, 1).astype(dense.dtype)
    return jnp.where(jnp.isfinite(mean), mean, 0.0)


def shared_out(total: Int[Array, ""], share: Float[Array, "n"], room: Int[Array, "n"]) -> Int[Array, "n"]:
    """``total`` in proportion to ``share``, at most ``room`` each; all of it where there is room for all.

    What does not fit is shared out again over the others, each getting the floor of its share; what
    is left in the end goes to the largest shares first, of those that tie to the earlier one.
    """
    given = jnp.zeros_like(room)
    for _ in range(room.shape[0]):
        left, some = total - jnp.sum(given), room - given
        open_share = jnp.where(some > 0, share, 0.0)
        whole = jnp.sum(open_share)
        part = open_share / jnp.where(whole > 0, whole, 1.0)
        added = jnp.floor(part * left.astype(share.dtype) + 1e-4).astype(given.dtype)
        # rounding of float32 must not give away more than there is
        added = jnp.minimum(added, some)
        before = jnp.cumsum(added) - added
        given = given + jnp.clip(left - before, 0, added)
    order = jnp.argsort(-share, stable=True)
    some = (room - given)[order]
    left = total - jnp.sum(given)
    filled = jnp.clip(left - (jnp.cumsum(some) - some), 0, some)
    return given.at[order].add(filled)


def _limits(entry: Entry) -> tuple[int, ...]:
    size = int(np.prod(entry.shape))
    return (size, entry.capacity) if isinstance(entry, Topology) else (size,)
