"""Signals: scores of units, by name, and which units are extreme by them.

A signal reads the statistics of one hidden layer (:class:`~jaxnet.units.UnitStats`)
and says of every unit how far it is above and below what is usual
(:class:`Extrema`). Patches, growth, hunts and rewiring take them by name from
:data:`SIGNALS`; a new one is a function with an entry there.

The first three are about the unit's mean activation: a **high extremum** is
saturated, a **low** one dead. The others rank units by something else and call
the ends extreme.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.data.batches import Data, epoch_batches
from jaxnet.errors import check_choice
from jaxnet.nn.params import Structure
from jaxnet.reach import path_shares
from jaxnet.structure import exists, to_dense
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net, Task, collect_stats, dense_gradient
from jaxnet.types import Array, Key, Scalar, UnitMask, UnitScore
from jaxnet.units import Extrema, UnitStats


class Signal(Protocol):
    """Judges the units of one hidden layer by their statistics."""

    def __call__(self, stats: UnitStats, **thresholds: float) -> Extrema:
        """The extrema; every signal takes the thresholds of all and reads its own."""


class _Layer(NamedTuple):
    """The units' values and what is usual among them."""

    value: UnitScore
    finite: UnitMask
    mean: Scalar
    std: Scalar
    spread: Array
    z: UnitScore


def _layer(value: UnitScore) -> _Layer:
    finite = jnp.isfinite(value)
    units = jnp.sum(finite)
    safe = jnp.where(finite, value, 0.0)
    mean = jnp.sum(safe) / jnp.maximum(units, 1).astype(value.dtype)
    deviation = jnp.where(finite, safe - mean, 0.0)
    std = jnp.sqrt(jnp.sum(jnp.square(deviation)) / jnp.maximum(units - 1, 1).astype(value.dtype))
    # Rounding leaves a deviation of a few ulps of the mean when all units agree.
    tiny = 1e-6 * jnp.maximum(jnp.max(jnp.abs(safe)), jnp.finfo(value.dtype).tiny)
    spread = (units > 1) & (std > tiny)
    return _Layer(
        value, finite, mean, std, spread, jnp.where(spread, deviation / jnp.where(spread, std, 1.0), 0.0)
    )


def _extrema(layer: _Layer, score_high: UnitScore, score_low: UnitScore) -> Extrema:
    score_high = jnp.where(layer.finite & layer.spread, score_high, -jnp.inf)
    score_low = jnp.where(layer.finite, score_low, -jnp.inf)
    return Extrema(
        high=score_high > 0,
        low=score_low > 0,
        score_high=score_high,
        score_low=score_low,
        extremeness=jnp.where(layer.finite, jnp.abs(layer.z), jnp.inf),
        nan=~layer.finite,
    )


def original(
    stats: UnitStats, *, num_std: float = 2.0, low_threshold: float = 0.1, **others: float
) -> Extrema:
    """High: mean > layer mean + ``num_std`` * (unbiased) std over units; low: mean < ``low_threshold``."""
    del others
    layer = _layer(stats.mean)
    threshold = jnp.asarray(low_threshold, layer.value.dtype)
    return _extrema(layer, layer.value - (layer.mean + num_std * layer.std), threshold - layer.value)


def adaptive(
    stats: UnitStats, *, num_std: float = 2.0, low_threshold: float = 0.1, **others: float
) -> Extrema:
    """High as :func:`original`; low: mean < max(0.01, ``low_threshold`` * layer mean).

    For post-activation values, whose scale differs from layer to layer.
    """
    del others
    layer = _layer(stats.mean)
    threshold = jnp.maximum(0.01, low_threshold * layer.mean)
    return _extrema(layer, layer.value - (layer.mean + num_std * layer.std), threshold - layer.value)


def by_rank(value: UnitScore, quantile: float) -> Extrema:
    """High above the (1 - ``quantile``) quantile of the values, low below the ``quantile`` quantile."""
    layer = _layer(value)
    high = value - _quantile(value, layer.finite, 1 - quantile)
    low = _quantile(value, layer.finite, quantile) - value
    return _extrema(layer, high, jnp.where(layer.spread, low, 0.0))


def quantile_(stats: UnitStats, *, quantile: float = 0.05, **others: float) -> Extrema:
    """High: mean above the (1 - ``quantile``) quantile of means; low: below the ``quantile`` quantile.

    Linear interpolation, strict comparison: units that tie with the quantile are no extrema.
    """
    del others
    return by_rank(stats.mean, quantile)


def activity(stats: UnitStats, *, quantile: float = 0.05, **others: float) -> Extrema:
    """As ``quantile``, by the fraction of samples in which the unit is active."""
    del others
    return by_rank(stats.fraction_active, quantile)


def incoming_norm(stats: UnitStats, *, quantile: float = 0.05, **others: float) -> Extrema:
    """As ``quantile``, by the norm of the unit's incoming weights."""
    del others
    return by_rank(_there(stats.incoming, "incoming norms"), quantile)


def gradient_norm(stats: UnitStats, *, quantile: float = 0.05, **others: float) -> Extrema:
    """As ``quantile``, by the norm of the loss's gradient in the incoming weights, missing ones included."""
    del others
    return by_rank(_there(stats.gradient, "gradient norms"), quantile)


def reach(stats: UnitStats, *, quantile: float = 0.05, **others: float) -> Extrema:
    """By the share of ways from inputs to outputs through the unit (:func:`jaxnet.reach.path_shares`).

    High: above the (1 - ``quantile``) quantile, the hubs; low: below the ``quantile`` quantile, and all
    units that no way leads through. The structure alone decides, not the samples.
    """
    del others
    shares = _there(stats.paths, "paths")
    found = by_rank(jnp.where(jnp.isfinite(stats.mean), shares, jnp.nan), quantile)
    cut_off = ~found.nan & (shares <= 0)
    score_low = jnp.where(cut_off, jnp.maximum(found.score_low, 1.0), found.score_low)
    return found.replace(low=score_low > 0, score_low=score_low)


SIGNALS: dict[str, Signal] = {
    "original": original,
    "adaptive": adaptive,
    "quantile": quantile_,
    "activity": activity,
    "incoming-norm": incoming_norm,
    "gradient-norm": gradient_norm,
    "reach": reach,
}
"""Signals by name: ``signal(stats, **thresholds) -> Extrema``."""


def detect(
    stats: UnitStats,
    signal: str = "original",
    *,
    num_std: float = 2.0,
    low_threshold: float = 0.1,
    quantile: float = 0.05,
) -> Extrema:
    """Finds the extrema of one layer from its units' statistics.

    A layer whose units all have the same value (standard deviation zero to
    float32 precision), or that has one unit only, has no high extrema.

    Args:
      stats: the statistics of one hidden layer.
      signal: one of :data:`SIGNALS`.
      num_std: standard deviations above the layer mean.
      low_threshold: an activation for ``original``, a fraction for ``adaptive``.
      quantile: fraction of the units, in (0, 0.5).

    Raises:
      ValueError: unknown signal, a threshold out of range, or statistics that it needs are not there.
    """
    check_choice("signal", signal, SIGNALS)
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile must be above 0 and below 0.5: {quantile}")
    return SIGNALS[signal](stats, num_std=num_std, low_threshold=low_threshold, quantile=quantile)


def find(
    task: Task,
    params: Any,
    structure: Any,
    data: Data,
    signal: str = "original",
    *,
    values: str = "pre",
    key_forward: Key | None = None,
    **thresholds: float,
) -> tuple[Extrema, ...]:
    """The extrema of every hidden layer by a signal, on all samples.

    Args:
      task: its model must say of itself what :func:`jaxnet.train.collect_stats` and,
        for signals of weights, ``incoming(params, structure)`` need.
      params: the values.
      structure: which weights exist.
      data: the samples.
      signal: one of :data:`SIGNALS`.
      values: watch ``pre`` or ``post`` activations.
      key_forward: for models that draw in every pass.
      thresholds: see :func:`detect`.
    """
    stats = collect_stats(task, params, structure, data, values=values, key_forward=key_forward)
    if signal == "incoming-norm":
        norms = [_norm(leaf, entry) for leaf, entry in _incoming(task, params, structure)]
        stats = tuple(s.replace(incoming=norm) for s, norm in zip(stats, norms, strict=True))
    elif signal == "gradient-norm":
        norms = _gradient_norms(task, params, structure, data, key_forward)
        stats = tuple(s.replace(gradient=norm) for s, norm in zip(stats, norms, strict=True))
    return tuple(detect(s, signal, **thresholds) for s in with_paths(stats, structure, signal))


def with_paths(stats: tuple[UnitStats, ...], structure: Any, signal: str) -> tuple[UnitStats, ...]:
    """The statistics of the hidden layers of a chain, with its ways where the signal is ``reach``.

    Raises:
      ValueError: the structure is that of another model.
    """
    if signal != "reach":
        return stats
    if not isinstance(structure, Structure):
        raise ValueError("the signal reach needs a chain of layers (jaxnet.nn.mlp)")
    return tuple(s.replace(paths=p) for s, p in zip(stats, path_shares(structure), strict=True))


def _incoming(task: Task, params: Any, structure: Any) -> list[tuple[Array, Entry | None]]:
    """The weights into every hidden layer."""
    found: list[tuple[Array, Entry | None]] = task.model.incoming(params, structure)  # type: ignore[attr-defined]
    return found


def _norm(leaf: Array, entry: Entry | None) -> UnitScore:
    """Norm of the weights into each unit; a dense array has its units along the first axis."""
    squares = jnp.square(leaf) if entry is None else jnp.where(exists(entry), jnp.square(leaf), 0.0)
    if isinstance(entry, Topology):
        return jnp.sqrt(jnp.zeros(entry.shape[0]).at[entry.rows].add(squares, mode="drop"))
    return jnp.sqrt(jnp.sum(squares, axis=tuple(range(1, squares.ndim))))


def _gradient_norms(
    task: Task, params: Any, structure: Any, data: Data, key_forward: Key | None
) -> list[UnitScore]:
    """Of the mean loss over all samples, without a penalty."""
    task = dataclasses.replace(task, penalty=None, activity=None)
    net = Net.of(params, structure, optax.identity())

    def step(total: Any, batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows, weight, number = batch
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        gradient = dense_gradient(task, net, *data.batch(rows), weight, key_forward=key)
        share = jnp.sum(weight) / data.size
        return jax.tree.map(lambda a, b: a + share * b, total, gradient), None

    index, weight = epoch_batches(data.size, min(task.eval_batch_size, data.size), None)
    zero = jax.tree.map(jnp.zeros_like, to_dense(params, structure))
    gradient, _ = jax.lax.scan(step, zero, (index, weight, jnp.arange(index.shape[0])))
    return [_norm(leaf, None) for leaf, _ in _incoming(task, gradient, structure)]


def _there(values: UnitScore | None, name: str) -> UnitScore:
    if values is None:
        raise ValueError(f"these statistics hold no {name}: see jaxnet.signals.find")
    return values


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
