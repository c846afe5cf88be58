"""From edited topologies to an edited network: values and moments move along, what was done is counted."""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.network import Params, Structure
from jaxnet.rewire.edit import follow, is_new, topologies
from jaxnet.topology import Topology
from jaxnet.types import Array, Int, Key, PyTree, Values

NEW_WEIGHT = 0.1
"""Standard deviation of a new weight where it is not zero (the original's)."""


class RewireInfo(flax.struct.PyTreeNode):
    """What an edit did: weights that are new and weights that are gone, ``(layer,)`` each."""

    grown: Int[Array, "layer"]
    dropped: Int[Array, "layer"]


def apply_edit(
    params: Params,
    structure: Structure,
    opt_state: PyTree,
    new: Structure,
    value: Callable[[int, Topology], Array] | None = None,
) -> tuple[Params, Structure, PyTree, RewireInfo]:
    """Moves values and moments to the topologies of ``new``.

    Args:
      params: the values.
      structure: they belong to.
      opt_state: its moments follow; those of new weights are zero.
      new: the structure after the edit.
      value: ``(layer, topology) -> (capacity,)``, values of new weights; zero by default.
    """
    params, opt_state = follow((params, opt_state), structure, new)
    pairs = list(zip(topologies(structure), topologies(new), strict=True))
    fresh = [is_new(a, b) for a, b in pairs]
    if value is not None:
        layers = [
            layer.replace(weight=jnp.where(mask, value(number, b), layer.weight))
            for number, (layer, mask, (_, b)) in enumerate(zip(params.scaffold, fresh, pairs, strict=True))
        ]
        params = params.replace(scaffold=tuple(layers))
    info = RewireInfo(
        grown=jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in fresh]),
        dropped=jnp.stack([jnp.sum(is_new(b, a), dtype=jnp.int32) for a, b in pairs]),
    )
    return params, new, opt_state, info


def small_weights(key: Key, scale: float = NEW_WEIGHT) -> Callable[[int, Topology], Values]:
    """Values for :func:`apply_edit`: normal with standard deviation ``scale``, drawn for each layer."""

    def value(layer: int, topology: Topology) -> Values:
        return scale * jax.random.normal(jax.random.fold_in(key, layer), (topology.capacity,))

    return value
