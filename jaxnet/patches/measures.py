"""What single patches are worth: the accuracy lost without them, alone and in pairs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.patches.bank import active_slots, keep_patches, slot_sizes
from jaxnet.patches.kinds import PatchBank, PatchParams
from jaxnet.types import Array, Bool, Float, Scalar


def contributions(accuracy: Callable[[PatchBank], Scalar], bank: PatchBank) -> Float[Array, "slot"]:
    """Accuracy lost without each patch (negative: the network is better off without it).

    Args:
      accuracy: evaluates the network with a bank.
      bank: the patches.

    Returns:
      ``(slot,)``; 0 for inactive slots.
    """
    slots = active_slots(bank).shape[0]
    whole = accuracy(bank)
    without = jax.lax.map(lambda p: accuracy(keep_patches(bank, jnp.arange(slots) != p)), jnp.arange(slots))
    return jnp.where(active_slots(bank), whole - without, 0.0)


def redundancy(accuracy: Callable[[PatchBank], Scalar], bank: PatchBank) -> Float[Array, "slot slot"]:
    """How much two patches can stand in for one another.

    ``loss(i and j) - loss(i) - loss(j)`` with ``loss`` the accuracy lost without
    the patches named: above 0 where each covers for the other, below 0 where
    they only work together, 0 where they are independent.

    Returns:
      ``(slot, slot)``, symmetric; 0 on the diagonal and for inactive slots.
    """
    active = active_slots(bank)
    slots = active.shape[0]
    single = contributions(accuracy, bank)
    whole = accuracy(bank)
    first, second = (jnp.asarray(i) for i in jnp.triu_indices(slots, 1))
    index = jnp.arange(slots)

    def both(pair: tuple[Array, Array]) -> Scalar:
        return accuracy(keep_patches(bank, (index != pair[0]) & (index != pair[1])))

    lost = whole - jax.lax.map(both, (first, second))
    value = jnp.where(active[first] & active[second], lost - single[first] - single[second], 0.0)
    upper = jnp.zeros((slots, slots)).at[first, second].set(value)
    return upper + upper.T


def needed(
    accuracy: Callable[[PatchBank], Scalar], bank: PatchBank, tolerance: float = 0.0
) -> Bool[Array, "slot"]:
    """Which patches are left when redundant ones go, one after the other, those that contribute least first.

    A patch goes where the network without it, and without all that went before, has at least the accuracy of
    the whole network less ``tolerance`` (a fraction).

    Returns:
      ``(slot,)``; False for inactive slots.
    """
    active, lost, whole = active_slots(bank), contributions(accuracy, bank), accuracy(bank)

    def consider(keep: Array, slot: Array) -> tuple[Array, None]:
        without = keep.at[slot].set(False)
        enough = accuracy(keep_patches(bank, without)) >= whole - tolerance
        return jnp.where(enough, without, keep), None

    return jax.lax.scan(consider, active, jnp.argsort(lost))[0]


def gain_per_weight(gain: Scalar, bank: PatchBank, params: PatchParams) -> Scalar:
    """Accuracy gained per value that the patches add; NaN without patches."""
    added = jnp.sum(slot_sizes(bank, params))
    return jnp.where(added > 0, gain / jnp.maximum(added, 1).astype(jnp.float32), jnp.nan)
