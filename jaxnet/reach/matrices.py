"""What a layer's matrix does: bottlenecks at units, dead and duplicate directions, change of states."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from jaxnet.linalg import singular_values, svd, times
from jaxnet.nn.params import Params, Structure, sparse
from jaxnet.patches import merge_patches
from jaxnet.reach.ranks import effective_rank
from jaxnet.structure import to_dense
from jaxnet.types import Array, Float, Int, Scalar, UnitScore, Weight


def layer_matrices(params: Params, structure: Structure) -> tuple[Weight, ...]:
    """The matrix ``(out, in)`` of every layer, with the ``dense`` patches in use as weights of it.

    Raises:
      ValueError: patches of a kind that no weight can stand for, or that span a layer.
    """
    if structure.bank is not None:
        layers, merged = merge_patches(params.scaffold, sparse(structure), params.patches, structure.bank)
        params, structure = Params(layers), Structure.of(merged)
    dense = to_dense(params, structure)
    return tuple(layer.weight for layer in dense.scaffold)


class Bottleneck(NamedTuple):
    """How far each unit's direction arrives at a hidden layer and leaves it, in [0, 1].

    Attributes:
      arrives: ``(unit,)``, its leverage in the image of the incoming map: the squared length of its
        projection there; 0 where nothing comes in.
      leaves: ``(unit,)``, its leverage in the row space of the outgoing map; 0 where nothing goes out.
    """

    arrives: UnitScore
    leaves: UnitScore

    @property
    def lost(self) -> UnitScore:
        """``(unit,)``, what arrives and does not leave: new ways out of it raise the rank of the next map."""
        return self.arrives * (1 - self.leaves)

    @property
    def starved(self) -> UnitScore:
        """``(unit,)``, what would leave and does not arrive: new ways into it raise the rank of this map."""
        return (1 - self.arrives) * self.leaves


def bottleneck(incoming: Weight, outgoing: Weight, tol: float) -> Bottleneck:
    """Where the maps into and out of a hidden layer lose rank, unit by unit; pure, for ``jit`` and ``vmap``.

    A row or column added at a unit raises the rank of a map unless the unit's direction lies in its image
    (its row space) already, which is what a leverage of 1 says.

    Args:
      incoming: ``(unit, below)``.
      outgoing: ``(above, unit)``.
      tol: singular values above ``tol`` times the largest count.
    """
    left, s, _ = svd(incoming)
    _, t, right = svd(outgoing)
    arrives = jnp.sum(jnp.where(s > tol * s[0], jnp.square(left), 0), axis=1)
    leaves = jnp.sum(jnp.where((t > tol * t[0])[:, None], jnp.square(right), 0), axis=0)
    return Bottleneck(*(jnp.clip(a, 0, 1) for a in (arrives, leaves)))


class Directions(flax.struct.PyTreeNode):
    """Units of a matrix that add no direction of their own.

    Attributes:
      dead_rows: output units without a weight that is not 0.
      dead_cols: input units likewise.
      duplicates: output units, not dead, that point (or point away) as one before them does.
    """

    dead_rows: Int[Array, ""]
    dead_cols: Int[Array, ""]
    duplicates: Int[Array, ""]


def directions(matrix: Weight, cosine: float = 0.99) -> Directions:
    """Dead and duplicate units of a layer; pure, for ``jit`` and ``vmap``.

    Args:
      matrix: ``(out, in)``.
      cosine: two rows whose cosine is beyond it, of either sign, point alike.
    """
    norm = jnp.linalg.norm(matrix, axis=1)
    unit = matrix / jnp.where(norm > 0, norm, 1)[:, None]
    alike = jnp.abs(times(unit, unit.T)) > cosine
    before = jnp.any(jnp.tril(alike, -1), axis=1)
    number = jnp.sum(~jnp.any(matrix != 0, axis=0), dtype=jnp.int32)
    return Directions(jnp.sum(norm == 0, dtype=jnp.int32), number, jnp.sum(before, dtype=jnp.int32))


class Change(flax.struct.PyTreeNode):
    """How a layer differs between two states.

    Attributes:
      relative: norm of the difference over that of the state before.
      rank: participation ratio of the difference: in how many directions it changed.
      kept: squared overlap, in [0, 1], of the leading left singular directions before and after, of as
        many as the participation ratio before says.
    """

    relative: Scalar
    rank: Scalar
    kept: Scalar


def change_between(before: Weight, after: Weight) -> Change:
    """What changed in a layer between two checkpoints; pure, for ``jit`` and ``vmap``."""
    norm = jnp.linalg.norm(before)
    relative = jnp.linalg.norm(after - before) / jnp.where(norm > 0, norm, 1)
    rank = effective_rank(singular_values(after - before))
    (a, s, _), (b, _, _) = map(svd, (before, after))
    number = jnp.maximum(jnp.round(effective_rank(s)), 1)
    leading: Float[Array, "value"] = (jnp.arange(s.shape[0], dtype=s.dtype) < number).astype(s.dtype)
    overlap = jnp.sum(jnp.square(times((a * leading).T, b * leading)))
    return Change(relative, rank, overlap / number)
