"""Streams: tasks one after the other, made from one data set inside the compiled program.

Every pixel of a task is a sum of pixels of the stored image (one with weight 1 for a permutation, four for a
rotation), so that a stream is the data set and a few indices per task, whatever the number of tasks. Where
networks have streams of their own, only these differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.types import Array, Bool, Float, Int, Key


class Stream(flax.struct.PyTreeNode):
    """Tasks over one data set; as data, a sample of any task: number ``task * per_task + sample``.

    Attributes:
      split: the samples.
      taps: ``(task, tap, feature)``, the stored feature that each tap reads.
      weights: ``(task, tap, feature)``, or None where every feature is one of the stored.
      rows: ``(task, sample)``, which samples a task has; None for all.
      classes: ``(task, class)``, the classes of a task; None for all.
    """

    split: Split
    taps: Int[Array, "task tap feature"]
    weights: Float[Array, "task tap feature"] | None = None
    rows: Int[Array, "task sample"] | None = None
    classes: Bool[Array, "task class"] | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks (static)."""
        return self.taps.shape[0]

    @property
    def per_task(self) -> int:
        """Samples of a task (static)."""
        return self.split.size if self.rows is None else self.rows.shape[1]

    @property
    def size(self) -> int:
        """Samples of all tasks (static)."""
        return self.tasks * self.per_task

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples of any tasks, each as its task has it, and their labels."""
        task, row = index // self.per_task, index % self.per_task
        x, y = self.split.batch(row if self.rows is None else self.rows[task, row])
        taps = self.taps[task]  # (batch, tap, feature)
        seen = [jnp.take_along_axis(x, taps[:, k], axis=1) for k in range(taps.shape[1])]
        if self.weights is None:
            return seen[0], y
        weights = self.weights[task]
        return self._summed(seen, [weights[:, k] for k in range(taps.shape[1])]), y

    def task(self, number: Int[Array, ""] | int) -> Part:
        """One task, by its number, which may be traced."""
        return Part(self, jnp.asarray(number, jnp.int32))

    def _summed(self, seen: Sequence[Array], weights: Sequence[Array]) -> Array:
        """What the taps see, outside of the image black."""
        black = -self.split.mean / self.split.std
        return sum(w * (x - black) for x, w in zip(seen, weights, strict=True)) + black


class Part(flax.struct.PyTreeNode):
    """One task of a stream, as data."""

    stream: Stream
    number: Int[Array, ""]

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.stream.per_task

    def batch(self, index: Int[Array, "batch"]) -> tuple[Array, Array]:
        """Samples as the task has them, and their labels."""
        stream, t = self.stream, self.number
        x, y = stream.split.batch(index if stream.rows is None else stream.rows[t, index])
        taps = stream.taps[t]
        # a whole row of one feature is gathered at once, unlike in a batch of several tasks
        seen = [x[:, taps[k]] for k in range(taps.shape[0])]
        if stream.weights is None:
            return seen[0], y
        return stream._summed(seen, list(stream.weights[t])), y


def check_tasks(tasks: int) -> None:
    """Raises InputError for fewer than two tasks."""
    if tasks < 2:
        raise InputError(f"a stream needs 2 tasks or more: {tasks}")


def permuted(split: Split, tasks: int, *, key: Key) -> Stream:
    """The features in another random order in every task; the first one sees them as they are.

    Source: Goodfellow et al. 2013.
    """
    check_tasks(tasks)
    features = split.x.shape[1]
    orders = jax.vmap(lambda k: jax.random.permutation(k, features))(jax.random.split(key, tasks - 1))
    return Stream(split, jnp.concatenate([jnp.arange(features)[None], orders])[:, None].astype(jnp.int32))


def rotated(split: Split, angles: Sequence[float], shape: Sequence[int]) -> Stream:
    """Images turned by so many degrees, counter-clockwise, a task for each; corners are cut and filled black.

    Args:
      split: of images.
      angles: of every task.
      shape: ``(height, width)`` or ``(height, width, 1)`` of the images.

    Raises:
      InputError: fewer than two angles, or no images of one channel.
    """
    check_tasks(len(angles))
    if len(shape) < 2 or math.prod(shape) != shape[0] * shape[1]:
        raise InputError(f"only images of one channel can be turned: their shape is {tuple(shape)}")
    taps, weights = zip(*(turn(angle, shape[0], shape[1]) for angle in angles), strict=True)
    return Stream(split, jnp.asarray(np.stack(taps)), jnp.asarray(np.stack(weights)))


def turn(degrees: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear taps and weights ``(4, pixel)`` of an image turned about its middle; weight 0 outside."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    row, col = (g.ravel() for g in np.mgrid[:height, :width].astype(float))
    dy, dx = row - (height - 1) / 2, col - (width - 1) / 2
    # where a pixel comes from
    y = np.round(cos * dy + sin * dx + (height - 1) / 2, 9)
    x = np.round(-sin * dy + cos * dx + (width - 1) / 2, 9)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    taps, weights = [], []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        there = (0 <= top + i) & (top + i < height) & (0 <= left + j) & (left + j < width)
        share = np.abs(1 - i - (y - top)) * np.abs(1 - j - (x - left))
        place = np.clip(top + i, 0, height - 1) * width + np.clip(left + j, 0, width - 1)
        taps.append(place)
        weights.append(np.where(there, share, 0))
    return np.stack(taps).astype(np.int32), np.stack(weights).astype(np.float32)


def split_classes(split: Split, tasks: int, classes: int) -> Stream:
    """The classes in order, as many in every task; tasks have as many samples as the smallest.

    Raises:
      InputError: fewer than two tasks, more tasks than classes, or a class without samples.
    """
    check_tasks(tasks)
    if tasks > classes:
        raise InputError(f"{tasks} tasks need as many classes, and there are {classes}: choose fewer tasks")
    labels, each = np.asarray(split.y), classes // tasks
    own = [np.flatnonzero((labels >= t * each) & (labels < (t + 1) * each)) for t in range(tasks)]
    number = min(map(len, own))
    if not number:
        raise InputError("a task has no sample: choose fewer tasks")
    features = split.x.shape[1]
    taps = jnp.broadcast_to(jnp.arange(features, dtype=jnp.int32), (tasks, 1, features))
    there = np.arange(classes) // each == np.arange(tasks)[:, None]
    rows = jnp.asarray(np.stack([rows[:number] for rows in own]), jnp.int32)
    return Stream(split, taps, rows=rows, classes=jnp.asarray(there))
