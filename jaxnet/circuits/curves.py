"""Faithfulness: how much of a capability the best-ranked elements carry alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.circuits.ablation import ablate, existing
from jaxnet.circuits.suites import Suite, only
from jaxnet.train import Task
from jaxnet.types import Array, Float, Int, Key

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the elements that are kept (Mueller et al. 2025, MIB)."""


class Curve(flax.struct.PyTreeNode):
    """How faithful circuits of every size are.

    Attributes:
      fractions: ``(F,)``, elements that are kept, over those there are.
      sizes: ``(F,)``, the same as numbers.
      recovered: ``(K, F)``, share of the difference between nothing and the whole network.
      cpr: ``(K,)``, area under the curve over the fraction: more is better (MIB).
      cmd: ``(K,)``, area between the curve and 1: less is better (MIB).
    """

    fractions: Float[Array, "fraction"]
    sizes: Int[Array, "fraction"]
    recovered: Float[Array, "capability fraction"]
    cpr: Float[Array, "capability"]
    cmd: Float[Array, "capability"]


def faithfulness(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    scores: Float[Array, "capability element"],
    fractions: Sequence[float] = FRACTIONS,
    *,
    mode: str = "mean",
    key: Key | None = None,
    wrt: Any = "weight",
    metric: str = "loss",
) -> Curve:
    """What circuits of the largest scores recover, capability by capability.

    Args:
      task: the model and its loss.
      params: of one network.
      structure: of it.
      suite: capabilities and samples.
      scores: ``(K, E)``, more is more useful.
      fractions: ascending, in (0, 1] (static).
      mode: what is left of what is gone.
      key: for ``resample``.
      wrt: what the elements are.
      metric: whose difference is recovered.

    Raises:
      ValueError: fractions that do not ascend or lie outside (0, 1].
    """
    shares = np.asarray(fractions, float)
    if shares.size < 2 or not (0 < shares[0] and shares[-1] <= 1 and np.all(np.diff(shares) > 0)):
        raise ValueError(f"fractions must ascend within (0, 1]: {list(fractions)}")
    there = existing(params, structure, wrt)
    places = ranking(scores, there)
    sizes = jnp.round(jnp.asarray(shares, jnp.float32) * jnp.sum(there, dtype=jnp.float32))
    sizes = sizes.astype(jnp.int32)
    ends = jnp.stack([jnp.zeros_like(there), jnp.ones_like(there)])

    def one(k: Array) -> Array:
        masks = jnp.concatenate([places[k] < sizes[:, None], ends])
        how: dict[str, Any] = {"key": key, "wrt": wrt, "metric": metric}
        return ablate(task, params, structure, only(suite, k), masks, mode, **how)[:, 0]

    found = jax.lax.map(one, jnp.arange(suite.number))  # (capability, mask)
    own, empty, full = found[:, :-2], found[:, -2, None], found[:, -1, None]
    recovered = (own - empty) / jnp.where(full == empty, jnp.nan, full - empty)
    at = jnp.asarray(shares, recovered.dtype)
    cpr = jnp.trapezoid(recovered, at, axis=1)
    return Curve(at, sizes, recovered, cpr, jnp.trapezoid(jnp.abs(1 - recovered), at, axis=1))


def ranking(scores: Float[Array, "*k element"], there: Array) -> Int[Array, "*k element"]:
    """The place of every element by its score, the largest first; what does not exist comes last."""
    order = jnp.argsort(jnp.where(there, -scores, jnp.inf), axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True).astype(jnp.int32)


def auroc(scores: Float[Array, "element"], truth: Array, there: Array | None = None) -> Array:
    """How often an element of a circuit scores above one that is none; ties count a half.

    >>> float(auroc(jnp.asarray([3.0, 2.0, 1.0]), jnp.asarray([True, False, True])))
    0.5
    """
    there = jnp.ones(truth.shape, bool) if there is None else there
    pairs = (truth & there)[:, None] & (~truth & there)[None]
    above = (jnp.sign(scores[:, None] - scores[None]) + 1) / 2
    return jnp.sum(jnp.where(pairs, above, 0.0)) / jnp.sum(pairs, dtype=jnp.float32)


def jaccard(a: Array, b: Array) -> Array:
    """Elements in both over elements in either, along the last axis; 0 where neither has any."""
    both, either = (jnp.sum(of, -1, dtype=jnp.float32) for of in (a & b, a | b))
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 0.0)


def overlap(keep: Array) -> Float[Array, "capability capability"]:
    """``(K, K)`` Jaccard indices of circuits ``(K, E)``."""
    return jax.vmap(lambda a: jax.vmap(lambda b: jaccard(a, b))(keep))(keep)
