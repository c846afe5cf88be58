"""How alike two representations are (CKA), and how early layers become what they are at the end."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.types import Array, Float, Scalar


def cka(a: Float[Array, "unit sample"], b: Float[Array, "other sample"]) -> Scalar:
    """Linear centred kernel alignment: 1 for equal up to rotation and scale; 0 where one never varies.

    Source: Kornblith et al. 2019.
    """
    a, b = (h - jnp.mean(h, 1, keepdims=True) for h in (a, b))
    grams = [jnp.matmul(h.T, h, precision=jax.lax.Precision.HIGHEST) for h in (a, b)]
    cross = jnp.sum(grams[0] * grams[1])
    norms = jnp.sqrt(jnp.sum(grams[0] ** 2)) * jnp.sqrt(jnp.sum(grams[1] ** 2))
    return jnp.where(norms > 0, cross / jnp.where(norms > 0, norms, 1), 0)


def lock_in(layers: Sequence[Float[Array, "time unit sample"]]) -> Float[Array, "time layer"]:
    """``(T, L)``, CKA of every hidden layer to its own last state, from its units at several times."""
    return jnp.stack([jax.vmap(lambda h: cka(h, layer[-1]))(layer) for layer in layers], 1)  # noqa: B023
