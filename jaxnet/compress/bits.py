"""Quantisation: values on few levels, what it costs group by group, and bits where they matter most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.types import Array, Float, Key, PyTree, Scalar

BITS = (1, 2, 3, 4, 6, 8)
"""Bits per weight to choose from."""


def quantise(values: Float[Array, "*shape"], bits: int | Array) -> Float[Array, "*shape"]:
    """Values rounded to ``2^bits - 1`` evenly spaced levels about zero; one bit: their sign times their mean
    magnitude. Zeros stay zeros.

    >>> quantise(jnp.asarray([-1.0, -0.2, 0.0, 0.4, 0.9]), 3).round(3).tolist()
    [-1.0, -0.333..., 0.0, 0.333..., 1.0]

    Args:
      values: any.
      bits: at least 1; may be traced.

    Raises:
      InputError: less than 1 bit.
    """
    if not isinstance(bits, jax.core.Tracer) and np.any(np.asarray(bits) < 1):
        raise InputError(f"a weight needs at least 1 bit: {bits}")
    there = (values != 0).astype(values.dtype)
    mean = jnp.sum(jnp.abs(values)) / jnp.maximum(jnp.sum(there), 1)
    largest = jnp.max(jnp.abs(values), initial=0)
    number = jnp.exp2(jnp.maximum(jnp.asarray(bits, values.dtype), 2) - 1) - 1  # levels on each side of zero
    step = jnp.where(largest > 0, largest, 1) / number
    return jnp.where(jnp.asarray(bits) == 1, jnp.sign(values) * mean, jnp.round(values / step) * step)


def with_bits(params: PyTree, paths: Sequence[str], bits: Sequence[int] | Array) -> PyTree:
    """Parameters with the arrays at ``paths`` quantised, each to its own bits."""
    wanted = {path: bits[number] for number, path in enumerate(paths)}

    def one(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        return quantise(leaf, wanted[name]) if name in wanted else leaf

    return jax.tree.map_with_path(one, params)


def sensitivity(
    loss: Callable[[PyTree], Scalar], params: PyTree, paths: Sequence[str], bits: Sequence[int] = BITS
) -> Float[Array, "group bits"]:
    """``(G, Bits)``, by how much the loss rises when one array alone is quantised."""
    whole, place = loss(params), {path: number for number, path in enumerate(paths)}
    choices = jnp.asarray(bits, jnp.int32)

    def one(number: Array) -> Array:
        group, choice = number // len(bits), choices[number % len(bits)]

        def rounded(path: Any, leaf: Array) -> Array:
            mine = place.get(jax.tree_util.keystr(path))
            return leaf if mine is None else jnp.where(mine == group, quantise(leaf, choice), leaf)

        return loss(jax.tree.map_with_path(rounded, params)) - whole

    return jax.lax.map(one, jnp.arange(len(paths) * len(bits))).reshape(len(paths), len(bits))


def hessian_sensitivity(
    loss: Callable[[PyTree], Scalar],
    params: PyTree,
    paths: Sequence[str],
    bits: Sequence[int] = BITS,
    *,
    key: Key,
    draws: int = 8,
) -> Float[Array, "group bits"]:
    """``(G, Bits)``, the mean curvature of an array times the square of its quantisation error, halved.

    The trace by Hutchinson's random signs (Dong et al. 2020, HAWQ-V2): the rival of :func:`sensitivity`. The
    loss is differentiated twice, which the csr kernel does not allow: give a model with the dense one.
    """
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    gradient = jax.grad(loss)

    def one(key: Key) -> Array:
        keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))
        signs = jax.tree.map(lambda p: jax.random.rademacher(next(keys), p.shape, p.dtype), params)
        bent = jax.jvp(gradient, (params,), (signs,))[1]
        found = {
            jax.tree_util.keystr(p): jnp.sum(a * b)
            for (p, a), b in zip(jax.tree.leaves_with_path(bent), jax.tree.leaves(signs), strict=True)
        }
        return jnp.stack([found[path] for path in paths])

    traces = jnp.mean(jax.lax.map(one, jax.random.split(key, draws)), 0)
    rows = []
    for number, path in enumerate(paths):
        leaf = leaves[path]
        count = jnp.maximum(jnp.sum(leaf != 0, dtype=leaf.dtype), 1)
        errors = jnp.stack([jnp.sum((quantise(leaf, b) - leaf) ** 2) for b in bits])
        rows.append(jnp.maximum(traces[number], 0) / count * errors / 2)
    return jnp.stack(rows)


def allocate_bits(
    sens: np.ndarray | Array,
    size: Sequence[int] | np.ndarray,
    budget: float,
    bits: Sequence[int] = BITS,
) -> np.ndarray:
    """``(G,)``, bits of every group with the smallest sum of losses whose mean over weights is in the budget.

    Exact: of all partial choices those stay that no other beats in both cost and loss; on the host.

    >>> allocate_bits(np.array([[9.0, 1.0], [2.0, 1.5]]), [10, 10], 3, (2, 4)).tolist()
    [4, 2]

    Args:
      sens: ``(G, Bits)``, loss of each group at each choice.
      size: ``(G,)``, weights.
      budget: most bits per weight, on average.
      bits: the choices, ascending.

    Raises:
      InputError: less than 1 bit each, a budget below the smallest choice, or losses that are not finite.
    """
    losses, sizes = np.asarray(sens, float), np.asarray(size, int)
    if losses.shape != (len(sizes), len(bits)) or not np.isfinite(losses).all():
        raise InputError(f"losses must be finite, (group, choice): {losses.shape} for {len(sizes)} groups")
    if min(bits) < 1 or not budget >= 1:
        raise InputError(f"a weight needs at least 1 bit: choices {list(bits)}, budget {budget}")
    if budget < min(bits):
        raise InputError(f"a budget of {budget:g} bits is below the smallest choice, {min(bits)}")
    room = math.floor(budget * int(sizes.sum()) + 1e-9)
    front: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    left = int(sizes.sum())
    for row, count in zip(losses, sizes, strict=True):
        left -= int(count)
        more = [
            (cost + int(count) * b, total + float(loss), (*chosen, b))
            for cost, total, chosen in front
            for b, loss in zip(bits, row, strict=True)
            if cost + int(count) * b + left * min(bits) <= room
        ]
        front, best = [], math.inf
        for cost, total, chosen in sorted(more):
            if total < best:
                front.append((cost, total, chosen))
                best = total
    return np.array(min(front, key=lambda f: f[1])[2], int)
