"""Levels of sight: local, then top-k, then global attention, with an orthonormal split between two levels.

A transition turns the stream by an orthonormal matrix ``[Q2 | Q1]``: ``Q1' x`` passes on to the next level,
``Q2' x`` is kept as it is. Behind the last level all that was kept is turned back: nothing is lost, for
``x = Q1 Q1' x + Q2 Q2' x``, and what was kept no later level can read or change.
"""

from __future__ import annotations

import itertools

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.levels.room import hidden_units
from jaxnet.linalg import times
from jaxnet.transformer import Block, Decoder, Spec, Stream, TopK, Window
from jaxnet.types import Array, Float


def level_windows(spec: Spec) -> tuple[Window, ...]:
    """What every block attends to: those of the spec, or by thirds local, top-k, global.

    Local and top-k attention see an eighth of the length. Of two blocks one is local, one global.
    """
    if any(window is not None for window in spec.windows):
        return spec.windows
    near = max(1, spec.length // 8)
    kinds: tuple[Window, ...] = (near, TopK(near), None) if spec.layers > 2 else (near, None)[-spec.layers :]
    return tuple(kinds[number * len(kinds) // spec.layers] for number in range(spec.layers))


def level_blocks(spec: Spec) -> list[list[int]]:
    """The numbers of the blocks of every level: neighbours with equal windows."""
    windows = level_windows(spec)
    return [list(run) for _, run in itertools.groupby(range(spec.layers), key=windows.__getitem__)]


def kept_units(spec: Spec) -> int:
    """Units that a transition keeps: all of them together half of the width.

    Raises:
      ValueError: the width is too small for that.
    """
    transitions = len(level_blocks(spec)) - 1
    if spec.width < 2 * transitions:
        raise ValueError(f"{transitions} splits need a width of at least {2 * transitions}: {spec.width}")
    return spec.width // (2 * transitions) if transitions else 0


def orthonormal(vectors: Float[Array, "reflection n"]) -> Float[Array, "n n"]:
    """The product of the reflections at the hyperplanes across the vectors, orthonormal whatever they are.

    Its first ``r`` columns, of ``r`` vectors, may span any space of that many dimensions.

    Source: Householder 1958; as parameters Mhammedi et al. 2017.
    """

    def reflect(turn: Array, vector: Array) -> tuple[Array, None]:
        return turn - (2 / jnp.sum(vector**2)) * jnp.outer(times(turn, vector), vector), None

    return jax.lax.scan(reflect, jnp.eye(vectors.shape[-1], dtype=vectors.dtype), vectors)[0]


class Transition(flax.linen.Module):
    """The learned orthonormal matrix of a transition; its first columns are those of what is kept.

    Attributes:
      kept: units that are kept.
    """

    kept: int

    @flax.linen.compact
    def __call__(self, width: int) -> Float[Array, "width width"]:
        """``(width, width)``, orthonormal."""
        normal = flax.linen.initializers.normal(1.0)
        return orthonormal(self.param("vectors", normal, (self.kept, width)))


class LevelDecoder(Decoder):
    """A decoder of levels with splits between them; of the plain one's parameters."""

    @flax.linen.nowrap
    def block(self, number: int) -> Block:
        """A block of the width that passes on to its level."""
        spec, kept = self.spec, kept_units(self.spec)
        level, first = next((i, run[0]) for i, run in enumerate(level_blocks(spec)) if number in run)
        stream = spec.width - level * kept
        others = 4 * spec.width * stream + 2 * stream
        if level and number == first:  # the split before it
            others += kept * (stream + kept)
        hidden = hidden_units(spec, others, stream)
        return Block(spec, level_windows(spec)[number], hidden, name=f"block_{number}")

    def blocks(self, x: Stream) -> Stream:
        """The stream behind the last level, everything that was kept turned back into it."""
        kept, behind = kept_units(self.spec), []
        for level, numbers in enumerate(level_blocks(self.spec)):
            if level:
                turn = Transition(kept, name=f"split_{level}")(x.shape[-1])
                turned = times(x, turn)
                behind.append((turned[..., :kept], turn))
                x = turned[..., kept:]
            for number in numbers:
                x = self.block(number)(x)
        for rest, turn in reversed(behind):
            x = times(jnp.concatenate([rest, x], -1), turn.T)
        return x
