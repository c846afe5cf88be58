"""Perceptrons of experts: a router sends every token to the top few of them, a loss keeps their load even.

An expert takes so many tokens of a sequence, the first ones that want it; to later ones it adds nothing. So
whether a token is served depends on earlier ones alone.

Sources: Shazeer et al. 2017 (top-k experts), Fedus et al. 2022 (balance: experts times the sum of share of
tokens times mean probability).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS
from jaxnet.levels.room import hidden_units
from jaxnet.transformer import MLP_FACTOR, Block, Decoder, Linear, Spec, Stream
from jaxnet.transformer.network import ACTIVATION
from jaxnet.types import Array, Float, Int, PyTree, Scalar

EXPERTS, CHOSEN = 4, 2
"""Experts of a block, and to how many of them a token is sent."""

ROOM = 1.5
"""Tokens that an expert takes, relative to an even share."""

BALANCE = 0.1
"""Weight of the loss of balance; with the 0.01 of the source small decoders left an expert without tokens."""


class Experts(flax.linen.Module):
    """A linear layer per expert, without biases.

    Attributes:
      features: units that each gives.
      kernel_init: of ``(expert, in, out)``.
    """

    features: int
    kernel_init: Any

    @flax.linen.compact
    def __call__(self, x: Float[Array, "batch expert slot in"]) -> Float[Array, "batch expert slot out"]:
        """``(batch, expert, slot, in) -> (batch, expert, slot, out)``."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[1], x.shape[-1], self.features))
        return jnp.einsum("besi,eio->beso", x, kernel, precision=jax.lax.Precision.HIGHEST)


def chosen(scores: Float[Array, "*n expert"]) -> tuple[Float[Array, "*n k"], Int[Array, "*n k"]]:
    """Shares (they sum to 1) and numbers of the experts of every token."""
    best, number = jax.lax.top_k(scores, CHOSEN)
    return jax.nn.softmax(best, -1), number


class RoutedBlock(Block):
    """A block with experts in the place of its perceptron; ``hidden`` is that of all of them together."""

    def perceptron(self, seen: Stream) -> Stream:
        """What the experts of a token make of it, from the normalised stream, of its shape."""
        time, room = seen.shape[1], math.ceil(ROOM * CHOSEN * self.spec.length / EXPERTS)
        share, number = chosen(Linear(EXPERTS, name="router")(seen))
        picks = jax.nn.one_hot(number, EXPERTS, dtype=seen.dtype)  # (batch, time, k, expert)
        shares = jnp.einsum("btk,btke->bet", share, picks)
        wanted = jnp.any(picks > 0, 2).swapaxes(1, 2)  # (batch, expert, time)
        first = jnp.where(wanted, time - jnp.arange(time, dtype=jnp.int32), 0)
        order, place = jax.lax.top_k(first, min(room, time))  # (batch, expert, slot), earliest first
        share = jnp.where(order > 0, jnp.take_along_axis(shares, place, 2), 0)
        rows = jnp.arange(seen.shape[0], dtype=place.dtype)[:, None, None]
        initial = [
            flax.linen.initializers.variance_scaling(scale, "fan_in", "normal", batch_axis=(0,))
            for scale in (1.0, 1 / (2 * self.spec.layers))
        ]
        units = (MLP_FACTOR * self.spec.width if self.hidden is None else self.hidden) // EXPERTS
        hidden = ACTIVATIONS[ACTIVATION](Experts(units, initial[0], name="up")(seen[rows, place]))
        made = Experts(seen.shape[-1], initial[1], name="down")(hidden) * share[..., None]
        return jnp.zeros_like(seen).at[rows, place].add(made)


class RoutedDecoder(Decoder):
    """A decoder with experts; of the plain one's parameters."""

    @flax.linen.nowrap
    def block(self, number: int) -> RoutedBlock:
        """A block with experts."""
        spec, width = self.spec, self.spec.width
        others = 4 * width**2 + 2 * width + EXPERTS * width
        hidden = hidden_units(spec, others, width, multiple=EXPERTS)
        return RoutedBlock(spec, spec.windows[number], hidden, name=f"block_{number}")


def routers(spec: Spec) -> tuple[str, ...]:
    """Paths of the routers, whose scores the balance is of."""
    return tuple(f"block_{number}/router" for number in range(spec.layers))


def expert_load(
    scores: Float[Array, "expert batch time"], weight: Float[Array, "batch"]
) -> Float[Array, "expert"]:
    """The share of the tokens' choices that every expert has; they sum to 1."""
    picks = jnp.sum(jax.nn.one_hot(chosen(jnp.moveaxis(scores, 0, -1))[1], scores.shape[0]), 2)
    return jnp.einsum("bte,b->e", picks, weight) / (CHOSEN * scores.shape[2] * jnp.sum(weight))


def extreme_loads(seen: Any) -> dict[str, Scalar]:
    """The loads of the fullest and the emptiest expert of any layer, over an even one."""
    each = jnp.stack([expert_load(scores, jnp.ones(scores.shape[1])) for scores in seen.pre]) * EXPERTS
    return {"load of the fullest expert": jnp.max(each), "load of the emptiest expert": jnp.min(each)}


def balance(spec: Spec) -> Any:
    """The loss of balance as :class:`jaxnet.train.Task` takes it (``activity``), of the routers' scores."""

    def activity(seen: Any, params: Any, x: Array, weight: Float[Array, "batch"], carried: PyTree) -> Scalar:
        del params, x, carried
        losses = []
        for scores in seen.pre:
            mean = jnp.einsum("ebt,b->e", jax.nn.softmax(scores, 0), weight)
            mean = mean / (scores.shape[2] * jnp.sum(weight))
            losses.append(EXPERTS * jnp.sum(expert_load(scores, weight) * mean))
        return BALANCE * jnp.mean(jnp.stack(losses))

    del spec
    return activity
