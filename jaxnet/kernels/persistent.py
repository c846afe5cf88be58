"""An epoch of Adam on one small sparse network in a single GPU kernel; ``vmap`` gives one block per network.

A network of a hunt is so small that its steps are launches and memory traffic on a GPU,
not arithmetic. Here one thread block keeps at one network for all steps of an epoch: its
weights, moments and activations stay in the caches of its multiprocessor, batches come
from the L2 cache as they are stored, and only weights that exist are computed. Written
in Pallas for its Triton backend, so nothing is compiled but by JAX itself. Everything is
float32.

The kernel itself is in :mod:`jaxnet.kernels.persistent_body`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxnet.kernels.persistent_body import ADAM, B1, B2, TILE, epoch
from jaxnet.topology import Topology
from jaxnet.types import Array, Float, Int, Scalar

WARPS = 4
"""Of a thread block."""


class Wiring(flax.struct.PyTreeNode):
    """A layer by rows, as :class:`~jaxnet.topology.Topology`, and by columns; filled up to whole tiles.

    Attributes:
      rows: ``(slot,)``, the output unit of each weight.
      cols: ``(slot,)``, its input.
      row_start: ``(units + 1,)``, the first weight of each row, in the end their number.
      longest_row: ``(tiles,)``, weights of the longest row of each tile of units.
      readers: ``(slot,)``, the weights ordered by their input; None for the first layer, whose
        input needs no gradient.
      read_start: ``(inputs + 1,)``, where those of each input begin; likewise.
      most_read: ``(tiles,)``, readers of the most read input of each tile; likewise.
    """

    rows: Int[Array, "slot"]
    cols: Int[Array, "slot"]
    row_start: Int[Array, "unit"]
    longest_row: Int[Array, "tile"]
    readers: Int[Array, "slot"] | None
    read_start: Int[Array, "input"] | None
    most_read: Int[Array, "tile"] | None


class Learned(flax.struct.PyTreeNode):
    """What Adam keeps of a layer's weights ``(slot,)`` or biases ``(unit,)``, filled up to whole tiles.

    Attributes:
      value: the parameters.
      mu: first moments.
      nu: second moments.
    """

    value: Float[Array, "n"]
    mu: Float[Array, "n"]
    nu: Float[Array, "n"]


def padded(units: int) -> int:
    """Units of a layer with those that only fill a tile: a power of two, or tiles."""
    if units > TILE:
        return -(-units // TILE) * TILE
    return TILE if units > TILE // 2 else TILE // 2


def fill(values: Array, multiple: int = ADAM) -> Array:
    """An array with zeros up to a multiple of some length."""
    return jnp.pad(values, (0, -values.shape[0] % multiple))


def wire(topology: Topology, *, first: bool) -> Wiring:
    """A topology as the kernel reads it.

    Args:
      topology: of one layer.
      first: no gradient goes to its input.
    """
    out, num_in = topology.shape
    row_start = jnp.pad(topology.row_ptr, (0, padded(out) - out), mode="edge")
    rows, cols = fill(jnp.minimum(topology.rows, out - 1)), fill(topology.cols)
    if first:
        return Wiring(rows, cols, row_start, _longest(row_start), None, None, None)
    by_column = jnp.argsort(jnp.where(topology.exists, topology.cols, num_in), stable=True)
    fan_out = jnp.zeros(padded(num_in) + 1, jnp.int32)
    fan_out = fan_out.at[topology.cols + 1].add(topology.exists.astype(jnp.int32))
    start = jnp.cumsum(fan_out, dtype=jnp.int32)
    readers = fill(by_column.astype(jnp.int32))
    return Wiring(rows, cols, row_start, _longest(row_start), readers, start, _longest(start))


def _longest(start: Int[Array, "unit"]) -> Int[Array, "tile"]:
    """Slots of the longest row of each tile."""
    lengths = jnp.diff(start)
    return jnp.max(lengths.reshape(-1, min(TILE, lengths.shape[0])), axis=1)


def bias_corrections(count: Int[Array, ""], steps: int) -> Float[Array, "step 2"]:
    """Factors ``1 / (1 - b ** t)`` of Adam's moments, for the steps after the first ``count``."""
    t = (count + 1 + jnp.arange(steps)).astype(jnp.float32)
    return 1 / jnp.stack([1 - B1**t, 1 - B2**t], axis=1)


def train_epoch(
    wirings: Sequence[Wiring],
    weights: Sequence[Learned],
    biases: Sequence[Learned],
    x: Array,
    labels: Int[Array, "step batch"],
    sample_weight: Float[Array, "step batch"],
    *,
    scale: Scalar,
    shift: Scalar,
    corrections: Float[Array, "step 2"],
    lr: Scalar,
    weight_decay: Scalar,
    classes: Int[Array, ""],
    interpret: bool = False,
) -> tuple[tuple[Learned, ...], tuple[Learned, ...], Scalar]:
    """Trains one network with ReLUs by Adam (AdamW) on the mean cross-entropy of each batch.

    Args:
      wirings: of every layer.
      weights: of every layer, as :func:`fill` makes them.
      biases: of every layer, of :func:`padded` units.
      x: ``(step, feature, batch)``, uint8 or float32, the batch a power of two from 16 on.
      labels: the classes.
      sample_weight: 0 for samples that only fill a batch.
      scale: inputs are ``scale * x + shift``.
      shift: likewise.
      corrections: :func:`bias_corrections` of the steps.
      lr: learning rate.
      weight_decay: decoupled decay, of biases too, as in ``optax.adamw``.
      classes: outputs that exist.
      interpret: run as ordinary JAX operations, on any device (for tests; slow).

    Returns:
      Weights and biases, and the sum of the losses of all samples, in nats.

    Raises:
      ValueError: the batch is no such number, or there are more classes than a tile holds.
    """
    backend = _backend()
    batch = x.shape[-1]
    if batch < 16 or batch & (batch - 1):
        raise ValueError(f"the batch must be a power of two from 16 on: {batch}")
    if biases[-1].value.shape[0] > TILE:
        raise ValueError(f"the outputs must fit one tile of {TILE}: {biases[-1].value.shape[0]}")
    scalars = jnp.stack([jnp.asarray(a, jnp.float32) for a in (scale, shift, lr, weight_decay)])
    learned = tuple(weights), tuple(biases)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), learned)
    units = [wiring.row_start.shape[0] - 1 for wiring in wirings]
    per_sample = tuple(jax.ShapeDtypeStruct((width, batch), jnp.float32) for width in units)
    gradients = jax.tree.map(lambda one: one.value, shapes, is_leaf=lambda a: isinstance(a, Learned))
    call = pl.pallas_call(
        functools.partial(epoch, backend, interpret),
        out_shape=(shapes, jax.ShapeDtypeStruct((16,), jnp.float32), per_sample, per_sample, gradients),
        interpret=interpret,
        name="persistent_epoch",
        **({} if interpret else {"compiler_params": backend.CompilerParams(num_warps=WARPS, num_stages=1)}),
    )
    share = sample_weight / jnp.sum(sample_weight, axis=1, keepdims=True)
    batches = x.reshape(-1, batch), labels, sample_weight, share
    trained, loss, *_ = call(
        tuple(wirings),
        learned,
        *batches,
        scalars,
        corrections,
        jnp.stack([jnp.asarray(classes, jnp.int32), jnp.int32(0)]),
    )
    return *trained, loss[0]


def _backend() -> Any:
    """Pallas' Triton backend; imported here, as JAX may drop it."""
    from jax.experimental.pallas import triton

    return triton


def missing() -> str | None:
    """Why the kernel cannot run on the default device, in a few words; None where it can."""
    try:
        _backend()
    except ImportError:
        return f"jax {jax.__version__} has no Triton backend for Pallas"
    device = jax.devices()[0]
    if device.platform != "gpu":
        return "there is no GPU"
    if "nvidia" not in device.device_kind.lower():
        return f"{device.device_kind} is no NVIDIA GPU"
    return None
