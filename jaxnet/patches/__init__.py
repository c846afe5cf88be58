"""Patches: small dense modules around the extrema of a scaffold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.extrema import Extrema
from jaxnet.kernels import Product
from jaxnet.layers import LayerParams
from jaxnet.masks import Topology
from jaxnet.patches.bank import (
    KINDS,
    PLACEMENTS,
    LayerPatches,
    PatchBank,
    PatchRules,
    draw_ordered,
    place,
    slot_counts,
)
from jaxnet.patches.dense import (
    DensePatchParams,
    apply_dense_patches,
    dense_sizes,
    make_dense_patches,
    merge_layer,
)
from jaxnet.patches.extend import (
    as_wide,
    check_same_use,
    extend_layer,
    insert_bank_layer,
    keep_bank_levels,
    silenced,
    taken_below,
    widen_bank,
)
from jaxnet.patches.mlp import MlpLayerParams, MlpParams, apply_mlp_patches, make_mlp_patches, mlp_sizes
from jaxnet.types import Array, Bool, Features, Float, Int, Key, Scalar

PatchParams = tuple[MlpLayerParams | DensePatchParams | None, ...]
"""Values of all patches: for each layer those that feed it, or None."""


def add_patches(
    extrema: Sequence[Extrema],
    topologies: Sequence[Topology],
    rules: PatchRules,
    *,
    key_patch: Key,
    onto: tuple[PatchBank, PatchParams] | None = None,
    silent: bool = False,
) -> tuple[PatchBank, PatchParams]:
    """Builds a bank of patches for one network, or adds to the one that is there.

    The new patches get slots of their own, as many as in a bank made afresh
    (whatever the number of extrema); those that are there keep their places and
    values. A small network of a new ``mlp`` patch has as many inputs and outputs
    as those that feed the same layer already. A removed patch keeps its slot.

    Args:
      extrema: of each hidden layer.
      topologies: of each layer of the scaffold.
      rules: how patches are chosen and built.
      key_patch: PRNG key for places, connections and values.
      onto: the patches that are there.
      silent: the outgoing values of the new patches start at zero, so that the
        function is unchanged: ``w2`` and ``b2`` of ``mlp`` patches, which the first
        gradients reach, and all weights of ``dense`` ones. (A low ``dense`` patch
        at a unit that is dead on every sample then never gets a gradient.)

    Returns:
      The bank and the values of its patches.

    Raises:
      ValueError: the patches that are there are of another kind or are applied in another way.
    """
    sizes = [topologies[0].shape[1], *(t.shape[0] for t in topologies)]
    layers: list[LayerPatches | None] = []
    values: list[MlpLayerParams | DensePatchParams | None] = []
    if onto is not None:
        check_same_use(onto[0].rules, rules)
    for t, (high, low) in enumerate(slot_counts(sizes, rules)):
        there = None if onto is None else onto[0].layers[t]
        old = None if onto is None else onto[1][t]
        if high + low == 0:
            layers.append(there)
            values.append(old)
            continue
        key_place, key_make = (jax.random.fold_in(key_patch, 2 * t + purpose) for purpose in (0, 1))
        unit, active = place(extrema, t, (high, low), rules, key_place=key_place)
        made: tuple[LayerPatches, MlpLayerParams | DensePatchParams]
        if rules.kind == "mlp":
            fitting = rules if there is None else as_wide(rules, there)
            made = make_mlp_patches(unit, active, high, topologies[t].shape, fitting, key_patch=key_make)
        else:
            taken = None if there is None else taken_below(there, sizes, t)
            made = make_dense_patches(
                unit, active, high, topologies[t], rules, key_patch=key_make, taken=taken
            )
        if silent:
            made = made[0], silenced(made[1])
        if there is not None and old is not None:
            made = extend_layer((there, old), made, sizes, t)
        layers.append(made[0])
        values.append(made[1])
    return PatchBank(tuple(layers), rules if onto is None else onto[0].rules), tuple(values)


def apply_patches(
    params: PatchParams,
    bank: PatchBank,
    layer: int,
    pres: Sequence[Features],
    posts: Sequence[Features],
    product: Product,
    *,
    inputs: Int[Array, "slot input"] | None = None,
) -> Features | None:
    """What patches add to the pre-activations of ``layer``: ``(out, batch)``, or None without patches.

    ``pres`` and ``posts`` are the activations of all layers below, the network's input first;
    ``inputs`` what low patches of the layer read, where :func:`redraw_inputs` drew it anew.
    """
    patches, values = bank.layers[layer], params[layer]
    if patches is None or values is None:
        return None
    pre, post = (_side_by_side([side[-d] for d in patches.reads]) for side in (pres, posts))
    if isinstance(values, DensePatchParams):
        return apply_dense_patches(values, patches, post, product)
    return apply_mlp_patches(values, patches, bank.rules, pre, post, product, inputs=inputs)


def redraw_inputs(
    bank: PatchBank, sizes: Sequence[int], *, key_forward: Key
) -> tuple[Int[Array, "slot input"] | None, ...]:
    """Draws for one forward pass what the low patches of every layer read: the original's fault.

    A patch reads as many different units of the layer that holds its stored inputs, in an order
    that is drawn too: all layers in one go, for each random draw costs time of its own.

    Args:
      bank: the patches.
      sizes: units per layer of the network, input and output included.
      key_forward: of this forward pass.
    """
    drawn: list[Int[Array, "slot input"] | None] = [None] * len(bank.layers)
    stored = {t: p.sources for t, p in enumerate(bank.layers) if p is not None and p.sources is not None}
    for width in sorted({sources.shape[1] for sources in stored.values()}):
        of_width = [t for t, sources in stored.items() if sources.shape[1] == width]
        starts, units = [], []
        for t in of_width:
            patches = bank.layers[t]
            assert patches is not None
            widths = np.array([sizes[t + 1 - d] for d in patches.reads], np.int32)
            ends = np.cumsum(widths, dtype=np.int32)
            layer = jnp.sum(stored[t][:, :1] >= ends[:-1], axis=1)
            # a layer that has come to the index of another may be narrower: what it lacks is not read
            units.append(jnp.asarray(np.maximum(widths, width))[layer])
            starts.append(jnp.asarray(ends - widths)[layer])
        found = (
            draw_ordered(jnp.concatenate(units), width, key=jax.random.fold_in(key_forward, width))
            + jnp.concatenate(starts)[:, None]
        )
        at = 0
        for t in of_width:
            slots = stored[t].shape[0]
            drawn[t], at = found[at : at + slots], at + slots
    return tuple(drawn)


def _side_by_side(parts: Sequence[Features]) -> Features:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


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
      ValueError: the bank holds ``mlp`` patches or patches that span an inserted
        layer, which no scaffold weight can stand for.
    """
    if bank.rules.kind != "dense":
        raise ValueError("only dense patches can be merged into the scaffold")
    layers, merged = [], []
    for layer, topology, values, patches in zip(scaffold, topologies, params, bank.layers, strict=True):
        if isinstance(values, DensePatchParams) and patches is not None:
            if patches.reads != (1,):
                raise ValueError("a patch that spans an inserted layer cannot be merged into the scaffold")
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
    "insert_bank_layer",
    "keep_bank_levels",
    "keep_patches",
    "merge_patches",
    "redundancy",
    "remove_patches",
    "slot_sizes",
    "widen_bank",
]
