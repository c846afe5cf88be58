"""An associative memory whose writes leave what is stored as it was, up to its capacity.

A key is stored by its direction across all stored keys, with the amount by which its value differs from what
the memory already says of it. Stored keys have no part along that direction, so that what they recall stays.
A key without a part of its own, or beyond the capacity, is not stored. The capacity is at most the number of
independent keys: their length. What is recalled is linear in the key: float32 rounds it in proportion to the
key's length.

Source: the least-squares associative memory (Kohonen and Ruohonen 1973), one pair at a time by Gram and
Schmidt.
"""

from __future__ import annotations

import flax.linen
import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.levels.cell import hard_gate
from jaxnet.levels.room import hidden_units
from jaxnet.linalg import times
from jaxnet.transformer import Block, Decoder, Linear, Spec, Stream
from jaxnet.types import Array, Bool, Float, Int, Scalar

LEAST = 0.3
"""Part of a key's length that must lie across all stored ones, for it to be stored."""


class AssociativeMemory(flax.struct.PyTreeNode):
    """What is stored.

    Attributes:
      directions: ``(capacity, key)``, orthonormal as far as used, then zero.
      amounts: ``(capacity, value)``, what is recalled along each.
      used: how many are.
    """

    directions: Float[Array, "capacity key"]
    amounts: Float[Array, "capacity value"]
    used: Int[Array, ""]


def empty_memory(capacity: int, key: int, value: int) -> AssociativeMemory:
    """A memory of so many pairs of keys and values of these lengths.

    Raises:
      ValueError: the capacity is below 1 or above the length of a key.
    """
    if not 1 <= capacity <= key:
        raise ValueError(f"the capacity must be 1 to {key}, the length of a key: {capacity}")
    return AssociativeMemory(
        jnp.zeros((capacity, key)), jnp.zeros((capacity, value)), jnp.zeros((), jnp.int32)
    )


def recall(memory: AssociativeMemory, key: Float[Array, "key"]) -> Float[Array, "value"]:
    """The value of a key; of one that is not stored, that of its part that is."""
    return times(key, memory.directions.T, memory.amounts)


def write(
    memory: AssociativeMemory,
    key: Float[Array, "key"],
    value: Float[Array, "value"],
    gate: Scalar | float = 1.0,
    *,
    least: float = LEAST,
) -> tuple[AssociativeMemory, Bool[Array, ""]]:
    """Stores a pair, where there is room and the key is independent of the stored ones.

    Args:
      memory: what is stored.
      key: ``(key,)``.
      value: ``(value,)``.
      gate: 1 to store the pair, 0 to leave it.
      least: part of the key's length that must lie across the stored ones, in (0, 1).

    Returns:
      The memory, and whether the pair was stored.

    Raises:
      ValueError: ``least`` is not between 0 and 1.
    """
    if not 0 < least < 1:
        raise ValueError(f"least must be between 0 and 1: {least}")
    length = jnp.sqrt(jnp.sum(key**2) + 1e-12)
    across = key / length
    for _ in range(2):  # once is not enough for float32 where little is left
        across = across - times(across, memory.directions.T, memory.directions)
    left = jnp.sqrt(jnp.sum(across**2) + 1e-12)
    fits = (left > least) & (memory.used < memory.directions.shape[0])
    direction = across / jnp.where(fits, left, 1)
    amount = (value - recall(memory, key)) / jnp.where(fits, left * length, 1)
    stored = fits & (gate > 0.5)
    slot = jax.nn.one_hot(memory.used, memory.directions.shape[0], dtype=key.dtype)
    slot = jnp.where(fits, slot * gate, 0)
    directions = memory.directions + jnp.outer(slot, direction)
    amounts = memory.amounts + jnp.outer(slot, amount)
    return AssociativeMemory(directions, amounts, memory.used + stored.astype(jnp.int32)), stored


class MemoryBlock(Block):
    """A block with a memory per head in the place of its attention.

    Its capacity is half as many pairs as a head has units. A token recalls what earlier ones have stored,
    then may store a pair of its own.
    """

    def mix(self, seen: Stream) -> Stream:
        """What the memories say, of the normalised stream's shape."""
        spec, units = self.spec, self.spec.head_width
        query, key, value = (
            Linear(spec.width, name=name)(seen).reshape(*seen.shape[:2], spec.heads, units)
            for name in ("query", "key", "value")
        )
        gate = hard_gate(Linear(spec.heads, name="gate")(seen))
        query = query * jax.lax.rsqrt(jnp.sum(query**2, -1, keepdims=True) + 1e-6)
        key = key * jax.lax.rsqrt(jnp.sum(key**2, -1, keepdims=True) + 1e-6)

        def step(memory: AssociativeMemory, token: tuple[Array, ...]) -> tuple[AssociativeMemory, Array]:
            query, key, value, gate = token
            return write(memory, key, value, gate)[0], recall(memory, query)

        def over_time(*tokens: Array) -> Array:
            return jax.lax.scan(step, empty_memory(max(1, units // 2), units, units), tokens)[1]

        each_head = jax.vmap(over_time, 1, 1)
        said = jax.vmap(each_head)(query, key, value, gate)
        return Linear(seen.shape[-1], kernel_init=self.last(), name="out")(said.reshape(seen.shape))


class MemoryDecoder(Decoder):
    """A decoder whose blocks have attention and memories in turn, the last one memories."""

    @flax.linen.nowrap
    def block(self, number: int) -> Block:
        """A block with memories, or with attention."""
        if (self.spec.layers - 1 - number) % 2:
            return super().block(number)
        return MemoryBlock(self.spec, hidden=memory_hidden(self.spec), name=f"block_{number}")


def memory_hidden(spec: Spec) -> int:
    """Units of the perceptron of a block with memories: its parameters are a plain block's."""
    others = 4 * spec.width**2 + spec.heads * spec.width + 2 * spec.width
    return hidden_units(spec, others, spec.width)
