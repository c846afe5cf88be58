"""JAX's random numbers on a CPU, in a form that compiles in a third of the time.

JAX lowers Threefry on CPUs to a loop of five steps, which XLA makes about ten
functions of, each of them compiled on its own. Written out, the same operations on the same
integers are one function that is fused with what reads the numbers. The numbers
are the same to the last bit; other devices are left as they are.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, Threefry-2x32 with 20 rounds.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

from jaxnet.types import Array

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
"""Bits by which four rounds turn the second word, in turns."""

_PARITY = 0x1BD11BDA
"""What the words of the key are mixed with to give a third one."""


def threefry(key_high: Array, key_low: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypts counters: two words of 32 bits by a key of two words, uint32 throughout.

    Args:
      key_high: first word of the key.
      key_low: its second word.
      high: first word of every counter, of a shape that broadcasts with the key's.
      low: its second word.

    Returns:
      Two words for every counter.
    """
    words = key_high, key_low, key_high ^ key_low ^ jnp.uint32(_PARITY)
    high, low = high + words[0], low + words[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            high = high + low
            low = (low << jnp.uint32(bits) | low >> jnp.uint32(32 - bits)) ^ high
        high = high + words[(group + 1) % 3]
        low = low + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return high, low


def compile_flat() -> None:
    """Has JAX compile Threefry in this form wherever it draws on a CPU, in this process."""
    mlir.register_lowering(threefry2x32_p, mlir.lower_fun(threefry, multiple_results=True), platform="cpu")
