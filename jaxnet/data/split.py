"""Splits that keep the share of every class and are the same on every machine, for ever."""

from __future__ import annotations

import numpy as np

from jaxnet.types import Bool, Int


def stratified_counts(
    class_sizes: Int[np.ndarray, "classes"], total: int, *, leave: int = 0
) -> Int[np.ndarray, "classes"]:
    """Shares ``total`` out over the classes in proportion to their sizes, exactly.

    Every class gets the floor of its share ``total * size / sum(sizes)``; what is
    left over goes to the largest remainders, the lower class first on ties. What
    a class may not give, because ``leave`` of its images stay, the next ones by
    remainder give in its place.

    Args:
      class_sizes: ``(classes,)``, number of images of each class.
      total: number of images to take.
      leave: images of every class that are not taken; a class that has no more
        than these gives none.

    Returns:
      ``(classes,)`` int64, at most ``class_sizes`` each, summing to ``total``.

    Raises:
      ValueError: ``total`` is below 0 or above what the classes may give.
    """
    sizes = [int(size) for size in class_sizes]
    everything = sum(sizes)
    room = [max(0, size - leave) for size in sizes]
    if not 0 <= total <= sum(room) or min(sizes, default=0) < 0 or leave < 0:
        raise ValueError(f"cannot take {total} of {everything} images and leave {leave} of every class")
    if everything == 0:
        return np.zeros(len(sizes), np.int64)
    # Python integers: exact, and the product may exceed 64 bits.
    counts = [min(total * size // everything, most) for size, most in zip(sizes, room, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (-(total * sizes[c] % everything), c))
    while missing := total - sum(counts):  # more than once only where classes were short of images
        for c in [c for c in by_remainder if counts[c] < room[c]][:missing]:
            counts[c] += 1
    return np.array(counts, np.int64)


def stratified_split(
    labels: Int[np.ndarray, "image"], total: int, *, seed: int, leave: int = 0
) -> Bool[np.ndarray, "image"]:
    """Chooses ``total`` images at random, class by class.

    Every image draws 64 random bits; of each class the images with the lowest
    bits are taken, as many as :func:`stratified_counts` says. The bits are the
    raw stream of NumPy's PCG64, which NumPy promises to keep; its shuffles it
    does not.

    Args:
      labels: ``(N,)``, non-negative integers.
      total: number of images to take.
      seed: decides which.
      leave: images of every class that are not taken, as many as there are.

    Returns:
      ``(N,)`` bool, ``True`` for the images taken.

    Raises:
      ValueError: as :func:`stratified_counts`.
    """
    counts = stratified_counts(np.bincount(labels), total, leave=leave)
    bits = np.random.PCG64(seed).random_raw(len(labels)) if len(labels) else np.zeros(0, np.uint64)
    taken = np.zeros(len(labels), bool)
    for c, count in enumerate(counts):
        members = np.flatnonzero(labels == c)
        taken[members[np.argsort(bits[members], kind="stable")[:count]]] = True
    return taken
