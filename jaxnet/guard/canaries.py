"""Canaries: samples by which a run is watched, and alarms from the run's own noise.

Some canaries go wrong at nearly every check of healthy training; what is watched is therefore the mean margin
of a group of them, against what it has been, and a drop counts where the run's own checks make it unlikely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.errors import InputError
from jaxnet.guard.blame import by_gradient
from jaxnet.types import Array, Bool, Float, Int, PyTree

REFERENCE = 0.2
"""Share of a new check in the reference that later ones are compared with."""


class Canaries(flax.struct.PyTreeNode):
    """Held-out samples, a row per capability that is watched.

    Attributes:
      x: ``(K, N, ...)``, as the model takes them.
      y: ``(K, N)`` labels.
    """

    x: Float[Array, "capability sample ..."]
    y: Int[Array, "capability sample"]

    @property
    def number(self) -> int:
        """Capabilities (static)."""
        return self.y.shape[0]


def margins(
    logits_of: Callable[[Array], Array], canaries: Canaries, *, axis: int = -1
) -> Float[Array, "capability"]:
    """Mean margin of every capability: the logit of the label less the largest other one.

    Args:
      logits_of: logits of samples ``(sample, ...)``.
      canaries: the samples.
      axis: of the classes in the logits.

    >>> found = Canaries(jnp.eye(2)[None], jnp.asarray([[0, 0]]))
    >>> margins(lambda x: x, found).tolist()
    [0.0]
    """
    flat = canaries.x.reshape(-1, *canaries.x.shape[2:])
    logits = jnp.moveaxis(logits_of(flat), axis, -1)
    right = jax.nn.one_hot(canaries.y.ravel(), logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(right, logits, 0), -1)
    other = jnp.max(jnp.where(right, -jnp.inf, logits), -1)
    return jnp.mean((own - other).reshape(canaries.y.shape), axis=1)


def check_canaries(values: Float[Array, "capability"]) -> None:
    """Raises InputError where the margin of a capability is not above 0: there is nothing to keep."""
    failed = np.flatnonzero(~(np.asarray(values) > 0))
    if failed.size:
        raise InputError(
            f"canaries fail already: {failed.size} of {np.size(values)} margins are not above 0 (the first: "
            f"number {int(failed[0])}): watch what the network can do"
        )


def spread(history: Float[Array, "check capability"]) -> Float[Array, "capability"]:
    """Standard deviation of a check about its trend, from second differences (zero for a trend)."""
    return jnp.sqrt(jnp.mean(jnp.diff(history, 2, axis=0) ** 2, 0) / 6)


def quantile(false_alarm: float, checks: int, number: int, seen: int) -> float:
    """How many deviations a drop must have: no alarm in ``checks`` checks but with that probability.

    Student's, as the deviation is known from ``seen`` checks only, of which differences leave about a half;
    Bonferroni over checks and capabilities. A drop is from a reference that has noise of its own.

    Raises:
      InputError: the probability is not in (0, 1), or fewer than 3 checks were seen.
    """
    from scipy.stats import t

    if not (math.isfinite(false_alarm) and 0 < false_alarm < 1):
        raise InputError(f"the probability of a false alarm must be above 0 and below 1: {false_alarm}")
    if seen < 3:
        raise InputError(f"noise is known from 3 checks or more: {seen}")
    own = 1 + REFERENCE / (2 - REFERENCE)
    return float(t.isf(false_alarm / (checks * number), max(seen // 2, 1))) * math.sqrt(own)


def calibrate(
    history: Float[Array, "check capability"], false_alarm: float = 0.05, *, checks: int = 60
) -> Float[Array, "capability"]:
    """The drop of every margin that is an alarm, from the run's own checks.

    Args:
      history: ``(T, K)``, margins of a healthy part of the run.
      false_alarm: probability of any alarm in ``checks`` further healthy checks.
      checks: that are to come.

    Returns:
      ``(K,)``, above 0.
    """
    seen, number = history.shape
    return quantile(false_alarm, checks, number, seen) * spread(history)


class Warning(NamedTuple):
    """What :func:`early_warning` says, ``(K,)`` each.

    Attributes:
      slope: of the margin per check, by least squares.
      predicted: change of the margin by the next update, to first order; zero if none was given.
      checks_left: until the margin has dropped by its threshold, as it goes; infinite where it rises.
    """

    slope: Float[Array, "capability"]
    predicted: Float[Array, "capability"]
    checks_left: Float[Array, "capability"]


def early_warning(
    history: Float[Array, "check capability"],
    thresholds: Float[Array, "capability"],
    predicted: Float[Array, "capability"] | None = None,
) -> Warning:
    """The trend of the margins, and what the next update is going to do.

    Args:
      history: ``(T, K)``, the last checks, two or more.
      thresholds: ``(K,)``, of :func:`calibrate`.
      predicted: of :func:`predicted_change`.
    """
    time = jnp.arange(history.shape[0], dtype=history.dtype)
    time = time - jnp.mean(time)
    slope = time @ history / jnp.sum(time**2)
    ahead = jnp.zeros_like(slope) if predicted is None else predicted
    fall = -(slope + ahead)
    left = jnp.where(fall > 0, thresholds / jnp.maximum(fall, 1e-30), jnp.inf)
    return Warning(slope, ahead, left)


def predicted_change(
    margins_of: Callable[[Any], Float[Array, "capability"]], params: PyTree, update: PyTree
) -> Float[Array, "capability"]:
    """What an update is going to do to the margins, to first order: gradient times update."""
    return by_gradient(margins_of, params, update, optax.tree.sum)


class Watch(flax.struct.PyTreeNode):
    """What is known from check to check, for one run.

    Attributes:
      reference: ``(K,)``, what margins have been lately; not moved by checks that are below it.
      squares: ``(K,)``, variance of a check about its trend, over about the last ``noise_checks`` sound ones.
      checks: so far.
      below: ``(K,)``, checks in a row below the threshold.
      last: ``(2, K)``, the margins of the last checks.
    """

    reference: Float[Array, "capability"]
    squares: Float[Array, "capability"]
    checks: Int[Array, ""]
    below: Int[Array, "capability"]
    last: Float[Array, "two capability"]


def watch(first: Float[Array, "capability"]) -> Watch:
    """Before the first check, from margins."""
    zero = jnp.zeros((), jnp.int32)
    return Watch(
        first, jnp.zeros_like(first), zero, jnp.zeros(first.shape, jnp.int32), jnp.stack([first, first])
    )


def observe(
    seen: Watch, now: Float[Array, "capability"], *, noise_checks: int, factor: float, window: int
) -> tuple[Watch, Bool[Array, ""], Bool[Array, ""]]:
    """A check.

    Args:
      seen: so far.
      now: the margins.
      noise_checks: the first checks, in which the noise is measured and no alarm is raised.
      factor: deviations that a drop must have (:func:`quantile`).
      window: checks in a row that must be below: damage that heals sooner is allowed.

    Returns:
      What is known now, whether every margin is as it should be, and whether there is an alarm.
    """
    drop, finite = seen.reference - now, jnp.isfinite(now)
    learning = seen.checks < noise_checks
    bad = ~learning & (~finite | (drop > factor * jnp.sqrt(seen.squares)))
    below = jnp.where(bad, seen.below + 1, 0)
    sound = ~bad & finite
    moved = jnp.where(sound, seen.reference - REFERENCE * drop, seen.reference)
    number = jnp.maximum(seen.checks - 1, 1).astype(jnp.float32)  # of differences, this one included
    share = jnp.maximum(1 / noise_checks, 1 / number)
    apart = (now - 2 * seen.last[1] + seen.last[0]) ** 2 / 6
    # a drop that is no alarm yet says nothing of the noise, and neither does the way back
    known = sound & (seen.below == 0) & (seen.checks >= 2)
    squares = jnp.where(known, seen.squares + share * (apart - seen.squares), seen.squares)
    new = Watch(moved, squares, seen.checks + 1, below, jnp.stack([seen.last[1], now]))
    return new, ~jnp.any(bad), jnp.any(below >= window)
