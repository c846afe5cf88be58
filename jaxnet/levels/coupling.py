"""A residual that is square-zero, made nonlinear: additive coupling, inverted exactly.

The stream is two halves. ``d(x1, x2) = (F(x2), 0)`` has ``d(d(x)) = 0`` with ``F(0) = 0``, and ``x + d(x)``
is undone by ``x - d(x)`` whatever ``F`` is. A block is two such steps, one each way: ``y1 = x1 + F(x2)`` by
attention, ``y2 = x2 + G(y1)`` by a perceptron. So the activations need not be stored for the gradient: they
are computed back from the output, for a third more products.

Sources: Dinh et al. 2014 (additive coupling), Gomez et al. 2017 (RevNet), Kitaev et al. 2020 (two streams).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.levels.room import hidden_units
from jaxnet.transformer import Block, Decoder, Stream
from jaxnet.types import PyTree

ATTENTION, PERCEPTRON = "attention", "perceptron"


class CoupledBlock(Block):
    """Attention from the second half to the first, a perceptron from the first to the second."""

    @flax.linen.compact
    def __call__(self, x: Stream, part: str | None = None) -> Stream:
        """``(batch, time, unit)``, as what comes in; or what a part adds to a half, of a half's shape."""
        first, second = (x, x) if part else jnp.split(x, 2, -1)
        if part != PERCEPTRON:
            added = self.mix(flax.linen.RMSNorm(name="norm_attention")(second))
            if part:
                return added
            first = first + added
        added = self.perceptron(flax.linen.RMSNorm(name="norm_mlp")(first))
        return added if part else jnp.concatenate([first, second + added], -1)


class CoupledDecoder(Decoder):
    """A decoder of coupled blocks; of the plain one's parameters.

    Attributes:
      copies: each half is a copy of the stream, of its width, and their sum is read in the end (as in the
        Reformer); else they are halves of it, and blocks have wider perceptrons instead.
      stored: the activations are stored for the gradient; else they are computed back.
    """

    copies: bool = False
    stored: bool = False

    @flax.linen.nowrap
    def block(self, number: int) -> CoupledBlock:
        """A block of the stream or of twice of it."""
        spec, half = self.spec, self.spec.width // 2
        hidden = None if self.copies else hidden_units(spec, 4 * spec.width * half + 2 * half, half)
        return CoupledBlock(spec, spec.windows[number], hidden, name=f"block_{number}")

    def blocks(self, x: Stream) -> Stream:
        """The stream behind the last block.

        Where submodules are watched the activations are stored all the same: they are asked for.
        """
        x = jnp.concatenate([x, x], -1) if self.copies else x
        blocks = [self.block(number) for number in range(self.spec.layers)]
        if self.stored or self.is_initializing() or self.is_mutable_collection("intermediates"):
            for block in blocks:
                x = block(x)
        else:
            held = [dict(block.variables) for block in blocks]
            params = [variables.pop("params") for variables in held]
            x = coupled(tuple(block.clone(parent=None, name=None) for block in blocks), params, held, x)
        return x[..., : x.shape[-1] // 2] + x[..., x.shape[-1] // 2 :] if self.copies else x


def inverted(block: CoupledBlock, variables: Any, y: Stream) -> Stream:
    """What came into a block, from what came out of it: ``(batch, time, unit)`` both."""
    first, second = jnp.split(y, 2, -1)
    second = second - _applied(block, variables, first, PERCEPTRON)
    return jnp.concatenate([first - _applied(block, variables, second, ATTENTION), second], -1)


def _applied(block: CoupledBlock, variables: Any, x: Stream, part: str | None = None) -> Stream:
    made: Any = block.apply(variables, x, part)
    return made


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def coupled(blocks: tuple[CoupledBlock, ...], params: list[Any], others: list[Any], x: Stream) -> Stream:
    """The stream behind all blocks; for the gradient nothing is stored but its value.

    Args:
      blocks: unbound, the first one first (static).
      params: of each.
      others: of each, its further collections (which weights exist).
      x: ``(batch, time, unit)``.
    """
    for block, own, more in zip(blocks, params, others, strict=True):
        x = _applied(block, {"params": own, **more}, x)
    return x


def _forward(
    blocks: tuple[CoupledBlock, ...], params: list[Any], others: list[Any], x: Stream
) -> tuple[Stream, PyTree]:
    y = coupled(blocks, params, others, x)
    return y, (params, others, y)


def _backward(blocks: tuple[CoupledBlock, ...], held: PyTree, slope: Stream) -> tuple[Any, None, Stream]:
    params, others, y = held
    (first, second), (slope_first, slope_second) = jnp.split(y, 2, -1), jnp.split(slope, 2, -1)
    slopes = []
    for block, own, more in reversed(list(zip(blocks, params, others, strict=True))):

        def part(name: str, own: Any, half: Stream, block: CoupledBlock = block, more: Any = more) -> Stream:
            return _applied(block, {"params": own, **more}, half, name)

        added, pull = jax.vjp(functools.partial(part, PERCEPTRON), own, first)
        second = second - added
        of_perceptron, more_first = pull(slope_second)
        slope_first = slope_first + more_first
        added, pull = jax.vjp(functools.partial(part, ATTENTION), own, second)
        first = first - added
        of_attention, more_second = pull(slope_first)
        slope_second = slope_second + more_second
        slopes.append(jax.tree.map(jnp.add, of_perceptron, of_attention))
    return slopes[::-1], None, jnp.concatenate([slope_first, slope_second], -1)


coupled.defvjp(_forward, _backward)
