"""The patch bank: patches made, applied, counted, taken out, merged, and carried along as a network grows.

A bank holds, for every layer of the network that patches feed, a fixed number
of **slots**, high patches first, then low ones, and an ``active`` mask over
them. Every slot costs the same shape whether it is active or not, so a bank
lives inside jit and vmap; the values of an inactive slot are zero and stay zero.

In a network that grows a patch stays where it was: at its extremum, feeding the
same units. Where a layer is inserted between the two, the patch spans it (its
distance in ``LayerPatches.reads`` grows by one), so that no index ever points
elsewhere and what the patches compute is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.kernels import Product
from jaxnet.patches.kinds import KINDS, LayerPatches, PatchBank, PatchParams, PatchRules
from jaxnet.patches.places import limited, place, slot_counts
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology, topology_mask
from jaxnet.types import Array, Bool, Features, Int, Key, PyTree
from jaxnet.units import Extrema


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
    if onto is None:
        onto = PatchBank((None,) * len(topologies), rules), (None,) * len(topologies)
    bank, kind = onto[0], onto[0].kind
    check_same_use(bank.rules, rules)
    layers, values = list(bank.layers), list(onto[1])
    counts = slot_counts(sizes, rules.max_patches, rules.first_layer)
    slots = {t: n for t, n in enumerate(counts) if sum(n)}
    keys = {t: [jax.random.fold_in(key_patch, 2 * t + purpose) for purpose in (0, 1)] for t in slots}
    places = {t: place(extrema, t, n, rules.placement, key_place=keys[t][0]) for t, n in slots.items()}
    if rules.total is not None and slots:
        places = limited(places, slots, rules.total)
    for t, (high, _) in slots.items():
        key_make, (unit, active) = keys[t][1], places[t]
        there, old = layers[t], values[t]
        exists, held = topology_mask(topologies[t]), taken(bank, t, sizes)
        new, made = kind.make(
            LayerPatches(unit, active, num_high=high),
            exists if held is None else exists | held,
            rules,
            key_patch=key_make,
            there=there,
        )
        if silent:
            made = kind.silence(made)
        if there is not None:
            there = there.replace(reads=there.reads if 1 in there.reads else (*there.reads, 1))
            shape = sizes[t + 1], sum(sizes[t + 1 - d] for d in there.reads)
            new = kind.refit(new, shape, by=there.start(1, sizes, t))
            new, made = kind.extend((there, old), (new, made), shape)
        layers[t], values[t] = new, made
    return bank.replace(layers=tuple(layers)), tuple(values)


def check_same_use(there: PatchRules, new: PatchRules) -> None:
    """Raises ValueError unless patches of both rules can live in one bank."""
    for name in ("kind", *KINDS[there.kind].shared):
        if getattr(there, name) != getattr(new, name):
            raise ValueError(
                f"the patches that are there have {name} {getattr(there, name)!r}, "
                f"new ones cannot have {getattr(new, name)!r}"
            )


def taken(bank: PatchBank, layer: int, sizes: Sequence[int]) -> Bool[Array, "out in"] | None:
    """The positions of a layer's matrix that its patches hold, those out of use too, or None without any.

    What changes the scaffold leaves them alone: a weight there would be a second
    one between two units.

    Args:
      bank: the patches.
      layer: which layer (weight matrix).
      sizes: units per layer of the network, input and output included.
    """
    patches = bank.layers[layer]
    held = None if patches is None or 1 not in patches.reads else bank.kind.held(patches)
    if patches is None or held is None:
        return None
    start = patches.start(1, sizes, layer)
    return held[:, start : start + sizes[layer]]


def apply_patches(
    params: PatchParams,
    bank: PatchBank,
    layer: int,
    pres: Sequence[Features],
    posts: Sequence[Features],
    num_out: int,
    product: Product,
) -> Features | None:
    """What patches add to the pre-activations of ``layer``: ``(out, batch)``, or None without patches.

    ``pres`` and ``posts`` are the activations of all layers below, the network's input first.
    """
    patches = bank.layers[layer]
    if patches is None:
        return None
    pre, post = (_side_by_side([side[-d] for d in patches.reads]) for side in (pres, posts))
    return bank.kind.apply(params[layer], patches, bank.rules, pre, post, num_out, product)


def active_slots(bank: PatchBank) -> Bool[Array, "slot"]:
    """``(slot,)``, which slots of the whole bank hold a patch, in layer order."""
    parts = [p.active for p in bank.layers if p is not None]
    return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros(0, bool)


def placed(bank: PatchBank) -> list[dict[str, Any]]:
    """Where the patches of a bank on the host sit: ``slot``, ``kind``, ``hidden_layer``, ``unit`` of each.

    Hidden layers count from 0; a high patch sits in the layer below the one it feeds.
    """
    found, slot = list[dict[str, Any]](), 0
    for layer, patches in enumerate(bank.layers):
        for k in range(0 if patches is None else len(patches.active)):
            if patches is not None and patches.active[k]:
                kind, where = ("high", layer - 1) if k < patches.num_high else ("low", layer)
                place = {"slot": slot, "kind": kind, "hidden_layer": where, "unit": int(patches.unit[k])}
                found.append(place)
            slot += 1
    return found


def slot_sizes(bank: PatchBank, params: PatchParams) -> Int[Array, "slot"]:
    """``(slot,)``, number of values of each slot of the whole bank; inactive slots count 0."""
    parts = [
        jnp.where(patches.active, bank.kind.count(values, patches), 0)
        for patches, values in zip(bank.layers, params, strict=True)
        if patches is not None
    ]
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
    values: list[PyTree | None] = [
        None if patches is None else bank.kind.remove(old, patches)
        for patches, old in zip(kept.layers, params, strict=True)
    ]
    return kept, tuple(values)


def merge_patches(
    scaffold: Sequence[LayerParams], topologies: Sequence[Topology], params: PatchParams, bank: PatchBank
) -> tuple[tuple[LayerParams, ...], tuple[Topology, ...]]:
    """Makes all active patches part of the scaffold; the function is unchanged.

    Raises:
      ValueError: the bank holds patches of a kind or patches that span an inserted
        layer, which no scaffold weight can stand for.
    """
    layers, merged = list(scaffold), list(topologies)
    for t, patches in enumerate(bank.layers):
        if patches is not None:
            if patches.reads != (1,):
                raise ValueError("a patch that spans an inserted layer cannot be merged into the scaffold")
            layers[t], merged[t] = bank.kind.merge(layers[t], merged[t], params[t], patches)
    return tuple(layers), tuple(merged)


def _side_by_side(parts: Sequence[Features]) -> Features:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
