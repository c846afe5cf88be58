"""Extrema: hidden units whose mean activation is extreme.

Two steps, both pure and of fixed shape: statistics per unit, accumulated batch
by batch (:func:`init_stats`, :func:`update_stats`, :func:`merge_stats`), and
:func:`detect`, which turns them into scores and boolean masks.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
import numpy as np

from jaxnet.activations import is_active, is_saturated
from jaxnet.types import Array, Features, Float, Scalar, UnitMask, UnitScore

DETECTORS = ("original", "adaptive", "quantile")
"""Detection rules; see :func:`detect`."""


class UnitStats(flax.struct.PyTreeNode):
    """Running statistics of the units of one hidden layer.

    Attributes:
      count: number of samples seen (sum of their weights).
      mean: ``(unit,)``, mean of the watched value.
      m2: ``(unit,)``, sum of squared deviations from the mean.
      active: ``(unit,)``, number of samples in which the unit was active.
      saturated: ``(unit,)``, number of samples in which it was saturated.
    """

    count: Scalar
    mean: UnitScore
    m2: UnitScore
    active: UnitScore
    saturated: UnitScore

    @property
    def variance(self) -> UnitScore:
        """``(unit,)``, variance over the samples (divided by the count; 0 without samples)."""
        return self.m2 / jnp.maximum(self.count, 1.0)[..., None]

    @property
    def fraction_active(self) -> UnitScore:
        """``(unit,)``, fraction of samples in which the unit was active."""
        return self.active / jnp.maximum(self.count, 1.0)[..., None]

    @property
    def fraction_saturated(self) -> UnitScore:
        """``(unit,)``, fraction of samples in which the unit was saturated."""
        return self.saturated / jnp.maximum(self.count, 1.0)[..., None]


class Extrema(flax.struct.PyTreeNode):
    """The extrema of one hidden layer.

    Attributes:
      high: ``(unit,)`` bool, saturated units.
      low: ``(unit,)`` bool, dead units.
      score_high: ``(unit,)``, how far above; larger is more extreme, above 0 is an extremum.
      score_low: ``(unit,)``, how far below; likewise.
      extremeness: ``(unit,)``, distance of the unit's mean from the layer's mean in
        standard deviations of the layer (0 where that is zero, infinite for units in ``nan``).
      nan: ``(unit,)`` bool, units whose mean is not finite: reported here, never
        counted as high or low, and left out of the layer's mean and deviation.
    """

    high: UnitMask
    low: UnitMask
    score_high: UnitScore
    score_low: UnitScore
    extremeness: UnitScore
    nan: UnitMask

    @property
    def fraction(self) -> Scalar:
        """Extrema of both kinds per unit of the layer."""
        both = jnp.sum(self.high, axis=-1) + jnp.sum(self.low, axis=-1)
        return both.astype(jnp.float32) / self.high.shape[-1]


def init_stats(units: int) -> UnitStats:
    """Statistics of ``units`` units before the first sample."""
    zero = jnp.zeros(units)
    return UnitStats(jnp.zeros(()), zero, zero, zero, zero)


def update_stats(
    stats: UnitStats,
    values: Features,
    post: Features,
    activation: str,
    weight: Float[Array, "batch"] | None = None,
) -> UnitStats:
    """Adds a batch.

    Args:
      stats: the statistics so far.
      values: ``(unit, batch)``, the watched value: pre- or post-activations.
      post: ``(unit, batch)``, post-activations (for active and saturated).
      activation: name of the activation function.
      weight: ``(batch,)``, 1 for a sample, 0 for padding; all 1 by default.
    """
    if weight is None:
        weight = jnp.ones(values.shape[1], values.dtype)
    count = jnp.sum(weight)
    # a product with weight 0 would let padding through that is not finite
    values = jnp.where(weight > 0, values, 0.0)
    mean = jnp.sum(values * weight, axis=1) / jnp.maximum(count, 1.0)
    batch = UnitStats(
        count=count,
        mean=mean,
        m2=jnp.sum(jnp.square(values - mean[:, None]) * weight, axis=1),
        active=jnp.sum(jnp.where(is_active(post, activation), weight, 0.0), axis=1),
        saturated=jnp.sum(jnp.where(is_saturated(post, activation), weight, 0.0), axis=1),
    )
    return merge_stats(stats, batch)


def merge_stats(a: UnitStats, b: UnitStats) -> UnitStats:
    """Statistics of the samples of both sides, as if seen in one stream.

    Source: the pairwise update of Chan, Golub and LeVeque 1979, which stays
    accurate in float32 where a plain sum of squares cancels.
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    delta = b.mean - a.mean
    return UnitStats(
        count=count,
        mean=a.mean + delta * share,
        m2=a.m2 + b.m2 + jnp.square(delta) * a.count * share,
        active=a.active + b.active,
        saturated=a.saturated + b.saturated,
    )


def detect(
    stats: UnitStats,
    rule: str = "original",
    *,
    num_std: float = 2.0,
    low_threshold: float = 0.1,
    quantile: float = 0.05,
) -> Extrema:
    """Finds the extrema of one layer from its units' means.

    ``original``
      high: mean > layer mean + ``num_std`` * layer std (over units, unbiased);
      low: mean < ``low_threshold``.
    ``adaptive``
      high as above; low: mean < max(0.01, ``low_threshold`` * layer mean). For
      post-activation values, whose scale differs from layer to layer.
    ``quantile``
      high: above the (1 - ``quantile``) quantile of the layer's means; low:
      below the ``quantile`` quantile (linear interpolation, strict comparison:
      units that tie with the quantile are not extrema).

    A layer whose units all have the same mean (standard deviation zero to
    float32 precision), or that has one unit only, has no high extrema.

    Args:
      stats: the statistics of one hidden layer.
      rule: one of :data:`DETECTORS`.
      num_std: standard deviations above the layer mean.
      low_threshold: an activation for ``original``, a fraction for ``adaptive``.
      quantile: fraction of the units, in (0, 0.5).

    Raises:
      ValueError: unknown rule, or a threshold out of range.
    """
    if rule not in DETECTORS:
        raise ValueError(f"unknown detector {rule!r}: choose one of {', '.join(DETECTORS)}")
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile must be above 0 and below 0.5: {quantile}")
    mean = stats.mean
    finite = jnp.isfinite(mean)
    units = jnp.sum(finite)
    safe = jnp.where(finite, mean, 0.0)
    layer_mean = jnp.sum(safe) / jnp.maximum(units, 1).astype(mean.dtype)
    deviation = jnp.where(finite, safe - layer_mean, 0.0)
    std = jnp.sqrt(jnp.sum(jnp.square(deviation)) / jnp.maximum(units - 1, 1).astype(mean.dtype))
    # Rounding leaves a deviation of a few ulps of the mean when all units agree.
    tiny = 1e-6 * jnp.maximum(jnp.max(jnp.abs(safe)), jnp.finfo(mean.dtype).tiny)
    spread = (units > 1) & (std > tiny)
    z = jnp.where(spread, deviation / jnp.where(spread, std, 1.0), 0.0)
    if rule == "quantile":
        score_high = mean - _quantile(mean, finite, 1 - quantile)
        score_low = _quantile(mean, finite, quantile) - mean
        score_low = jnp.where(spread, score_low, 0.0)
    else:
        threshold = jnp.asarray(low_threshold, mean.dtype)
        if rule == "adaptive":
            threshold = jnp.maximum(0.01, low_threshold * layer_mean)
        score_high = mean - (layer_mean + num_std * std)
        score_low = threshold - mean
    score_high = jnp.where(finite & spread, score_high, -jnp.inf)
    score_low = jnp.where(finite, score_low, -jnp.inf)
    return Extrema(
        high=score_high > 0,
        low=score_low > 0,
        score_high=score_high,
        score_low=score_low,
        extremeness=jnp.where(finite, jnp.abs(z), jnp.inf),
        nan=~finite,
    )


def _quantile(values: UnitScore, chosen: UnitMask, q: float) -> Scalar:
    """Quantile of the chosen values by linear interpolation, exact at ties (0 without any).

    The position between two order statistics comes from a table made on the
    host: float32 would miss a whole number by an ulp, and a unit that is the
    quantile would lie above it.
    """
    # for every possible number of chosen values
    position = np.round(q * np.maximum(np.arange(values.shape[0] + 1) - 1, 0), 9)
    index, share = np.floor(position).astype(np.int32), (position % 1).astype(np.float32)
    number = jnp.sum(chosen)
    ranked = jnp.sort(jnp.where(chosen, values, jnp.inf))
    below = jnp.asarray(index)[number]
    low, high = ranked[below], ranked[jnp.minimum(below + 1, jnp.maximum(number - 1, 0))]
    between = low + (high - low) * jnp.asarray(share)[number]
    return jnp.where(number > 0, between, 0.0)
