"""Trees: stack, pick, count and compare pytrees.

A sweep carries the state of all its seeds as one tree whose leaves have a
leading seed axis. The functions here go between that tree and the trees of
single networks. They know nothing of networks and work on any pytree, typed
PRNG keys included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.types import Array, Bool, Int, PyTree

T = TypeVar("T")

__all__ = ["allclose", "count", "equal", "is_key", "stack", "take", "unstack", "where", "zero_of"]


def stack(trees: Sequence[T]) -> T:
    """Stacks equal trees along a new leading axis.

    >>> stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])["w"].shape
    (2, 3)

    Args:
      trees: one or more trees of one structure, with leaves of equal shape and dtype.

    Returns:
      The same tree with leaves of shape ``(len(trees), *shape)``.

    Raises:
      ValueError: no tree was given, or two of them differ in structure, shape or dtype.
    """
    if not trees:
        raise ValueError("there is no tree to stack: give one or more")
    for number, tree in enumerate(trees[1:], start=1):
        _check_alike(trees[0], tree, "tree 0", f"tree {number}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: T, n: int) -> list[T]:
    """Splits a stacked tree into its ``n`` trees; the inverse of :func:`stack`.

    Args:
      tree: leaves of shape ``(n, ...)``.
      n: length of the leading axis. It must be said, because a tree without
        leaves does not know it.

    Returns:
      ``n`` trees with leaves of shape ``(...)``.

    Raises:
      ValueError: a leaf has no leading axis of length ``n``.
    """
    _check_leading(tree, n)
    return [jax.tree.map(lambda leaf: leaf[i], tree) for i in range(n)]  # noqa: B023 (called at once)


def take(tree: T, index: int | Int[Array, "..."] | np.ndarray) -> T:
    """Picks one or more members of a stacked tree.

    Args:
      tree: leaves of shape ``(n, ...)``.
      index: an integer gives leaves of shape ``(...)``; integers of shape
        ``(k,)`` give ``(k, ...)``. Negative numbers count from the end. A
        traced index cannot be checked: out of range it gives the nearest member.

    Raises:
      ValueError: a leaf is a scalar, or an index known on the host is out of range.
    """
    known = None if isinstance(index, jax.core.Tracer) else np.asarray(index)
    if known is not None and not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"an index must be of integers: {known.dtype}")
    for path, leaf in jax.tree.leaves_with_path(tree):
        shape = np.shape(leaf)
        if not shape:
            raise ValueError(f"leaf {_name(path)} is a scalar: there is nothing to pick from")
        if known is not None and known.size and not (-shape[0] <= known.min() and known.max() < shape[0]):
            raise ValueError(f"index {known} is out of range: leaf {_name(path)} has {shape[0]} members")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], tree)


def count(tree: PyTree) -> int:
    """Number of array elements in all leaves (static; a PRNG key counts as one)."""
    return sum(int(np.prod(np.shape(leaf), dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def equal(a: PyTree, b: PyTree) -> bool:
    """Whether two trees are the same bit for bit; on the host.

    Structure, shapes, dtypes and every bit must agree: ``-0.0`` differs from
    ``0.0``, and a NaN equals a NaN of the same bits. This is the comparison to
    use where a replay must be exact.
    """
    if not _alike(a, b):
        return False
    return all(
        _host(x).tobytes() == _host(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def allclose(a: PyTree, b: PyTree, *, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Whether two trees agree within ``|a - b| <= atol + rtol * |b|``; on the host.

    Structure and shapes must agree. Floating-point leaves may differ in dtype
    and are compared in float64 (complex128); all others must be equal. A NaN
    agrees with nothing.
    """
    if _structure(a) != _structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(_leaf_close(x, y, rtol, atol) for x, y in pairs)


def where(pred: Bool[Array, "..."] | bool, a: T, b: T) -> T:
    """Selects whole trees: ``a`` where ``pred`` holds, else ``b``; for each seed if there are many.

    Works under jit and vmap. Both sides are computed, only the value is chosen.

    Args:
      pred: bool of shape ``()``, or ``(seeds,)`` for leaves of shape ``(seeds, ...)``.
      a: a tree.
      b: a tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: ``pred`` is not bool or has more than one axis, the trees
        differ, or a leaf lacks the seed axis.
    """
    choose = jnp.asarray(pred)
    if choose.dtype != jnp.bool_ or choose.ndim > 1:
        raise ValueError(f"pred must be bool of shape () or (seeds,): {choose.dtype} of shape {choose.shape}")
    _check_alike(a, b, "a", "b")
    if choose.ndim == 1:
        _check_leading(a, choose.shape[0])

    def select(x: Any, y: Any) -> Array:
        if x is y:  # nothing to choose, and nothing to compile
            return x
        x, y = jnp.asarray(x), jnp.asarray(y)
        return jnp.where(choose.reshape(choose.shape + (1,) * (x.ndim - choose.ndim)), x, y)

    return jax.tree.map(select, a, b)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "(the tree itself)"


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What must agree for two leaves to stand for each other: shape and dtype."""
    if hasattr(leaf, "dtype"):
        return np.shape(leaf), leaf.dtype
    return (), type(leaf)


def _alike(a: PyTree, b: PyTree) -> bool:
    if _structure(a) != _structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(_kind(x) == _kind(y) for x, y in pairs)


def _check_alike(a: PyTree, b: PyTree, name_a: str, name_b: str) -> None:
    """Raises ValueError unless structures, shapes and dtypes agree."""
    if _structure(a) != _structure(b):
        raise ValueError(f"{name_a} and {name_b} differ in structure")
    pairs = zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
    for (path, x), y in pairs:
        if _kind(x) != _kind(y):
            raise ValueError(f"{name_a} and {name_b} differ at {_name(path)}: {_kind(x)} and {_kind(y)}")


def _check_leading(tree: PyTree, n: int) -> None:
    """Raises ValueError unless every leaf has a leading axis of length ``n``."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if np.shape(leaf)[:1] != (n,):
            raise ValueError(f"leaf {_name(path)} has no leading axis of {n}: its shape is {np.shape(leaf)}")


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _host(leaf: Any) -> np.ndarray:
    """The leaf as a NumPy array; a PRNG key as its bits."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _leaf_close(a: Any, b: Any, rtol: float, atol: float) -> bool:
    x, y = _host(a), _host(b)
    if x.shape != y.shape:
        return False
    # jnp knows that bfloat16 and its like are floating point, NumPy does not.
    if all(jnp.issubdtype(z.dtype, jnp.inexact) for z in (x, y)):
        wide = np.complex128 if any(np.iscomplexobj(z) for z in (x, y)) else np.float64
        return bool(np.allclose(x.astype(wide), y.astype(wide), rtol=rtol, atol=atol))
    return _kind(a) == _kind(b) and bool(np.array_equal(x, y))


def zero_of(tree: PyTree) -> Array:
    """A float32 zero that is, to ``vmap``, as different from network to network as the tree.

    A ``scan`` that begins with a common zero and ends with a sum per network is traced twice.
    """
    some = next((leaf for leaf in jax.tree.leaves(tree) if jnp.size(leaf)), 0)
    return jnp.where(jnp.ravel(some)[0] == 0, jnp.zeros(()), jnp.zeros(()))
