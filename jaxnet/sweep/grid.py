"""Grids: architectures and densities of one family, each with every seed, by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.keys import keys_of
from jaxnet.sweep.family import Family, Variant, make_family, make_variant
from jaxnet.types import Key

Member = tuple[tuple[int, ...], float]
"""An architecture and a density."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Networks of one compiled program: every member with every seed, a seed's members together.

    A seed's key depends on its number only: members share their seeds' keys.

    >>> grid = Grid((((8, 2), 0.5), ((8, 4), 0.5)), range(7, 9))
    >>> len(grid), grid.network(3), grid.find((8, 4), 0.5, 8)
    (4, ((8, 4), 0.5, 8), 3)

    Attributes:
      members: what can be drawn.
      seeds: their numbers.
      mask: see :class:`~jaxnet.sweep.DrawRules`.
      allocation: how exact counts are shared out over the layers.
    """

    members: tuple[Member, ...]
    seeds: range
    mask: str = "uniform"
    allocation: str = "uniform"

    def __len__(self) -> int:
        return len(self.members) * len(self.seeds)

    def network(self, number: int) -> tuple[tuple[int, ...], float, int]:
        """Architecture, density and seed of a network."""
        seed, member = divmod(number, len(self.members))
        return (*self.members[member], self.seeds[seed])

    def find(self, architecture: Sequence[int], density: float, seed: int) -> int:
        """Number of a network; ValueError where it is not in the grid."""
        return self.seeds.index(seed) * len(self.members) + self.members.index((tuple(architecture), density))

    def family(self) -> Family:
        """The padded shapes that all members fit into."""
        architectures = list(dict.fromkeys(a for a, _ in self.members))
        densities = sorted({density for _, density in self.members})
        return make_family(architectures, densities, self.mask, self.allocation)

    def inputs(self, numbers: Sequence[int]) -> tuple[Key, Variant]:
        """Keys ``(network,)`` and variants, leaves ``(network, ...)``, of some networks."""
        networks = [self.network(n) for n in numbers]
        made = {
            m: jax.tree.map(np.asarray, make_variant(*m, self.mask, self.allocation)) for m in self.members
        }
        chosen = (made[a, d] for a, d, _ in networks)
        variants: Variant = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *chosen)
        return keys_of([seed for _, _, seed in networks]), variants
