"""Epochs of a sweep in the persistent GPU kernel (:mod:`jaxnet.kernels.persistent`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.data.batches import Split, epoch_batches
from jaxnet.data.dataset import normalise
from jaxnet.kernels import persistent
from jaxnet.nn.params import Params
from jaxnet.structure import LayerParams
from jaxnet.sweep.family import Family, Variant
from jaxnet.sweep.live import DEVIATIONS
from jaxnet.sweep.rows import SweepConfig
from jaxnet.topology import Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Key, PyTree, Scalar

MOST_CLASSES = 128
"""The outputs of a network are one tile, which a thread block holds in its registers."""


def refusal(config: SweepConfig, family: Family) -> str | None:
    """Why the kernel cannot train this sweep, in a few words; None where it can."""
    if config.method is not None:
        return "it knows no method that changes the structure"
    if not config.common_order:
        return "it needs one order of the samples for all seeds"
    if config.draw.activation != "relu":
        return f"it knows ReLUs only, not {config.draw.activation}"
    if family.sizes[-1] > MOST_CLASSES:
        return f"it knows at most {MOST_CLASSES} classes, not {family.sizes[-1]}"
    return None


def make_epochs(
    family: Family, config: SweepConfig, *, interpret: bool = False
) -> Callable[..., tuple[Params, PyTree, Scalar, Bool[Array, ""]]]:
    """Builds ``epochs(net, variant, key_data, split, first, last)`` for one network.

    Args:
      family: shapes.
      config: how to train.
      interpret: as ordinary JAX operations, on any device.

    Returns:
      A function that gives the parameters and the optimiser's state after the epochs
      from ``first`` up to, without, ``last``, the mean loss of the last one, and whether
      there was room for the rows and columns of the network; if not, the rest has no
      meaning.
    """
    sizes = (family.live or family).sizes
    batch = max(16, 1 << (config.batch_size - 1).bit_length())
    rows = [_longest(size, d) for size, d in zip(sizes[:-1], family.max_densities, strict=True)]
    columns = [_longest(size, d) for size, d in zip(sizes[1:], family.max_densities, strict=True)]

    def epochs(
        net: Net, variant: Variant, key_data: Key, split: Split, first: Any, last: Any
    ) -> tuple[Params, PyTree, Scalar, Bool[Array, ""]]:
        topologies: Sequence[Topology] = net.structure.weights
        wired = [
            persistent.wire(topology, longest, column if layer else None)
            for layer, (topology, longest, column) in enumerate(zip(topologies, rows, columns, strict=True))
        ]
        wirings = [wiring for wiring, _ in wired]
        fits = jnp.all(jnp.stack([room for _, room in wired]))
        count = optax.tree.get(net.opt_state, "count")
        kept = [net.params, optax.tree.get(net.opt_state, "mu"), optax.tree.get(net.opt_state, "nu")]
        weights, biases = _learned(kept, topologies, wirings)
        rate = variant.lr if config.lr is None else config.lr
        decay = variant.weight_decay if config.weight_decay is None else config.weight_decay

        def epoch(number: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            weights, biases, count, _ = carry
            x, y, weight, scale, shift = _batches(split, config.batch_size, batch, key_data, number)
            weights, biases, total = persistent.train_epoch(
                wirings,
                weights,
                biases,
                x,
                y,
                weight,
                scale=scale,
                shift=shift,
                corrections=persistent.bias_corrections(count, x.shape[0]),
                lr=jnp.asarray(rate, jnp.float32),
                weight_decay=jnp.asarray(decay, jnp.float32),
                classes=variant.widths[-1],
                interpret=interpret,
            )
            return weights, biases, count + x.shape[0], total / split.size

        weights, biases, count, loss = jax.lax.fori_loop(
            first, last, epoch, (weights, biases, count, jnp.zeros(()))
        )
        params, mu, nu = _params(weights, biases, topologies)
        opt_state = optax.tree.set(net.opt_state, count=count, mu=mu, nu=nu)
        return params, opt_state, loss, fits

    return epochs


def _longest(size: int, density: float) -> int:
    """Room for the weights of a row: more than one ever has in practice where they are drawn anywhere."""
    expected = density * size
    return min(size, math.ceil(expected + DEVIATIONS * math.sqrt(expected * (1 - density)) + 4))


def _learned(
    kept: Sequence[Params], topologies: Sequence[Topology], wirings: Sequence[persistent.Wiring]
) -> tuple[tuple[persistent.Learned, ...], tuple[persistent.Learned, ...]]:
    """Parameters and moments as the kernel takes them."""
    weights, biases = [], []
    for layer, (topology, wiring) in enumerate(zip(topologies, wirings, strict=True)):
        layers = [params.scaffold[layer] for params in kept]
        weights.append(
            persistent.Learned(*(persistent.to_rows(one.weight, topology, wiring) for one in layers))
        )
        missing = wiring.length.shape[0] - topology.shape[0]
        biases.append(persistent.Learned(*(jnp.pad(one.bias, (0, missing)) for one in layers)))
    return tuple(weights), tuple(biases)


def _params(
    weights: Sequence[persistent.Learned],
    biases: Sequence[persistent.Learned],
    topologies: Sequence[Topology],
) -> tuple[Params, ...]:
    """What :func:`_learned` undoes."""
    return tuple(
        Params(
            tuple(
                LayerParams(
                    persistent.from_rows(getattr(weight, name), topology),
                    getattr(bias, name)[: topology.shape[0]],
                )
                for weight, bias, topology in zip(weights, biases, topologies, strict=True)
            )
        )
        for name in ("value", "mu", "nu")
    )


def _batches(
    split: Split, batch_size: int, padded: int, key_data: Key, number: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Samples ``(step, feature, batch)``, labels and weights of an epoch, and what makes inputs of the samples."""
    index, weight = epoch_batches(split.size, batch_size, jax.random.fold_in(key_data, number))
    index, weight = (jnp.pad(a, ((0, 0), (0, padded - batch_size))) for a in (index, weight))
    x, scale, shift = split.x, jnp.ones(()), jnp.zeros(())
    if x.dtype == jnp.uint8 and split.mean.size == split.std.size == 1:
        scale, shift = (1 / (255 * split.std)).reshape(()), (-split.mean / split.std).reshape(())
    else:
        x = normalise(x, split.mean, split.std)
    return jnp.swapaxes(x[index], 1, 2), split.y[index], weight, scale, shift
