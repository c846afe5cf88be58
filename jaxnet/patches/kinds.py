"""What a kind of patches is, and what there is of every kind: slots, rules, the bank.

A kind says how the patches that feed one layer are made, applied, counted, extended by more, and merged
into the scaffold. It is one file: a subclass of :class:`Kind`, registered under its name in :data:`KINDS`.
Two methods it must have; the others are written for patches whose connections are ``targets`` and
``sources`` and whose values are :class:`SlotParams`, and are overridden where a kind is otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.errors import check_choice
from jaxnet.kernels import Product
from jaxnet.patches.places import PLACEMENTS
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology
from jaxnet.types import Array, Bool, Features, Int, Key, PyTree

PatchParams = tuple[PyTree | None, ...]
"""Values of all patches: for each layer those that feed it, or None."""


@dataclasses.dataclass(frozen=True)
class PatchRules:
    """How patches are chosen, built and applied (static).

    Attributes:
      kind: one of :data:`KINDS`.
      max_patches: slots per hidden layer and sort of extremum; 0 for no patches.
      placement: one of :data:`~jaxnet.patches.places.PLACEMENTS`.
      patch_density: fraction of the layer above (below) that a ``dense`` patch connects to, in (0, 1].
      hidden: hidden units of an ``mlp`` patch.
      max_targets: outputs of a high ``mlp`` patch.
      max_inputs: inputs of a low ``mlp`` patch.
      scale_high: factor on the output of a high ``mlp`` patch.
      scale_low: factor on the output of a low ``mlp`` patch.
      total: patches in all, in turn one of every layer and sort; None for no limit.
      first_layer: also low patches in the first layer, for networks whose inputs are units of another model.
    """

    kind: str = "mlp"
    max_patches: int = 5
    placement: str = "extrema"
    patch_density: float = 0.5
    hidden: int = 8
    max_targets: int = 4
    max_inputs: int = 20
    scale_high: float = 0.3
    scale_low: float = 0.5
    total: int | None = None
    first_layer: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_choice("patch kind", self.kind, KINDS)
        if type(self) is not KINDS[self.kind].rules:
            raise ValueError(f"patches of kind {self.kind} need {KINDS[self.kind].rules.__name__}")
        check_choice("placement", self.placement, PLACEMENTS)
        if not 0 < self.patch_density <= 1:
            raise ValueError(f"patch density must be above 0 and at most 1: {self.patch_density}")
        for name in ("hidden", "max_targets", "max_inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if min(self.max_patches, self.total or 0) < 0:
            raise ValueError(f"max_patches and total must be 0 or more: {self.max_patches}, {self.total}")


class LayerPatches(flax.struct.PyTreeNode):
    """The patches that feed one layer of shape ``(out, in)``; kinds add fields of their own.

    Attributes:
      unit: ``(slot,)`` int32, the extremum: a unit of the layer below for a high
        patch (``in``), of this layer for a low one (``out``).
      active: ``(slot,)`` bool.
      targets: ``(high slot, target)`` int32, units that high patches feed, or None.
      sources: ``(low slot, source)`` int32, units that low patches read, or None.
      num_high: static, the first ``num_high`` slots are high patches.
      reads: static, the layers that the patches read from, as distances: 1 is the
        layer below, 2 the one below that (where a layer was inserted between a
        patch and its extremum). ``in`` is the units of all of them, in this order.
    """

    unit: Int[Array, "slot"]
    active: Bool[Array, "slot"]
    targets: Int[Array, "high target"] | None = None
    sources: Int[Array, "low source"] | None = None
    num_high: int = flax.struct.field(pytree_node=False, default=0)
    reads: tuple[int, ...] = flax.struct.field(pytree_node=False, default=(1,))

    def start(self, distance: int, sizes: Sequence[int], layer: int) -> int:
        """Where the units of the layer at ``distance`` begin among all that the patches of ``layer`` read."""
        before = self.reads[: self.reads.index(distance)]
        return sum(sizes[layer + 1 - d] for d in before)


class SlotParams(flax.struct.PyTreeNode):
    """Values of all patches that feed one layer: trees whose leaves have one entry per slot in front."""

    high: Any
    low: Any


class PatchBank(flax.struct.PyTreeNode):
    """All patches of a network.

    Attributes:
      layers: for each layer (weight matrix) the patches that feed it, or None.
      rules: static, how they were made and are applied.
    """

    layers: tuple[LayerPatches | None, ...]
    rules: PatchRules = flax.struct.field(pytree_node=False)

    holds_entries: ClassVar[bool] = False
    """Topologies of patches are no entries of weights: see :func:`jaxnet.structure.entries`."""

    @property
    def kind(self) -> Kind[Any]:
        """The kind of all its patches."""
        return KINDS[self.rules.kind]


P = TypeVar("P", bound=LayerPatches)


class Kind(Generic[P]):
    """A kind of patches. All methods are pure; shapes depend on shapes alone.

    Attributes:
      rules: what :class:`PatchRules` it needs.
      shared: those of its rules that all patches of a bank have in common, since
        they are applied by them.
    """

    rules: type[PatchRules] = PatchRules
    shared: tuple[str, ...] = ()

    def make(
        self,
        placed: LayerPatches,
        taken: Bool[Array, "out in"],
        rules: PatchRules,
        *,
        key_patch: Key,
        there: P | None = None,
    ) -> tuple[P, PyTree]:
        """Builds the patches that feed one layer; the values of inactive slots are zero.

        Args:
          placed: their units and which of them are active.
          taken: where the layer has a weight, of the scaffold or of a patch.
          rules: how they are built.
          key_patch: decides connections and values.
          there: the patches that feed the layer already.
        """
        raise NotImplementedError

    def apply(
        self,
        values: Any,
        patches: P,
        rules: PatchRules,
        pre: Features,
        post: Features,
        num_out: int,
        product: Product,
    ) -> Features:
        """What the patches add to the pre-activations ``(out, batch)`` of their layer.

        ``pre`` and ``post``, ``(in, batch)``, are the activations that they read.
        """
        raise NotImplementedError

    def count(self, values: Any, patches: P) -> Int[Array, "slot"]:
        """``(slot,)``, number of values of each slot."""
        sizes = []
        for leaves in map(jax.tree.leaves, (values.high, values.low)):
            if leaves:
                each = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
                sizes.append(jnp.full(leaves[0].shape[0], each, jnp.int32))
        return jnp.concatenate(sizes)

    def extend(self, old: tuple[P, Any], new: tuple[P, Any], shape: tuple[int, int]) -> tuple[P, PyTree]:
        """Puts new patches of a layer of ``shape`` beside old ones, as :meth:`beside` does the slots."""
        (a, x), (b, y) = old, new
        return self.beside(a, b), SlotParams(_both(x.high, y.high), _both(x.low, y.low))

    def beside(self, a: P, b: P) -> P:
        """Slots of ``a`` and ``b`` in the order high ``a``, high ``b``, low ``a``, low ``b``."""
        p, q = a.num_high, b.num_high
        return a.replace(
            unit=jnp.concatenate([a.unit[:p], b.unit[:q], a.unit[p:], b.unit[q:]]),
            active=jnp.concatenate([a.active[:p], b.active[:q], a.active[p:], b.active[q:]]),
            targets=_both(a.targets, b.targets),
            sources=_both(a.sources, b.sources),
            num_high=p + q,
        )

    def merge(
        self, layer: LayerParams, topology: Topology, values: Any, patches: P
    ) -> tuple[LayerParams, Topology]:
        """The layer of the scaffold with its active patches in it; the function is unchanged.

        Raises:
          ValueError: no weights of the scaffold can stand for patches of this kind.
        """
        raise ValueError(f"{type(self).__name__.lower()} patches cannot be merged into the scaffold")

    def remove(self, values: Any, patches: P) -> PyTree:
        """The values with zeros in inactive slots."""
        active, n = patches.active, patches.num_high
        return SlotParams(in_slots(values.high, active[:n]), in_slots(values.low, active[n:]))

    def silence(self, values: Any) -> PyTree:
        """The values with zeros where patches put out, so that they add nothing but can learn to."""
        return jax.tree.map(jnp.zeros_like, values)

    def held(self, patches: P) -> Bool[Array, "out in"] | None:
        """The positions between ``in`` and ``out`` units that a scaffold weight must not take, or None."""
        return None

    def refit(self, patches: P, shape: tuple[int, int], beyond: int = 0, by: int = 0) -> P:
        """The patches of a layer whose shape is now ``shape``.

        The indices of what they read, from ``beyond`` on, have grown ``by`` so much.
        """
        n = patches.num_high
        unit = jnp.concatenate([shifted(patches.unit[:n], beyond, by), patches.unit[n:]])
        sources = None if patches.sources is None else shifted(patches.sources, beyond, by)
        return patches.replace(unit=unit, sources=sources)

    # About whole banks. In a clean bank patches stay where they were made.
    def for_pass(self, bank: PatchBank, sizes: Sequence[int], *, key_forward: Key) -> PatchBank:
        """The bank of one forward pass of a network of ``sizes``, where a kind draws anew in each."""
        return bank

    def insert(
        self, bank: PatchBank, params: PatchParams, at: int, sizes: Sequence[int], *, preserve: bool
    ) -> tuple[PatchBank, PatchParams]:
        """The patches of a network into which a layer (weight matrix) was inserted at index ``at``.

        Those at and above ``at`` move up with the layer that they feed; those that
        read from below the new layer span it. The new layer has none. ``sizes`` are
        the units per layer after the change.

        Raises:
          ValueError: the function shall be preserved, and this kind does not.
        """
        # layer t reads the output of layer t - d; the new layer stands above that of layer at - 1
        above = [
            None if p is None else p.replace(reads=tuple(d + (t - d < at) for d in p.reads))
            for t, p in enumerate(bank.layers[at:], start=at)
        ]
        return bank.replace(layers=(*bank.layers[:at], None, *above)), (*params[:at], None, *params[at:])

    def widen(self, bank: PatchBank, layer: int, units: int, sizes: Sequence[int]) -> PatchBank:
        """The bank of a network whose ``layer`` (weight matrix) got ``units`` more outputs, at the end.

        ``sizes`` are the units per layer before.
        """
        layers: list[Any] = list(bank.layers)
        for t, patches in enumerate(layers):
            if patches is None:
                continue
            num_in = sum(sizes[t + 1 - d] for d in patches.reads)
            if t == layer:
                layers[t] = self.refit(patches, (sizes[t + 1] + units, num_in))
            elif t - layer in patches.reads:
                beyond = patches.start(t - layer, sizes, t) + sizes[layer + 1]
                layers[t] = self.refit(patches, (sizes[t + 1], num_in + units), beyond, units)
        return bank.replace(layers=tuple(layers))


KINDS: dict[str, Kind[Any]] = {}
"""By name; those of the library are registered in :mod:`jaxnet.patches`."""


def shifted(index: Int[Array, "..."], beyond: int, by: int) -> Int[Array, "..."]:
    """The indices, those from ``beyond`` on larger ``by`` so much."""
    return jnp.where(index < beyond, index, index + by)


def in_slots(tree: PyTree, active: Bool[Array, "slot"]) -> PyTree:
    """The leaves ``(slot, ...)`` with zeros in inactive slots."""
    return jax.tree.map(lambda a: jnp.where(active.reshape(-1, *(1,) * (a.ndim - 1)), a, 0.0), tree)


def _both(a: PyTree | None, b: PyTree | None) -> PyTree | None:
    """Both trees end to end along the first axis; either may be missing."""
    if a is None or b is None:
        return b if a is None else a
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
