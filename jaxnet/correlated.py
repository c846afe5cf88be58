"""Masks that are drawn from data: units are wired to features that vary together."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.allocation import check_count
from jaxnet.topology import Topology, topology_from_flat
from jaxnet.types import Array, Float, Key


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
    centred = inputs - jnp.mean(inputs, axis=0)
    length = jnp.sqrt(jnp.sum(jnp.square(centred), axis=0))
    # rounding leaves a few ulps of a feature that is the same in all samples
    varies = length > 1e-6 * jnp.sqrt(jnp.sum(jnp.square(inputs), axis=0))
    unit = jnp.where(varies, centred / jnp.where(varies, length, 1.0), 0.0)
    own = jax.random.permutation(key_own, num_in)[jnp.arange(num_out) % num_in]
    strength = jnp.abs(jnp.matmul(unit.T[own], unit, precision="highest"))
    # one for itself, whatever rounding made of it
    strength = jnp.round(strength, 6).ravel()
    bits = jax.random.bits(key_ties, strength.shape, jnp.uint32)
    every = jnp.arange(strength.size, dtype=jnp.int32)
    _, _, flat = jax.lax.sort((-strength, bits, every), num_keys=2)
    return topology_from_flat(flat[:nnz], jnp.ones(nnz, bool), (num_out, num_in))
