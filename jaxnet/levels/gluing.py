"""Gluing: windows of a text that overlap shall say one thing of the tokens that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import homology
from jaxnet.levels.arm import Arm, ramp
from jaxnet.train import Activity
from jaxnet.transformer import Decoder, Spec
from jaxnet.types import Array, Float, Int, Scalar

GLUED = 4
"""Samples of a batch that are cut into windows: all of them would make a step three times as dear."""


def cover(length: int) -> tuple[int, int, int]:
    """Number, width and stride of the windows of a text: a quarter wide, each token in two at most.

    >>> cover(64)
    (7, 16, 8)
    """
    width = max(2, length // 4)
    stride = (width + 1) // 2
    return (length - width) // stride + 1, width, stride


def sections(
    module: flax.linen.Module, params: Any, x: Int[Array, "batch time"]
) -> Float[Array, "batch window width vocab"]:
    """What every window, seen alone, says of the token after each of its own.

    Roots of probabilities: a squared distance is twice that of Hellinger, in [0, 2].
    """
    number, width, stride = cover(x.shape[1])
    place = np.arange(number)[:, None] * stride + np.arange(width)
    logits: Any = module.apply({"params": params}, x[:, place].reshape(-1, width))
    found = jnp.exp(jax.nn.log_softmax(logits) / 2)
    return found.reshape(x.shape[0], number, width, -1)


def disagreement(
    module: flax.linen.Module, params: Any, x: Int[Array, "batch time"]
) -> Float[Array, "batch"]:
    """Mean total variation distance, in [0, 1], between two windows on the tokens that they share."""
    _, width, stride = cover(x.shape[1])
    p = sections(module, params, x) ** 2
    before, after = p[:, :-1, stride:], p[:, 1:, : width - stride]
    return jnp.mean(jnp.sum(jnp.abs(before - after), -1) / 2, (1, 2))


def activity_of(module: Callable[[Spec], flax.linen.Module] = Decoder) -> Callable[[Spec], Activity]:
    """The loss, for the decoders that ``module`` makes; weights are dense or masked.

    :func:`jaxnet.homology.gluing` of the first :data:`GLUED` samples, summed over the vocabulary, times the
    strength and its schedule. A window knows less at its beginning than the one before it: to agree, the
    earlier one has to forget, or the later one to guess.
    """

    def of(spec: Spec) -> Activity:
        def glue(seen: Any, params: Any, x: Array, weight: Array, carried: Any) -> Scalar:
            said, weight = sections(module(spec), params, x[:GLUED]), weight[:GLUED]
            loss = homology.gluing(said, cover(x.shape[1])[2]).loss * spec.vocab
            return ramp(carried) * jnp.sum(loss * weight) / jnp.maximum(jnp.sum(weight), 1)

        return glue

    return of


ARM = Arm(
    "overlapping windows agree on the tokens that they share (a loss with a schedule)",
    activity=activity_of(),
    dials=(0.1, 1.0),
)
