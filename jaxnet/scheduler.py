"""When to grow: a credit account as an explicit state machine.

Every observation (a gradient norm, an epoch, maybe an accuracy) goes through
:func:`step`, which is pure, of fixed shape, and lives in ``lax.scan`` and
``vmap``. In this order:

1. The norm is remembered (one that is not finite is not).
2. At rest, until ``rest_epochs`` epochs after the last growth, nothing is earned.
3. Else credits are earned: for a **spike** (the variances of the last ``window``
   norms and of the ``window`` before differ by more than ``spike_threshold`` of
   the earlier one), for an **information boundary** (the caller says when; the
   original leaves open what it is) and, with the first observation of each of the
   first ``bootstrap_epochs`` epochs, as long as nothing has grown.
4. With ``growth_credits`` or more, and room for the structures at this **scale**
   (coarse, medium, fine: by epoch), the network grows, and all credits are spent.
5. A snapshot is due at every growth, and when the accuracy is more than
   ``snapshot_gain`` above that of the last snapshot (or the first one seen).

How often to call it is the caller's choice: with one call per step, spikes pay
per step; per epoch, an epoch.

Source: the growth scheduler of structure_net.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.types import Array, Bool, Float, Int, Scalar

SCALES = ("coarse", "medium", "fine")
"""Scales of growth, by epoch."""

REASONS = ("grows", "at rest", "too few credits", "no room at this scale")
"""Why a network grows or not; ``Observed.reason`` is an index."""


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    """What the scheduler goes by (static); the defaults are the original's.

    Attributes:
      window: gradient norms per variance.
      spike_threshold: relative difference of the variances that makes a spike.
      spike_credits: earned by a spike.
      boundary_credits: earned at an information boundary.
      bootstrap_epochs: number of first epochs that earn credits without growth.
      bootstrap_credits: earned in each of them.
      growth_credits: what a growth needs.
      rest_epochs: epochs without growth or income after a growth.
      scale_ends: first epochs of the medium and of the fine scale.
      structures: most structures that may be added at each scale.
      snapshot_gain: rise of the accuracy (a fraction) that is worth a snapshot.
    """

    window: int = 10
    spike_threshold: float = 0.5
    spike_credits: float = 10.0
    boundary_credits: float = 80.0
    bootstrap_epochs: int = 15
    bootstrap_credits: float = 5.0
    growth_credits: float = 100.0
    rest_epochs: int = 10
    scale_ends: tuple[int, int] = (50, 100)
    structures: tuple[int, int, int] = (10, 50, 200)
    snapshot_gain: float = 0.02

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.window < 2:
            raise ValueError(f"window must be at least 2: {self.window}")
        if not (math.isfinite(self.growth_credits) and self.growth_credits > 0):
            raise ValueError(f"growth_credits must be above 0: {self.growth_credits}")
        for name in (
            "spike_threshold",
            "spike_credits",
            "boundary_credits",
            "bootstrap_epochs",
            "bootstrap_credits",
            "rest_epochs",
            "snapshot_gain",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more: {value}")
        if not 0 <= self.scale_ends[0] <= self.scale_ends[1]:
            raise ValueError(f"scale_ends must be two epochs in order: {self.scale_ends}")
        if len(self.structures) != len(SCALES) or min(self.structures) < 0:
            raise ValueError(f"structures must be {len(SCALES)} numbers, 0 or more: {self.structures}")


ORIGINAL = SchedulerConfig()
"""The original's settings."""

FIXES = SchedulerConfig(
    spike_threshold=0.01, growth_credits=25.0, rest_epochs=3, bootstrap_epochs=20, bootstrap_credits=8.0
)
"""The original's later settings, under which it grows earlier and more often."""


class SchedulerState(flax.struct.PyTreeNode):
    """What is carried from observation to observation.

    Attributes:
      norms: ``(2 * window,)``, the last gradient norms, the newest last.
      seen: gradient norms remembered so far.
      credits: on the account.
      epoch: of the last observation; -1 before the first.
      last_growth: epoch of the last growth; -1 before the first.
      growths: how often the network has grown.
      used: ``(scale,)``, structures added at each scale.
      accuracy: at the last snapshot, or the first one seen; NaN before.
    """

    norms: Float[Array, "norm"]
    seen: Int[Array, ""]
    credits: Scalar
    epoch: Int[Array, ""]
    last_growth: Int[Array, ""]
    growths: Int[Array, ""]
    used: Int[Array, "scale"]
    accuracy: Scalar


class Observed(flax.struct.PyTreeNode):
    """What was observed and decided.

    Attributes:
      grow: the network grows now.
      snapshot: a snapshot is due now (at growth: of the network before it).
      reason: index into :data:`REASONS`.
      scale: index into :data:`SCALES`.
      spike: the gradient norms had a spike (also when at rest).
      earned: credits earned now.
      credits: on the account before a growth spends them.
    """

    grow: Bool[Array, ""]
    snapshot: Bool[Array, ""]
    reason: Int[Array, ""]
    scale: Int[Array, ""]
    spike: Bool[Array, ""]
    earned: Scalar
    credits: Scalar


def init_scheduler(config: SchedulerConfig) -> SchedulerState:
    """The state before the first observation."""
    zero, before = jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
    return SchedulerState(
        norms=jnp.zeros(2 * config.window),
        seen=zero,
        credits=jnp.zeros(()),
        epoch=before,
        last_growth=before,
        growths=zero,
        used=jnp.zeros(len(SCALES), jnp.int32),
        accuracy=jnp.full((), jnp.nan),
    )


def step(
    config: SchedulerConfig,
    state: SchedulerState,
    gradient_norm: Scalar | float,
    epoch: Int[Array, ""] | int,
    *,
    boundary: Bool[Array, ""] | bool = False,
    accuracy: Scalar | float = math.nan,
    structures: Int[Array, ""] | int = 1,
) -> tuple[SchedulerState, Observed]:
    """Takes an observation and decides.

    Args:
      config: the settings.
      state: the state so far.
      gradient_norm: norm of the last gradient.
      epoch: the epoch it is from, counted from 0; never less than before.
      boundary: an information boundary was met, for instance an extremum that
        has come up or gone.
      accuracy: a fraction, where one was measured; NaN where not.
      structures: how many structures a growth would add now.

    Returns:
      The new state, and what was observed and decided.
    """
    norm, epoch = jnp.asarray(gradient_norm, jnp.float32), jnp.asarray(epoch, jnp.int32)
    accuracy, added = jnp.asarray(accuracy, jnp.float32), jnp.asarray(structures, jnp.int32)
    fine = jnp.isfinite(norm)
    norms = jnp.where(fine, jnp.append(state.norms[1:], norm), state.norms)
    seen = state.seen + fine.astype(jnp.int32)
    earlier, later = jnp.var(norms[: config.window]), jnp.var(norms[config.window :])
    # a product, not a ratio: the earlier variance may be zero
    spike = fine & (seen >= 2 * config.window) & (jnp.abs(later - earlier) > config.spike_threshold * earlier)

    grown = state.growths > 0
    resting = grown & (epoch - state.last_growth <= config.rest_epochs)
    bootstrap = ~grown & (epoch > state.epoch) & (epoch < config.bootstrap_epochs)
    income = (
        jnp.where(spike, config.spike_credits, 0.0)
        + jnp.where(jnp.asarray(boundary), config.boundary_credits, 0.0)
        + jnp.where(bootstrap, config.bootstrap_credits, 0.0)
    )
    earned = jnp.where(resting, 0.0, income)
    credits = state.credits + earned

    scale = jnp.searchsorted(jnp.asarray(config.scale_ends), epoch, side="right").astype(jnp.int32)
    used = state.used.at[scale].add(added)
    room = used[scale] <= jnp.asarray(config.structures)[scale]
    rich = credits >= config.growth_credits
    grow = ~resting & rich & room
    reason = jnp.where(resting, 1, jnp.where(~rich, 2, jnp.where(room, 0, 3))).astype(jnp.int32)

    snapshot = grow | (accuracy > state.accuracy + config.snapshot_gain)
    first = jnp.isnan(state.accuracy)
    new = SchedulerState(
        norms=norms,
        seen=seen,
        credits=jnp.where(grow, 0.0, credits),
        epoch=epoch,
        last_growth=jnp.where(grow, epoch, state.last_growth),
        growths=state.growths + grow.astype(jnp.int32),
        used=jnp.where(grow, used, state.used),
        accuracy=jnp.where((snapshot | first) & ~jnp.isnan(accuracy), accuracy, state.accuracy),
    )
    return new, Observed(grow, snapshot, reason, scale, spike, earned, credits)


def steps(
    config: SchedulerConfig,
    state: SchedulerState,
    gradient_norms: Float[Array, "step"],
    epoch: Int[Array, ""],
    *,
    boundary: Bool[Array, ""] | bool = False,
    accuracy: Scalar | float = math.nan,
    structures: Int[Array, ""] | int = 1,
) -> tuple[SchedulerState, Bool[Array, ""], Bool[Array, ""]]:
    """Takes the gradient norms of an epoch one after the other, and the rest with the last of them.

    Returns:
      The new state, whether the network grows after any of them, and whether a snapshot is due.
    """
    last = jnp.arange(gradient_norms.shape[0]) == gradient_norms.shape[0] - 1

    def see(state: SchedulerState, seen: tuple[Scalar, Array]) -> tuple[SchedulerState, tuple[Array, Array]]:
        norm, end = seen
        given: Any = {"boundary": end & jnp.asarray(boundary), "structures": structures}
        given["accuracy"] = jnp.where(end, jnp.asarray(accuracy, jnp.float32), jnp.nan)
        state, observed = step(config, state, norm, epoch, **given)
        return state, (observed.grow, observed.snapshot)

    state, (grow, snapshot) = jax.lax.scan(see, state, (gradient_norms, last))
    return state, jnp.any(grow), jnp.any(snapshot)
