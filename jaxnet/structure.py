"""Structures: which weights of a model exist, beside its parameters, by path.

A **structure** is a tree with the paths of the parameters, whatever model they
belong to. At the path of a weight stands its **entry**: a
:class:`~jaxnet.topology.Topology` (the parameter is the vector of the weights
that exist) or a :class:`~jaxnet.topology.Mask` (the parameter is a dense array
of any rank, exactly zero where no weight exists). A path without an entry is
dense. All functions treat one network; ``vmap`` gives many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.topology import Entry, Mask, Probed, Topology, densify, topology_mask
from jaxnet.types import Array, Bias, Bool, Int, PyTree, Values, Weight

T = TypeVar("T")

REMEMBERED = "batch_stats"
"""Where a structure holds what a model learns of batches without a gradient (running statistics)."""


class LayerParams(flax.struct.PyTreeNode):
    """Trainable values of one layer.

    Attributes:
      weight: ``(nnz,)``, only the weights that exist (with a
        :class:`~jaxnet.topology.Topology`), or ``(out, in)`` (with a
        :class:`~jaxnet.topology.Mask`).
      bias: ``(out,)``.
    """

    weight: Values | Weight
    bias: Bias


class LayerStructure(flax.struct.PyTreeNode):
    """Which weights of one layer exist, at the path of their values.

    Attributes:
      weight: of shape ``(out, in)``; its type decides the representation.
    """

    weight: Entry


def is_entry(node: Any) -> bool:
    """Whether a node of a structure is the entry of a weight."""
    return isinstance(node, (Topology, Mask))


def _apart(node: Any) -> bool:
    """Whether the topologies in a node say nothing of the parameters at their paths (patches)."""
    return not getattr(node, "holds_entries", True)


def entries(structure: PyTree) -> dict[str, Entry]:
    """The entries of a structure by path, as ``jax.tree_util.keystr`` writes it.

    A node of a class with ``holds_entries = False`` has none, whatever is in it.

    >>> entries({"kernel": Mask(jnp.ones((2, 3), bool)), "bias": None}).keys()
    dict_keys(["['kernel']"])
    """
    leaves = jax.tree.leaves_with_path(structure, is_leaf=lambda node: is_entry(node) or _apart(node))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if is_entry(leaf)}


def with_entries(structure: T, new: Mapping[str, Entry]) -> T:
    """The structure with other entries at some paths."""

    def choose(path: Any, leaf: Any) -> Any:
        return new.get(jax.tree_util.keystr(path), leaf) if is_entry(leaf) else leaf

    return jax.tree.map_with_path(choose, structure, is_leaf=is_entry)


def map_weights(function: Callable[..., Any], tree: T, structure: PyTree, *others: PyTree) -> T:
    """``function(leaf, entry, *entries in others)`` for every leaf with an entry; others stay.

    Args:
      function: what to do with a weight.
      tree: parameters, or anything with their paths.
      structure: decides which leaves are weights.
      others: further structures with the same entries.
    """
    here, there = entries(structure), [entries(other) for other in others]

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        return function(leaf, here[name], *(o[name] for o in there)) if name in here else leaf

    return jax.tree.map_with_path(one, tree)


def weights(params: PyTree, structure: PyTree) -> dict[str, tuple[Array, Entry]]:
    """Values and entry of every weight, by path.

    Raises:
      ValueError: an entry is not shaped like the parameter at its path, or there is none.
    """
    here = entries(structure)
    values = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for path, entry in here.items():
        shape = (entry.capacity,) if isinstance(entry, Topology) else entry.shape
        if path not in values:
            raise ValueError(f"the structure has an entry at {path} and the parameters have none there")
        if np.shape(values[path]) != shape:
            raise ValueError(f"{path}: parameters of shape {np.shape(values[path])}, structure of {shape}")
    return {path: (values[path], entry) for path, entry in here.items()}


def exists(entry: Entry) -> Bool[Array, "..."]:
    """Which entries of the parameter hold a weight: of its shape."""
    return entry.exists if isinstance(entry, Topology) else entry.mask


def present(entry: Entry) -> Bool[Array, "..."]:
    """Which positions of the dense array hold a weight: of its shape."""
    return topology_mask(entry) if isinstance(entry, Topology) else entry.mask


def clear(tree: T, structure: PyTree, *, masks_only: bool = False) -> T:
    """Zeros where no weight exists; a leaf without an entry stays.

    ``masks_only`` leaves vectors as they are: their padding is zero already, as
    far as nothing but products and gradients have touched it.
    """

    def one(leaf: Array, entry: Entry) -> Array:
        if masks_only and isinstance(entry, Topology):
            return leaf
        return jnp.where(exists(entry), leaf, jnp.zeros((), leaf.dtype))

    return map_weights(one, tree, structure)


def to_dense(params: T, structure: PyTree) -> T:
    """Every weight as a dense array, exactly zero where none exists: for export."""

    def one(leaf: Array, entry: Entry) -> Array:
        return densify(leaf, entry) if isinstance(entry, Topology) else jnp.where(entry.mask, leaf, 0)

    return map_weights(one, params, structure)


def dense_gradient(loss: Callable[[Any, Any], Array], params: Any, structure: PyTree) -> Any:
    """Gradient of ``loss(params, structure)`` at all positions of every weight, as dense arrays.

    What the gradient of a weight would be if it existed with the value 0. Sparse weights stay sparse:
    beside them stands a matrix of zeros that costs nothing (:class:`jaxnet.topology.Probed`).
    """
    there = weights(params, structure)
    zeros = {
        path: jnp.zeros(entry.shape, values.dtype)
        for path, (values, entry) in there.items()
        if isinstance(entry, Topology)
    }

    def probed(values: Any, probes: dict[str, Array]) -> Array:
        def one(path: str, entry: Entry) -> Entry:
            if isinstance(entry, Mask):
                return Mask(jnp.ones(entry.shape, bool))
            return Probed(entry.rows, entry.cols, entry.row_ptr, entry.shape, probes[path])

        free = {path: one(path, entry) for path, (_, entry) in there.items()}
        return loss(values, with_entries(structure, free))

    masked = clear(params, structure, masks_only=True)
    gradient, found = jax.grad(probed, argnums=(0, 1))(masked, zeros)
    return jax.tree.map_with_path(lambda path, g: found.get(jax.tree_util.keystr(path), g), gradient)


def reserved(structure: PyTree) -> dict[str, Bool[Array, "..."]]:
    """Positions, by path, at which no weight may be grown: something else is there already.

    A node of a structure says so by a method ``reserved``, by path below it; most have none.
    """

    def speaks(node: Any) -> bool:
        return hasattr(node, "reserved")

    return {
        jax.tree_util.keystr(path) + inner: held
        for path, node in jax.tree.leaves_with_path(structure, is_leaf=speaks)
        if speaks(node)
        for inner, held in node.reserved().items()
    }


def count(params: PyTree, structure: PyTree) -> dict[str, Int[Array, ""]]:
    """Counts what exists: ``weights`` (with an entry), ``dense`` (all other parameters), ``total``."""
    here = weights(params, structure)
    number = sum((entry.num_nonzeros for _, entry in here.values()), jnp.zeros((), jnp.int32))
    sizes = {jax.tree_util.keystr(path): np.size(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    dense = jnp.asarray(sum(size for path, size in sizes.items() if path not in here), jnp.int32)
    return {"weights": number, "dense": dense, "total": number + dense}


def to_scipy(params: PyTree, structure: PyTree) -> dict[str, Any]:
    """Every weight of rank 2 as a SciPy CSR array of its parameter's shape, by path; on the host.

    A ``Topology`` gives ``(out, in)``. Weights of other ranks have no such form: :func:`to_dense`.
    """
    from scipy.sparse import csr_array  # slow to import, and only an export needs it

    exported = {}
    for path, (leaf, entry) in weights(params, structure).items():
        if isinstance(entry, Topology):
            number = int(entry.num_nonzeros)
            # copies: the caller may write into the matrix
            parts = [np.array(a) for a in (leaf[:number], entry.cols[:number], entry.row_ptr)]
            exported[path] = csr_array(tuple(parts), shape=entry.shape)
        elif len(entry.shape) == 2:
            rows, cols = np.nonzero(np.asarray(entry.mask))
            exported[path] = csr_array((np.asarray(leaf)[rows, cols], (rows, cols)), shape=entry.shape)
    return exported
