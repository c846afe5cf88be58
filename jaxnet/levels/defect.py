"""Defect: what a block's attention writes, the attention of the next shall not carry on."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnet import homology
from jaxnet.levels.arm import Arm, ramp
from jaxnet.linalg import times
from jaxnet.train import Penalty
from jaxnet.transformer import Spec
from jaxnet.types import Array, Float, Scalar

Maps = tuple[Float[Array, "width width"], ...]


def maps(params: Any) -> Maps:
    """Of every block, what its heads together write for what they read: ``(width, width)``, out of in.

    They chain from block to block. The stream itself passes by unchanged: were it among the maps, a complex
    would carry nothing at all.
    """
    blocks = sorted(
        (name for name in params if name.startswith("block_")), key=lambda n: int(n.split("_")[1])
    )
    chain = (times(params[b]["value"]["kernel"], params[b]["out"]["kernel"]).T for b in blocks)
    return tuple(chain)


def normed(d: Maps) -> Maps:
    """Each map with the Frobenius norm 1, so that nothing is gained by making it small."""
    return tuple(m / jnp.sqrt(jnp.sum(m**2) + 1e-12) for m in d)


def penalty(spec: Spec) -> Penalty:
    """Sum of the squared relative defects of neighbouring blocks; 0 where there is one block alone."""

    def defect(params: Any, carried: Any) -> Scalar:
        d = normed(maps(params))
        return ramp(carried) * homology.penalty(d) if len(d) > 1 else jnp.zeros(())

    return defect


ARM = Arm(
    "attention does not carry on what the attention before it wrote: d d = 0 (a loss with a schedule)",
    penalty=penalty,
    dials=(0.1, 1.0),
)
