"""``dense`` patches: new direct connections around an extremum.

A **high** patch connects its extremum to a fraction (the patch density) of the
next layer, a **low** patch connects its extremum to the same fraction of the
layer below. The connections are ordinary weights with a learning rate of their
own. None is made where a weight exists, so that patches can be merged into the
scaffold without changing its number of weights.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.kernels import Product
from jaxnet.patches.kinds import Kind, LayerPatches, PatchRules, shifted
from jaxnet.patches.places import first_by_rank
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology, join_topologies, topology_from_flat, topology_mask
from jaxnet.types import Array, Bool, Features, Int, Key, Values


def connected(patch_density: float, size: int) -> int:
    """Units of a layer of ``size`` that one patch connects its extremum to: at least one, half to even."""
    return max(1, round(patch_density * size))


class DensePatches(LayerPatches, kw_only=True):
    """The ``dense`` patches that feed one layer.

    Attributes:
      topology: the connections of all of them.
      owner: ``(capacity,)`` int32, the slot that each connection belongs to.
    """

    topology: Topology
    owner: Int[Array, "nnz"]


class DensePatchParams(flax.struct.PyTreeNode):
    """Values of all ``dense`` patches that feed one layer.

    Attributes:
      weight: ``(capacity,)``, in the order of ``DensePatches.topology``.
    """

    weight: Values


class Dense(Kind[DensePatches]):
    """See :mod:`jaxnet.patches.dense`."""

    def make(
        self,
        placed: LayerPatches,
        taken: Bool[Array, "out in"],
        rules: PatchRules,
        *,
        key_patch: Key,
        there: DensePatches | None = None,
    ) -> tuple[DensePatches, DensePatchParams]:
        """Draws connections at random among the positions where no weight exists yet.

        A high patch gets :func:`connected` targets of ``out``, a low one as many
        sources of ``in``; fewer only where fewer are free.
        High patches choose first. New weights of high patches are zero (the function is
        unchanged when they are added); those of low patches are normal with standard
        deviation ``1 / sqrt(sources)``, because a dead unit passes no gradient on
        that could wake it up.
        """
        num_out, num_in = taken.shape
        n, slots = placed.num_high, jnp.arange(placed.unit.shape[0], dtype=jnp.int32)
        key_targets, key_sources, key_values = jax.random.split(key_patch, 3)
        width_low = connected(rules.patch_density, num_in)
        flat, exists, owner = [], [], []
        held = taken.ravel()
        # position of the i-th target of unit u: i * in + u; of its i-th source: u * in + i
        for mine, size, step, base, key in (
            (slots[:n], num_out, num_in, 1, key_targets),
            (slots[n:], num_in, 1, num_in, key_sources),
        ):
            if not mine.shape[0]:
                continue
            start = placed.unit[mine, None] * base
            rank = jax.random.uniform(key, (mine.shape[0], size))
            width = connected(rules.patch_density, size)
            index, free = first_by_rank(rank, width, held[start + jnp.arange(size) * step])
            flat.append(start + index * step)
            exists.append(free & placed.active[mine, None])
            owner.append(jnp.broadcast_to(mine[:, None], free.shape))
            held = held.at[jnp.where(exists[-1], flat[-1], held.shape[0])].set(True, mode="drop")
        flat_all, exists_all, owner_all = (
            jnp.concatenate([a.ravel() for a in x]) for x in (flat, exists, owner)
        )
        # The order that topology_from_flat gives the slots: existing positions ascending, padding last.
        order = jnp.argsort(jnp.where(exists_all, flat_all, num_out * num_in))
        topology = topology_from_flat(flat_all, exists_all, (num_out, num_in))
        owner_all = owner_all[order]
        values = jax.random.normal(key_values, owner_all.shape) * width_low**-0.5
        values = jnp.where(topology.exists & (owner_all >= n), values, 0.0)
        patches = DensePatches(placed.unit, placed.active, topology=topology, owner=owner_all, num_high=n)
        return patches, DensePatchParams(values)

    def apply(
        self,
        values: DensePatchParams,
        patches: DensePatches,
        rules: PatchRules,
        pre: Features,
        post: Features,
        num_out: int,
        product: Product,
    ) -> Features:
        """One more sparse layer."""
        return product(self.remove(values, patches).weight, patches.topology, post)

    def count(self, values: DensePatchParams, patches: DensePatches) -> Int[Array, "slot"]:
        """``(slot,)``, number of connections of each slot."""
        sizes = jnp.zeros(patches.unit.shape[0], jnp.int32)
        return sizes.at[patches.owner].add(patches.topology.exists.astype(jnp.int32))

    def extend(
        self,
        old: tuple[DensePatches, DensePatchParams],
        new: tuple[DensePatches, DensePatchParams],
        shape: tuple[int, int],
    ) -> tuple[DensePatches, DensePatchParams]:
        """Joins the connections; ``taken`` of :meth:`make` has seen to it that none meet."""
        (a, x), (b, y) = old, new
        topology, order = join_topologies([(a.topology, 0, 0), (b.topology, 0, 0)], shape)
        p, q = a.num_high, b.num_high
        owner = jnp.concatenate(
            [
                jnp.where(a.owner < p, a.owner, a.owner + q),
                jnp.where(b.owner < q, b.owner, b.owner + a.unit.shape[0] - p) + p,
            ]
        )
        weight = jnp.concatenate([x.weight, y.weight])[order]
        patches = self.beside(a, b).replace(topology=topology, owner=owner[order])
        return patches, DensePatchParams(jnp.where(topology.exists, weight, 0.0))

    def merge(
        self, layer: LayerParams, topology: Topology, values: DensePatchParams, patches: DensePatches
    ) -> tuple[LayerParams, Topology]:
        """Makes the active patches of a layer part of its scaffold; the function is unchanged.

        Where the scaffold has come to a position of a patch since (by rewiring), the
        weight there is the sum of both.

        Returns:
          The layer and its topology, with a capacity of both together; slots of
          inactive patches are padding.
        """
        num_out, num_in = topology.shape
        added, capacity = patches.topology, topology.capacity
        alive = added.exists & patches.active[patches.owner]
        there, wanted = (  # ascending, padding last
            jnp.where(t.exists, t.rows * num_in + t.cols, num_out * num_in) for t in (topology, added)
        )
        slot = jnp.searchsorted(there, wanted).astype(jnp.int32)
        meets = alive & (there.at[slot].get(mode="fill", fill_value=-1) == wanted)
        both = layer.weight.at[jnp.where(meets, slot, capacity)].add(values.weight, mode="drop")
        # a row outside the layer makes a slot padding
        added = added.replace(rows=jnp.where(alive & ~meets, added.rows, num_out))
        merged, order = join_topologies([(topology, 0, 0), (added, 0, 0)], topology.shape)
        weight = jnp.concatenate([both, values.weight])[order]
        return LayerParams(jnp.where(merged.exists, weight, 0.0), layer.bias), merged

    def remove(self, values: DensePatchParams, patches: DensePatches) -> DensePatchParams:
        """The values with zeros for the connections of inactive slots."""
        return DensePatchParams(jnp.where(patches.active[patches.owner], values.weight, 0.0))

    def held(self, patches: DensePatches) -> Bool[Array, "out in"]:
        """All positions, those of inactive patches too."""
        return topology_mask(patches.topology)

    def refit(
        self, patches: DensePatches, shape: tuple[int, int], beyond: int = 0, by: int = 0
    ) -> DensePatches:
        """The same connections, in the same order."""
        t = patches.topology
        topology = topology_from_flat(t.rows * shape[1] + shifted(t.cols, beyond, by), t.exists, shape)
        return super().refit(patches, shape, beyond, by).replace(topology=topology)
