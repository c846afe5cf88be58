"""Patches: small dense modules around the extrema of a scaffold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxnet.extrema import Extrema
from jaxnet.kernels import Product
from jaxnet.layers import LayerParams
from jaxnet.masks import Topology
from jaxnet.patches.bank import KINDS, PLACEMENTS, LayerPatches, PatchBank, PatchRules, place, slot_counts
from jaxnet.patches.dense import (
    DensePatchParams,
    apply_dense_patches,
    dense_sizes,
    make_dense_patches,
    merge_layer,
)
from jaxnet.patches.mlp import MlpLayerParams, MlpParams, apply_mlp_patches, make_mlp_patches, mlp_sizes
from jaxnet.types import Array, Bool, Features, Float, Int, Key, Scalar

PatchParams = tuple[MlpLayerParams | DensePatchParams | None, ...]
"""Values of all patches: for each layer those that feed it, or None."""


def add_patches(
    extrema: Sequence[Extrema], topologies: Sequence[Topology], rules: PatchRules, *, key_patch: Key
) -> tuple[PatchBank, PatchParams]:
    """Builds a bank of patches for one network.

    Args:
      extrema: of each hidden layer.
      topologies: of each layer of the scaffold.
      rules: how patches are chosen and built.
      key_patch: PRNG key for places, connections and values.

    Returns:
      The bank and the values of its patches.
    """
    sizes = [topologies[0].shape[1], *(t.shape[0] for t in topologies)]
    layers: list[LayerPatches | None] = []
    values: list[MlpLayerParams | DensePatchParams | None] = []
    for t, (high, low) in enumerate(slot_counts(sizes, rules)):
        if high + low == 0:
            layers.append(None)
            values.append(None)
            continue
        key_place, key_make = (jax.random.fold_in(key_patch, 2 * t + purpose) for purpose in (0, 1))
        unit, active = place(extrema, t, (high, low), rules, key_place=key_place)
        made: tuple[LayerPatches, MlpLayerParams | DensePatchParams]
        if rules.kind == "mlp":
            made = make_mlp_patches(unit, active, high, topologies[t].shape, rules, key_patch=key_make)
        else:
            made = make_dense_patches(unit, active, high, topologies[t], rules, key_patch=key_make)
        layers.append(made[0])
        values.append(made[1])
    return PatchBank(tuple(layers), rules), tuple(values)


def apply_patches(
    params: PatchParams,
    bank: PatchBank,
    layer: int,
    pre_below: Features,
    post_below: Features,
    product: Product,
    *,
    key_forward: Key | None = None,
) -> Features | None:
    """What patches add to the pre-activations of ``layer``: ``(out, batch)``, or None without patches."""
    patches, values = bank.layers[layer], params[layer]
    if patches is None or values is None:
        return None
    if isinstance(values, DensePatchParams):
        return apply_dense_patches(values, patches, post_below, product)
    key = None if key_forward is None else jax.random.fold_in(key_forward, layer)
    return apply_mlp_patches(values, patches, bank.rules, pre_below, post_below, product, key_forward=key)


def active_slots(bank: PatchBank) -> Bool[Array, "slot"]:
    """``(slot,)``, which slots of the whole bank hold a patch, in layer order."""
    parts = [p.active for p in bank.layers if p is not None]
    return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros(0, bool)


def slot_sizes(bank: PatchBank, params: PatchParams) -> Int[Array, "slot"]:
    """``(slot,)``, number of values of each slot of the whole bank; inactive slots count 0."""
    parts = []
    for patches, values in zip(bank.layers, params, strict=True):
        if patches is not None and values is not None:
            sizes = dense_sizes(patches) if isinstance(values, DensePatchParams) else mlp_sizes(values)
            parts.append(jnp.where(patches.active, sizes, 0))
    return jnp.concatenate(parts) if parts else jnp.zeros(0, jnp.int32)


def keep_patches(bank: PatchBank, keep: Bool[Array, "slot"]) -> PatchBank:
    """Deactivates the slots where ``keep`` (over the whole bank) is False."""
    layers: list[LayerPatches | None] = []
    start = 0
    for patches in bank.layers:
        if patches is not None:
            stop = start + patches.active.shape[0]
            patches = patches.replace(active=patches.active & keep[start:stop])
            start = stop
        layers.append(patches)
    return bank.replace(layers=tuple(layers))


def remove_patches(
    bank: PatchBank, params: PatchParams, keep: Bool[Array, "slot"]
) -> tuple[PatchBank, PatchParams]:
    """Removes the patches where ``keep`` is False; their values become zero."""
    kept = keep_patches(bank, keep)
    values: list[MlpLayerParams | DensePatchParams | None] = []
    for patches, old in zip(kept.layers, params, strict=True):
        if patches is None or old is None:
            values.append(None)
        elif isinstance(old, DensePatchParams):
            values.append(DensePatchParams(jnp.where(patches.active[patches.owner], old.weight, 0.0)))
        else:
            n = patches.num_high
            values.append(
                MlpLayerParams(_masked(old.high, patches.active[:n]), _masked(old.low, patches.active[n:]))
            )
    return kept, tuple(values)


def merge_patches(
    scaffold: Sequence[LayerParams], topologies: Sequence[Topology], params: PatchParams, bank: PatchBank
) -> tuple[tuple[LayerParams, ...], tuple[Topology, ...]]:
    """Makes all active ``dense`` patches part of the scaffold; the function is unchanged.

    Raises:
      ValueError: the bank holds ``mlp`` patches, which no scaffold weight can stand for.
    """
    if bank.rules.kind != "dense":
        raise ValueError("only dense patches can be merged into the scaffold")
    layers, merged = [], []
    for layer, topology, values, patches in zip(scaffold, topologies, params, bank.layers, strict=True):
        if isinstance(values, DensePatchParams) and patches is not None:
            layer, topology = merge_layer(layer, topology, values, patches)
        layers.append(layer)
        merged.append(topology)
    return tuple(layers), tuple(merged)


def contributions(accuracy: Callable[[PatchBank], Scalar], bank: PatchBank) -> Float[Array, "slot"]:
    """Accuracy lost without each patch (negative: the network is better off without it).

    Args:
      accuracy: evaluates the network with a bank.
      bank: the patches.

    Returns:
      ``(slot,)``; 0 for inactive slots.
    """
    slots = active_slots(bank).shape[0]
    whole = accuracy(bank)
    without = jax.lax.map(lambda p: accuracy(keep_patches(bank, jnp.arange(slots) != p)), jnp.arange(slots))
    return jnp.where(active_slots(bank), whole - without, 0.0)


def redundancy(accuracy: Callable[[PatchBank], Scalar], bank: PatchBank) -> Float[Array, "slot slot"]:
    """How much two patches can stand in for one another.

    ``loss(i and j) - loss(i) - loss(j)`` with ``loss`` the accuracy lost without
    the patches named: above 0 where each covers for the other, below 0 where
    they only work together, 0 where they are independent.

    Returns:
      ``(slot, slot)``, symmetric; 0 on the diagonal and for inactive slots.
    """
    active = active_slots(bank)
    slots = active.shape[0]
    single = contributions(accuracy, bank)
    whole = accuracy(bank)
    first, second = (jnp.asarray(i) for i in jnp.triu_indices(slots, 1))
    index = jnp.arange(slots)

    def both(pair: tuple[Array, Array]) -> Scalar:
        return accuracy(keep_patches(bank, (index != pair[0]) & (index != pair[1])))

    lost = whole - jax.lax.map(both, (first, second))
    value = jnp.where(active[first] & active[second], lost - single[first] - single[second], 0.0)
    upper = jnp.zeros((slots, slots)).at[first, second].set(value)
    return upper + upper.T


def gain_per_weight(gain: Scalar, bank: PatchBank, params: PatchParams) -> Scalar:
    """Accuracy gained per value that the patches add; NaN without patches."""
    added = jnp.sum(slot_sizes(bank, params))
    return jnp.where(added > 0, gain / jnp.maximum(added, 1).astype(jnp.float32), jnp.nan)


def _masked(values: MlpParams | None, active: Bool[Array, "slot"]) -> MlpParams | None:
    return jax.tree.map(lambda a: jnp.where(active.reshape(-1, *(1,) * (a.ndim - 1)), a, 0.0), values)


__all__ = [
    "KINDS",
    "PLACEMENTS",
    "DensePatchParams",
    "LayerPatches",
    "MlpLayerParams",
    "PatchBank",
    "PatchParams",
    "PatchRules",
    "active_slots",
    "add_patches",
    "apply_patches",
    "contributions",
    "gain_per_weight",
    "keep_patches",
    "merge_patches",
    "redundancy",
    "remove_patches",
    "slot_sizes",
]
