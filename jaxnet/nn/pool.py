"""Max-pooling by shifted slices.

``flax.linen.max_pool`` is a ``reduce_window``, whose gradient (``select_and_scatter``) and value are slow on
CPUs: in a small network they take nearly as long as the convolutions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.nn.convolution import Images, Padding, Pair, pair, resolve_padding
from jaxnet.types import Array, Int


def max_pool(
    x: Images,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    *,
    padding: Padding = "VALID",
) -> Images:
    """The largest value in each window of each channel.

    Values and gradients are those of ``flax.linen.max_pool``: of equal values in a window the first one,
    rows first, gets the gradient. A NaN makes the maximum NaN.

    Args:
      x: ``(batch, height, width, channels)``, floating-point.
      window: its size, one number or ``(height, width)``.
      strides: steps of the window; its size if None, so that windows do not overlap.
      padding: as :data:`jaxnet.nn.convolution.Padding`; what is added is never the largest.

    Returns:
      ``(batch, height', width', channels)``.

    Raises:
      ValueError: the images have another rank, the window does not fit into them, or a number is
        out of range.
    """
    if x.ndim != 4:
        raise ValueError(f"images must be (batch, height, width, channels): {x.shape}")
    size = pair(window, "window")
    steps = size if strides is None else pair(strides, "strides")
    pads = resolve_padding(padding, (x.shape[1], x.shape[2]), size, steps)
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    x = lax.pad(x, lowest, [(0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0)])
    if x.shape[1] < size[0] or x.shape[2] < size[1]:
        raise ValueError(f"a window of {size} does not fit into {x.shape[1:3]} pixels, padding included")
    return _compiled(size, steps, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _max_pool(size: Pair, strides: Pair, x: Array) -> Array:
    return _largest(size, strides, x)[0]


@_max_pool.defjvp
def _max_pool_jvp(
    size: Pair, strides: Pair, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """The tangent of the largest, in forms whose transposes are as cheap as they are."""
    (x,), (dx,) = primals, tangents
    largest, place = _largest(size, strides, x)
    zero = jnp.zeros((), dx.dtype)
    tiles = _slices(size, strides, dx) if size != strides else _tiles(size, largest.shape, dx)
    return largest, functools.reduce(jnp.add, [jnp.where(place == n, t, zero) for n, t in enumerate(tiles)])


_compiled = jax.jit(_max_pool, static_argnums=(0, 1))


def _largest(size: Pair, strides: Pair, x: Array) -> tuple[Array, Int[Array, "batch height width channels"]]:
    """The largest value in each window and which of the window's pixels has it."""
    first, *others = _slices(size, strides, x)
    largest = first
    place = jnp.zeros(first.shape, jnp.int8 if len(others) < 128 else jnp.int32)
    for number, part in enumerate(others, start=1):
        place = jnp.where(part > largest, jnp.asarray(number, place.dtype), place)
        largest = jnp.maximum(largest, part)
    return largest, place


def _tiles(size: Pair, shape: tuple[int, ...], x: Array) -> list[Array]:
    """As :func:`_slices`, of windows that do not overlap, whose transposes put rows beside each other."""
    batch, height, width, channels = shape
    x = x[:, : height * size[0], : width * size[1]]
    x = x.reshape(batch, height, size[0], width, size[1] * channels)
    rows = lax.split(x, (1,) * size[0], axis=2)
    each = (part for row in rows for part in lax.split(row, (channels,) * size[1], axis=4))
    return [part.reshape(shape) for part in each]


def _slices(size: Pair, strides: Pair, x: Array) -> list[Array]:
    """For each pixel of the window, rows first, its values in all windows."""
    rows, columns = ((n - k) // s * s + 1 for n, k, s in zip(x.shape[1:3], size, strides, strict=True))
    return [
        lax.slice(x, (0, i, j, 0), (x.shape[0], i + rows, j + columns, x.shape[3]), (1, *strides, 1))
        for i, j in itertools.product(range(size[0]), range(size[1]))
    ]
