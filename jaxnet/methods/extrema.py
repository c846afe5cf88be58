"""Rewiring that is led by extrema: what is saturated gives, what is dead receives."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxnet import signals
from jaxnet.changes import edit
from jaxnet.changes.weights import after_keeping, smallest
from jaxnet.errors import check_choice
from jaxnet.methods.base import DenseGradient, Periodic, connected, dense_by_path, scaffold, unit_stats
from jaxnet.methods.soft import most_of, number_of, regrown, softly_largest
from jaxnet.structure import reserved, weights, with_entries
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree, UnitScore
from jaxnet.units import Extrema as Found
from jaxnet.units import UnitStats

GRADIENTS = ("none", "product", "rank")


@dataclasses.dataclass(frozen=True)
class Extrema(Periodic):
    """Drops the weights of the smallest magnitude and grows as many from high extrema to low ones.

    A position ``(unit, source)`` scores the product of two ranks: of the unit among those of
    its layer by ``score_low``, of the source by ``score_high`` (:class:`jaxnet.units.Extrema`;
    the share of units that score no more; 0 for a unit without any weight). The
    network's inputs and outputs are no extrema: there the rank is 1 for all. Positions
    are drawn without replacement by the power of the score that ``delta`` says
    (:func:`~jaxnet.methods.soft.softly`). Units are judged on the batch of the step.

    Attributes:
      signal: one of :data:`jaxnet.signals.SIGNALS`, with its usual thresholds (only the scores count).
      values: judge ``pre`` or ``post`` activations.
      gradient: ``none``; ``product`` multiplies the score with the magnitude of the gradient
        there; ``rank`` takes the mean of the score's rank and the magnitude's rank among the
        positions that are free.
      delta: in [0, 1]; 0 draws evenly, 0.5 in proportion to the score, 1 takes the largest.
    """

    serves: ClassVar[tuple[type, ...]] = (Topology,)

    signal: str = "original"
    values: str = "post"
    gradient: str = "none"
    delta: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        super().__post_init__()
        for value, allowed, what in (
            (self.signal, tuple(signals.SIGNALS), "signal"),
            (self.values, ("pre", "post"), "values"),
            (self.gradient, GRADIENTS, "gradient"),
        ):
            check_choice(what, value, allowed)
        if not (math.isfinite(self.delta) and 0 <= self.delta <= 1):
            raise ValueError(f"delta must be between 0 and 1: {self.delta}")

    def check(self, net: Net) -> None:
        """Also raises ValueError for a net that is no multi-layer perceptron."""
        super().check(net)
        scaffold(net.structure, type(self).__name__)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Exchanges in every weight."""
        there, taken, fraction = (
            scaffold(net.structure, "Extrema"),
            reserved(net.structure),
            self.fraction_at(step),
        )
        values = weights(net.params, net.structure)
        slopes: dict[str, Array] = {}
        if self.gradient != "none" or self.signal == "gradient-norm":
            slopes = {p: jnp.abs(g) for p, g in dense_by_path(dense_gradient(), net.structure).items()}
        every = unit_stats(dense_gradient, self.values, "Extrema")
        found = [
            signals.detect(_with_norms(stats, values[path][0], there[path], slopes.get(path)), self.signal)
            for stats, path in zip(
                signals.with_paths(every, net.structure, self.signal), list(there)[:-1], strict=True
            )
        ]
        ends = [jnp.ones(list(there.values())[end].shape[1 + end], bool) for end in (0, -1)]
        alive = [ends[0], *connected(there), ends[1]]
        new: dict[str, Entry] = {}
        for layer, (path, entry) in enumerate(there.items()):
            number = number_of(fraction, entry.num_nonzeros)
            keep = ~smallest(entry, jnp.abs(values[path][0]), number)
            score = position_scores(
                entry.shape,
                found[layer] if layer < len(found) else None,
                found[layer - 1] if layer else None,
            )
            score = score * (alive[layer + 1][:, None] & alive[layer][None, :]).astype(score.dtype)
            if self.gradient == "product":
                score = score * slopes[path]
            elif self.gradient == "rank":
                free = ~after_keeping(entry, keep) & ~taken.get(path, jnp.zeros(entry.shape, bool))
                score = (_rank_of(score, free) + _rank_of(slopes[path], free)) / 2
            score = jnp.where(jnp.isnan(score), 0.0, score)
            score = softly_largest(score, self.delta, key=jax.random.fold_in(key, layer))
            most = most_of(self.fraction, entry.capacity)
            new[path] = regrown(entry, keep, score, number, most, taken.get(path))
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info


def position_scores(
    shape: tuple[int, int], targets: Found | None, sources: Found | None
) -> Float[Array, "out in"]:
    """The product of both ranks, in (0, 1]; None for inputs and outputs of the network."""
    low = jnp.ones(shape[0]) if targets is None else _rank(targets.score_low)
    high = jnp.ones(shape[1]) if sources is None else _rank(sources.score_high)
    return low[:, None] * high[None, :]


def _rank(score: Float[Array, "n"]) -> Float[Array, "n"]:
    """The share of values that are no larger."""
    ranked = jnp.sort(score)
    return jnp.searchsorted(ranked, score, side="right").astype(jnp.float32) / score.shape[0]


def _rank_of(score: Float[Array, "out in"], chosen: Bool[Array, "out in"]) -> Float[Array, "out in"]:
    """The share of the chosen values that are no larger; elsewhere without meaning."""
    ranked = jnp.sort(jnp.where(chosen, score, jnp.inf).ravel())
    place = jnp.searchsorted(ranked, score.ravel(), side="right").astype(jnp.float32)
    return place.reshape(score.shape) / jnp.maximum(jnp.sum(chosen), 1).astype(jnp.float32)


def _with_norms(stats: UnitStats, values: Array, entry: Topology, slopes: Array | None) -> UnitStats:
    """With the norms that some signals ask for: of the incoming weights, and of the gradient in them."""
    squares = jnp.zeros(entry.shape[0]).at[entry.rows].add(jnp.square(values), mode="drop")
    norm: UnitScore | None = None if slopes is None else jnp.sqrt(jnp.sum(jnp.square(slopes), 1))
    return stats.replace(incoming=jnp.sqrt(squares), gradient=norm)
