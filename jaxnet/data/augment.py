"""Random crops, flips and small affine maps of images, drawn inside the compiled program.

An :class:`Augmentation` is a transform of batches (``transform`` of :class:`jaxnet.train.Task`): flat
images go in, flat images come out, and all it draws comes from the key it is given. Where that key is the
same for all networks, a batch is augmented once for all of them; with a key per network every network
sees crops and flips of its own (``make_epoch``). Either way a network alone sees what it sees among
others.

The cost matters beside a sparse step: on a CPU, crops and flips are copies of pieces of rows by a compiled
function. Elsewhere a crop is one contiguous copy per image: moved by rows and columns, a flat image lies in
one piece in the batch, and only what it takes from its neighbours is filled afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.arrays import channel_statistics
from jaxnet.data.dataset import Dataset
from jaxnet.errors import InputError
from jaxnet.kernels import csr_library
from jaxnet.types import Array, Bool, Float, Int, Key

MOVE, AFFINE = range(2)
"""What the key of a batch is folded with."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """Ranges of affine maps around the centre of an image; all are drawn uniformly and independently.

    Attributes:
      degrees: of the rotation, to either side.
      scale: of the enlargement, to either side, a fraction.
      shear: of the columns along the rows, to either side, a fraction.
      most: maps drawn per batch, whose neighbours share them (as many as divide the batch): fewer
        are cheaper for images of several channels.
    """

    degrees: float = 10.0
    scale: float = 0.1
    shear: float = 0.1
    most: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.most < 1:
            raise ValueError(f"at least one map must be drawn per batch: {self.most}")
        if not (0 <= self.degrees <= 180 and 0 <= self.scale < 1 and 0 <= self.shear < 1):
            raise ValueError(
                f"rotations are up to 180 degrees, scale and shear 0 or more and below 1: {self}"
            )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random change of every image of a batch (static): ``augmentation(x, y, key=key) -> (x, y)``.

    Attributes:
      shape: ``(height, width, channels)`` of an image.
      padding: a crop moves an image by up to so many rows and columns to either side.
      flip: mirror left and right, one image in two.
      affine: ranges of an affine map with bilinear interpolation, or None.
      fill: per channel, what lies outside of an image (normalised, like the images).
    """

    shape: tuple[int, int, int]
    padding: int = 0
    flip: bool = False
    affine: Affine | None = None
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"an image has a height, a width and channels: {self.shape}")
        if not 0 <= self.padding < min(self.shape[:2]):
            raise ValueError(f"padding must be 0 or more and below height and width: {self.padding}")
        if len(self.fill) not in (1, self.shape[2]) or not np.all(np.isfinite(self.fill)):
            raise ValueError(f"fill must be one finite number, or one per channel: {self.fill}")

    def __call__(self, x: Float[Array, "batch ..."], y: Any, *, key: Key) -> tuple[Array, Any]:
        """Images ``(batch, feature)`` or ``(batch, height, width, channel)``, changed; labels as they are."""
        given, x = x.shape, x.reshape(x.shape[0], math.prod(self.shape))
        if self.affine is not None:
            number = math.gcd(x.shape[0], self.affine.most)
            maps = draw_affine(self.affine, number, key=jax.random.fold_in(key, AFFINE))
            x = apply_affine(x, maps, self.shape, self.fill)
        if self.padding or self.flip:
            # one draw for both: a flip leaves the crops as they were
            bits = jax.random.bits(jax.random.fold_in(key, MOVE), (x.shape[0], 2), jnp.uint32)
            window = 2 * self.padding + 1
            shift = ((bits >> 1) % window).astype(jnp.int32) - self.padding
            flipped = (bits[:, 0] & 1 == 1) & self.flip
            x = move(x, shift, flipped, self.shape, self.fill)
        return x.reshape(given), y


def move(
    x: Float[Array, "batch feature"],
    shift: Int[Array, "batch 2"],
    flipped: Bool[Array, "batch"],
    shape: tuple[int, int, int],
    fill: Sequence[float] = (0.0,),
) -> Float[Array, "batch feature"]:
    """Flat images, cropped (:func:`crop`), then mirrored left and right where ``flipped``."""

    def otherwise(x: Array, moves: Array, outside: Array) -> Array:
        images = crop(x, moves[:, :2], shape, outside).reshape(-1, *shape)
        return jnp.where(moves[:, 2, None, None, None] > 0, images[:, :, ::-1], images).reshape(x.shape).T

    moves = jnp.concatenate([shift, flipped[:, None].astype(jnp.int32)], 1)
    outside = jnp.broadcast_to(jnp.asarray(fill, x.dtype), (shape[2],))
    if x.dtype != jnp.float32:
        return otherwise(x, moves, outside).T
    size = {"height": np.int32(shape[0]), "width": np.int32(shape[1])}
    result = jax.ShapeDtypeStruct(x.shape[::-1], x.dtype)  # features first, as a sparse layer wants them
    found: Array = csr_library.on_cpu(csr_library.MOVE, result, otherwise, x, moves, outside, **size)
    return found.T


def crop(
    x: Float[Array, "batch feature"],
    shift: Int[Array, "batch 2"],
    shape: tuple[int, int, int],
    fill: Sequence[float] | Float[Array, "channel"] = (0.0,),
) -> Float[Array, "batch feature"]:
    """Windows of flat images that are moved by some rows and columns; ``fill`` is what lies outside.

    Pixel ``(r, c)`` of the result is pixel ``(r + shift[0], c + shift[1])`` of the image. The shifts
    must be smaller than the image.
    """
    height, width, channels = shape
    size, most = math.prod(shape), (shape[0] - 1) * width * channels + (width - 1) * channels
    flat = jnp.pad(x.reshape(-1), (most, most))
    first = jnp.arange(x.shape[0]) * size + most + (shift[:, 0] * width + shift[:, 1]) * channels
    moved = jax.vmap(lambda start: jax.lax.dynamic_slice(flat, (start,), (size,)))(first)
    row, column = (jnp.arange(n) + shift[:, k, None] for k, n in enumerate((height, width)))  # (batch, n)
    there = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    outside = jnp.broadcast_to(jnp.asarray(fill, x.dtype), (channels,))
    return jnp.where(there[..., None], moved.reshape(-1, *shape), outside).reshape(x.shape)


def draw_affine(ranges: Affine, number: int, *, key: Key) -> Float[Array, "number 2 2"]:
    """Maps from the place of a pixel of the result, seen from the centre, to its place in the image."""
    angle, scale, shear = jax.random.uniform(key, (3, number), minval=-1.0)
    angle, scale, shear = angle * math.radians(ranges.degrees), 1 + scale * ranges.scale, shear * ranges.shear
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    rotated = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)  # (number, 2, 2)
    one, zero = jnp.ones(number), jnp.zeros(number)
    return rotated @ jnp.stack([jnp.stack([one, zero], -1), jnp.stack([shear, one], -1)], -2)


def apply_affine(
    x: Float[Array, "batch feature"],
    maps: Float[Array, "map 2 2"],
    shape: tuple[int, int, int],
    fill: Sequence[float] = (0.0,),
) -> Float[Array, "batch feature"]:
    """Flat images under maps of places (row, column) around the centre, bilinear; ``fill`` is outside.

    The number of maps divides that of the images: the first ones share the first map, and so on.
    """
    number, sharing = maps.shape[0], x.shape[0] // maps.shape[0]
    height, width, channels = shape
    outside = jnp.broadcast_to(jnp.asarray(fill, x.dtype), (channels,))
    # a frame of what is outside: a place beyond it has the value of the frame
    framed = jnp.broadcast_to(outside, (x.shape[0], height + 2, width + 2, channels))
    framed = framed.at[:, 1:-1, 1:-1].set(x.reshape(-1, *shape))
    # a pixel of all images that share a map lies in one piece
    pixels = jnp.swapaxes(framed.reshape(number, sharing, -1, channels), 1, 2)
    pixels = pixels.reshape(number, -1, sharing * channels)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = (jnp.arange(float(n)) for n in (height, width))
    places = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1) - centre
    source = jnp.einsum("bij,hwj->bhwi", maps, places) + centre + 1  # in the frame
    source = jnp.clip(source, 0.0, jnp.array([height + 1.0, width + 1.0]))
    low = jnp.clip(jnp.floor(source), 0, jnp.array([float(height), float(width)]))
    part = (source - low).reshape(number, -1, 2)  # (map, pixel, 2), between 0 and 1
    corner = (low[..., 0] * (width + 2) + low[..., 1]).astype(jnp.int32).reshape(number, -1)

    def value(down: int, right: int) -> Array:
        at = (corner + down * (width + 2) + right)[..., None]
        return jnp.take_along_axis(pixels, at, axis=1, mode="promise_in_bounds")

    down, right = part[..., :1], part[..., 1:]
    upper = (1 - right) * value(0, 0) + right * value(0, 1)
    lower = (1 - right) * value(1, 0) + right * value(1, 1)
    found = ((1 - down) * upper + down * lower).reshape(number, -1, sharing, channels)
    return jnp.swapaxes(found, 1, 2).reshape(x.shape)


def by_channel(dataset: Dataset) -> Dataset:
    """The data set, normalised by mean and standard deviation of every channel of its training images."""
    channels = dataset.image_shape[2] if len(dataset.image_shape) == 3 else 1
    found = channel_statistics(dataset.x_train, channels)
    mean, std = (np.tile(np.array(s, np.float32), dataset.num_features // channels) for s in found)
    return dataclasses.replace(dataset, mean=mean, std=std)


PARTS = ("crop", "flip", "affine", "jitter")
"""What :func:`augmentation` knows by name."""

JITTER = Affine(degrees=6.0, scale=0.06, shear=0.0)
"""Maps of ``jitter``: for networks too small for what ``affine`` does."""


def augmentation(dataset: Dataset, names: Sequence[str]) -> Augmentation:
    """The augmentation of a data set by names: ``crop`` (an eighth of it), ``flip``, ``affine``, ``jitter``.

    ``jitter`` is a crop by a pixel (a twenty-eighth of the image) and :data:`JITTER`; ``crop`` and ``affine``
    go before their parts of it. Outside of an image lies the value 0 as it is stored: black.

    Raises:
      InputError: there is no such augmentation, or the data are no images.
    """
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise InputError(f"augmentation must be some of {', '.join(PARTS)}: {unknown or 'nothing'}")
    shape = dataset.image_shape
    if len(shape) != 3:
        raise InputError(
            f"{dataset.name} has flat features, {shape[0]} values a sample, that cannot be cropped, flipped "
            "or turned: leave --augment out, or give images as (sample, height, width[, channel])"
        )
    padding = max(1, min(shape[:2]) // 28) if "jitter" in names else 0
    padding = max(1, min(shape[:2]) // 8) if "crop" in names else padding
    if padding >= min(shape[:2]):
        raise InputError(f"{dataset.name}: images of {shape[0]} x {shape[1]} pixels are too small for a crop")
    black = -dataset.mean[: shape[2]] / dataset.std[: shape[2]]
    return Augmentation(
        (shape[0], shape[1], shape[2]),
        padding,
        "flip" in names,
        Affine() if "affine" in names else JITTER if "jitter" in names else None,
        tuple(float(value) for value in black),
    )
