"""What lies on a way from an input to an output: exactly, for one structure; ``vmap`` for many.

What does not can learn nothing that an answer depends on: a unit that no output reads has a gradient
of zero, one that no input reaches is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp

from jaxnet.nn.params import Structure
from jaxnet.reach.wires import Wires, sizes_of, wires
from jaxnet.topology import Topology
from jaxnet.types import Array, Bool, Int, UnitMask, UnitScore


class LiveCounts(flax.struct.PyTreeNode):
    """How much of a network is live: numbers of :class:`Live`.

    Attributes:
      inputs: inputs that some output reads.
      units: hidden units on a way from an input to an output.
      outputs: outputs (classes) that some input reaches.
      weights: scaffold weights on such a way.
    """

    inputs: Int[Array, ""]
    units: Int[Array, ""]
    outputs: Int[Array, ""]
    weights: Int[Array, ""]


class Live(flax.struct.PyTreeNode):
    """What lies on a way from an input to an output that exists.

    Attributes:
      inputs: ``(in,)`` bool.
      units: for each hidden layer ``(unit,)`` bool.
      outputs: ``(classes,)`` bool.
      weights: for each layer of the scaffold bool, of its parameter's shape.
    """

    inputs: UnitMask
    units: tuple[UnitMask, ...]
    outputs: UnitMask
    weights: tuple[Bool[Array, "..."], ...]

    @property
    def counts(self) -> LiveCounts:
        """How many there are of each."""

        def total(masks: Sequence[Array]) -> Array:
            return sum((jnp.sum(m, dtype=jnp.int32) for m in masks), jnp.zeros((), jnp.int32))

        return LiveCounts(*map(total, ([self.inputs], self.units, [self.outputs], self.weights)))


def live(structure: Structure) -> Live:
    """What of a network lies on a way from an input to an output that exists.

    Ways go along scaffold weights, skip connections and patches in use, whatever their values.

    Args:
      structure: of one network.
    """
    every, sizes = wires(structure), sizes_of(structure)
    reached = [jnp.ones(sizes[0], bool)]
    for t, into in enumerate(every):
        here = jnp.zeros(sizes[t + 1], bool)
        for w in into:
            here = here.at[w.rows].max(w.exists & reached[w.source][w.cols], mode="drop")
        reached.append(here)
    read = read_by_outputs(structure, every)
    both = [a & b for a, b in zip(reached, read, strict=True)]
    weights = tuple(
        (w.exists & reached[t][w.cols] & _at(read[t + 1], w.rows)).reshape(
            w.rows.shape if isinstance(entry, Topology) else entry.shape
        )
        for t, ((w, *_), entry) in enumerate(zip(every, structure.weights, strict=True))
    )
    return Live(both[0], tuple(both[1:-1]), both[-1], weights)


def read_by_outputs(
    structure: Structure, every: Sequence[Sequence[Wires]] | None = None
) -> tuple[UnitMask, ...]:
    """For every layer of units, inputs and outputs included, which of them an output reads.

    Directly or through other units; of the outputs those that exist. A unit without an input counts too:
    its bias can learn. What a sweep trains is this (:mod:`jaxnet.sweep.live`).

    Args:
      structure: of one network.
      every: its :func:`wires`, where they are known.
    """
    every, sizes = every or wires(structure), sizes_of(structure)
    read = [jnp.zeros(size, bool) for size in sizes]
    read[-1] = jnp.ones(sizes[-1], bool) if structure.outputs is None else structure.outputs
    for t in reversed(range(len(every))):
        for w in every[t]:
            read[w.source] = read[w.source].at[w.cols].max(w.exists & _at(read[t + 1], w.rows))
    return tuple(read)


def path_shares(structure: Structure) -> tuple[UnitScore, ...]:
    """For each hidden layer ``(unit,)``, the share of all ways from inputs to outputs through a unit.

    The shares of a layer add up to 1 where no way leads around it, and are 0 where there is no way at all.
    With all weights 1 this is the score of SynFlow (Tanaka et al. 2020, arXiv 2006.05467), per unit. Ways are
    counted in float32, up to 1e38.
    """
    every, sizes = wires(structure), sizes_of(structure)
    to = [jnp.ones(sizes[0])]
    for t, into in enumerate(every):
        here = jnp.zeros(sizes[t + 1])
        for w in into:
            here = here.at[w.rows].add(jnp.where(w.exists, to[w.source][w.cols], 0.0), mode="drop")
        to.append(here)
    onward = [jnp.zeros(size) for size in sizes]
    onward[-1] = jnp.ones(sizes[-1]) if structure.outputs is None else structure.outputs.astype(jnp.float32)
    total = jnp.sum(to[-1] * onward[-1])
    for t in reversed(range(len(every))):
        for w in every[t]:
            ahead = onward[t + 1].at[w.rows].get(mode="fill", fill_value=0.0)
            onward[w.source] = onward[w.source].at[w.cols].add(jnp.where(w.exists, ahead, 0.0))
    safe = jnp.maximum(total, 1.0)
    return tuple((a / safe) * b for a, b in zip(to[1:-1], onward[1:-1], strict=True))


def _at(mask: UnitMask, rows: Array) -> Array:
    """The mask at some units, false outside."""
    found: Array = mask.at[rows].get(mode="fill", fill_value=False)
    return found
