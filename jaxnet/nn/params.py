"""Parameters and structure of the multi-layer perceptron: what is trained, and which of it exists."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp

from jaxnet.nn.layers import to_masked, to_sparse
from jaxnet.patches import PatchBank, PatchParams, slot_sizes, taken
from jaxnet.structure import LayerParams, LayerStructure
from jaxnet.topology import Entry, Mask, Topology, topology_from_flat
from jaxnet.types import Array, Bool, Int, Values


class Params(flax.struct.PyTreeNode):
    """Everything that is trained.

    Attributes:
      scaffold: one entry per layer.
      patches: values of the patches; an empty tuple before patches are added.
      skips: values of the skip connections into each layer, or None; an empty
        tuple before a bank of them is added.
    """

    scaffold: tuple[LayerParams, ...]
    patches: PatchParams = ()
    skips: tuple[Values | None, ...] = ()


class Structure(flax.struct.PyTreeNode):
    """Which weights, patches and output units exist; integers and booleans, not trained.

    What it says of a weight stands at the path of its value in :class:`Params`.

    Attributes:
      scaffold: one entry per layer.
      bank: the patches, or None.
      skips: for each layer the weights it has from the hidden layers of
        :func:`skip_sources`, one after the other, or None; an empty tuple
        before a bank of them is added.
      outputs: ``(classes,)``, the output units that exist, or None for all: a
        class without one is never the answer and has no part in the softmax.
    """

    scaffold: tuple[LayerStructure, ...]
    bank: PatchBank | None = None
    skips: tuple[Topology | None, ...] = ()
    outputs: Bool[Array, "classes"] | None = None

    @classmethod
    def of(cls, weights: Sequence[Entry]) -> Structure:
        """The structure of a scaffold without patches."""
        return cls(tuple(LayerStructure(entry) for entry in weights))

    @property
    def weights(self) -> tuple[Entry, ...]:
        """The entry of every layer's weights."""
        return tuple(layer.weight for layer in self.scaffold)

    def with_weights(self, weights: Sequence[Entry]) -> Structure:
        """The same with other entries of the scaffold."""
        return self.replace(scaffold=tuple(LayerStructure(entry) for entry in weights))

    def reserved(self) -> dict[str, Bool[Array, "out in"]]:
        """Positions of the scaffold that patches hold: see :func:`jaxnet.structure.reserved`."""
        if self.bank is None:
            return {}
        sizes = (self.weights[0].shape[-1], *(entry.shape[-2] for entry in self.weights))
        held = {layer: taken(self.bank, layer, sizes) for layer in range(len(self.scaffold))}
        return {f".scaffold[{layer}].weight": mask for layer, mask in held.items() if mask is not None}


def sparse(structure: Structure) -> list[Topology]:
    """The topology of every layer.

    Raises:
      TypeError: a layer is in the masked-dense representation.
    """
    topologies = [entry for entry in structure.weights if isinstance(entry, Topology)]
    if len(topologies) < len(structure.weights):
        raise TypeError("only a network in the sparse representation can grow or get patches")
    return topologies


def to_masked_network(params: Params, structure: Structure) -> tuple[Params, Structure]:
    """Converts the scaffold to the masked-dense representation; the function is unchanged."""
    pairs = [
        to_masked(layer, entry) if isinstance(entry, Topology) else (layer, entry)
        for layer, entry in zip(params.scaffold, structure.weights, strict=True)
    ]
    layers, masks = zip(*pairs, strict=True)
    return params.replace(scaffold=layers), structure.with_weights(masks)


def to_sparse_network(
    params: Params, structure: Structure, capacities: Sequence[int]
) -> tuple[Params, Structure]:
    """Converts a masked-dense scaffold to the sparse representation; the function is unchanged.

    Args:
      params: of the network.
      structure: of the network; every layer is masked.
      capacities: slots of every layer (static), at least as many as it has weights: of more,
        the last ones would be lost.
    """
    layers, topologies = [], []
    for layer, entry, capacity in zip(params.scaffold, structure.weights, capacities, strict=True):
        if not isinstance(entry, Mask):
            raise TypeError("only a masked-dense network can be converted to the sparse representation")
        (flat,) = jnp.nonzero(entry.mask.ravel(), size=capacity, fill_value=0)
        shape = (entry.shape[-2], entry.shape[-1])
        topologies.append(topology_from_flat(flat, jnp.arange(capacity) < entry.num_nonzeros, shape))
        layers.append(to_sparse(layer, topologies[-1]))
    return params.replace(scaffold=tuple(layers)), structure.with_weights(topologies)


def release_masks(structure: Structure) -> Structure:
    """Lets every weight of a masked-dense scaffold exist (what the original's first version did)."""
    return structure.with_weights(
        [Mask(jnp.ones_like(e.mask)) if isinstance(e, Mask) else e for e in structure.weights]
    )


def count_nonzeros(params: Params, structure: Structure) -> dict[str, Int[Array, ""]]:
    """Counts what exists: ``scaffold``, ``bias``, ``patch``, ``skip`` (if it has a bank), and ``total``.

    A sparse layer counts its topology. A masked-dense layer counts the weights
    that are not exactly zero, so that weights which came to life where there
    was no mask are seen. Patches count all their values, biases included.
    """
    scaffold = jnp.zeros((), jnp.int32)
    for layer, entry in zip(params.scaffold, structure.weights, strict=True):
        if isinstance(entry, Topology):
            scaffold += entry.num_nonzeros
        else:
            scaffold += jnp.sum((layer.weight != 0) & entry.mask, dtype=jnp.int32)
    bias = jnp.asarray(sum(layer.bias.shape[-1] for layer in params.scaffold), jnp.int32)
    patch = jnp.zeros((), jnp.int32)
    if structure.bank is not None:
        patch += jnp.sum(slot_sizes(structure.bank, params.patches), dtype=jnp.int32)
    counts = {"scaffold": scaffold, "bias": bias, "patch": patch}
    if structure.skips:
        skip = [t.num_nonzeros for t in structure.skips if t is not None]
        counts["skip"] = sum(skip, jnp.zeros((), jnp.int32))
    return counts | {"total": sum(counts.values(), jnp.zeros((), jnp.int32))}
