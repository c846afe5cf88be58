"""What circuits have to do with each other: bridges, dependence, backups, stability, transplants."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.changes import carry_tree
from jaxnet.changes.weights import edited
from jaxnet.circuits.ablation import Measure, names_of
from jaxnet.circuits.attribution import ends
from jaxnet.circuits.curves import jaccard, ranking
from jaxnet.structure import entries, exists, to_dense, with_entries
from jaxnet.topology import Mask, Topology, densify
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree


def bridges(delta: Float[Array, "group capability"], size: Float[Array, "group"]) -> Float[Array, "group"]:
    """How much a group of weights (a unit, say) matters to many capabilities, for its size.

    ``breadth * harm / size``: with ``h`` the rises of the losses without the group, each capability's summing
    to 1 over the groups (falls count 0), harm is ``sum_k h`` and breadth ``(sum_k h)^2 / sum_k h^2``, between
    1 and the number of capabilities.

    >>> found = bridges(jnp.asarray([[1.0, 1.0], [2.0, 0.0], [-1.0, 1.0]]), jnp.asarray([2.0, 1.0, 1.0]))
    >>> [round(float(b), 3) for b in found]  # the first: 25/13 capabilities, harm 5/6, 2 weights
    [0.801, 0.667, 0.5]

    Args:
      delta: ``(G, K)``, loss without the group minus loss.
      size: ``(G,)``, its weights; groups of none score 0.
    """
    harm = jnp.maximum(delta, 0)
    whole = jnp.sum(harm, 0)
    harm = harm / jnp.where(whole > 0, whole, 1)
    total, squares = jnp.sum(harm, 1), jnp.sum(harm**2, 1)
    breadth = total**2 / jnp.where(squares > 0, squares, 1)
    return jnp.where(size > 0, breadth * total / jnp.where(size > 0, size, 1), 0)


def dependencies(of: Measure, keep: Bool[Array, "capability element"]) -> Float[Array, "circuit capability"]:
    """At ``[j, k]`` the share of capability ``k``'s own gap that is lost without circuit ``j``."""
    everything = jnp.ones(keep.shape[1])
    full, empty = of(everything), of(jnp.zeros(keep.shape[1]))
    without = jax.lax.map(lambda circuit: of(~circuit), keep)
    gap = empty - full
    return (without - full) / jnp.where(gap > 0, gap, jnp.nan)


def backups(of: Measure, elements: Int[Array, "some"], number: int) -> Float[Array, "some some capability"]:
    """At ``[i, j]`` by how much more is lost without both of two elements than without each alone.

    ``loss(without both) - loss(without i) - loss(without j) + loss``; above 0 they are backups of each other.

    Args:
      of: the loss of masks.
      elements: ``(P,)``, their numbers; ``P * P`` masks are tried.
      number: of all elements (static).
    """
    place = jnp.arange(number)
    full = of(jnp.ones(number))
    alone = jax.lax.map(lambda e: of(place != e), elements)
    both = jax.lax.map(lambda a: jax.lax.map(lambda b: of((place != a) & (place != b)), elements), elements)
    found = both - alone[:, None] - alone[None] + full
    same = jnp.eye(elements.shape[0], dtype=bool)[..., None]
    return jnp.where(same, 0, found)


def stability(keep: Bool[Array, "draw element"]) -> Array:
    """The mean Jaccard index of all pairs of circuits that were found from different draws."""
    pairs = jax.vmap(lambda a: jax.vmap(lambda b: jaccard(a, b))(keep))(keep)
    number = keep.shape[0]
    return (jnp.sum(pairs) - jnp.trace(pairs)) / max(number * (number - 1), 1)


def unit_groups(params: Any, structure: Any) -> tuple[Int[Array, "end element"], Int[Array, ""]]:
    """``(2, E)``: of every weight of a perceptron the hidden unit into which, and out of which, it leads.

    Units of all hidden layers are numbered through; one that is no hidden unit has their number, which
    comes second.
    """
    sizes = [layer.bias.shape[0] for layer in params.scaffold[:-1]]
    number, start, into, out = sum(sizes), 0, [], []
    for layer, (rows, cols) in enumerate(ends(params, structure)):
        before = start - sizes[layer - 1] if layer else 0
        last = layer == len(sizes)
        inside = (rows < sizes[layer]) if not last else jnp.zeros(rows.shape, bool)
        into.append(jnp.where(inside, start + rows, number))
        out.append(before + cols if layer else jnp.full(cols.shape, number))
        start += 0 if last else sizes[layer]
    return jnp.stack([jnp.concatenate(into), jnp.concatenate(out)]), jnp.asarray(number)


def split(keep: Array, params: PyTree, structure: PyTree) -> dict[str, Array]:
    """A mask over elements as arrays of the parameters' shapes, by path."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    found, start = dict[str, Array](), 0
    for name in names_of(params, structure):
        size = leaves[name].size
        found[name] = keep[start : start + size].reshape(leaves[name].shape)
        start += size
    return found


def extract(params: Any, structure: Any, keep: Bool[Array, "element"]) -> tuple[Any, Any]:
    """The network of a circuit's weights alone: the others do not exist any more. Shapes stay."""
    parts, there = split(keep, params, structure), entries(structure)
    nowhere = jnp.zeros(0, jnp.int32)
    new = {name: edited(entry, parts[name], nowhere, nowhere > 0) for name, entry in there.items()}
    after = with_entries(structure, new)
    return carry_tree(params, structure, after), after


def random_like(
    params: Any, structure: Any, keep: Bool[Array, "element"], *, key: Key
) -> Bool[Array, "element"]:
    """As many weights as a mask keeps, array by array, drawn from those that exist."""
    parts, there, drawn = split(keep, params, structure), entries(structure), []
    for number, (name, entry) in enumerate(there.items()):
        here = exists(entry).ravel()
        score = jax.random.uniform(jax.random.fold_in(key, number), here.shape)
        drawn.append(ranking(score, here) < jnp.sum(parts[name] & exists(entry)))
    return jnp.concatenate(drawn)


def transplant(
    params: Any, structure: Any, keep: Bool[Array, "element"], other: Any, other_structure: Any
) -> tuple[Any, Any]:
    """Another network with a circuit's weights at the places where this one has them.

    Units of two seeds have nothing to do with each other: expect that it fails.

    Returns:
      The other's parameters as dense arrays, and masks of the weights that either has there.
    """
    parts, there = split(keep, params, structure), entries(structure)
    ours, theirs = to_dense(params, structure), to_dense(other, other_structure)
    masks = dict[str, Array]()
    for name, entry in there.items():
        part = parts[name].astype(jnp.float32)
        masks[name] = (densify(part, entry) if isinstance(entry, Topology) else part) > 0
    dense = {name: Mask(exists_dense(e) | masks[name]) for name, e in entries(other_structure).items()}

    def one(path: Any, mine: Array, its: Array) -> Array:
        name = jax.tree_util.keystr(path)
        return jnp.where(masks[name], mine, its) if name in masks else its

    return jax.tree.map_with_path(one, ours, theirs), with_entries(other_structure, dense)


def exists_dense(entry: Topology | Mask) -> Bool[Array, "..."]:
    """Which positions of the dense array hold a weight."""
    if isinstance(entry, Mask):
        return entry.mask
    return densify(entry.exists.astype(jnp.float32), entry) > 0


def path_image(params: Any, structure: Any, keep: Bool[Array, "element"]) -> Float[Array, "class in"]:
    """For every output of a perceptron the product of the weights along the circuit's ways, ``(class, in)``.

    A picture of a circuit on the image plane: the weights that it puts on every input, as if linear.
    """
    parts, there, whole = split(keep, params, structure), entries(structure), None
    for layer, (name, entry) in zip(params.scaffold, there.items(), strict=True):
        part = jnp.where(parts[name], layer.weight, 0)
        matrix = densify(part, entry) if isinstance(entry, Topology) else part
        whole = matrix if whole is None else jnp.matmul(matrix, whole, precision=jax.lax.Precision.HIGHEST)
    assert whole is not None
    return whole
