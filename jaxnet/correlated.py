"""Masks that are drawn from data: units are wired to features that vary together."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.allocation import check_count
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Bool, Float, Int, Key


def correlated_topology(
    inputs: Float[Array, "sample in"], num_out: int, nnz: int, *, key_mask: Key
) -> Topology:
    """Wires units to the inputs that vary together.

    Every unit has a feature of its own: they go round in an order drawn at random, so
    that none is given twice before all are given once. The ``nnz`` pairs of a unit and a
    feature are taken whose feature correlates most, by magnitude, with the unit's own;
    among equals chance decides. A feature that does not vary correlates with none.
    Units with the same own feature differ by chance alone, if at all.

    Source: the correlated sparse topological initialisation of Zhang et al. 2024 (CHT), where the
    layer has as many units as features, or a multiple; here any number.

    Args:
      inputs: training samples.
      num_out: units.
      nnz: weights, within 1 and ``out * in``.
      key_mask: PRNG key.

    Raises:
      ValueError: ``nnz`` is out of range, or the layer too large.
    """
    num_in = inputs.shape[1]
    check_count(num_out, num_in, nnz)
    key_own, key_ties = jax.random.split(key_mask)
    unit, _ = _standardised(inputs)
    own = jax.random.permutation(key_own, num_in)[jnp.arange(num_out) % num_in]
    flat = _strongest_first(_strengths(unit[own], unit).ravel(), key_ties)
    return topology_from_flat(flat[:nnz], jnp.ones(nnz, bool), (num_out, num_in))


def local_topologies(
    inputs: Float[Array, "sample in"], widths: Sequence[int], counts: Sequence[int], *, key_mask: Key
) -> tuple[Topology, ...]:
    """Wires one layer after the other to what varies together, every unit with as many inputs.

    A unit of any layer has a feature of the inputs as its own, drawn as in
    :func:`correlated_topology`, of those that vary. It reads the units below whose own features
    correlate most, by magnitude, with its own (in the first layer: the features themselves);
    among equals chance decides. Of images this makes windows: what a unit depends on grows from
    layer to layer, as in a convolutional network whose kernels share no weights. Where a count
    is no multiple of the width, units drawn at random have one input more.

    Args:
      inputs: training samples.
      widths: units of each layer.
      counts: weights of each, within 1 and ``out * in``.
      key_mask: PRNG key; layer ``l`` uses ``fold_in(key_mask, l)``.

    Raises:
      ValueError: a count is out of range, or a layer too large.
    """
    unit, varies = _standardised(inputs)
    below, topologies = unit, []
    for layer, (num_out, nnz) in enumerate(zip(widths, counts, strict=True)):
        num_in = len(below)
        check_count(num_out, num_in, nnz)
        key_own, key_ties, key_more = jax.random.split(jax.random.fold_in(key_mask, layer), 3)
        own = jax.random.permutation(key_own, len(unit))
        own = own[jnp.argsort(~varies[own], stable=True)]  # those that vary first
        own = own[jnp.arange(num_out) % jnp.maximum(jnp.sum(varies), 1)]
        first = _strongest_first(_strengths(unit[own], below), key_ties)
        flat = jnp.arange(num_out, dtype=jnp.int32)[:, None] * num_in + first
        each, rest = divmod(nnz, num_out)
        more = jax.random.permutation(key_more, num_out)[:rest]
        chosen = jnp.concatenate([flat[:, :each].ravel(), *([flat[more, each]] if rest else [])])
        topologies.append(topology_from_flat(chosen, jnp.ones(nnz, bool), (num_out, num_in)))
        below = unit[own]
    return tuple(topologies)


def _standardised(inputs: Float[Array, "sample in"]) -> tuple[Float[Array, "in sample"], Bool[Array, "in"]]:
    """Every feature about its mean and of length 1, zeros where it does not vary; whether it varies."""
    centred = inputs - jnp.mean(inputs, axis=0)
    length = jnp.sqrt(jnp.sum(jnp.square(centred), axis=0))
    # rounding leaves a few ulps of a feature that is the same in all samples
    varies = length > 1e-6 * jnp.sqrt(jnp.sum(jnp.square(inputs), axis=0))
    return jnp.where(varies, centred / jnp.where(varies, length, 1.0), 0.0).T, varies


def _strengths(of: Float[Array, "out sample"], to: Float[Array, "in sample"]) -> Float[Array, "out in"]:
    """Correlations by magnitude; one for itself, whatever rounding made of it."""
    return jnp.round(jnp.abs(jnp.matmul(of, to.T, precision="highest")), 6)


def _strongest_first(strength: Float[Array, "... position"], key: Key) -> Int[Array, "... position"]:
    """Positions along the last axis by falling strength; among equals chance decides."""
    bits = jax.random.bits(key, strength.shape, jnp.uint32)
    every = jnp.broadcast_to(jnp.arange(strength.shape[-1], dtype=jnp.int32), strength.shape)
    return jax.lax.sort((-strength, bits, every), num_keys=2)[2]
