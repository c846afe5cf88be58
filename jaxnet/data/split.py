"""Splits that keep the share of every class and are the same on every machine, for ever."""

from __future__ import annotations

import numpy as np

from jaxnet.types import Bool, Int


def stratified_counts(class_sizes: Int[np.ndarray, "classes"], total: int) -> Int[np.ndarray, "classes"]:
    """Shares ``total`` out over the classes in proportion to their sizes, exactly.

    Every class gets the floor of its share ``total * size / sum(sizes)``; what is
    left over goes to the largest remainders, the lower class first on ties.

    Args:
      class_sizes: ``(classes,)``, number of images of each class.
      total: number of images to take.

    Returns:
      ``(classes,)`` int64, at most ``class_sizes`` each, summing to ``total``.

    Raises:
      ValueError: ``total`` is not within 0 and the sum of the sizes.
    """
    sizes = [int(size) for size in class_sizes]
    everything = sum(sizes)
    if not 0 <= total <= everything or min(sizes, default=0) < 0:
        raise ValueError(f"cannot take {total} of {everything} images")
    if everything == 0:
        return np.zeros(len(sizes), np.int64)
    # Python integers: exact, and the product may exceed 64 bits.
    counts = [total * size // everything for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (-(total * sizes[c] % everything), c))
    for c in by_remainder[: total - sum(counts)]:
        counts[c] += 1
    return np.array(counts, np.int64)


def stratified_split(labels: Int[np.ndarray, "image"], total: int, *, seed: int) -> Bool[np.ndarray, "image"]:
    """Chooses ``total`` images at random, class by class.

    Every image draws 64 random bits; of each class the images with the lowest
    bits are taken, as many as :func:`stratified_counts` says. The bits are the
    raw stream of NumPy's PCG64, which NumPy promises to keep; its shuffles it
    does not.

    Args:
      labels: ``(N,)``, non-negative integers.
      total: number of images to take.
      seed: decides which.

    Returns:
      ``(N,)`` bool, ``True`` for the images taken.

    Raises:
      ValueError: as :func:`stratified_counts`.
    """
    counts = stratified_counts(np.bincount(labels), total)
    bits = np.random.PCG64(seed).random_raw(len(labels)) if len(labels) else np.zeros(0, np.uint64)
    taken = np.zeros(len(labels), bool)
    for c, count in enumerate(counts):
        members = np.flatnonzero(labels == c)
        taken[members[np.argsort(bits[members], kind="stable")[:count]]] = True
    return taken
