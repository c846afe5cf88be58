"""Optimisers with a learning rate per group, and their state beside parameters that change.

The groups are ``scaffold`` (to which skip connections belong) and ``patch``,
after the fields of :class:`jaxnet.nn.Params`. Both labels are there before the
first patch is, so that adding patches leaves the scaffold's state where it was.

What an optimiser keeps for every parameter (moments, traces, accumulators) lies in
its state as trees of the parameters' own structure: its **parts**. A change of the
parameters is applied to every part, however deep optax has wrapped it
(:func:`parts`, :func:`assemble`); everything else in the state, step counts above
all, goes on. An optimiser whose state has another shape is refused by name before
anything is trained (:func:`check_follows`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.structure import clear
from jaxnet.types import PyTree

GROUPS = ("scaffold", "patch")
"""Parts of a network that have a learning rate each."""


def label_params(params: Any) -> Any:
    """Labels every leaf with its group: ``patch`` below a field ``patches``, else ``scaffold``."""

    def label(path: Any, leaf: Any) -> str:
        del leaf
        return "patch" if any(getattr(part, "name", None) == "patches" for part in path) else "scaffold"

    return jax.tree.map_with_path(label, params)


def grouped(
    transforms: Mapping[str, optax.GradientTransformation], labels: Callable[[Any], Any] = label_params
) -> optax.GradientTransformation:
    """One optimiser per group. A group counts its steps from its first parameter on.

    Args:
      transforms: an optax optimiser for each of ``scaffold`` and ``patch``;
        ``optax.set_to_zero()`` freezes a group.
      labels: the group of every leaf of the parameters.

    Raises:
      ValueError: a group is missing or unknown.
    """
    if set(transforms) != set(GROUPS):
        raise ValueError(f"groups must be {', '.join(GROUPS)}: {', '.join(sorted(transforms))}")
    return optax.partition({name: while_present(t) for name, t in transforms.items()}, labels)


def while_present(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """``transform``, whose state stays as it is as long as there is no parameter for it.

    A group without parameters that went on counting steps would give its first
    parameters no correction of Adam's bias, and so first steps up to
    ``(1 - b1) / sqrt(1 - b2)`` (3.2 with the defaults) times too long.
    """
    inner = optax.with_extra_args_support(transform)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        if not jax.tree.leaves(updates):
            return updates, state
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def dual_rate_adam(lr_scaffold: float, lr_patch: float) -> optax.GradientTransformation:
    """Adam (beta 0.9 and 0.999, epsilon 1e-8) with one rate per group; a rate of 0 freezes its group.

    A frozen scaffold keeps its Adam moments as they are (they are there when
    training goes on).

    Raises:
      ValueError: a rate is negative or not finite.
    """
    for group, rate in zip(GROUPS, (lr_scaffold, lr_patch), strict=True):
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"the {group} rate must be 0 or more: {rate}")

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(rate) if rate > 0 else frozen_adam()

    return grouped({"scaffold": adam(lr_scaffold), "patch": adam(lr_patch)})


def frozen_adam() -> optax.GradientTransformation:
    """An optimiser with Adam's state that changes neither the values nor the state."""
    adam = optax.adam(0.0)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        del params
        # zeros, not a product: a gradient that is not finite must not reach a frozen value
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformation(adam.init, update)


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
