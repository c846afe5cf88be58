"""The faults of the original's patches, in one room, around the clean parts, and what its log prints.

Importing this module registers a placement, ``first``, which takes the first
extrema by index, whatever their score, and a kind of patches, ``original``: the
``mlp`` patches of :mod:`jaxnet.patches` with the faults of :class:`OriginalRules`.
``docs/protocols.md`` says what each does to the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Data
from jaxnet.kernels import Product
from jaxnet.patches import KINDS, PLACEMENTS, LayerPatches, PatchBank, PatchParams, PatchRules, SlotParams
from jaxnet.patches.mlp import Mlp, MlpPatches
from jaxnet.signals import detect
from jaxnet.train import Task, collect_stats
from jaxnet.types import Array, Bool, Features, Float, Int, Key, Scalar


@dataclasses.dataclass(frozen=True)
class OriginalRules(PatchRules):
    """Patches as in the original; each fault can be left out.

    Attributes:
      kind: ``original``.
      placement: ``first``, or another one.
      first_targets: high patches all feed units 0, 1, 2, ... of the next layer
        instead of targets drawn at random.
      redraw_inputs: low patches draw their inputs anew in every forward pass
        instead of once.
      detach_source: no gradient flows through a high patch back into its extremum.
      keep_level: patches go on feeding the layer of the same index after another
        was inserted below it: they act between units of the same indices in other
        layers, and do nothing where these have no such unit.
    """

    kind: str = "original"
    placement: str = "first"
    first_targets: bool = True
    redraw_inputs: bool = True
    detach_source: bool = True
    keep_level: bool = True


class Original(Mlp):
    """The ``mlp`` kind with the original's faults around it."""

    rules = OriginalRules
    shared = (*Mlp.shared, "redraw_inputs", "detach_source", "keep_level")

    def make(
        self,
        placed: LayerPatches,
        taken: Bool[Array, "out in"],
        rules: PatchRules,
        *,
        key_patch: Key,
        there: MlpPatches | None = None,
    ) -> tuple[MlpPatches, SlotParams]:
        """As the clean kind, whose targets are drawn in vain where all are to be the first ones."""
        patches, values = super().make(placed, taken, rules, key_patch=key_patch, there=there)
        if _faults(rules).first_targets and patches.targets is not None:
            first = jnp.arange(patches.targets.shape[1], dtype=jnp.int32)
            patches = patches.replace(targets=jnp.broadcast_to(first, patches.targets.shape))
            patches = self.refit(patches, (taken.shape[0], taken.shape[1]))
        return patches, values

    def apply(
        self,
        values: SlotParams,
        patches: MlpPatches,
        rules: PatchRules,
        pre: Features,
        post: Features,
        num_out: int,
        product: Product,
    ) -> Features:
        """As the clean kind; of units that the layers lack nothing is read, and nothing put out."""
        if _faults(rules).detach_source:
            pre = jax.lax.stop_gradient(pre)
        if _faults(rules).keep_level:
            num_in, high = pre.shape[0], jnp.arange(patches.unit.shape[0]) < patches.num_high
            here = patches.unit < jnp.where(high, num_in, num_out)
            patches = patches.replace(active=patches.active & here)
            if patches.sources is not None:
                w1 = jnp.where((patches.sources < num_in)[:, None, :], values.low.w1, 0.0)
                values = values.replace(low=values.low.replace(w1=w1))
                patches = patches.replace(sources=jnp.minimum(patches.sources, num_in - 1))
        return super().apply(values, patches, rules, pre, post, num_out, product)

    def for_pass(self, bank: PatchBank, sizes: Sequence[int], *, key_forward: Key) -> PatchBank:
        """The bank with the inputs of low patches drawn anew, in an order that is drawn too.

        A patch reads as many different units of the layer that holds its stored
        inputs. All layers are drawn in one go: each draw costs time of its own.
        """
        layers: list[Any] = list(bank.layers)
        stored = {t: p for t, p in enumerate(layers) if p is not None and p.sources is not None}
        if not _faults(bank.rules).redraw_inputs:
            return bank
        for width in sorted({p.sources.shape[1] for p in stored.values()}):
            of_width = {t: p for t, p in stored.items() if p.sources.shape[1] == width}
            starts, units = [], []
            for t, p in of_width.items():
                widths = np.array([sizes[t + 1 - d] for d in p.reads], np.int32)
                ends = np.cumsum(widths, dtype=np.int32)
                layer = jnp.sum(p.sources[:, :1] >= ends[:-1], axis=1)
                # a layer that has come to the index of another may be narrower: what it lacks is not read
                units.append(jnp.asarray(np.maximum(widths, width))[layer])
                starts.append(jnp.asarray(ends - widths)[layer])
            found = draw_ordered(jnp.concatenate(units), width, key=jax.random.fold_in(key_forward, width))
            found, at = found + jnp.concatenate(starts)[:, None], 0
            for t, p in of_width.items():
                slots = p.sources.shape[0]
                layers[t], at = p.replace(sources=found[at : at + slots]), at + slots
        return bank.replace(layers=tuple(layers))

    def insert(
        self, bank: PatchBank, params: PatchParams, at: int, sizes: Sequence[int], *, preserve: bool
    ) -> tuple[PatchBank, PatchParams]:
        """Patches that keep their level hold their values; another change may bring back what they miss."""
        if not _faults(bank.rules).keep_level:
            return super().insert(bank, params, at, sizes, preserve=preserve)
        if preserve:
            raise ValueError("patches that keep their level do not keep the function: choose rule redraw")
        bank = self._between(bank, sizes)
        return bank.replace(layers=(*bank.layers, None)), (*params, None)

    def widen(self, bank: PatchBank, layer: int, units: int, sizes: Sequence[int]) -> PatchBank:
        """Patches that keep their level keep all their indices."""
        if not _faults(bank.rules).keep_level:
            return super().widen(bank, layer, units, sizes)
        return self._between(bank, [n + units * (i == layer + 1) for i, n in enumerate(sizes)])

    def _between(self, bank: PatchBank, sizes: Sequence[int]) -> PatchBank:
        """The same patches in a network of other sizes."""
        layers: list[Any] = list(bank.layers)
        for t, patches in enumerate(layers):
            if patches is not None:
                layers[t] = self.refit(patches, (sizes[t + 1], sizes[t]))
        return bank.replace(layers=tuple(layers))


def _faults(rules: PatchRules) -> OriginalRules:
    assert isinstance(rules, OriginalRules)
    return rules


def untrained_norm(patches: int = 5, draws: int = 4000) -> list[float]:
    """Median and middle 95 % of the mean, over so many patches, of the sums of their arrays' norms as drawn.

    A patch is 1 → 8 → 4 with PyTorch's first values: weights and biases uniform in ±1/sqrt(inputs).
    """
    draw = np.random.default_rng(0)
    norms = [
        np.linalg.norm(draw.uniform(-bound, bound, (draws, patches, n)), axis=2)
        for n, bound in ((8, 1.0), (8, 1.0), (32, 8**-0.5), (4, 8**-0.5))
    ]
    ends: list[float] = np.quantile(np.sum(norms, axis=0).mean(axis=1), (0.5, 0.025, 0.975)).tolist()
    return ends


def layer_log(
    task: Task, params: Any, structure: Any, data: Data, *, values: str, detector: str
) -> tuple[Scalar, Scalar, Float[Array, "layer"], Float[Array, "layer"]]:
    """What the original's log prints of a network: it looks for extrema among the outputs too.

    Returns:
      High and low extrema of the output layer; mean and deviation of the units' means in every layer.
    """
    stats = collect_stats(task, params, structure, data, values=values, output=True)
    found, means = detect(stats[-1], detector), [layer.mean for layer in stats]
    shape = jnp.stack([jnp.mean(m) for m in means]), jnp.stack([jnp.std(m, ddof=1) for m in means])
    return jnp.sum(found.high), jnp.sum(found.low), *shape


def draw_ordered(sizes: Int[Array, "row"], number: int, *, key: Key) -> Int[Array, "row number"]:
    """Draws ``number`` different indices below ``sizes[row]`` for each row, in random order.

    Every ordered draw is equally likely. Takes two random numbers per index drawn,
    where ranking all of them takes one for each index there is: what a forward
    pass needs that draws anew.

    Method: R. W. Floyd's sample without replacement (Bentley and Floyd, "A sample
    of brilliance", CACM 30(9), 1987), each index put at a random place among those
    before it (the inside-out form of Fisher and Yates's shuffle).

    Args:
      sizes: ``(row,)``, at least ``number`` each.
      number: static.
      key: PRNG key.
    """
    which, where = jax.random.uniform(key, (2, number, sizes.shape[0]))
    column = jnp.arange(number, dtype=jnp.int32)

    def below(uniform: Float[Array, "row"], bound: Int[Array, "..."]) -> Int[Array, "row"]:
        return jnp.minimum((uniform * jnp.asarray(bound, uniform.dtype)).astype(jnp.int32), bound - 1)

    def step(i: Array, drawn: Int[Array, "row number"]) -> Int[Array, "row number"]:
        top = sizes - number + i
        new = below(which[i], top + 1)
        new = jnp.where(jnp.any(drawn == new[:, None], axis=1), top, new)
        here = column == below(where[i], i + 1)[:, None]
        moved = jnp.sum(jnp.where(here, drawn, 0), axis=1, keepdims=True)
        return jnp.where(here, new[:, None], jnp.where(column == i, moved, drawn))

    start = jnp.full((sizes.shape[0], number), -1, jnp.int32)
    return jax.lax.fori_loop(0, number, step, start)


KINDS["original"] = Original()
PLACEMENTS["first"] = lambda score, is_extremum, *_: jnp.where(
    is_extremum, -jnp.arange(score.shape[0], dtype=jnp.float32), -jnp.inf
)

__all__ = ["Original", "OriginalRules", "draw_ordered", "layer_log", "untrained_norm"]
