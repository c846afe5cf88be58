"""The first seeds of a grid whose scaffolds reach enough classes: the others need not be trained.

A class that no weight leads to from an input gets the same logit for every sample: such a
network cannot know it. To draw a scaffold costs next to nothing beside training it.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.allocation import dense_counts
from jaxnet.keys import network_keys
from jaxnet.programs import ONCE
from jaxnet.reach import live
from jaxnet.sweep.family import DrawRules, Family, Variant, draw_variant
from jaxnet.sweep.grid import Grid, Member
from jaxnet.topology import Topology
from jaxnet.types import Array, Key

BLOCK = 1024
"""Seeds whose last layer is looked at together."""

POSITIONS = 2**23
"""Positions of weights of the scaffolds that are drawn whole together, about."""


class Reaching(NamedTuple):
    """Which networks of a grid reach enough classes.

    Attributes:
      numbers: of the networks in the grid, ascending; as many of every member.
      drawn: for each member, how many seeds were looked at.
    """

    numbers: tuple[int, ...]
    drawn: tuple[int, ...]


def reaching(grid: Grid, rules: DrawRules, least: int, classes: int, wanted: int, most: int) -> Reaching:
    """The first seeds of every member whose weights lead from inputs to enough classes.

    The last layer is drawn first, for many seeds at once: a class without a weight there is out of
    reach, whatever the rest. Only what is left is drawn whole.

    Args:
      grid: members, and more seeds than are wanted.
      rules: how networks are drawn, as in the sweep that trains them.
      least: classes that must be reached.
      classes: outputs that stand for one; of a network with more the first ones.
      wanted: seeds of every member.
      most: seeds of a member to look at.

    Raises:
      ValueError: a member has too few such seeds among these.
    """
    family = grid.family()
    quick, exact = _programs(family, rules, classes)
    size = max(1, POSITIONS // sum(dense_counts(family.sizes)))
    size = min(64, 2 ** int(math.log2(size)))
    numbers, drawn = list[int](), list[int]()
    for place, member in enumerate(grid.members):
        found, looked = list[int](), 0
        while len(found) < wanted:
            if looked >= most or looked >= len(grid.seeds):
                raise ValueError(_too_few(member, least, len(found), wanted, looked))
            block = range(looked, min(looked + BLOCK, len(grid.seeds)))
            here = [seed * len(grid.members) + place for seed in block]
            looked = block.stop
            left = [n for n, k in zip(here, _counted(quick, grid, here, BLOCK), strict=True) if k >= least]
            for first in range(0, len(left), size):
                some = left[first : first + size]
                counts = _counted(exact, grid, some, size)
                found += [n for n, k in zip(some, counts, strict=True) if k >= least]
                if len(found) >= wanted:
                    break
        found = found[:wanted]
        numbers += found
        drawn.append(found[-1] // len(grid.members) + 1)
    return Reaching(tuple(sorted(numbers)), tuple(drawn))


@functools.lru_cache(maxsize=8)
def _programs(family: Family, rules: DrawRules, classes: int) -> tuple[Any, Any]:
    """``(keys, variants) -> classes`` that have a weight in the last layer, and that are reached."""

    def possible(key: Key, variant: Variant) -> Array:
        # of a compiled program only what its result needs is left: the other layers are never drawn
        _, structure = draw_variant(family, variant, rules, **network_keys(key))
        last = structure.weights[-1]
        assert isinstance(last, Topology)
        return jnp.sum(last.fan_in[:classes] > 0)

    def reached(key: Key, variant: Variant) -> Array:
        _, structure = draw_variant(family, variant, rules, **network_keys(key))
        return jnp.sum(live(structure).outputs[:classes])

    quick, exact = (jax.jit(jax.vmap(f), compiler_options=ONCE) for f in (possible, reached))
    return quick, exact


def _counted(program: Any, grid: Grid, numbers: list[int], size: int) -> list[int]:
    """What a program says of some networks, filled up to the number that it is compiled for."""
    filled = np.resize(np.asarray(numbers), size).tolist()
    keys, variants = grid.inputs(filled)
    counts: list[int] = np.asarray(program(keys, variants))[: len(numbers)].tolist()
    return counts


def _too_few(member: Member, least: int, found: int, wanted: int, looked: int) -> str:
    architecture, density = member
    return (
        f"of {looked} scaffolds of {'-'.join(map(str, architecture))} at density {density:g} only {found} "
        f"reach {least} classes, and {wanted} are wanted"
    )
