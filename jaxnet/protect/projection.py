"""Row projection as a transformation of updates: last in a chain, whatever the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import linalg
from jaxnet.errors import InputError
from jaxnet.optim import replaced
from jaxnet.protect.rows import RowBasis, supports
from jaxnet.structure import entries
from jaxnet.topology import Topology
from jaxnet.types import Array, PyTree


class RowsState(NamedTuple):
    """State of :func:`project_rows`, by the path of every projected weight.

    Attributes:
      bases: of the rows.
      spans: projectors onto what they span, ``(row, place, place)``: one product a step instead of two.
    """

    bases: dict[str, RowBasis]
    spans: dict[str, Array]

    @classmethod
    def of(cls, bases: Mapping[str, RowBasis]) -> RowsState:
        """With their projectors."""
        spans = {path: linalg.times(b.vectors, b.vectors.mT) for path, b in bases.items()}
        return cls(dict(bases), spans)


def project_rows(
    bases: Mapping[str, RowBasis],
    structure: PyTree = None,
    *,
    inside: bool = False,
    inputs_first: bool = False,
    passes: int = 2,
) -> optax.GradientTransformation:
    """Takes the directions of the bases out of updates: last in a chain, whatever the optimiser.

    What the layers make of the inputs that the bases span stays, bias included. The bases are in the
    state (:func:`with_bases` sets others of the same shapes); an optimiser with it cannot follow a method
    that changes the structure, and is refused by name.

    Args:
      bases: by path of the weight as ``jax.tree_util.keystr`` writes it; the bias is found beside it.
      structure: if given, the bases are checked to belong to its topologies.
      inside: keep these directions and nothing else: an update of low rank.
      inputs_first: dense arrays are ``(in, out)``, as Flax has them.
      passes: the first leaves rounding errors of the size of what is taken out, the second of what is left.

    Raises:
      InputError: a basis belongs to another topology.
    """
    if structure is not None:
        check_bases(bases, structure)

    def init(params: PyTree) -> RowsState:
        there = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)}
        for path in bases:
            if path not in there:
                raise InputError(f"there is no weight at {path}: the weights are {', '.join(sorted(there))}")
        return RowsState.of(bases)

    def update(updates: PyTree, state: RowsState, params: PyTree = None) -> tuple[PyTree, RowsState]:
        del params
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(updates)}
        changed: dict[str, Array] = {}
        for path, basis in state.bases.items():
            bias = bias_path(path)
            beside = leaves.get(bias)
            span = state.spans[path]
            weight, added = _projected(leaves[path], beside, basis, span, inside, inputs_first, passes)
            changed[path] = weight
            if beside is not None:
                changed[bias] = added
        named = lambda path, leaf: changed.get(jax.tree_util.keystr(path), leaf)  # noqa: E731
        return jax.tree.map_with_path(named, updates), state

    return optax.GradientTransformation(init, update)


def with_bases(state: PyTree, bases: Mapping[str, RowBasis]) -> PyTree:
    """An optimiser's state with other bases in its :func:`project_rows`."""
    return replaced(state, RowsState, lambda old: RowsState.of(bases))


def layer_inputs(model: Any, params: PyTree, x: Array) -> dict[str, tuple[Array, int]]:
    """What comes into every ``Dense`` layer of a Flax linen model, and the layer's width, by path.

    Args:
      model: a module whose ``Dense`` layers are applied once each.
      params: the collection ``params``.
      x: samples, as the model takes them.

    Returns:
      ``(sample, in)`` and ``out`` for every kernel; axes before the last are laid end to end.
    """
    import flax.linen as nn

    found: dict[str, tuple[Array, int]] = {}

    def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            path = "".join(f"['{name}']" for name in (*context.module.path, "kernel"))
            found[path] = args[0].reshape(-1, args[0].shape[-1]), context.module.features
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        model.apply({"params": params}, x)
    return found


def check_bases(bases: Mapping[str, RowBasis], structure: PyTree) -> None:
    """Raises InputError unless every basis belongs to the topology at its path; on the host."""
    there = entries(structure)
    for path, basis in bases.items():
        entry, places = there.get(path), basis.cols.shape[1] - 1
        if entry is None or _shared(basis):
            continue
        fits = basis.shape == entry.shape and basis.cols.shape[0] == entry.shape[0]
        if fits:
            fan_in = entry.fan_in if isinstance(entry, Topology) else jnp.sum(entry.mask, 1)
            fits = int(np.max(np.asarray(fan_in))) <= places
        if fits:
            here = np.asarray(supports(entry, basis.shape, fan_in=places))
            fits = np.array_equal(here[:, :-1], np.asarray(basis.cols)[:, :-1])
        if not fits:
            raise InputError(f"the basis at {path} belongs to another topology: make it anew by row_basis")


def bias_path(path: str) -> str:
    """Where the bias of the weight at a path is, in jaxnet's and in Flax's trees."""
    for weight in ("weight", "kernel"):
        path = path.removesuffix(f".{weight}") + ".bias" if path.endswith(f".{weight}") else path
        path = path.removesuffix(f"['{weight}']") + "['bias']" if path.endswith(f"['{weight}']") else path
    return path


def _shared(basis: RowBasis) -> bool:
    """Whether one row of a basis stands for all."""
    return basis.cols.shape[0] == 1 and basis.shape[0] != 1


def _projected(
    weight: Array,
    bias: Array | None,
    basis: RowBasis,
    span: Array,
    inside: bool,
    inputs_first: bool,
    passes: int,
) -> tuple[Array, Array]:
    """The update of a weight and of its bias, projected."""
    num_out, num_in = basis.shape
    beside = jnp.zeros(num_out, weight.dtype) if bias is None else bias
    shared = _shared(basis)
    if weight.ndim == 1:  # slots in row order
        filled = jnp.sum(basis.cols[:, :-1] < num_in, 1)
        start = jnp.cumsum(filled) - filled
        place = jnp.arange(basis.cols.shape[1] - 1)
        slots = jnp.where(place < filled[:, None], start[:, None] + place, weight.size)
        rows = weight.at[slots].get(mode="fill", fill_value=0)
    else:
        matrix = weight.T if inputs_first else weight
        if matrix.shape != basis.shape:
            raise InputError(f"the basis is of weights of shape {basis.shape}, these are {matrix.shape}")
        if shared:
            rows = matrix
        else:
            slots = jnp.where(basis.cols[:, :-1] < num_in, basis.cols[:, :-1], num_in)
            rows = jnp.take_along_axis(jnp.pad(matrix, ((0, 0), (0, 1))), slots, 1)
    rows = jnp.concatenate([rows, beside[:, None]], 1)
    for _ in range(1 if inside else passes):
        # of many small matrices a sum of products is several times as fast on a CPU as a batch of matmuls
        part = linalg.times(rows, span[0]) if shared else jnp.sum(span * rows[:, None], -1)
        rows = part if inside else rows - part
    found = rows
    if not inside:
        found = jnp.where((basis.free <= 0)[:, None], 0, found)  # else rounding errors would be left
    values, added = found[:, :-1], found[:, -1]
    if weight.ndim == 1:
        return jnp.zeros_like(weight).at[slots].set(values, mode="drop"), added
    if not shared:
        row = jnp.arange(num_out)[:, None]
        values = jnp.zeros_like(matrix).at[row, slots].set(values, mode="drop")
    return (values.T if inputs_first else values), added
