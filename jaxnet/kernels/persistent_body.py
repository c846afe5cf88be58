"""What a thread block of :mod:`jaxnet.kernels.persistent` does with its network.

A step has four parts, a barrier after each: layer by layer the activations, a tile of
units at a time; layer by layer their gradients, along the columns; the gradients of all
weights, a tile of weights at a time; and Adam, on all of them as one array. The sizes
of the tiles were chosen by measurement on one H200.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.losses import ABSENT
from jaxnet.types import Array

B1, B2, EPSILON = 0.9, 0.999, 1e-8
TILE = 32
"""Units that a thread block computes at once."""

CHUNK = 64
"""Weights whose gradients it computes at once."""

ADAM = 256
"""Parameters that it updates at once."""

UNROLL = 1
"""Weights of a row in flight at once."""


def epoch(
    backend: Any,
    interpret: bool,
    wirings: Any,
    learned: Any,
    x: Any,
    labels: Any,
    sample_weight: Any,
    share: Any,
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

    def tiles(size: Any, tile: int, body: Callable[[Array, Array], None]) -> None:
        """``body(number, indices)`` for every tile up to ``size``."""
        # always 0, unknown to the compiler: it would fill the registers with indices known for good
        zero = classes[1]
        if isinstance(size, int) and size <= tile:
            body(zero, zero + jnp.arange(tile))
        else:
            jax.lax.fori_loop(
                0,
                (size + tile - 1) // tile,
                lambda i, _: body(zero + i, (zero + i) * tile + jnp.arange(tile)),
                None,
            )

    def along(start: Any, longest: Any, units: Array, fetch: Any, add: Any, carried: Any) -> Any:
        """``carried`` after ``add(fetch(slots, exist), carried)`` for one slot of some rows after the other.

        Where a row has no more slots, a weight of zero is added. What comes next is fetched
        before what is there is added.
        """
        begin, end = load(start.at[units]), load(start.at[units + 1])

        def some(i: Array) -> list[Any]:
            slots = [begin + (i * UNROLL + j) for j in range(UNROLL)]
            return [fetch(slot, slot < end) for slot in slots]

        def several(i: Array, carried: Any) -> Any:
            fetched, carried = carried
            following = some(i + 1)
            for one in fetched:
                carried = add(one, carried)
            return following, carried

        rounds = (longest + UNROLL - 1) // UNROLL
        _, carried = jax.lax.fori_loop(0, rounds, several, (some(jnp.int32(0)), carried))
        return carried

    def gather(source: Any, units: Array) -> Array:
        """``(unit, batch)``: rows of samples, of activations or of their gradients."""
        return load(source.at[units[:, None], samples]).astype(jnp.float32)

    def inputs(layer: int, step: Array, units: Array) -> Array:
        """``(unit, batch)``: what weights of a layer read."""
        return gather(x, step * features + units) if layer == 0 else gather(hidden[layer - 1], units)

    def outputs(layer: int, step: Array, tile: Array, units: Array) -> Array:
        """``(unit, batch)``: some of the layer's values before the activation."""
        wiring, values = wirings[layer], weights[layer].value

        def fetch(slot: Array, exist: Array) -> tuple[Array, Array]:
            unit = load(wiring.cols.at[slot], mask=exist, other=0)
            return unit, load(values.at[slot], mask=exist, other=0.0)

        def add(fetched: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            (unit, w), (total, row_sum) = fetched, carried
            return total + w[:, None] * inputs(layer, step, unit), row_sum + w

        zeros = jnp.zeros((units.shape[0], batch), jnp.float32), jnp.zeros(units.shape[0], jnp.float32)
        longest = wiring.longest_row[tile]
        total, row_sum = along(wiring.row_start, longest, units, fetch, add, zeros)
        constant = load(biases[layer].value.at[units])
        if layer == 0:
            total, constant = scale * total, constant + shift * row_sum
        return total + constant[:, None]

    def forward(layer: int, step: Array) -> None:
        def some(tile: Array, units: Array) -> None:
            values = jnp.maximum(outputs(layer, step, tile, units), 0.0)
            store(hidden[layer].at[units[:, None], samples], values)

        tiles(hidden[layer].shape[0], TILE, some)

    def answer(step: Array) -> Array:
        """Losses ``(unit, batch)``, of a sample where its class is; stores their gradient at the logits."""
        units = jnp.arange(hidden[last].shape[0])
        logits = outputs(last, step, jnp.int32(0), units)
        logits = jnp.where((units < num_classes)[:, None], logits, ABSENT)
        right = units[:, None] == load(labels.at[step, jnp.arange(batch)])[None, :]
        highest = jnp.max(logits, axis=0)
        powers = jnp.exp(logits - highest[None, :])
        sums = jnp.sum(powers, axis=0)
        of_sample = load(share.at[step, jnp.arange(batch)])
        delta = (powers / sums[None, :] - right.astype(jnp.float32)) * of_sample[None, :]
        store(deltas[last].at[units[:, None], samples], delta)
        weight = load(sample_weight.at[step, jnp.arange(batch)])[None, :]
        losses = (highest + jnp.log(sums))[None, :] - logits
        return jnp.where(right & (weight > 0), losses * weight, 0.0)

    def backward(layer: int) -> None:
        """The gradient at the values of the layer below, before their activation."""
        wiring, values = wirings[layer], weights[layer].value

        def some(tile: Array, units: Array) -> None:
            def fetch(place: Array, exist: Array) -> tuple[Array, Array]:
                slot = load(wiring.readers.at[place], mask=exist, other=0)
                row = load(wiring.rows.at[slot], mask=exist, other=0)
                return row, load(values.at[slot], mask=exist, other=0.0)

            def add(fetched: Any, total: Array) -> Array:
                row, w = fetched
                return total + w[:, None] * gather(deltas[layer], row)

            total = jnp.zeros((units.shape[0], batch), jnp.float32)
            total = along(wiring.read_start, wiring.most_read[tile], units, fetch, add, total)
            at = units[:, None], samples
            active = load(hidden[layer - 1].at[at]) > 0
            store(deltas[layer - 1].at[at], jnp.where(active, total, 0.0))

        tiles(hidden[layer - 1].shape[0], TILE, some)

    def differentiate(layer: int, step: Array) -> None:
        """The gradients of a layer's weights, for inputs as they are stored, and of its biases."""
        wiring = wirings[layer]
        units, nonzeros = hidden[layer].shape[0], wiring.row_start[hidden[layer].shape[0]]

        def some(tile: Array, slots: Array) -> None:
            del tile
            row, unit = load(wiring.rows.at[slots]), load(wiring.cols.at[slots])
            product = gather(deltas[layer], row) * inputs(layer, step, unit)
            store(of_weights[layer].at[slots], jnp.sum(product, axis=1))

        def biases(tile: Array, units: Array) -> None:
            del tile
            store(
                of_biases[layer].at[units], jnp.sum(load(deltas[layer].at[units[:, None], samples]), axis=1)
            )

        tiles(nonzeros, CHUNK, some)
        tiles(units, TILE, biases)

    def adam(one: Any, gradient: Array, places: Array, first: Array, second: Array) -> None:
        """Moves some parameters in place.

        A tile of fewer parameters than threads is held by several threads each: all must
        have read before one writes, or the slower ones would start from what is new.
        """
        w, mu, nu = (load(a.at[places]) for a in (one.value, one.mu, one.nu))
        mu = B1 * mu + (1 - B1) * gradient
        nu = B2 * nu + (1 - B2) * gradient * gradient
        change = (mu * first) / (jnp.sqrt(nu * second) + EPSILON) + decay * w
        barrier()
        for place, new in zip((one.value, one.mu, one.nu), (w - lr * change, mu, nu), strict=True):
            store(place.at[places], new)

    def update(layer: int, step: Array) -> None:
        first, second = corrections[step, 0], corrections[step, 1]
        wiring = wirings[layer]

        def some(tile: Array, slots: Array) -> None:
            del tile
            gradient = load(of_weights[layer].at[slots])
            if layer == 0:
                row = load(wiring.rows.at[slots])
                gradient = scale * gradient + shift * load(of_biases[layer].at[row])
            gradient = jnp.where(slots < wiring.row_start[hidden[layer].shape[0]], gradient, 0.0)
            adam(weights[layer], gradient, slots, first, second)

        def of_units(tile: Array, units: Array) -> None:
            del tile
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
        tiles(
            size, ADAM if size % ADAM == 0 else min(size, TILE), functools.partial(_copy, backend, old, new)
        )
    barrier()
    nothing = jnp.zeros((hidden[last].shape[0], batch), jnp.float32)
    total = jnp.sum(jax.lax.fori_loop(0, steps, step, nothing))
    store(loss.at[...], jnp.full(16, total))


def _copy(backend: Any, old: Any, new: Any, tile: Array, places: Array) -> None:
    del tile
    backend.store(new.at[places], backend.load(old.at[places]))
