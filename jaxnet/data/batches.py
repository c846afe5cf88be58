"""Samples on the device, and the order in which a network sees them."""

from __future__ import annotations

from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.dataset import normalise
from jaxnet.types import Array, Float, Int, Key


class Data(Protocol):
    """Samples to train on or to judge by: anything that knows their number and gathers batches of them."""

    @property
    def size(self) -> int:
        """Number of samples (static)."""

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Any]:
        """Samples ``(batch, ...)`` and what is to be said of them: labels ``(batch, ...)``, or a tree.

        The losses take :class:`jaxnet.losses.TokenLabels` and :class:`jaxnet.losses.Taught`.
        """


class Split(flax.struct.PyTreeNode):
    """A part of a data set on the device, as it is stored.

    Attributes:
      x: ``(sample, feature)``, uint8 pixels or float32 features.
      y: ``(sample,)`` int32 labels.
      mean: ``(feature,)`` or scalar, subtracted after uint8 is scaled to [0, 1].
      std: likewise, divided by.
      shape: static, of one sample as the model wants it; None for ``(feature,)``.
    """

    x: Array
    y: Int[Array, "sample"]
    mean: Float[Array, "..."]
    std: Float[Array, "..."]
    shape: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.x.shape[0]

    def batch(self, index: Int[Array, "batch"]) -> tuple[Float[Array, "batch ..."], Int[Array, "batch"]]:
        """Normalised samples ``(batch, feature)`` or ``(batch, *shape)``, and labels ``(batch,)``."""
        x = normalise(self.x[index], self.mean, self.std)
        return x if self.shape is None else x.reshape(-1, *self.shape), self.y[index]


def check_data(data: Data, classes: int | None = None) -> None:
    """Raises ValueError for samples that cannot be learned or judged.

    There are none, or, where they are given as arrays ``x`` and ``y``, there is not
    one label for each, or a label that is known on the host is no class.
    """
    if data.size < 1:
        raise ValueError("there are no samples: the data are empty")
    x, y = getattr(data, "x", None), getattr(data, "y", None)
    if x is None or y is None or not hasattr(x, "shape") or not hasattr(y, "shape"):
        return
    if x.shape[:1] != y.shape[:1]:
        raise ValueError(f"there are {x.shape[0]} samples and labels of shape {y.shape}: one for each")
    if classes is not None and not isinstance(y, jax.core.Tracer):
        labels = np.asarray(y)
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must be 0 to {classes - 1}: {labels.min()} to {labels.max()}")


def epoch_batches(size: int, batch_size: int, key: Key | None) -> tuple[Array, Array]:
    """Indices ``(step, batch)`` of one epoch and their weights (0 for padding).

    Every sample occurs once at weight 1; shuffled with ``key``, in order without. The last
    batch is filled up with the epoch's first ones at weight 0: layers that look at a whole
    batch, such as batch normalisation, see samples like any others there.
    """
    order = jnp.arange(size) if key is None else jax.random.permutation(key, size)
    steps = -(-size // batch_size)
    weight = jnp.pad(jnp.ones(size), (0, steps * batch_size - size))
    return jnp.resize(order, (steps, batch_size)), weight.reshape(steps, batch_size)
