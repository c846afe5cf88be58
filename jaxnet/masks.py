"""Masks: how many weights each layer gets, and which.

Counts are decided on the host (:func:`allocate`), positions are drawn inside
jit and vmap, as a :class:`~jaxnet.topology.Topology`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.correlated import correlated_topology
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Bool, Float, Int, Key

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


def uniform_topology(num_out: int, num_in: int, nnz: int, *, key_mask: Key) -> Topology:
    """Draws exactly ``nnz`` of the ``out * in`` positions, all equally likely.

    The first ``nnz`` different ones of a row of random positions are taken,
    which costs as much as the weights that exist, not as the whole matrix. Small
    or dense matrices are shuffled by 32 random bits per position instead; of two
    positions with equal bits the one with the lower index comes first (a bias
    below 1e-4 of a position for matrices up to a million weights).

    Raises:
      ValueError: ``nnz`` is not within 1 and ``out * in``, or the matrix has
        2**31 positions or more.
    """
    size = num_out * num_in
    _check_size(num_out, num_in)
    if not 1 <= nnz <= size:
        raise ValueError(f"nnz must be between 1 and {size} for a {num_out}x{num_in} layer: {nnz}")
    exists = jnp.ones(nnz, bool)
    if nnz == size:
        flat = jnp.arange(size, dtype=jnp.int32)
    elif size <= 4096 or 4 * nnz > size:
        bits = jax.random.bits(key_mask, (size,), jnp.uint32)
        flat = jax.lax.sort((bits, jnp.arange(size, dtype=jnp.int32)), num_keys=2)[1][:nnz]
    else:
        flat, exists = _first_distinct(size, nnz, key_mask)
    return topology_from_flat(flat, exists, (num_out, num_in))


def free_topology(taken: Bool[Array, "out in"], nnz: int, *, key_mask: Key) -> Topology:
    """Draws ``nnz`` of the positions that are not taken, all equally likely.

    Costs a sort of the whole matrix. Where fewer positions are free, all of them
    are drawn and the slots left over are padding.
    """
    num_out, num_in = taken.shape
    _check_size(num_out, num_in)
    bits = jax.random.bits(key_mask, (taken.size,), jnp.uint32)
    every = jnp.arange(taken.size, dtype=jnp.int32)
    late, _, flat = jax.lax.sort((taken.ravel().astype(jnp.int32), bits, every), num_keys=3)
    return topology_from_flat(flat[:nnz], late[:nnz] == 0, (num_out, num_in))


def draw_padded_topology(
    shape: tuple[int, int],
    num_out: Int[Array, ""],
    num_in: Int[Array, ""],
    nnz: Int[Array, ""],
    capacity: int,
    max_density: float,
    *,
    key_mask: Key,
) -> Topology:
    """As :func:`uniform_topology` for a layer whose size is data: units beyond it have no weights.

    Args:
      shape: ``(out, in)``, the largest size (static).
      num_out: output units that exist, at most ``out``.
      num_in: input units that exist, at most ``in``.
      nnz: weights, at most ``capacity`` and at most ``num_out * num_in``.
      capacity: slots (static).
      max_density: largest ``nnz / (num_out * num_in)`` to be expected (static).
      key_mask: one PRNG key.

    Returns:
      A topology of ``capacity`` slots, those beyond ``nnz`` padding.
    """
    _check_size(*shape)
    size = num_out * num_in
    wanted = jnp.arange(capacity) < nnz
    if max_density > 0.2:
        every = jnp.arange(shape[0] * shape[1], dtype=jnp.int32)
        bits = jax.random.bits(key_mask, every.shape, jnp.uint32)
        _, _, flat = jax.lax.sort(((every >= size).astype(jnp.int32), bits, every), num_keys=3)
        flat = flat[:capacity]
    else:
        flat, found = _first_distinct(size, capacity, key_mask)
        wanted &= found
    position = flat // num_in * shape[1] + flat % num_in
    return topology_from_flat(position, wanted, shape)


def constant_fan_in_topology(num_out: int, num_in: int, fan_in: int, *, key_mask: Key) -> Topology:
    """Draws ``fan_in`` different inputs for every output unit.

    Raises:
      ValueError: ``fan_in`` is not within 1 and ``in``.
    """
    _check_size(num_out, num_in)
    if not 1 <= fan_in <= num_in:
        raise ValueError(f"fan_in must be between 1 and {num_in}: {fan_in}")
    bits = jax.random.bits(key_mask, (num_out, num_in), jnp.uint32)
    index = jnp.broadcast_to(jnp.arange(num_in, dtype=jnp.int32), (num_out, num_in))
    cols = jax.lax.sort((bits, index), num_keys=2)[1][:, :fan_in]
    flat = jnp.arange(num_out, dtype=jnp.int32)[:, None] * num_in + cols
    return topology_from_flat(flat.ravel(), jnp.ones(flat.size, bool), (num_out, num_in))


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


def drawable_density(sizes: Sequence[int], density: float) -> float:
    """``density``, or the lowest above it at which exact counts give every layer a weight."""
    smallest = min(i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True))
    return density if int(density * smallest) >= 1 else min(1.0, (1 + 1e-9) / smallest)


def draw_topologies(
    sizes: Sequence[int],
    density: float,
    allocation: str = "uniform",
    *,
    key_mask: Key,
    inputs: Float[Array, "sample in"] | None = None,
) -> tuple[Topology, ...]:
    """Draws the topology of every layer of a network.

    Args:
      sizes: units per layer, input and output included.
      density: fraction of weights that exist, in (0, 1].
      allocation: one of :data:`ALLOCATIONS`.
      key_mask: one PRNG key; layer ``l`` uses ``fold_in(key_mask, l)``.
      inputs: training samples; where given, the first layer is wired by the correlation
        of their features (:func:`jaxnet.correlated.correlated_topology`), not at random.

    Returns:
      One topology per layer, with the counts of :func:`allocate`.

    Raises:
      ValueError: as :func:`allocate`.
    """
    topologies = []
    for layer, nnz in enumerate(allocate(sizes, density, allocation)):
        num_in, num_out = sizes[layer], sizes[layer + 1]
        key = jax.random.fold_in(key_mask, layer)
        if layer == 0 and inputs is not None:
            topology = correlated_topology(inputs, num_out, nnz, key_mask=key)
        elif allocation == "constant-fan-in":
            topology = constant_fan_in_topology(num_out, num_in, nnz // num_out, key_mask=key)
        else:
            topology = uniform_topology(num_out, num_in, nnz, key_mask=key)
        topologies.append(topology)
    return tuple(topologies)


def check_sizes(sizes: Sequence[int]) -> None:
    """Raises ValueError unless there are two or more layers of positive size."""
    if len(sizes) < 2 or any(not math.isfinite(s) or int(s) != s or s < 1 for s in sizes):
        raise ValueError(f"sizes must be two or more positive integers: {list(sizes)}")
    for num_in, num_out in zip(sizes[:-1], sizes[1:], strict=True):
        _check_size(num_out, num_in)


def check_density(density: float) -> None:
    """Raises ValueError unless ``0 < density <= 1``."""
    if not (math.isfinite(density) and 0 < density <= 1):
        raise ValueError(f"density must be above 0 and at most 1: {density}")


def _first_distinct(size: int | Array, number: int, key: Key) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """The first ``number`` different values of a row of random integers below ``size``.

    The row is long enough that fewer different ones are in it with a probability
    far below 1e-12: about ``number**2 / (2 * size)`` repeats are expected, twice
    as many and 8 standard deviations are allowed for. If it happened all the
    same, the second result would mark the missing ones.
    """
    # At most a quarter of the positions is wanted: number**2 / size is at most number / 4.
    repeats = number * number // size if isinstance(size, int) else number // 4
    length = number + repeats + 8 * math.isqrt(number) + 64
    drawn = jax.random.randint(key, (length,), 0, size, jnp.int32)
    value, turn = jax.lax.sort((drawn, jnp.arange(length, dtype=jnp.int32)), num_keys=2)
    is_new = jnp.concatenate([jnp.ones(1, bool), value[1:] != value[:-1]])
    turn, value = jax.lax.sort((jnp.where(is_new, turn, length), value), num_keys=1)
    return value[:number], turn[:number] < length


def _check_size(num_out: int, num_in: int) -> None:
    if num_out * num_in >= 2**31:
        raise ValueError(f"a {num_in}x{num_out} layer is too large: at most 2**31 - 1 positions")


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
