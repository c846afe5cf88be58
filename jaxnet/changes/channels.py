"""Weights grown around chosen units of any model: what patches are to a layer, for masked kernels too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxnet.changes.moving import EditInfo, edit
from jaxnet.changes.rewire import small_weights
from jaxnet.changes.weights import edited, largest, random_score
from jaxnet.patches.places import choose_units
from jaxnet.structure import entries, exists, present, reserved, with_entries
from jaxnet.topology import Entry, Mask
from jaxnet.train import Net
from jaxnet.types import Bool, Key, UnitMask
from jaxnet.units import Extrema

_PREFERRED = 2**30  # above every random score: such a position goes first


def grow_around(
    net: Net,
    extrema: Mapping[str, Extrema],
    counts: Mapping[str, int],
    *,
    units: int,
    chain: Sequence[str],
    placement: str = "extrema",
    scale: float = 0.0,
    key: Key,
) -> tuple[Net, EditInfo]:
    """Adds weights into low extrema and out of high ones, along a chain of arrays of any model.

    A position is preferred where it leads into a low unit of its own layer, or out of a high one of the
    layer before; which of them get a weight is random, and where fewer are free than wanted the rest lies
    anywhere. ``random`` and ``least`` put as many weights around as many other units. In a mask there is
    room everywhere; a topology gets no more than it has free slots.

    Args:
      net: the network.
      extrema: by path, of the units that the array there leads into.
      counts: new weights by path (static).
      units: of every layer and kind, at most so many are chosen.
      chain: paths in the order of the layers: the units of one are the inputs of the next.
      placement: one of :data:`jaxnet.patches.PLACEMENTS`.
      scale: standard deviation of the new weights; 0: the function is unchanged.
      key: PRNG key.

    Raises:
      ValueError: a path has no entry, or the units of one are not the inputs of the next.
    """
    there, held = entries(net.structure), reserved(net.structure)
    if missing := [path for path in (*chain, *counts) if path not in there]:
        raise ValueError(f"no weight has an entry at {missing[0]!r}: entries are at {', '.join(there)}")
    key_place, key_value, key_unit = jax.random.split(key, 3)
    new: dict[str, Entry] = {}
    before: UnitMask | None = None
    for number, path in enumerate(chain):
        entry = there[path]
        if before is not None and before.shape[0] != (inputs := _ends(entry)[0]):
            raise ValueError(f"{path} reads {inputs} units and the layer before has {before.shape[0]}")
        low, high = (
            _chosen(extrema.get(path), kind, units, placement, jax.random.fold_in(key_unit, 2 * number + k))
            for k, kind in enumerate(("low", "high"))
        )
        if counts.get(path, 0):
            score = random_score(entry.shape, key=jax.random.fold_in(key_place, number))
            score = jnp.where(_touched(entry, low, before), score // 2 + _PREFERRED, score)
            free, taken = ~present(entry), held.get(path)
            free = free if taken is None else free & ~taken
            room = counts[path] if isinstance(entry, Mask) else entry.capacity - entry.num_nonzeros
            wanted = jnp.minimum(counts[path], room)
            new[path] = edited(entry, exists(entry), *largest(score, free, wanted, counts[path]))
        before = high
    value = small_weights(net, scale, key=key_value) if scale else None
    return edit(net, with_entries(net.structure, new), value)


def _ends(entry: Entry) -> tuple[int, int]:
    """Inputs and outputs: a topology is ``(out, in)``, a mask of any model ``(..., in, out)``."""
    inputs, outputs = entry.shape[-2:] if isinstance(entry, Mask) else entry.shape[::-1]
    return inputs, outputs


def _chosen(found: Extrema | None, kind: str, units: int, placement: str, key: Key) -> UnitMask | None:
    if found is None:
        return None
    score, is_extremum = getattr(found, f"score_{kind}"), getattr(found, kind)
    some = min(units, score.shape[0])
    unit, active = choose_units(score, is_extremum, found.extremeness, some, placement, key_place=key)
    return jnp.zeros(score.shape, bool).at[unit].set(active)


def _touched(entry: Entry, low: UnitMask | None, high: UnitMask | None) -> Bool[jax.Array, "..."]:
    """Positions into ``low`` units or out of ``high`` ones."""
    inputs, outputs = _ends(entry)
    into = jnp.zeros(outputs, bool) if low is None else low
    out_of = jnp.zeros(inputs, bool) if high is None else high
    matrix = into[None, :] | out_of[:, None]  # (in, out)
    return jnp.broadcast_to(matrix, entry.shape) if isinstance(entry, Mask) else matrix.T
