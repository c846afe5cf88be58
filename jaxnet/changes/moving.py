"""What a change of structure does to everything that has an entry per weight: one way for all.

Values, every part of the optimiser's state, and what a net carries beside them
(:class:`jaxnet.train.Net`) go where their weight goes; what is new starts as the
optimiser starts it; what does not exist is zero. A change of shape is a function
of values: it is applied to all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet import topology, trees
from jaxnet.changes.weights import Move
from jaxnet.nn.params import to_masked_network, to_sparse_network
from jaxnet.optim import assemble, cleared_state, followed, parts
from jaxnet.structure import clear, entries, with_entries
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Int, PyTree

T = TypeVar("T")


class EditInfo(flax.struct.PyTreeNode):
    """What an edit did: weights that are new and weights that are gone, by path."""

    grown: dict[str, Int[Array, ""]]
    dropped: dict[str, Int[Array, ""]]


def carry_tree(tree: T, old: PyTree, new: PyTree) -> T:
    """Brings a tree like the parameters from one structure to another of the same paths.

    An entry whose weight exists in both keeps what it has, a new one is zero, and
    so is one that holds no weight; leaves without an entry stay.
    """

    return _carried(tree, _moves(old, new))


def _moves(old: PyTree, new: PyTree) -> dict[str, Move]:
    """By path, of the entries that are not the same object."""
    pairs = zip(entries(old).items(), entries(new).values(), strict=True)
    return {path: Move(before, after) for (path, before), after in pairs if before is not after}


def _carried(tree: T, moves: Mapping[str, Move]) -> T:
    def one(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        return moves[name].carry(leaf) if name in moves else leaf

    found: T = jax.tree.map_with_path(one, tree)
    return found


def edit(
    net: Net, structure: PyTree, value: Callable[[str, Entry], Array] | None = None
) -> tuple[Net, EditInfo]:
    """The net with another structure of the same paths: what is kept of each weight follows it.

    Works under jit and vmap. Shapes stay, unless the new topologies have other capacities.

    Args:
      net: the network.
      structure: which weights exist from now on.
      value: ``(path, entry) -> values`` of the parameter's shape, for new weights; zero by default.
    """
    moves, after = _moves(net.structure, structure), entries(structure)

    def set_new(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        if value is None or name not in moves:
            return leaf
        return jnp.where(moves[name].is_new, value(name, after[name]), leaf)

    def is_kept(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        return ~moves[name].is_new if name in moves else jnp.ones(leaf.shape, bool)

    params = jax.tree.map_with_path(set_new, _carried(net.params, moves))
    kept = jax.tree.map_with_path(is_kept, params)

    def follow(fresh: PyTree, state: PyTree) -> PyTree:
        moved = [_carried(part, moves) for part in parts(state, net.params)]
        return assemble(fresh, state, net.params, params, moved, kept)

    net = net.replace(
        params=params,
        structure=structure,
        opt_state=follow(cleared_state(net.optimizer, params, structure), net.opt_state),
        carried=follow(_blank(net.carried, net.params, params), net.carried),
    )
    info = EditInfo(
        grown={path: jnp.sum(move.is_new, dtype=jnp.int32) for path, move in moves.items()},
        dropped={path: move.num_dropped for path, move in moves.items()},
    )
    return net, info


def with_room(net: Net, room: Mapping[str, int]) -> tuple[Net, EditInfo]:
    """Adds free slots to topologies, by path, for weights to be grown later; the function is unchanged."""
    there = entries(net.structure)
    padded: dict[str, Entry] = {}
    for path, number in room.items():
        entry = there[path]
        if not isinstance(entry, Topology):
            raise ValueError(f"{path} is no topology: a mask has room everywhere")
        padded[path] = topology.with_room(entry, number)
    return edit(net, with_entries(net.structure, padded))


def with_equal_room(*nets: Net) -> tuple[Net, ...]:
    """Nets with as many slots in each topology as the largest of them has: then one program trains all."""
    topologies = [{p: e for p, e in entries(n.structure).items() if isinstance(e, Topology)} for n in nets]
    most = {path: max(of[path].capacity for of in topologies) for path in topologies[0]}
    return tuple(
        with_room(net, {path: most[path] - entry.capacity for path, entry in of.items()})[0]
        for net, of in zip(nets, topologies, strict=True)
    )


def reshape(net: Net, change: Callable[[Any], tuple[Any, Any]]) -> Net:
    """The net after a change of shape: a layer, more units, patches.

    Args:
      net: the network.
      change: parameters and structure after it, from the parameters before; one
        operator or several in a row, with fixed keys. It moves values and adds
        new ones, but does not look at values to decide what goes where, nor
        calculates with them.
    """
    params = net.params
    state = (net.opt_state, net.carried)
    zeros, ones = (jax.tree.map(lambda a, n=n: jnp.full_like(a, n), params) for n in (0, 1))
    # parts of another type are sent along as that of the values
    old = [jax.tree.map(lambda a, z: a.astype(z.dtype), part, zeros) for part in parts(state, params)]
    # all in one call: traced once, its random numbers drawn once
    changed, structures = jax.vmap(change, out_axes=(0, None))(trees.stack([params, zeros, ones, *old]))
    new = trees.take(changed, 0)
    # a value that was there before is told from a new one by what the change makes of ones and zeros
    kept = jax.tree.map(lambda a: a[1] != a[2], changed)
    moved = [clear(jax.tree.map(lambda a, n=n: a[n], changed), structures) for n in range(3, 3 + len(old))]
    fresh = (cleared_state(net.optimizer, new, structures), _blank(net.carried, params, new))
    opt_state, carried = assemble(fresh, state, params, new, moved, kept)
    return net.replace(params=new, structure=structures, opt_state=opt_state, carried=carried)


def to_sparse(net: Net, capacities: Sequence[int]) -> Net:
    """A multi-layer perceptron computed by the weights that exist from now on; the function is unchanged.

    For networks that started dense and have been pruned. Moments, and whatever the net carries, follow.

    Args:
      net: of it; masked, or sparse with other capacities.
      capacities: slots of every layer (static), at least as many as it has weights.
    """

    def change(params: Any) -> Any:
        return to_sparse_network(*to_masked_network(params, net.structure), capacities)

    return reshape(net, change)


def with_optimizer(net: Net, optimizer: optax.GradientTransformation) -> Net:
    """The net with another optimiser whose state has the same parts: moments and counts go on."""
    opt_state = followed(optimizer, net.opt_state, net.params, net.params, lambda part: part)
    return net.replace(opt_state=opt_state, optimizer=optimizer)


def _blank(carried: PyTree, params: Any, new: Any) -> PyTree:
    """What a net carries, with zeros in the shapes of the new parameters."""
    structure: Any = jax.tree.structure(params)
    return jax.tree.map(
        lambda node: jax.tree.map(jnp.zeros_like, new) if jax.tree.structure(node) == structure else node,
        carried,
        is_leaf=lambda node: jax.tree.structure(node) == structure,
    )
