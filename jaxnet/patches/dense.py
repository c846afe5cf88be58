"""``dense`` patches: new direct connections around an extremum.

A **high** patch connects its extremum to a fraction (the patch density) of the
next layer, a **low** patch connects its extremum to the same fraction of the
layer below. The connections are ordinary weights with a learning rate of their
own; no position is taken twice, neither by the scaffold nor by another patch, so
a patch can be merged into the scaffold at any time without changing the function.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.kernels import Product
from jaxnet.layers import LayerParams
from jaxnet.masks import Topology, join_topologies, topology_from_flat, topology_mask
from jaxnet.patches.bank import LayerPatches, PatchRules, draw_distinct
from jaxnet.types import Array, Bool, Features, Int, Key, Values


class DensePatchParams(flax.struct.PyTreeNode):
    """Values of all ``dense`` patches that feed one layer.

    Attributes:
      weight: ``(capacity,)``, in the order of ``LayerPatches.topology``.
    """

    weight: Values


def make_dense_patches(
    unit: Int[Array, "slot"],
    active: Bool[Array, "slot"],
    num_high: int,
    scaffold: Topology,
    rules: PatchRules,
    *,
    key_patch: Key,
    taken: Bool[Array, "out in"] | None = None,
) -> tuple[LayerPatches, DensePatchParams]:
    """Builds the ``dense`` patches that feed one layer.

    A high patch gets ``max(1, round(patch_density * out))`` targets (half to
    even), a low one as many sources of ``in``, drawn at random among the
    positions where no weight exists yet; fewer only where fewer are free. High
    patches choose first. New weights of high patches are zero (the function is
    unchanged when they are added); those of low patches are normal with standard
    deviation ``1 / sqrt(sources)``, because a dead unit passes no gradient on
    that could wake it up.
    """
    num_out, num_in = scaffold.shape
    num_low = unit.shape[0] - num_high
    key_targets, key_sources, key_values = jax.random.split(key_patch, 3)
    present = topology_mask(scaffold)
    taken = present if taken is None else taken | present
    flat, exists, owner = [], [], []
    slots = jnp.arange(unit.shape[0], dtype=jnp.int32)
    width_low = max(1, round(rules.patch_density * num_in))
    if num_high:
        units, width = unit[:num_high], max(1, round(rules.patch_density * num_out))
        targets, free = draw_distinct(num_high, num_out, width, taken[:, units].T, key=key_targets)
        free &= active[:num_high, None]
        taken = taken.at[jnp.where(free, targets, num_out), units[:, None]].set(True, mode="drop")
        flat.append(targets * num_in + units[:, None])
        exists.append(free)
        owner.append(jnp.broadcast_to(slots[:num_high, None], free.shape))
    if num_low:
        units = unit[num_high:]
        sources, free = draw_distinct(num_low, num_in, width_low, taken[units], key=key_sources)
        free &= active[num_high:, None]
        flat.append(units[:, None] * num_in + sources)
        exists.append(free)
        owner.append(jnp.broadcast_to(slots[num_high:, None], free.shape))
    flat_all, exists_all, owner_all = (jnp.concatenate([a.ravel() for a in x]) for x in (flat, exists, owner))
    # The order that topology_from_flat gives the slots: existing positions ascending, padding last.
    order = jnp.argsort(jnp.where(exists_all, flat_all, num_out * num_in))
    topology = topology_from_flat(flat_all, exists_all, scaffold.shape)
    owner_all = owner_all[order]
    values = jax.random.normal(key_values, owner_all.shape) * width_low**-0.5
    values = jnp.where(topology.exists & (owner_all >= num_high), values, 0.0)
    patches = LayerPatches(unit, active, topology=topology, owner=owner_all, num_high=num_high)
    return patches, DensePatchParams(values)


def apply_dense_patches(
    params: DensePatchParams, patches: LayerPatches, post_below: Features, product: Product
) -> Features:
    """What the ``dense`` patches add to the pre-activations of their layer: ``(out, batch)``."""
    assert patches.topology is not None and patches.owner is not None
    weight = jnp.where(patches.active[patches.owner], params.weight, 0.0)
    return product(weight, patches.topology, post_below)


def dense_sizes(patches: LayerPatches) -> Int[Array, "slot"]:
    """``(slot,)``, number of connections of each slot."""
    assert patches.topology is not None and patches.owner is not None
    sizes = jnp.zeros(patches.unit.shape[0], jnp.int32)
    return sizes.at[patches.owner].add(patches.topology.exists.astype(jnp.int32))


def merge_layer(
    layer: LayerParams, topology: Topology, params: DensePatchParams, patches: LayerPatches
) -> tuple[LayerParams, Topology]:
    """Makes the active ``dense`` patches of a layer part of its scaffold.

    Returns:
      The layer and its topology, with a capacity of both together; slots of
      inactive patches are padding. The function is unchanged.
    """
    assert patches.topology is not None and patches.owner is not None
    added = patches.topology
    alive: Bool[Array, "nnz"] = added.exists & patches.active[patches.owner]
    # a row outside the layer makes a slot padding
    added = added.replace(rows=jnp.where(alive, added.rows, added.shape[0]))
    merged, order = join_topologies([(topology, 0, 0), (added, 0, 0)], topology.shape)
    values = jnp.concatenate([layer.weight, params.weight])[order]
    return LayerParams(jnp.where(merged.exists, values, 0.0), layer.bias), merged
