"""Pruning by magnitude, at once or little by little."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxnet.allocation import check_density
from jaxnet.errors import check_choice
from jaxnet.methods.base import BaseMethod, DenseGradient, Sizes, keep_best
from jaxnet.methods.scopes import SCOPES, budget_of, kept_of, scores_of
from jaxnet.structure import entries
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Int, Key, PyTree

SCHEDULES = ("constant", "cubic")


@dataclasses.dataclass(frozen=True)
class Magnitude(BaseMethod):
    """Prunes the weights of the smallest magnitude until a density is reached.

    ``cubic`` lowers the density from ``start`` to ``density`` along
    ``density + (start - density) (1 - t)**3``, ``t`` from 0 at step ``begin`` to 1
    at ``end``; ``constant`` prunes at step ``begin`` once and for all. What is gone
    stays gone. Counts are rounded down, and a network that starts with fewer
    weights keeps these.

    Source: Zhu and Gupta 2017; the scope ``lamp`` is that of Lee et al. 2021.

    Attributes:
      density: at the end, weights over positions, in (0, 1].
      schedule: one of :data:`SCHEDULES`.
      begin: step of the first pruning.
      end: of the last one, with ``cubic``.
      every: steps between two.
      start: density at ``begin``, with ``cubic``.
      scope: ``weight`` prunes every array to the density, ``global`` all of them together,
        ``lamp`` likewise, by :func:`~jaxnet.methods.scopes.lamp` instead of the magnitude.
    """

    density: float = 0.1
    schedule: str = "cubic"
    begin: int = 100
    end: int = 1000
    every: int = 100
    start: float = 1.0
    scope: str = "weight"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_density(self.density)
        check_density(self.start)
        for value, allowed, what in ((self.schedule, SCHEDULES, "schedule"), (self.scope, SCOPES, "scope")):
            check_choice(what, value, allowed)
        if not (1 <= self.begin <= self.end or (self.schedule == "constant" and self.begin >= 1)):
            raise ValueError(f"begin must be at least 1 and not after end: {self.begin}, {self.end}")
        if self.every < 1 or self.density > self.start:
            raise ValueError(
                f"every must be at least 1, density at most start: {self.every}, {self.density}, {self.start}"
            )

    @property
    def _times(self) -> list[int]:
        """Steps at which it is pruned."""
        if self.schedule == "constant":
            return [self.begin]
        times = [*range(self.begin, self.end, self.every), self.end]
        return times

    def _densities(self) -> list[float]:
        """The density after each of them."""
        if self.schedule == "constant":
            return [self.density]
        span = max(1, self.end - self.begin)
        return [
            self.density + (self.start - self.density) * (1 - (time - self.begin) / span) ** 3
            for time in self._times
        ]

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """At ``begin``, every ``every`` steps from there, and at ``end``."""
        if self.schedule == "constant":
            return step == self.begin
        between = (step >= self.begin) & (step < self.end) & ((step - self.begin) % self.every == 0)
        return between | (step == self.end)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Prunes to the density of this step."""
        del dense_gradient, key
        # counts from tables made on the host: float32 would be off by one here and there
        at = jnp.searchsorted(jnp.asarray(self._times), step)
        keep = kept_of(entries(net.structure), self.scope, lambda positions: self._table(positions)[at])
        net, info = keep_best(net, scores_of(net, self.scope), keep)
        return net, state, info

    def _table(self, positions: int) -> Int[Array, "times"]:
        return jnp.asarray([int(density * positions) for density in self._densities()], jnp.int32)

    def budget(self, step: int, sizes: Sizes) -> int:
        """Of the last pruning so far, and never more than at the start."""
        past = [density for time, density in zip(self._times, self._densities(), strict=True) if time <= step]
        if not past:
            return super().budget(step, sizes)
        return budget_of(past[-1], self.scope, sizes)
