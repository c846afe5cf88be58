"""Token sequences as data: each place is asked for the token after it."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.losses import TokenLabels
from jaxnet.types import Array, Float, Int


class Sequences(flax.struct.PyTreeNode):
    """Sequences of one length (``jaxnet.data.batches.Data``).

    Attributes:
      x: ``(sample, time)`` int32 tokens.
      y: ``(sample, time)`` int32, what is to be said at every place.
      weight: ``(sample, time)``, how much each place counts within its sample.
    """

    x: Int[Array, "sample time"]
    y: Int[Array, "sample time"]
    weight: Float[Array, "sample time"]

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.x.shape[0]

    @property
    def labels(self) -> TokenLabels:
        """``y`` and ``weight`` of all samples, as a loss takes them."""
        return TokenLabels(self.y, self.weight)

    def batch(self, index: Int[Array, "batch"]) -> tuple[Int[Array, "batch time"], TokenLabels]:
        """Tokens ``(batch, time)``, and what is to be said after each of them."""
        return self.x[index], TokenLabels(self.y[index], self.weight[index])


class Windows(flax.struct.PyTreeNode):
    """A text in pieces that follow each other, as sequences; every place counts.

    Attributes:
      tokens: ``(token,)`` of any integer type; what is left over at the end is no sample.
      length: static, tokens of a sample.
    """

    tokens: Int[Array, "token"]
    length: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, tokens: Any, length: int, *, batch_size: int = 1) -> Windows:
        """The text on the device.

        Args:
          tokens: ``(token,)`` integers.
          length: tokens of a sample.
          batch_size: samples that there must be at least: those of one step.

        Raises:
          ValueError: the text is shorter than one batch.
        """
        needed = batch_size * length + 1  # one more than is read: the last one is only said
        if length < 1 or batch_size < 1:
            raise ValueError(f"length and batch_size must be at least 1: {length}, {batch_size}")
        if len(tokens) < needed:
            raise ValueError(
                f"the text is shorter than one batch: {len(tokens)} tokens, and {batch_size} x {length} need "
                f"{needed}"
            )
        return cls(jnp.asarray(tokens), length)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return (self.tokens.shape[0] - 1) // self.length

    def batch(self, index: Int[Array, "batch"]) -> tuple[Int[Array, "batch time"], Int[Array, "batch time"]]:
        """Tokens ``(batch, time)``, and the ones after them."""
        place = index[:, None] * self.length + jnp.arange(self.length + 1)
        found = self.tokens[place].astype(jnp.int32)
        return found[:, :-1], found[:, 1:]


class Mixed(flax.struct.PyTreeNode):
    """A text, and behind it sequences of the same length whose tokens follow its own.

    Attributes:
      text: its samples come first.
      others: their token ``t`` is ``vocab + t`` here.
      vocab: static, number of tokens of the text.
    """

    text: Windows
    others: Sequences
    vocab: int = flax.struct.field(pytree_node=False)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.text.size + self.others.size

    def batch(self, index: Int[Array, "batch"]) -> tuple[Int[Array, "batch time"], TokenLabels]:
        """Tokens ``(batch, time)``, and what is to be said after each; of a text every place counts."""
        of_text = (index < self.text.size)[:, None]
        x, y = self.text.batch(jnp.minimum(index, self.text.size - 1))
        other, said = self.others.batch(jnp.clip(index - self.text.size, 0, self.others.size - 1))
        labels = jnp.where(of_text, y, said.labels + self.vocab)
        return jnp.where(of_text, x, other + self.vocab), TokenLabels(
            labels, jnp.where(of_text, 1, said.weight)
        )


def padded(sequences: Sequences, length: int) -> Sequences:
    """Sequences made longer at their end, by places that do not count.

    Raises:
      ValueError: they are longer already.
    """
    more = length - sequences.x.shape[1]
    if more < 0:
        raise ValueError(f"sequences of {sequences.x.shape[1]} tokens do not fit into {length}")
    return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, more))), sequences)


def check_tokens(tokens: Any, vocab: int, what: str = "tokens") -> None:
    """Raises ValueError unless all are integers ``0 .. vocab - 1`` (traced ones pass)."""
    if isinstance(tokens, jax.core.Tracer):
        return
    found = np.asarray(tokens)
    if found.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers: {found.dtype}")
    if found.size and not (0 <= found.min() and found.max() < vocab):
        raise ValueError(f"{what} must be 0 to {vocab - 1}: they are {found.min()} to {found.max()}")
