"""Epochs of a sweep in the persistent GPU kernel (:mod:`jaxnet.kernels.persistent`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.data.batches import Split, epoch_batches
from jaxnet.data.dataset import normalise
from jaxnet.errors import InputError
from jaxnet.kernels import persistent, product
from jaxnet.nn.params import Params
from jaxnet.structure import LayerParams
from jaxnet.sweep.family import Variant
from jaxnet.sweep.rows import SweepConfig
from jaxnet.train import Net
from jaxnet.types import Array, Key, PyTree, Scalar

PERSISTENT = "persistent"
"""Its name among the kernels."""

TOLERANCE = 1e-4
"""Nats that the loss of a network may be off after a trial; rounding alone gives some 1e-6."""

_STEPS, _NETWORKS = 128, 1024  # of a trial


def refusal(config: SweepConfig, classes: int, precision: str = "f32") -> str | None:
    """Why the kernel cannot train a sweep here, in a few words; None where it can."""
    if precision != "f32":
        return f"it computes in f32, not in {precision}"
    if config.method is not None:
        return "it knows no method that changes the structure"
    if config.transform is not None:
        return "it knows no augmentation of the samples"
    if not (config.shuffle and config.draw.enforced):
        return "it shuffles the samples and enforces the masks"
    if not config.common_order:
        return "it needs one order of the samples for all seeds"
    if config.draw.activation != "relu":
        return f"it knows ReLUs only, not {config.draw.activation}"
    if classes > persistent.TILE:
        return f"it knows at most {persistent.TILE} classes, not {classes}"
    return persistent.missing()


def with_kernel(config: SweepConfig, kernel: str, precision: str = "f32") -> SweepConfig:
    """A sweep with the kernel ``persistent``, or with a product.

    Raises:
      InputError: the kernel is not there, or cannot train this sweep.
    """
    if kernel != PERSISTENT:
        return dataclasses.replace(config, product=product(kernel, precision))
    reason = refusal(config, 0, precision)
    if reason is not None:
        raise InputError(
            f"the {PERSISTENT} kernel cannot train this: {reason}: choose another kernel, or auto"
        )
    return dataclasses.replace(config, product=product("dense"), persistent=True)


def on_trial(
    train: Callable[[SweepConfig, int, int], tuple[float, Array]], config: SweepConfig
) -> tuple[float, float]:
    """How far losses are off after some steps (nats), and the kernel's time over that of the dense product.

    Nothing but a trial tells that a kernel whose threads share memory is right on a
    device and with a compiler: see :data:`TOLERANCE`.

    Args:
      train: trains so many networks by a configuration for so many steps: seconds a network, losses.
      config: of the sweep.
    """
    (dense, expected), (own, found) = (
        train(with_kernel(config, kernel), _NETWORKS, _STEPS) for kernel in ("dense", PERSISTENT)
    )
    return float(jnp.max(jnp.abs(found - expected))), own / dense


def make_epochs(
    config: SweepConfig, *, interpret: bool = False
) -> Callable[..., tuple[Params, PyTree, Scalar]]:
    """Builds ``epochs(net, variant, key_data, split, first, last)`` for one network.

    Args:
      config: how to train.
      interpret: as ordinary JAX operations, on any device.

    Returns:
      A function that gives the parameters and the optimiser's state after the epochs
      from ``first`` up to, without, ``last``, and the mean loss of the last one.
    """
    batch = max(16, 1 << (config.batch_size - 1).bit_length())

    def epochs(
        net: Net, variant: Variant, key_data: Key, split: Split, first: Any, last: Any
    ) -> tuple[Params, PyTree, Scalar]:
        wirings = [
            persistent.wire(topology, first=layer == 0)
            for layer, topology in enumerate(net.structure.weights)
        ]
        count = optax.tree.get(net.opt_state, "count")
        kept = [net.params, optax.tree.get(net.opt_state, "mu"), optax.tree.get(net.opt_state, "nu")]
        weights, biases = _learned(kept)
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
        params, mu, nu = _params(weights, biases, net.params)
        return params, optax.tree.set(net.opt_state, count=count, mu=mu, nu=nu), loss

    return epochs


def _learned(kept: Sequence[Params]) -> tuple[tuple[persistent.Learned, ...], tuple[persistent.Learned, ...]]:
    """Parameters and moments as the kernel takes them."""
    weights, biases = [], []
    for layers in zip(*(params.scaffold for params in kept), strict=True):
        weights.append(persistent.Learned(*(persistent.fill(one.weight) for one in layers)))
        units = layers[0].bias.shape[0]
        missing = persistent.padded(units) - units
        biases.append(persistent.Learned(*(jnp.pad(one.bias, (0, missing)) for one in layers)))
    return tuple(weights), tuple(biases)


def _params(
    weights: Sequence[persistent.Learned], biases: Sequence[persistent.Learned], like: Params
) -> list[Params]:
    """What :func:`_learned` undoes."""

    def one(name: str) -> Params:
        layers = [
            LayerParams(getattr(w, name)[: old.weight.shape[0]], getattr(b, name)[: old.bias.shape[0]])
            for w, b, old in zip(weights, biases, like.scaffold, strict=True)
        ]
        return Params(tuple(layers))

    return [one(name) for name in ("value", "mu", "nu")]


def _batches(
    split: Split, batch_size: int, padded: int, key_data: Key, number: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Samples ``(step, feature, batch)``, labels, weights; and what makes inputs of samples."""
    index, weight = epoch_batches(split.size, batch_size, jax.random.fold_in(key_data, number))
    index, weight = (jnp.pad(a, ((0, 0), (0, padded - batch_size))) for a in (index, weight))
    x, scale, shift = split.x, jnp.ones(()), jnp.zeros(())
    if x.dtype == jnp.uint8 and split.mean.size == split.std.size == 1:
        scale, shift = (1 / (255 * split.std)).reshape(()), (-split.mean / split.std).reshape(())
    else:
        x = normalise(x, split.mean, split.std)
    return jnp.swapaxes(x[index], 1, 2), split.y[index], weight, scale, shift
