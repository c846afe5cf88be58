"""Growth that a scheduler decides between epochs, with everything that it was described with.

After every epoch the scheduler (:mod:`jaxnet.scheduler`) sees the norms of the epoch's gradients one after
the other, and with the last one what the epoch ended with: whether an **information boundary** was met, the
accuracy, and how many structures a growth would add (for its limits per scale). A boundary, which the
original names and leaves open, is here: at least a share of the hidden units have become extreme since the
epoch before, or have ceased to be. Networks whose accuracy falls go back to the last snapshot, with structure
and optimiser.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp

from jaxnet import scheduler
from jaxnet.scheduler import FIXES, ORIGINAL, SchedulerConfig, SchedulerState
from jaxnet.snapshots import Snapshots, init_snapshots, restore_snapshot, take_snapshot
from jaxnet.train import Net
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Float, Int, PyTree, Scalar, UnitMask
from jaxnet.units import Extrema


@dataclasses.dataclass(frozen=True)
class ScheduleRules:
    """What a scheduler is told, and what becomes of snapshots (static).

    Attributes:
      config: thresholds, credits and limits.
      boundary: share of the hidden units that makes an information boundary; None: it is told of none.
      accuracy: whether it is told the accuracy, which makes snapshots besides those at growth.
      snapshots: how many are kept; 0: none.
      fall: a network goes back to the last snapshot where its accuracy is more than this below; None: never.
    """

    config: SchedulerConfig = ORIGINAL
    boundary: float | None = None
    accuracy: bool = False
    snapshots: int = 0
    fall: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("boundary", "fall"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 < value <= 1):
                raise ValueError(f"{name} must be above 0 and at most 1: {value}")
        if self.snapshots < 0:
            raise ValueError(f"snapshots must be 0 or more: {self.snapshots}")
        if self.fall is not None and not (self.snapshots and self.accuracy):
            raise ValueError("going back needs snapshots and the accuracy")


_COMPLETE: dict[str, Any] = {"boundary": 0.02, "accuracy": True, "snapshots": 3, "fall": 0.1}

PRESETS = {
    "gradients": ScheduleRules(),
    "complete": ScheduleRules(ORIGINAL, **_COMPLETE),
    "fixes": ScheduleRules(FIXES, **_COMPLETE),
}
"""By name: gradient norms alone, as the original ran; all it was described with; all, later settings."""


class Account(flax.struct.PyTreeNode):
    """What one network's schedule carries from epoch to epoch.

    Attributes:
      scheduler: credits and limits.
      extreme: ``(hidden unit,)``, the extrema of the epoch before.
      ring: the last snapshots: values, structure and optimiser state; None without any.
      boundaries: how many were met.
      restored: how often the network went back.
    """

    scheduler: SchedulerState
    extreme: UnitMask
    ring: Snapshots[PyTree] | None
    boundaries: Int[Array, ""]
    restored: Int[Array, ""]


def init_account(rules: ScheduleRules, net: Net, hidden: int) -> Account:
    """The account of a network with so many hidden units, before training."""
    zero = jnp.zeros((), jnp.int32)
    ring = init_snapshots(_kept(net), rules.snapshots) if rules.snapshots else None
    return Account(scheduler.init_scheduler(rules.config), jnp.zeros(hidden, bool), ring, zero, zero)


def consult(
    rules: ScheduleRules,
    account: Account,
    net: Net,
    found: Sequence[Extrema],
    gradient_norms: Float[Array, "step"],
    epoch: Int[Array, ""],
    accuracy: Scalar,
    structures: Int[Array, ""] | int,
) -> tuple[Account, Net, Bool[Array, ""]]:
    """After an epoch of one network: what its schedule says, and the network, which may have gone back.

    Args:
      rules: what to do.
      account: so far.
      net: after the epoch.
      found: its extrema, of each hidden layer.
      gradient_norms: of the epoch.
      epoch: counted from 0.
      accuracy: after the epoch, a fraction.
      structures: how many a growth would add now.

    Returns:
      The account, the network, and whether it is to grow now (the snapshot is of the network before it).
    """
    extreme = jnp.concatenate([layer.high | layer.low for layer in found])
    boundary = jnp.zeros((), bool)
    if rules.boundary is not None:
        boundary = (jnp.mean(extreme != account.extreme) >= rules.boundary) & (epoch > 0)
    told = {"accuracy": accuracy} if rules.accuracy else {}
    before = account.scheduler
    state, grow, snapshot = scheduler.steps(
        rules.config, before, gradient_norms, epoch, boundary=boundary, structures=structures, **told
    )
    ring, back = account.ring, jnp.zeros((), bool)
    if ring is not None:
        if rules.fall is not None:
            back = (ring.taken > 0) & (accuracy < before.accuracy - rules.fall) & ~grow
            net = where(back, _with(net, restore_snapshot(ring)), net)
        ring = take_snapshot(ring, _kept(net), epoch, when=snapshot & ~back)
    counts = account.boundaries + boundary.astype(jnp.int32), account.restored + back.astype(jnp.int32)
    return Account(state, extreme, ring, *counts), net, grow


def _kept(net: Net) -> PyTree:
    return net.params, net.structure, net.opt_state


def _with(net: Net, kept: PyTree) -> Net:
    params, structure, opt_state = kept
    return net.replace(params=params, structure=structure, opt_state=opt_state)


def members(ring: Snapshots[PyTree], net: Net, epoch: int) -> Snapshots[PyTree]:
    """The ring with the network as it is now as the newest snapshot, to be asked together."""
    return take_snapshot(ring, _kept(net), epoch)
