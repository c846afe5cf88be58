"""Statistics of units, accumulated batch by batch, and the extrema that signals find in them."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from jaxnet.activations import is_active, is_saturated
from jaxnet.types import Array, Features, Float, Scalar, UnitMask, UnitScore


class UnitStats(flax.struct.PyTreeNode):
    """Running statistics of the units of one hidden layer.

    Attributes:
      count: number of samples seen (sum of their weights).
      mean: ``(unit,)``, mean of the watched value.
      m2: ``(unit,)``, sum of squared deviations from the mean.
      active: ``(unit,)``, number of samples in which the unit was active.
      saturated: ``(unit,)``, number of samples in which it was saturated.
      incoming: ``(unit,)``, Euclidean norm of its incoming weights, where it was asked for.
      gradient: ``(unit,)``, norm of the loss's gradient in these, where it was asked for.
      paths: ``(unit,)``, share of the ways from inputs to outputs through it, where it was asked for.
    """

    count: Scalar
    mean: UnitScore
    m2: UnitScore
    active: UnitScore
    saturated: UnitScore
    incoming: UnitScore | None = None
    gradient: UnitScore | None = None
    paths: UnitScore | None = None

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
      values: ``(unit, batch)``, the watched value: pre- or post-activations. Of a channel
        ``(unit, batch, place)``: every pixel counts as a sample.
      post: of the same shape, post-activations (for active and saturated).
      activation: name of the activation function.
      weight: ``(batch,)``, 1 for a sample, 0 for padding; all 1 by default.
    """
    if weight is None:
        weight = jnp.ones(values.shape[1], values.dtype)
    if values.ndim == 3:
        weight = jnp.repeat(weight, values.shape[2])
        values, post = (a.reshape(a.shape[0], -1) for a in (values, post))
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
