"""Causal attention: to the whole past, to a local window in time linear in the length, to the top k.

All of it is ``jax.nn.dot_product_attention``; what differs is which keys it is shown. No output depends
on a later token: its weight is exactly zero, not small.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.transformer.spec import TopK, Window
from jaxnet.types import Array, Bool, Float

Heads = Float[Array, "batch time head feature"]
"""Queries, keys or values of all heads."""


def attend(query: Heads, key: Heads, value: Heads, window: Window = None) -> Heads:
    """What every token reads of the past.

    Args:
      query: ``(batch, time, head, feature)``.
      key: likewise.
      value: likewise.
      window: tokens that a token may attend to, itself included; see :data:`jaxnet.transformer.Window`.

    Returns:
      ``(batch, time, head, feature)``.
    """
    if isinstance(window, TopK):
        mask = top_k_mask(query, key, window.k)
        return jax.nn.dot_product_attention(query, key, value, mask=mask)
    if window is None or window >= query.shape[1]:
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return local(query, key, value, window)


def local(query: Heads, key: Heads, value: Heads, window: int) -> Heads:
    """Attention to the last ``window`` tokens, in blocks of as many: each sees itself and the one before.

    Costs ``time * 2 window`` scores where a mask over all pairs costs ``time**2``.
    """
    time = query.shape[1]
    blocks = -(-time // window)
    padding = ((0, 0), (0, blocks * window - time), (0, 0), (0, 0))

    def in_blocks(values: Heads) -> Float[Array, "batch block place head feature"]:
        return jnp.pad(values, padding).reshape(values.shape[0], blocks, window, *values.shape[2:])

    def with_before(values: Heads) -> Float[Array, "batch block twice_place head feature"]:
        here = in_blocks(values)
        before = jnp.pad(here[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([before, here], axis=2)

    place, seen = jnp.arange(window)[:, None], jnp.arange(2 * window) - window
    band = (seen <= place) & (seen > place - window)  # (place, twice_place)
    there = (jnp.arange(blocks)[:, None, None] > 0) | (seen >= 0)  # nothing is before the first block
    mask = (band & there)[:, None, None]  # (block, 1, 1, place, twice_place)

    def one(query: Heads, key: Heads, value: Heads, mask: Bool[Array, "..."]) -> Heads:
        return jax.nn.dot_product_attention(query, key, value, mask=mask)

    found = jax.vmap(one, (1, 1, 1, 0), 1)(in_blocks(query), with_before(key), with_before(value), mask)
    return found.reshape(query.shape[0], blocks * window, *query.shape[2:])[:, :time]


def top_k_mask(query: Heads, key: Heads, k: int) -> Bool[Array, "batch head time time"]:
    """Which keys of the past every query attends to: ``k``, or all where there are fewer.

    Of equal scores the earlier key's counts first. The choice has no gradient.
    """
    scores = jax.lax.stop_gradient(jnp.einsum("bthf,bshf->bhts", query, key))
    time = query.shape[1]
    past = jnp.arange(time)[:, None] >= jnp.arange(time)
    scores = jnp.where(past, scores, -jnp.inf)
    least = jax.lax.top_k(scores, min(k, time))[0][..., -1:]  # the k-th score; -inf where the past is shorter
    more, equal = scores > least, scores == least
    room = k - jnp.sum(more, -1, keepdims=True, dtype=jnp.int32)
    first = jnp.cumsum(equal, -1, dtype=jnp.int32) <= room
    return (more | (equal & first)) & past


def rotate(values: Heads, base: float = 10_000.0) -> Heads:
    """Turns the pairs of a head's units by angles that grow with the position (rotary positions).

    Units ``i`` and ``i + feature / 2`` are a pair, turned by ``position * base**(-2 i / feature)``: the
    positions enter a score of turned queries and keys by their distance alone.

    Source: Su et al. 2021 (RoFormer).
    """
    time, half = values.shape[1], values.shape[-1] // 2
    speed = base ** (-jnp.arange(half, dtype=values.dtype) / half)
    angle = jnp.arange(time, dtype=values.dtype)[:, None, None] * speed  # (time, 1, half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = values[..., :half], values[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
