"""How many weights each layer gets, decided on the host."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence

ALLOCATIONS = ("uniform", "erdos-renyi", "dense-output", "constant-fan-in")
"""How a density is shared out over the layers; see :func:`allocate_arrays`. One more has a number in it:
``output=0.5`` gives the output layer that density of its own."""

_OUTPUT = "output="


def check_allocation(allocation: str) -> None:
    """Raises ValueError for a rule that :func:`allocate_arrays` does not know."""
    if allocation.startswith(_OUTPUT):
        _output_density(allocation)
    elif allocation not in ALLOCATIONS:
        known = ", ".join((*ALLOCATIONS, f"{_OUTPUT}0.5"))
        raise ValueError(f"unknown allocation {allocation!r}: choose one of {known} (any density)")


def _output_density(allocation: str) -> float:
    try:
        density = float(allocation.removeprefix(_OUTPUT))
    except ValueError:
        density = math.nan
    if not 0 < density <= 1:
        raise ValueError(f"the density in {allocation!r} must be above 0 and at most 1")
    return density


def allocate(sizes: Sequence[int], density: float, allocation: str = "uniform") -> tuple[int, ...]:
    """Decides how many weights each layer of a multi-layer perceptron gets; see :func:`allocate_arrays`.

    Args:
      sizes: units per layer, input and output included.
      density: fraction of weights that exist, in (0, 1].
      allocation: one of :data:`ALLOCATIONS`.

    Returns:
      Number of weights of each of the ``len(sizes) - 1`` layers.

    Raises:
      ValueError: the sizes or the density are out of range, the rule is
        unknown, or a layer would be left without any weight.
    """
    check_sizes(sizes)
    return allocate_arrays(list(zip(sizes[:-1], sizes[1:], strict=True)), density, allocation)


def allocate_arrays(
    shapes: Sequence[tuple[int, ...]], density: float, allocation: str = "uniform"
) -> tuple[int, ...]:
    """Decides how many weights each array gets.

    ========================= ==================================================
    ``uniform``               ``int(density * size)`` in every array, the rule of
                              the original (rounded down, evaluated from the left)
    ``erdos-renyi``           ``int(density * all)`` weights in total, the
                              density of an array proportional to the sum of its
                              axes over their product, and at most 1
    ``dense-output``          the same total, the last array complete, the rest
                              at one common density
    ``output=D``              the same total, the last array at density ``D``
                              (rounded down), the rest at one common density
    ``constant-fan-in``       ``round(density * fan-in)`` inputs for every unit
                              of the last axis (half to even, at least 1)
    ========================= ==================================================

    Where a total is shared out, every array gets the floor of its share and the
    weights left over go to the largest remainders, the earlier array first on
    ties, so that the total is met exactly.

    Args:
      shapes: of arrays of weights, ``(..., in, out)``.
      density: fraction of weights that exist, in (0, 1].
      allocation: one of :data:`ALLOCATIONS`, or ``output=D``.

    Returns:
      Number of weights of each array.

    Raises:
      ValueError: the density is out of range, the rule is unknown, or an array
        would be left without any weight.

    Source: Erdős–Rényi densities as in Mocanu et al. 2018 (SET), with the axes of
    kernels as in Evci et al. 2020 (RigL), the total met exactly instead of in expectation.
    """
    check_density(density)
    check_allocation(allocation)
    full = [math.prod(shape) for shape in shapes]
    total = int(density * sum(full))
    if allocation == "uniform":
        counts = [int(functools.reduce(operator.mul, shape, density)) for shape in shapes]
    elif allocation == "constant-fan-in":
        counts = [max(1, round(density * math.prod(shape[:-1]))) * shape[-1] for shape in shapes]
    elif allocation == "erdos-renyi":
        counts = _share(total, [sum(shape) for shape in shapes], full)
    else:
        last = full[-1] if allocation == "dense-output" else int(_output_density(allocation) * full[-1])
        if total < last or (total == last and len(full) > 1):
            what = "a dense output layer" if last == full[-1] else f"{last} weights in an output layer"
            raise ValueError(
                f"density {density} gives {total} weights, too few for {what} "
                f"of {full[-1]}: raise the density or choose another allocation"
            )
        counts = [*_share(total - last, full[:-1], full[:-1]), last]
        if sum(counts) < total:
            raise ValueError(
                f"density {density} gives {total} weights, and {sum(counts)} have room with {allocation}: "
                "raise the output's density or choose another allocation"
            )
    for shape, count in zip(shapes, counts, strict=True):
        if count < 1:
            name = "x".join(map(str, shape))
            raise ValueError(
                f"density {density} leaves the {name} layer without any weight: raise the density"
            )
    return tuple(counts)


def dense_counts(sizes: Sequence[int]) -> tuple[int, ...]:
    """Weights of every layer if all of them exist.

    >>> dense_counts((784, 128, 10))
    (100352, 1280)
    """
    return tuple(i * o for i, o in itertools.pairwise(sizes))


def drawable_density(sizes: Sequence[int], density: float) -> float:
    """``density``, or the lowest above it at which exact counts give every layer a weight."""
    smallest = min(dense_counts(sizes))
    return density if int(density * smallest) >= 1 else min(1.0, (1 + 1e-9) / smallest)


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises ValueError unless there are two or more layers of positive size."""
    if len(sizes) < 2 or any(not math.isfinite(s) or int(s) != s or s < 1 for s in sizes):
        raise ValueError(f"sizes must be two or more positive integers: {list(sizes)}")
    for num_in, num_out in zip(sizes[:-1], sizes[1:], strict=True):
        check_positions(num_out, num_in)


def check_density(density: float) -> None:
    """Raises ValueError unless ``0 < density <= 1``."""
    if not (math.isfinite(density) and 0 < density <= 1):
        raise ValueError(f"density must be above 0 and at most 1: {density}")


def check_positions(num_out: int, num_in: int) -> None:
    """Raises ValueError unless every position of a layer has a 32-bit number."""
    if num_out * num_in >= 2**31:
        raise ValueError(f"a {num_in}x{num_out} layer is too large: at most 2**31 - 1 positions")


def check_count(num_out: int, num_in: int, nnz: int) -> None:
    """Also raises ValueError unless a layer has room for ``nnz`` weights, and there is one."""
    check_positions(num_out, num_in)
    size = num_out * num_in
    if not 1 <= nnz <= size:
        raise ValueError(f"nnz must be between 1 and {size} for a {num_out}x{num_in} layer: {nnz}")


def _share(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Shares ``total`` out in proportion to ``weights``, at most ``caps`` each, exactly."""
    capped: set[int] = set()
    while True:
        free = [k for k in range(len(caps)) if k not in capped]
        left = total - sum(caps[k] for k in capped)
        scale = sum(weights[k] for k in free)
        # Exact integer arithmetic: a share is left * weight / scale.
        over = {k for k in free if left * weights[k] > caps[k] * scale}
        if not over:
            break
        capped |= over
    counts = list(caps)
    for k in free:
        counts[k] = left * weights[k] // scale
    spare = total - sum(counts)
    by_remainder = sorted(free, key=lambda k: (-(left * weights[k] % scale), k))
    for k in by_remainder[:spare]:
        counts[k] += 1
    return counts
