"""Snapshots: the last states of a network, in a ring of fixed capacity, to go back to or to ask together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.types import Array, Bool, Int

T = TypeVar("T")


class Snapshots(flax.struct.PyTreeNode, Generic[T]):
    """The last snapshots, in a ring of fixed capacity.

    A snapshot is any tree, for instance ``(params, structure)``. All snapshots of
    a ring have the same shapes: a change of shape needs a new ring.

    Attributes:
      trees: the tree with a leading axis ``(capacity,)`` on each leaf.
      epoch: ``(capacity,)``, when each was taken.
      taken: how many were taken so far; the older ones may be overwritten.
    """

    trees: T
    epoch: Int[Array, "capacity"]
    taken: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """How many snapshots can be held (static)."""
        return self.epoch.shape[-1]

    @property
    def held(self) -> Bool[Array, "capacity"]:
        """Which places hold a snapshot."""
        return jnp.arange(self.capacity) < self.taken


def init_snapshots(tree: T, capacity: int) -> Snapshots[T]:
    """An empty ring for trees like ``tree``.

    Raises:
      ValueError: the capacity is below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1: {capacity}")
    places = jax.tree.map(lambda a: jnp.zeros((capacity, *jnp.shape(a)), jnp.result_type(a)), tree)
    return Snapshots(places, jnp.full(capacity, -1, jnp.int32), jnp.zeros((), jnp.int32))


def take_snapshot(
    snapshots: Snapshots[T], tree: T, epoch: Int[Array, ""] | int, *, when: Bool[Array, ""] | bool = True
) -> Snapshots[T]:
    """Puts a snapshot in place of the oldest; does nothing where ``when`` is False."""
    when = jnp.asarray(when)
    # a place outside the ring drops the write
    place = jnp.where(when, snapshots.taken % snapshots.capacity, snapshots.capacity)
    return Snapshots(
        jax.tree.map(lambda ring, a: ring.at[place].set(a, mode="drop"), snapshots.trees, tree),
        snapshots.epoch.at[place].set(jnp.asarray(epoch, jnp.int32), mode="drop"),
        snapshots.taken + when.astype(jnp.int32),
    )


def restore_snapshot(snapshots: Snapshots[T], back: Int[Array, ""] | int = 0) -> T:
    """The newest snapshot, or the one ``back`` before it (0 to the number held - 1)."""
    place = (snapshots.taken - 1 - jnp.asarray(back, jnp.int32)) % snapshots.capacity
    return jax.tree.map(lambda ring: ring[place], snapshots.trees)


def ensemble_logits(snapshots: Snapshots[T], logits_of: Callable[[T], Array]) -> Array:
    """Mean of the logits of all snapshots that are held; zeros without any.

    Args:
      snapshots: the ring.
      logits_of: logits of one snapshot, of any shape.
    """
    logits = jax.lax.map(logits_of, snapshots.trees)
    held = snapshots.held.reshape(-1, *(1,) * (logits.ndim - 1))
    # where, not a product: what an empty place gives need not be finite
    total = jnp.sum(jnp.where(held, logits, 0.0), axis=0)
    return total / jnp.maximum(jnp.sum(snapshots.held), 1).astype(total.dtype)
