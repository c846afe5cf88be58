"""What methods share that start with more weights than they end with, and exchange on the way."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxnet.allocation import check_density
from jaxnet.errors import check_choice
from jaxnet.methods.base import Periodic, Sizes, keep_best
from jaxnet.methods.scopes import SCOPES, budget_of, kept_of, scores_of
from jaxnet.structure import entries
from jaxnet.topology import Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Gradual(Periodic):
    """A method whose density falls from ``start`` to ``density`` between two steps (static).

    It acts at ``begin`` and every ``every`` steps from there; the density is ``density``
    from the first of these at or after ``end``. Counts are rounded down; a network
    that starts with fewer weights keeps these until the schedule has come down to them.

    Attributes:
      density: at the end, weights over positions, in (0, 1].
      start: density at ``begin``.
      begin: step of the first change.
      end: step at which ``density`` is reached.
      scope: of the pruning; one of :data:`~jaxnet.methods.scopes.SCOPES`.
    """

    density: float = 0.1
    start: float = 1.0
    begin: int = 100
    end: int = 1000
    scope: str = "global"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        super().__post_init__()
        check_density(self.density)
        check_density(self.start)
        check_choice("scope", self.scope, SCOPES)
        if self.density > self.start:
            raise ValueError(f"density must be at most start: {self.density}, {self.start}")
        if not 1 <= self.begin <= self.end:
            raise ValueError(f"begin must be at least 1 and not after end: {self.begin}, {self.end}")
        if self.until is not None and self.until < self.end:
            raise ValueError(f"until must not be before end: {self.until}, {self.end}")

    def check(self, net: Net) -> None:
        """Also raises ValueError where no topology has room for more weights than are left at the end."""
        super().check(net)
        there = entries(net.structure)
        if not all(isinstance(entry, Topology) for entry in there.values()):
            return
        room = sum(entry.capacity for entry in there.values() if isinstance(entry, Topology))
        full = sum(int(np.prod(entry.shape)) for entry in there.values())
        if room <= int(self.density * full):
            raise ValueError(
                f"{type(self).__name__} prunes to {int(self.density * full)} weights, and the network starts "
                f"with at most {room}: start with more, or lower density"
            )

    def share(self, progress: float) -> float:
        """How much of the way from ``start`` to ``density`` is left at ``progress`` in [0, 1]."""
        return (1 - progress) ** 3

    def _densities(self) -> list[float]:
        """After every change, the last one for all that follow."""
        span = max(1, self.end - self.begin)
        progress = [min(1.0, n * self.every / span) for n in range(math.ceil(span / self.every) + 1)]
        return [self.density + (self.start - self.density) * self.share(p) for p in progress]

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """From ``begin`` on every ``every`` steps, until ``until``."""
        due = (step >= self.begin) & ((step - self.begin) % self.every == 0)
        return due if self.until is None else due & ((step < self.until) | (self._index(step) == self._last))

    @property
    def _last(self) -> int:
        return len(self._densities()) - 1

    def _index(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """Of the change at ``step``."""
        return (step - self.begin) // self.every

    def weights_at(self, step: Int[Array, ""], positions: int) -> Int[Array, ""]:
        """How many of ``positions`` are left after the change at ``step``."""
        # counts from a table made on the host: float32 would be off by one here and there
        table = jnp.asarray([int(density * positions) for density in self._densities()], jnp.int32)
        return table[jnp.clip(self._index(step), 0, self._last)]

    def pruned(self, net: Net, step: Int[Array, ""]) -> Net:
        """The network without the least weights, down to the density of the change at ``step``."""
        keep = kept_of(entries(net.structure), self.scope, lambda n: self.weights_at(step, n))
        return keep_best(net, scores_of(net, self.scope), keep)[0]

    def budget(self, step: int, sizes: Sizes) -> int:
        """By the last change so far, and never more than at the start."""
        if step < self.begin:
            return super().budget(step, sizes)
        return budget_of(self.density_after(step), self.scope, sizes)

    def density_after(self, step: int) -> float:
        """By the last change up to ``step``, which is not before ``begin``."""
        return self._densities()[min((step - self.begin) // self.every, self._last)]
