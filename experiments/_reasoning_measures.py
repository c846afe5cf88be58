"""What ``experiments.reasoning_circuits`` measures of one network; ``vmap`` gives many."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _circuit_measures as measures
from experiments._reasoning_kinds import BITS
from jaxnet import circuits, compress
from jaxnet.circuits import Suite
from jaxnet.data.sequences import Sequences
from jaxnet.losses import TokenLabels
from jaxnet.structure import entries
from jaxnet.train import Task, answers
from jaxnet.transformer import Components
from jaxnet.types import Array, Float, Key


def single(data: Sequences, k: Array) -> Suite:
    """One capability, the suite ``k`` of ``(suite, sample, time)``: its samples alone are computed."""
    mine = jax.tree.map(lambda a: a[k], data)
    return of_all(jax.tree.map(lambda a: a[None], mine))


def of_all(data: Sequences) -> Suite:
    """All suites of ``(suite, sample, time)``, a capability each."""
    number, size = data.x.shape[:2]
    flat = jax.tree.map(lambda a: a.reshape(number * size, -1), data)
    share = jnp.repeat(jnp.eye(number), size, axis=1) / size
    asked = jnp.full(number, -1, jnp.int32)
    return Suite(flat.x, TokenLabels(flat.y, flat.weight), share, share, asked, "answers")


def accuracies(
    task: Task, params: Any, structure: Any, data: Sequences, number: int
) -> Float[Array, "suite"]:
    """``(K,)``, the share of the answers that are right, by suite; NaN of a diverged network."""
    right, finite = answers(task, params, structure, data)
    of = jnp.sum(jnp.where(right, data.weight, 0), 1) / jnp.sum(data.weight, 1)
    return jnp.where(finite, jnp.mean(of.reshape(number, -1), 1), jnp.nan)


def related(
    task: Task, params: Any, structure: Any, data: Sequences, keep: Array, parts: Components, *, key: Key
) -> dict[str, Array]:
    """Of the circuits ``(K, E)`` of a network: overlap, dependence, bridges, backups among the heads.

    ``overlap`` and ``chance`` are ``(K, K)`` Jaccard indices, of the circuits and of as many weights of
    every array drawn at random; ``bridge`` ``(G,)`` of heads and shares of perceptrons; ``backup``
    ``(pair, K)`` shares of a suite's gap (:func:`jaxnet.circuits.backups`), every pair of heads once.
    """
    suite, number = of_all(data), parts.size.size + 1
    of = circuits.measured(task, params, structure, suite)
    drawn = jax.vmap(lambda mask, key: circuits.random_like(params, structure, mask, key=key))
    chance = drawn(keep, jax.random.split(key, keep.shape[0]))
    full, empty = of(jnp.ones(keep.shape[1])), of(jnp.zeros(keep.shape[1]))
    how: Any = {"wrt": parts.groups}
    delta = circuits.ablate_each(task, params, structure, suite, at_once=4, **how)[: number - 1] - full
    by_group = circuits.measured(task, params, structure, suite, **how)
    heads = jnp.asarray(np.flatnonzero(parts.head))
    both = circuits.backups(by_group, heads, number)
    one, other = jnp.triu_indices(heads.size, 1)
    gap = empty - full
    return {
        "overlap": circuits.overlap(keep),
        "chance": circuits.overlap(chance),
        "shared": jnp.mean((jnp.sum(keep, 0) > 1).astype(jnp.float32), where=jnp.any(keep, 0)),
        "dependencies": circuits.dependencies(of, keep),
        "delta": delta,
        "bridge": circuits.bridges(delta, jnp.asarray(parts.size, jnp.float32)),
        "backup": both[one, other] / jnp.where(gap > 0, gap, jnp.nan),
    }


def recovered(
    task: Task, params: Any, structure: Any, data: Sequences, keep: Array
) -> Float[Array, "capability"]:
    """``(K,)``, the share of the network's own gap that every circuit recovers on ``(suite, sample, time)``.

    NaN where the network has no gap on these samples.
    """

    def one(k: Array) -> Array:
        of = circuits.measured(task, params, structure, single(data, k))
        full, empty, kept = (
            of(mask)[0] for mask in (jnp.ones_like(keep[k]), jnp.zeros_like(keep[k]), keep[k])
        )
        return (empty - kept) / jnp.where(empty > full, empty - full, jnp.nan)

    return jax.lax.map(one, jnp.arange(keep.shape[0]))


def kinds_of(params: Any, structure: Any, keep: Array) -> Float[Array, "capability"]:
    """``(K,)``, the share of every circuit's weights that are attention's."""
    layers, names = circuits.per_layer(params, structure), list(entries(structure))
    attention = jnp.asarray([not ("'up'" in n or "'down'" in n) for n in names])[jnp.asarray(layers)]
    return jnp.sum(keep & attention, 1) / jnp.maximum(jnp.sum(keep, 1), 1)


def transplanted(
    task: Task, params: Any, structure: Any, keep: Array, other: Any, data: Sequences, *, key: Key
) -> Array:
    """``(K, 3)``, as :func:`experiments._circuit_measures.transplanted` has it; ``other`` is a pair."""

    def loss(params: Any, structure: Any, k: Array) -> Array:
        return circuits.losses(task, params, structure, single(data, k))[0]

    return measures.transplanted(loss, params, structure, keep, *other, key=key)


def sensitivities(task: Task, params: Any, structure: Any, data: Sequences) -> Float[Array, "array choice"]:
    """By how much the mean loss of all suites rises when one array of weights alone is rounded."""
    suite = of_all(data)

    def loss(values: Any) -> Array:
        return jnp.mean(circuits.losses(task, values, structure, suite))

    return compress.sensitivity(loss, params, list(entries(structure)), BITS)
