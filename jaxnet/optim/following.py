"""An optimiser's state beside parameters that change.

What an optimiser keeps for every parameter (moments, traces, accumulators) lies in
its state as trees of the parameters' own structure: its **parts**. A change of the
parameters is applied to every part, however deep optax has wrapped it
(:func:`parts`, :func:`assemble`); everything else in the state, step counts above
all, goes on. An optimiser whose state has another shape is refused by name before
anything is trained (:func:`check_follows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.structure import clear
from jaxnet.types import PyTree


def is_part(node: Any, params: PyTree) -> bool:
    """Whether a node of a state has the structure and shapes of the parameters.

    Where optax keeps nothing for a parameter, or a whole branch of them, an
    ``optax.MaskedNode`` stands in its place.
    """
    found = _against(node, params)
    return found is not None and all(
        _masked(here) or (not _is_branch(there) and jnp.shape(here) == jnp.shape(there))
        for here, there in found
    )


def parts(state: PyTree, params: PyTree) -> list[PyTree]:
    """Every part of an optimiser's state as a whole tree like ``params``, zeros where it keeps nothing."""

    def whole(part: PyTree) -> PyTree:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jax.tree.map(lambda here, zero: zero if _masked(here) else here, part, zeros, is_leaf=_masked)

    leaves = jax.tree.leaves(state, is_leaf=lambda node: is_part(node, params))
    return [whole(leaf) for leaf in leaves if is_part(leaf, params)]


def assemble(
    fresh: PyTree, old: PyTree, params: PyTree, changed: PyTree, moved: Sequence[PyTree], kept: PyTree
) -> PyTree:
    """The state after a change of the parameters.

    Args:
      fresh: the optimiser's state for the changed parameters, as at the start.
      old: its state before the change.
      params: before the change.
      changed: the parameters after it.
      moved: the :func:`parts` of ``old`` after the change, of the shapes of ``changed``.
      kept: like ``changed``, bool: which entries were there before. The others start as in ``fresh``.

    Returns:
      ``fresh`` with the parts in ``moved`` where ``kept``, and with everything else
      (counts, rates) from ``old`` where the path, shape and type are the same.
    """
    known = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree.leaves_with_path(old, is_leaf=lambda node: is_part(node, params))
        if not is_part(leaf, params)
    }
    following: Iterator[PyTree] = iter(moved)
    fresh = jax.tree.map(
        lambda node: node.for_new() if hasattr(node, "for_new") else node,
        fresh,
        is_leaf=lambda node: hasattr(node, "for_new"),
    )

    def fill(path: Any, node: Any) -> Any:
        if is_part(node, changed):
            return jax.tree.map(
                lambda new, here, values: (
                    new if _masked(new) else jnp.where(here, values, new).astype(new.dtype)
                ),
                node,
                kept,
                next(following),
                is_leaf=_masked,
            )
        there = known.get(jax.tree_util.keystr(path), node)
        return there if jnp.shape(there) == jnp.shape(node) else node

    return jax.tree.map_with_path(fill, fresh, is_leaf=lambda node: is_part(node, changed))


def followed(
    optimizer: optax.GradientTransformation,
    state: PyTree,
    params: PyTree,
    changed: PyTree,
    move: Callable[[Any], Any],
) -> PyTree:
    """The state after ``move``, which takes ``params`` to ``changed`` and every part likewise."""
    moved = [move(part) for part in parts(state, params)]
    kept = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), changed)
    return assemble(optimizer.init(changed), state, params, changed, moved, kept)


def cleared_state(optimizer: optax.GradientTransformation, params: PyTree, structure: PyTree) -> PyTree:
    """The optimiser's state at the start, zero for missing weights (some accumulators start above)."""

    def zeroed(node: Any) -> Any:
        return clear(node, structure) if is_part(node, params) else node

    return jax.tree.map(zeroed, optimizer.init(params), is_leaf=lambda node: is_part(node, params))


def check_follows(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Raises ValueError, with its name, for an optimiser whose state cannot follow a change of structure."""

    def refuse(owner: str) -> None:
        raise ValueError(
            f"the state of {_NAMES.get(owner, owner)} is not shaped like the weights and cannot follow them "
            "when the structure changes: choose another optimiser, or keep the structure as it is"
        )

    def walk(node: Any, owner: str) -> None:
        if is_part(node, params):
            return
        if hasattr(node, "_fields"):
            owner = type(node).__name__
        children = _children(node)
        if children is None:
            if jnp.issubdtype(node.dtype, jnp.inexact) and node.ndim:
                refuse(owner)
            return
        found = _against(node, params)
        if found is not None and _is_branch(params) and not any(_is_branch(there) for _, there in found):
            refuse(owner)  # something for every parameter, of another shape
        for child in children:
            walk(child, owner)

    walk(jax.eval_shape(optimizer.init, params), "this optimiser")


_NAMES = {
    "RowsState": "project_rows (RowsState)",
    "FactoredState": "adafactor (FactoredState)",
    "ScaleBySM3State": "sm3 (ScaleBySM3State)",
    "ScaleByLBFGSState": "lbfgs (ScaleByLBFGSState)",
    "ScaleByNovogradState": "novograd (ScaleByNovogradState)",
}
"""What a user calls the owner of a state."""


def _masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_branch(node: Any) -> bool:
    structure: Any = jax.tree.structure(node)
    return bool(structure != jax.tree.structure(0))


def _children(node: Any) -> list[Any] | None:
    """The nodes right below one; None for a leaf."""
    if not _is_branch(node):
        return None
    return list(jax.tree.leaves(node, is_leaf=lambda child: child is not node))


def _against(node: Any, params: PyTree) -> list[tuple[Any, Any]] | None:
    """The leaves of ``node`` with what ``params`` has there; None where the structures differ."""
    structure: Any
    leaves, structure = jax.tree.flatten(node, is_leaf=_masked)
    if not leaves:
        return None
    try:
        return list(zip(leaves, structure.flatten_up_to(params), strict=True))
    except ValueError:
        return None
