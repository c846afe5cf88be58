"""A recurrent cell whose state is kept or overwritten, subspace by subspace, and never mixed.

The state is a sum of complementary subspaces. A hard gate says of each, at every token, whether it is
overwritten; with ``P`` the projector on those that are, ``h = (1 - P) h_before + P c``. What is kept is kept
to the bit, however long. Gate and content are of the token alone, so that all times are computed at once.

Sources: Hochreiter and Schmidhuber 1997 (gates), Bengio et al. 2013 (hard gates with the gradient of soft
ones), Feng et al. 2024 (cells as a prefix scan).
"""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.levels.room import hidden_units
from jaxnet.transformer import Block, Decoder, Linear, Spec, Stream
from jaxnet.types import Array, Float

SUBSPACE = 2
"""Units of a subspace of the state."""

RELUCTANCE = 2.0
"""From how much the gates begin to open: from 0 at the first subspace to this at the last."""


def hard_gate(score: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """1 for a score above 0, else 0, exactly; its gradient is that of the sigmoid."""
    soft = jax.nn.sigmoid(score)
    return (score > 0).astype(score.dtype) + (soft - jax.lax.stop_gradient(soft))


def latch(
    gate: Float[Array, "batch time subspace"], content: Float[Array, "batch time subspace unit"]
) -> Float[Array, "batch time subspace unit"]:
    """The state after every token: of every subspace the last content that was written, to the bit, or 0.

    Args:
      gate: ``(batch, time, subspace)``, 1 where the subspace is overwritten, else 0.
      content: ``(batch, time, subspace, unit)``, by what.
    """

    def then(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
        return before[0] * after[0], after[0] * before[1] + after[1]

    open_ = gate[..., None]
    return jax.lax.associative_scan(then, (1 - open_, open_ * content), axis=1)[1]


class CellBlock(Block):
    """A block with the cell in the place of its attention."""

    def mix(self, seen: Stream) -> Stream:
        """What the cell shows of its state, of the normalised stream's shape."""
        width, number = self.spec.width, self.spec.width // SUBSPACE
        reluctance = self.param("reluctance", lambda _: jnp.linspace(0, RELUCTANCE, number))
        gate = hard_gate(Linear(number, name="gate")(seen) - reluctance)
        content = Linear(width, name="content")(seen)
        state = latch(gate, content.reshape(*seen.shape[:2], number, SUBSPACE)).reshape(content.shape)
        shown = jax.nn.sigmoid(Linear(width, name="show")(seen)) * state
        return Linear(seen.shape[-1], kernel_init=self.last(), name="out")(shown)


class CellDecoder(Decoder):
    """A decoder whose blocks have the cell and attention in turn, the first one the cell."""

    @flax.linen.nowrap
    def block(self, number: int) -> Block:
        """A block with the cell, where the number is even, or with attention."""
        if number % 2:
            return super().block(number)
        return CellBlock(self.spec, hidden=cell_hidden(self.spec), name=f"block_{number}")


def cell_hidden(spec: Spec) -> int:
    """Units of the perceptron of a block with the cell: its parameters are a plain block's."""
    gates = spec.width // SUBSPACE
    others = 3 * spec.width**2 + gates * spec.width + gates + 2 * spec.width
    return hidden_units(spec, others, spec.width)
