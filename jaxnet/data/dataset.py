"""What a data set is: arrays of images and labels, and the constants that normalise them."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from jaxnet.types import Array, Float, Int, UInt8

Images = UInt8[np.ndarray, "image feature"] | Float[np.ndarray, "image feature"]
"""Flat images: grey levels 0..255 (uint8), or any finite values (float32)."""

Classes = Int[np.ndarray, "image"]
"""Labels: int32, 0 to ``num_classes - 1``."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training, validation and test images of one data set.

    The arrays are NumPy and read-only (memory-mapped where they come whole from
    the cache); the caller puts them on the device and calls :func:`normalise`
    there, inside jit, so that an image costs one byte per value until then.

    Attributes:
      name: the data set's name, or the name of the user's file or folder.
      x_train: ``(N, D)``, uint8 or float32; rows are images flattened in the
        order height, width, channel.
      y_train: ``(N,)`` int32.
      x_val: ``(V, D)``, carved from the training images; ``V`` may be 0.
      y_val: ``(V,)`` int32.
      x_test: ``(T, D)``.
      y_test: ``(T,)`` int32.
      num_classes: labels are ``0 .. num_classes - 1``.
      image_shape: ``(height, width, channels)``, or ``(D,)`` where the user's
        file holds flat features.
      mean: ``(D,)`` float32, per channel and repeated over the pixels; of grey
        levels scaled to [0, 1] for uint8 images, of the values as they are for
        float32 ones.
      std: ``(D,)`` float32, in the same units as ``mean``.
      fingerprint: 16 hexadecimal digits, a hash of all images and labels, of
        which training images are validation images and, for the user's files,
        of the images' shape; for the provenance of results. Equal ones mean
        equal results, whatever name or path the data have.
    """

    name: str
    x_train: Images
    y_train: Classes
    x_val: Images
    y_val: Classes
    x_test: Images
    y_test: Classes
    num_classes: int
    image_shape: tuple[int, ...]
    mean: Float[np.ndarray, "feature"]
    std: Float[np.ndarray, "feature"]
    fingerprint: str

    @property
    def num_features(self) -> int:
        """Values per image, ``D``."""
        return int(self.x_train.shape[1])

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.image_shape)
        return (
            f"Dataset({self.name!r}, {len(self.x_train)} training, {len(self.x_val)} validation, "
            f"{len(self.x_test)} test, image {shape}, {self.num_classes} classes)"
        )


def normalise(
    x: Num[Array | np.ndarray, "*batch feature"],
    mean: Float[Array | np.ndarray, "feature"],
    std: Float[Array | np.ndarray, "feature"],
) -> Float[Array, "*batch feature"]:
    """Scales images to mean 0 and standard deviation 1 per channel; for use inside jit.

    ``(x / 255 - mean) / std`` for uint8 images, ``(x - mean) / std`` for float ones.

    Args:
      x: ``(..., D)``, uint8 or floating point.
      mean: broadcastable to ``(D,)``.
      std: broadcastable to ``(D,)``, positive.

    Returns:
      ``(..., D)`` float32.

    Raises:
      ValueError: ``x`` is neither uint8 nor floating point.
    """
    if x.dtype == jnp.uint8:
        scaled = jnp.asarray(x).astype(jnp.float32) / 255
    elif jnp.issubdtype(x.dtype, jnp.floating):
        scaled = jnp.asarray(x).astype(jnp.float32)
    else:
        raise ValueError(f"images must be uint8 or floating point: {x.dtype}")
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
