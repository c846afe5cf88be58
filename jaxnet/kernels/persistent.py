"""An epoch of Adam on one small sparse network in a single GPU kernel; ``vmap`` gives one block per network.

A network of a hunt is so small that its steps are launches and memory traffic on a GPU,
not arithmetic. Here one thread block keeps at one network for all steps of an epoch: its
weights, moments and activations stay in the caches of its multiprocessor, batches come
from the L2 cache as they are stored, and only weights that exist are computed. Written
in Pallas for its Triton backend, so nothing is compiled but by JAX itself.

Layers are in **padded rows** (ELLPACK): entry ``(k, r)`` is the ``k``-th weight of output
unit ``r``, and rows are as long as the longest may be, while loops end at the longest
there is. Everything is float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxnet.topology import Topology
from jaxnet.types import Array, Bool, Float, Int, Scalar, Values

B1, B2, EPSILON = 0.9, 0.999, 1e-8
TILE = 32
"""Output units that a thread block computes at once."""

WARPS = 4
UNROLL = 4
"""Weights of a row in flight at once."""


class Wiring(flax.struct.PyTreeNode):
    """A layer in padded rows.

    Attributes:
      cols: ``(longest row, units)``, the input of each weight.
      length: ``(units,)``, weights of each row.
      readers: ``(longest column, inputs)``, places ``k * units + r`` of the weights that read
        each input; None for the first layer, which needs no gradient for its input.
      read: ``(inputs,)``, how many these are; likewise.
    """

    cols: Int[Array, "k unit"]
    length: Int[Array, "unit"]
    readers: Int[Array, "k input"] | None
    read: Int[Array, "input"] | None


class Learned(flax.struct.PyTreeNode):
    """What Adam keeps of a layer's weights ``(k, unit)`` or biases ``(unit,)``.

    Attributes:
      value: the parameters.
      mu: first moments.
      nu: second moments.
    """

    value: Float[Array, "..."]
    mu: Float[Array, "..."]
    nu: Float[Array, "..."]


def padded(units: int) -> int:
    """Units of a layer with those that only fill a tile: a power of two, or tiles."""
    if units > TILE:
        return -(-units // TILE) * TILE
    return TILE if units > TILE // 2 else TILE // 2


def wire(topology: Topology, longest_row: int, longest_column: int | None) -> tuple[Wiring, Bool[Array, ""]]:
    """A topology in padded rows, and whether its rows and columns have room there.

    Args:
      topology: of one layer.
      longest_row: weights that a row may have.
      longest_column: weights that may read one input; None where no gradient goes there.
    """
    out, num_in = topology.shape
    units, inputs = padded(out), padded(num_in)
    length = jnp.pad(jnp.minimum(topology.fan_in, longest_row), (0, units - out))
    start = jnp.pad(topology.row_ptr[:-1], (0, units - out))
    k = jnp.arange(longest_row, dtype=jnp.int32)[:, None]
    cols = topology.cols.at[jnp.where(k < length, start + k, topology.capacity)].get(
        mode="fill", fill_value=0
    )
    fits = jnp.max(topology.fan_in) <= longest_row
    if longest_column is None:
        return Wiring(cols, length, None, None), fits
    exists = topology.exists
    by_column = jnp.argsort(jnp.where(exists, topology.cols, num_in), stable=True)
    fan_out = jnp.zeros(inputs, jnp.int32).at[topology.cols].add(exists.astype(jnp.int32))
    ends = jnp.cumsum(fan_out)
    read = jnp.minimum(fan_out, longest_column)
    k = jnp.arange(longest_column, dtype=jnp.int32)[:, None]
    slot = by_column.at[jnp.where(k < read, ends - fan_out + k, topology.capacity)].get(
        mode="fill", fill_value=topology.capacity
    )
    readers = _place(topology, units).at[slot].get(mode="fill", fill_value=0)
    return Wiring(cols, length, readers, read), fits & (jnp.max(fan_out) <= longest_column)


def _place(topology: Topology, units: int) -> Int[Array, "nnz"]:
    """Place ``k * units + r`` of each slot in padded rows; that of padding has no meaning."""
    row = jnp.minimum(topology.rows, topology.shape[0] - 1)
    slots = jnp.arange(topology.capacity, dtype=jnp.int32)
    return (slots - topology.row_ptr[row]) * units + row


def to_rows(values: Values, topology: Topology, wiring: Wiring) -> Float[Array, "k unit"]:
    """Values of the slots in padded rows."""
    longest, units = wiring.cols.shape
    k = jnp.arange(longest, dtype=jnp.int32)[:, None]
    start = jnp.pad(topology.row_ptr[:-1], (0, units - topology.shape[0]))
    slot = jnp.where(k < wiring.length, start + k, topology.capacity)
    return values.at[slot].get(mode="fill", fill_value=0.0)


def from_rows(rows: Float[Array, "k unit"], topology: Topology) -> Values:
    """What :func:`to_rows` undoes."""
    values = rows.ravel().at[_place(topology, rows.shape[1])].get(mode="clip")
    return jnp.where(topology.exists, values, 0.0)


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
      weights: of every layer, in padded rows.
      biases: of every layer, ``(padded units,)``.
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
    """
    backend = _backend()
    steps, _, batch = x.shape
    if batch < 16 or batch & (batch - 1):
        raise ValueError(f"the batch must be a power of two from 16 on: {batch}")
    scalars = jnp.stack([jnp.asarray(a, jnp.float32) for a in (scale, shift, lr, weight_decay)])
    widths = [wiring.length.shape[0] for wiring in wirings]
    scratch = tuple(jax.ShapeDtypeStruct((width, batch), jnp.float32) for width in widths)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (tuple(weights), tuple(biases)))
    call = pl.pallas_call(
        functools.partial(_epoch, backend, interpret),
        out_shape=(*shapes, jax.ShapeDtypeStruct((TILE // 2,), jnp.float32), scratch, scratch),
        interpret=interpret,
        name="persistent_epoch",
        **({} if interpret else {"compiler_params": backend.CompilerParams(num_warps=WARPS, num_stages=1)}),
    )
    trained, with_biases, loss, _, _ = call(
        tuple(wirings),
        tuple(weights),
        tuple(biases),
        x,
        labels,
        sample_weight,
        scalars,
        corrections,
        jnp.full(1, classes, jnp.int32),
    )
    return trained, with_biases, loss[0]


def _backend() -> Any:
    """Pallas' Triton backend; imported here, as JAX may drop it."""
    from jax.experimental.pallas import triton

    return triton


def available() -> str | None:
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


def _epoch(
    backend: Any,
    interpret: bool,
    wirings: Any,
    weights: Any,
    biases: Any,
    x: Any,
    labels: Any,
    sample_weight: Any,
    scalars: Any,
    corrections: Any,
    classes: Any,
    weights_out: Any,
    biases_out: Any,
    loss_out: Any,
    hidden: Any,
    deltas: Any,
) -> None:
    """The kernel: arguments are references into the memory of the GPU."""
    load, store = backend.load, backend.store
    steps, _, batch = x.shape
    last = len(wirings) - 1
    samples = jnp.arange(batch)

    def barrier() -> None:
        """What a thread stored is there for all threads of the block."""
        if not interpret:
            backend.debug_barrier()

    def blocks(units: int, body: Callable[[Array, int], None]) -> None:
        """``body(first unit, number)`` tile by tile."""
        tile = min(TILE, units)
        if units == tile:
            body(jnp.int32(0), tile)
        else:
            jax.lax.fori_loop(0, units // tile, lambda i, _: body(i * tile, tile), None)

    def row_loop(top: Array, body: Callable[[Array, Any], Any], start: Any) -> Any:
        """``start`` after ``body(k, carried)`` for k below ``top``, some at a time."""

        def several(i: Array, carried: Any) -> Any:
            for j in range(UNROLL):
                carried = body(i * UNROLL + j, carried)
            return carried

        return jax.lax.fori_loop(0, (top + UNROLL - 1) // UNROLL, several, start)

    scale, shift, lr, decay = (scalars[i] for i in range(4))
    num_classes = classes[0]

    def start(old: Any, new: Any) -> None:
        """Copies what is learned to where it is learned."""
        *longest, units = old.shape

        def copy(at: Callable[[Array], tuple[Array, ...]]) -> None:
            def some(first: Array, tile: int) -> None:
                place = at(first + jnp.arange(tile))
                store(new.at[place], load(old.at[place]))

            blocks(units, some)

        if longest:
            jax.lax.fori_loop(0, longest[0], lambda k, _: copy(lambda units: (k, units)), None)
        else:
            copy(lambda units: (units,))

    for old, new in zip(
        jax.tree.leaves((weights, biases)), jax.tree.leaves((weights_out, biases_out)), strict=True
    ):
        start(old, new)
    barrier()

    def inputs(layer: int, step: Array) -> Callable[[Array, Array], Array]:
        """``(unit, exists) -> (unit, batch)``: what weights of a layer read."""

        def read(unit: Array, exists: Array) -> Array:
            mask = jnp.broadcast_to(exists[:, None], (unit.shape[0], batch))
            if layer == 0:
                pixels = load(x.at[step, unit[:, None], samples[None, :]], mask=mask, other=0)
                return pixels.astype(jnp.float32)
            return load(hidden[layer - 1].at[unit[:, None], samples[None, :]], mask=mask, other=0.0)

        return read

    def outputs(layer: int, step: Array, first: Array, tile: int) -> Array:
        """``(unit, batch)``: a tile of the layer's values before the activation."""
        wiring, value, read = wirings[layer], weights_out[layer].value, inputs(layer, step)
        rows = first + jnp.arange(tile)
        length = load(wiring.length.at[rows])

        def add(k: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            total, row_sum = carried
            exists = k < length
            unit = load(wiring.cols.at[k, rows], mask=exists, other=0)
            w = load(value.at[k, rows], mask=exists, other=0.0)
            return total + w[:, None] * read(unit, exists), row_sum + w

        zeros = jnp.zeros((tile, batch), jnp.float32), jnp.zeros(tile, jnp.float32)
        total, row_sum = row_loop(jnp.max(length), add, zeros)
        constant = load(biases_out[layer].value.at[rows])
        if layer == 0:
            total, constant = scale * total, constant + shift * row_sum
        return total + constant[:, None]

    def adam(learned: Any, at: Any, exists: Any, gradient: Array, first: Array, second: Array) -> None:
        """One step of some parameters."""
        other = None if exists is None else 0.0
        w, mu, nu = (load(a.at[at], mask=exists, other=other) for a in (learned.value, learned.mu, learned.nu))
        mu = B1 * mu + (1 - B1) * gradient
        nu = B2 * nu + (1 - B2) * gradient * gradient
        change = (mu * first) / (jnp.sqrt(nu * second) + EPSILON) + decay * w
        for place, new in zip((learned.value, learned.mu, learned.nu), (w - lr * change, mu, nu), strict=True):
            store(place.at[at], new, mask=exists)

    def step(number: Array, total: Array) -> Array:
        first_moment, second_moment = corrections[number, 0], corrections[number, 1]
        for layer in range(last):

            def forward(first: Array, tile: int, layer: int = layer) -> None:
                values = jnp.maximum(outputs(layer, number, first, tile), 0.0)
                rows = first + jnp.arange(tile)
                store(hidden[layer].at[rows[:, None], samples[None, :]], values)

            blocks(wirings[layer].length.shape[0], forward)
            barrier()

        width = wirings[last].length.shape[0]
        units = jnp.arange(width)
        logits = outputs(last, number, jnp.int32(0), width)
        logits = jnp.where((units < num_classes)[:, None], logits, -jnp.inf)
        weight, label = load(sample_weight.at[number, samples]), load(labels.at[number, samples])
        highest = jnp.max(logits, axis=0)
        powers = jnp.exp(logits - highest[None, :])
        sums = jnp.sum(powers, axis=0)
        right = units[:, None] == label[None, :]
        answer = jnp.sum(jnp.where(right, logits, 0.0), axis=0)
        losses = highest + jnp.log(sums) - answer
        total = total + jnp.sum(jnp.where(weight > 0, losses * weight, 0.0))
        share = weight / jnp.sum(weight)
        delta = (powers / sums[None, :] - right.astype(jnp.float32)) * share[None, :]
        store(deltas[last].at[units[:, None], samples[None, :]], delta)
        barrier()

        for layer in range(last, -1, -1):
            wiring, learned = wirings[layer], weights_out[layer]
            out = wiring.length.shape[0]
            if layer > 0:

                def backward(first: Array, tile: int, layer: int = layer) -> None:
                    wiring, value, out = wirings[layer], weights_out[layer].value, wirings[layer].length.shape[0]
                    here = first + jnp.arange(tile)
                    read = load(wiring.read.at[here])

                    def add(k: Array, total: Array) -> Array:
                        exists = k < read
                        place = load(wiring.readers.at[k, here], mask=exists, other=0)
                        row = place % out
                        w = load(value.at[place // out, row], mask=exists, other=0.0)
                        mask = jnp.broadcast_to(exists[:, None], (tile, batch))
                        delta = load(deltas[layer].at[row[:, None], samples[None, :]], mask=mask, other=0.0)
                        return total + w[:, None] * delta

                    total = row_loop(jnp.max(read), add, jnp.zeros((tile, batch), jnp.float32))
                    at = here[:, None], samples[None, :]
                    active = load(hidden[layer - 1].at[at]) > 0
                    store(deltas[layer - 1].at[at], jnp.where(active, total, 0.0))

                blocks(wirings[layer - 1].length.shape[0], backward)
                barrier()

            def update(first: Array, tile: int, layer: int = layer) -> None:
                wiring, learned, read = wirings[layer], weights_out[layer], inputs(layer, number)
                rows = first + jnp.arange(tile)
                length = load(wiring.length.at[rows])
                delta = load(deltas[layer].at[rows[:, None], samples[None, :]])
                of_bias = jnp.sum(delta, axis=1)

                def one(k: Array, _: None) -> None:
                    exists = k < length
                    unit = load(wiring.cols.at[k, rows], mask=exists, other=0)
                    gradient = jnp.sum(delta * read(unit, exists), axis=1)
                    if layer == 0:
                        gradient = scale * gradient + shift * of_bias
                    adam(learned, (k, rows), exists, gradient, first_moment, second_moment)

                row_loop(jnp.max(length), one, None)
                adam(biases_out[layer], (rows,), None, of_bias, first_moment, second_moment)

            blocks(out, update)
        barrier()
        return total

    total = jax.lax.fori_loop(0, steps, step, jnp.float32(0))
    store(loss_out.at[...], jnp.full(TILE // 2, total))
