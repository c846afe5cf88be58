"""An epoch of Adam on one small sparse network in a single GPU kernel; ``vmap`` gives one block per network.

A network of a hunt is so small that its steps are launches and memory traffic on a GPU,
not arithmetic. Here one thread block keeps at one network for all steps of an epoch: its
weights, moments and activations stay in the caches of its multiprocessor, batches come
from the L2 cache, and only weights that exist are computed. Written in Pallas for its
Triton backend, so nothing is compiled but by JAX itself. Everything is float32, but for
pixels, which are exact in bfloat16.

A step has four parts, a barrier after each: layer by layer the activations, a tile of
units at a time; layer by layer their gradients, along the columns; the gradients of all
weights, a tile of weights at a time; and Adam, on all of them as one array.
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
from jaxnet.types import Array, Float, Int, Scalar, Values

B1, B2, EPSILON = 0.9, 0.999, 1e-8
TILE = 32
"""Units that a thread block computes at once."""

CHUNK = 64
"""Weights whose gradients it computes at once."""

ADAM = 256
"""Parameters that it updates at once."""

WARPS = 4
UNROLL = 4
OPAQUE = True
"""Weights of a row in flight at once."""


class Wiring(flax.struct.PyTreeNode):
    """A layer by rows, as :class:`~jaxnet.topology.Topology`, and by columns; filled up to whole tiles.

    Attributes:
      rows: ``(slot,)``, the output unit of each weight.
      cols: ``(slot,)``, its input.
      row_start: ``(units + TILE,)``, the first weight of each row, in the end their number.
      readers: ``(slot,)``, the weights ordered by their input; None for the first layer, whose
        input needs no gradient.
      read_start: ``(inputs + TILE,)``, where those of each input begin; likewise.
    """

    rows: Int[Array, "slot"]
    cols: Int[Array, "slot"]
    row_start: Int[Array, "unit"]
    readers: Int[Array, "slot"] | None
    read_start: Int[Array, "input"] | None


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
    row_start = jnp.pad(topology.row_ptr, (0, padded(out) + TILE - out - 1), mode="edge")
    rows, cols = fill(jnp.minimum(topology.rows, out - 1)), fill(topology.cols)
    if first:
        return Wiring(rows, cols, row_start, None, None)
    by_column = jnp.argsort(jnp.where(topology.exists, topology.cols, num_in), stable=True)
    fan_out = jnp.zeros(padded(num_in) + TILE, jnp.int32)
    fan_out = fan_out.at[topology.cols + 1].add(topology.exists.astype(jnp.int32))
    return Wiring(
        rows, cols, row_start, fill(by_column.astype(jnp.int32)), jnp.cumsum(fan_out, dtype=jnp.int32)
    )


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
    learned = tuple(weights), tuple(biases)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), learned)
    units = [wiring.row_start.shape[0] - TILE for wiring in wirings]
    per_sample = tuple(jax.ShapeDtypeStruct((width, batch), jnp.float32) for width in units)
    gradients = jax.tree.map(lambda one: one.value, shapes, is_leaf=lambda a: isinstance(a, Learned))
    call = pl.pallas_call(
        functools.partial(_epoch, backend, interpret),
        out_shape=(shapes, jax.ShapeDtypeStruct((16,), jnp.float32), per_sample, per_sample, gradients),
        interpret=interpret,
        name="persistent_epoch",
        **({} if interpret else {"compiler_params": backend.CompilerParams(num_warps=WARPS, num_stages=1)}),
    )
    batches = x.reshape(-1, batch), labels, sample_weight
    trained, loss, *_ = call(
        tuple(wirings), learned, *batches, scalars, corrections, jnp.stack([jnp.asarray(classes, jnp.int32), jnp.int32(0)])
    )
    return *trained, loss[0]


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
    learned: Any,
    x: Any,
    labels: Any,
    sample_weight: Any,
    scalars: Any,
    corrections: Any,
    classes: Any,
    trained: Any,
    loss: Any,
    hidden: Any,
    deltas: Any,
    gradients: Any,
) -> None:
    """The kernel: arguments are references into the memory of the GPU."""
    load, store = backend.load, backend.store
    steps, batch = labels.shape
    features = x.shape[0] // steps
    last = len(wirings) - 1
    samples = jnp.arange(batch)[None, :]
    (weights, biases), (of_weights, of_biases) = trained, gradients
    scale, shift, lr, decay = (scalars[i] for i in range(4))
    num_classes = classes[0]

    def barrier() -> None:
        """What a thread stored is there for all threads of the block."""
        if not interpret:
            backend.debug_barrier()

    def tiles(size: Any, tile: int, body: Callable[[Array], None]) -> None:
        """``body(indices)`` for every tile up to ``size``."""
        zero = classes[1] if OPAQUE else 0
        if isinstance(size, int) and size <= tile:
            body(zero + jnp.arange(tile))
        else:
            jax.lax.fori_loop(
                0, (size + tile - 1) // tile, lambda i, _: body((zero + i * tile) + jnp.arange(tile)), None
            )

    def along(start: Any, indices: Array, fetch: Any, add: Any, carried: Any) -> Any:
        """``carried`` after ``add(fetch(slots, exist), exist, carried)`` for the first, second ... slot of rows.

        What comes next is fetched before what is there is added.
        """
        begin, end = load(start.at[indices]), load(start.at[indices + 1])

        def some(i: Array) -> list[Any]:
            slots = [begin + (i * UNROLL + j) for j in range(UNROLL)]
            return [fetch(slot, slot < end) for slot in slots]

        def several(i: Array, carried: Any) -> Any:
            fetched, carried = carried
            following = some(i + 1)
            for j, one in enumerate(fetched):
                carried = add(one, begin + (i * UNROLL + j) < end, carried)
            return following, carried

        rounds = (jnp.max(end - begin) + UNROLL - 1) // UNROLL
        return jax.lax.fori_loop(0, rounds, several, (some(jnp.int32(0)), carried))[1]

    def gather(source: Any, units: Array, exist: Array) -> Array:
        """``(unit, batch)``: rows of samples, of activations or of their gradients."""
        mask = jnp.broadcast_to(exist[:, None], (units.shape[0], batch))
        return load(source.at[units[:, None], samples], mask=mask, other=0).astype(jnp.float32)

    def inputs(layer: int, step: Array, units: Array, exist: Array) -> Array:
        """``(unit, batch)``: what weights of a layer read."""
        return gather(x, step * features + units, exist) if layer == 0 else gather(hidden[layer - 1], units, exist)

    def outputs(layer: int, step: Array, units: Array) -> Array:
        """``(unit, batch)``: some of the layer's values before the activation."""
        wiring, values = wirings[layer], weights[layer].value

        def fetch(slot: Array, exist: Array) -> tuple[Array, Array]:
            unit = load(wiring.cols.at[slot], mask=exist, other=0)
            return unit, load(values.at[slot], mask=exist, other=0.0)

        def add(fetched: Any, exist: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            (unit, w), (total, row_sum) = fetched, carried
            return total + w[:, None] * inputs(layer, step, unit, exist), row_sum + w

        tile = units.shape[0]
        zeros = jnp.zeros((tile, batch), jnp.float32), jnp.zeros(tile, jnp.float32)
        total, row_sum = along(wiring.row_start, units, fetch, add, zeros)
        constant = load(biases[layer].value.at[units])
        if layer == 0:
            total, constant = scale * total, constant + shift * row_sum
        return total + constant[:, None]

    def forward(layer: int, step: Array) -> None:
        def some(units: Array) -> None:
            store(hidden[layer].at[units[:, None], samples], jnp.maximum(outputs(layer, step, units), 0.0))

        tiles(hidden[layer].shape[0], TILE, some)

    def answer(step: Array) -> Array:
        """The loss of a batch, summed, and its gradient at the logits."""
        units = jnp.arange(hidden[last].shape[0])
        logits = jnp.where((units < num_classes)[:, None], outputs(last, step, units), -jnp.inf)
        weight = load(sample_weight.at[step, jnp.arange(batch)])
        right = units[:, None] == load(labels.at[step, jnp.arange(batch)])[None, :]
        highest = jnp.max(logits, axis=0)
        powers = jnp.exp(logits - highest[None, :])
        sums = jnp.sum(powers, axis=0)
        losses = highest + jnp.log(sums) - jnp.sum(jnp.where(right, logits, 0.0), axis=0)
        delta = (powers / sums[None, :] - right.astype(jnp.float32)) * (weight / jnp.sum(weight))[None, :]
        store(deltas[last].at[units[:, None], samples], delta)
        return jnp.sum(jnp.where(weight > 0, losses * weight, 0.0))

    def backward(layer: int) -> None:
        """The gradient at the values of the layer below, before their activation."""
        wiring, values = wirings[layer], weights[layer].value

        def some(units: Array) -> None:
            def fetch(place: Array, exist: Array) -> tuple[Array, Array]:
                slot = load(wiring.readers.at[place], mask=exist, other=0)
                row = load(wiring.rows.at[slot], mask=exist, other=0)
                return row, load(values.at[slot], mask=exist, other=0.0)

            def add(fetched: Any, exist: Array, total: Array) -> Array:
                row, w = fetched
                return total + w[:, None] * gather(deltas[layer], row, exist)

            total = jnp.zeros((units.shape[0], batch), jnp.float32)
            total = along(wiring.read_start, units, fetch, add, total)
            at = units[:, None], samples
            active = load(hidden[layer - 1].at[at]) > 0
            store(deltas[layer - 1].at[at], jnp.where(active, total, 0.0))

        tiles(hidden[layer - 1].shape[0], TILE, some)

    def differentiate(layer: int, step: Array) -> None:
        """The gradients of a layer's weights, for inputs as they are stored, and of its biases."""
        wiring = wirings[layer]
        units, nonzeros = hidden[layer].shape[0], wiring.row_start[hidden[layer].shape[0]]

        def some(slots: Array) -> None:
            exist = slots < nonzeros
            row, unit = load(wiring.rows.at[slots]), load(wiring.cols.at[slots])
            product = gather(deltas[layer], row, exist) * inputs(layer, step, unit, exist)
            store(of_weights[layer].at[slots], jnp.sum(product, axis=1))

        def biases(units: Array) -> None:
            store(of_biases[layer].at[units], jnp.sum(load(deltas[layer].at[units[:, None], samples]), axis=1))

        tiles(nonzeros, CHUNK, some)
        tiles(units, TILE, biases)

    def adam(one: Any, gradient: Array, places: Array, first: Array, second: Array) -> None:
        """Moves some parameters."""
        w, mu, nu = (load(a.at[places]) for a in (one.value, one.mu, one.nu))
        mu = B1 * mu + (1 - B1) * gradient
        nu = B2 * nu + (1 - B2) * gradient * gradient
        change = (mu * first) / (jnp.sqrt(nu * second) + EPSILON) + decay * w
        for place, new in zip((one.value, one.mu, one.nu), (w - lr * change, mu, nu), strict=True):
            store(place.at[places], new)

    def update(layer: int, step: Array) -> None:
        first, second = corrections[step, 0], corrections[step, 1]
        wiring = wirings[layer]

        def some(slots: Array) -> None:
            gradient = load(of_weights[layer].at[slots])
            if layer == 0:
                row = load(wiring.rows.at[slots])
                gradient = scale * gradient + shift * load(of_biases[layer].at[row])
            gradient = jnp.where(slots < wiring.row_start[hidden[layer].shape[0]], gradient, 0.0)
            adam(weights[layer], gradient, slots, first, second)

        def of_units(units: Array) -> None:
            adam(biases[layer], load(of_biases[layer].at[units]), units, first, second)

        tiles(wiring.row_start[hidden[layer].shape[0]], ADAM, some)
        tiles(hidden[layer].shape[0], TILE, of_units)

    def step(number: Array, total: Array) -> Array:
        for layer in range(last):
            forward(layer, number)
            barrier()
        total = total + answer(number)
        barrier()
        for layer in range(last, 0, -1):
            backward(layer)
            barrier()
        for layer in range(last + 1):
            differentiate(layer, number)
        barrier()
        for layer in range(last + 1):
            update(layer, number)
        barrier()
        return total

    for old, new in zip(jax.tree.leaves(learned), jax.tree.leaves(trained), strict=True):
        size = old.shape[0]
        tiles(size, ADAM if size % ADAM == 0 else min(size, TILE), functools.partial(_copy, backend, old, new))
    barrier()
    total = jax.lax.fori_loop(0, steps, step, jnp.float32(0))
    store(loss.at[...], jnp.full(16, total))


def _copy(backend: Any, old: Any, new: Any, places: Array) -> None:
    backend.store(new.at[places], backend.load(old.at[places]))
