"""What ``experiments.circuits`` finds and measures of one network; ``vmap`` gives many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import circuits
from jaxnet.circuits import Suite
from jaxnet.protect import fisher
from jaxnet.train import Task
from jaxnet.types import Array, Key

HALVES = 2
"""Random halves of the rest that are resampled."""

SCORES = ("random", "|w|", "|w||x|", "gradient x w", "integrated", "learned mask", "exact ablation")
"""What ranks weights, the slowest last."""

NOISE = 0.3
"""Of the noise on a unit's weights, times the root mean square of its layer's."""

BITS = 3
"""That a unit's weights are rounded to."""


class Own(NamedTuple):
    """Of one network: losses of the whole and of nothing, ``(K,)``, and the target between them."""

    full: Array
    empty: Array
    target: Array


def own(task: Task, params: Any, structure: Any, suite: Suite, mode: str, fraction: float) -> Own:
    """The network's own gap and the loss that recovers a fraction of it."""
    of = circuits.measured(task, params, structure, suite, mode)
    number = circuits.existing(params, structure).shape[0]
    full, empty = of(jnp.ones(number)), of(jnp.zeros(number))
    return Own(full, empty, circuits.target_loss(full, empty, fraction))


def find(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    k: Array,
    mode: str,
    fraction: float,
    chunks: int,
    nodes: int,
) -> tuple[circuits.Circuit, Array]:
    """A small circuit of a capability by integrated gradients, and their completeness error.

    A network without a gap (as good with nothing) has no circuit: all of its weights, not reached.
    """
    suite, there = circuits.only(suite, k), circuits.existing(params, structure)
    of = circuits.measured(task, params, structure, suite, mode)
    full, empty, target = (side[0] for side in own(task, params, structure, suite, mode, fraction))
    parts = circuits.attribute(task, params, structure, suite, "loss", nodes=nodes, mode=mode)
    found = circuits.smallest_of(of, there, -parts.scores[0], target, 0, chunks)
    gap = empty > full
    found = found._replace(
        keep=jnp.where(gap, found.keep, there),
        size=jnp.where(gap, found.size, jnp.sum(there)),
        reached=found.reached & gap,
    )
    return found, parts.error[0]


def holds(
    task: Task, params: Any, structure: Any, suite: Suite, keep: Array, target: Array, *, key: Key
) -> Array:
    """``(K,)``, the loss with random halves of what is outside a circuit resampled, over the target."""

    def one(args: tuple[Array, Array]) -> Array:
        k, half = args
        key_half = jax.random.fold_in(jax.random.fold_in(key, k), half)
        key_half, key_other = jax.random.split(key_half)
        mask = keep[k] | jax.random.bernoulli(key_half, 0.5, keep[k].shape)
        few = circuits.only(suite, k)
        of = circuits.measured(task, params, structure, few, "resample", key=key_other)
        return of(mask)[0] / target[k]

    ks = jnp.repeat(jnp.arange(keep.shape[0]), HALVES)
    found = jax.lax.map(one, (ks, jnp.tile(jnp.arange(HALVES), keep.shape[0])))
    return jnp.mean(found.reshape(keep.shape[0], HALVES), 1)


def scores_of(
    name: str, task: Task, params: Any, structure: Any, suite: Suite, mode: str, target: Array, *, key: Key
) -> Array:
    """``(K, E)`` of one of :data:`SCORES`."""
    there = circuits.existing(params, structure)
    shape = (suite.number, there.shape[0])
    if name == "random":
        return jax.random.uniform(key, shape)
    if name == "|w|":
        return jnp.broadcast_to(circuits.magnitude(params, structure), shape)
    if name == "|w||x|":
        return circuits.weight_times_activation(task, params, structure, suite)
    if name == "learned mask":

        def learned(k: Array) -> Array:
            of = circuits.measured(task, params, structure, circuits.only(suite, k), mode)
            return circuits.learned_mask(of, there, target[k], steps=100)

        return jax.lax.map(learned, jnp.arange(suite.number))
    if name == "exact ablation":
        return circuits.ablate_each(task, params, structure, suite, mode).T
    nodes = 0 if name == "gradient x w" else 16
    return -circuits.attribute(task, params, structure, suite, "loss", nodes=nodes, mode=mode).scores


def judge_scores(
    task: Task, params: Any, structure: Any, suite: Suite, scores: Array, mode: str, fraction: float
) -> dict[str, Array]:
    """Of scores: the share of the weights by rank alone that reach the target, and MIB's two areas."""
    target = own(task, params, structure, suite, mode, fraction).target
    there = circuits.existing(params, structure)

    def size(k: Array) -> Array:
        of = circuits.measured(task, params, structure, circuits.only(suite, k), mode)
        return circuits.smallest_of(of, there, scores[k], target[k], 0, 0).size

    sizes = jax.lax.map(size, jnp.arange(suite.number))
    curve = circuits.faithfulness(task, params, structure, suite, scores, mode=mode)
    share = jnp.mean(sizes.astype(jnp.float32)) / jnp.sum(there, dtype=jnp.float32)
    # medians: one capability whose gap is small has an area beyond all others
    return {"size": share, "cpr": jnp.median(curve.cpr), "cmd": jnp.median(curve.cmd)}


def stability(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    mode: str,
    fraction: float,
    draws: int,
    *,
    key: Key,
) -> Array:
    """``(2,)``: mean Jaccard index of circuits by rank over bootstraps of the samples; of random ones."""

    def draw(key: Key) -> Array:
        again = circuits.redraw(suite, key=key)
        there = circuits.existing(params, structure)
        target = own(task, params, structure, again, mode, fraction).target
        scores = -circuits.attribute(task, params, structure, again, "loss", nodes=4, mode=mode).scores

        def one(k: Array) -> Array:
            of = circuits.measured(task, params, structure, circuits.only(again, k), mode)
            return circuits.smallest_of(of, there, scores[k], target[k], 0, 0).keep

        return jax.lax.map(one, jnp.arange(suite.number))

    keep = jax.lax.map(draw, jax.random.split(key, draws))  # (draw, capability, element)
    found = jnp.mean(jax.vmap(circuits.stability, 1)(keep))
    share = jnp.mean(jnp.sum(keep, -1, dtype=jnp.float32), 0)
    share = share / jnp.sum(circuits.existing(params, structure), dtype=jnp.float32)
    return jnp.stack([found, jnp.mean(share / (2 - share))])


def of_units(
    task: Task, params: Any, structure: Any, suite: Suite, data: Any, mode: str, *, key: Key
) -> dict[str, Array]:
    """Of every hidden unit ``(U,)``: bridge score, activation, norm, Fisher information, damage."""
    of = circuits.measured(task, params, structure, suite, "zero")
    ends, _ = circuits.unit_groups(params, structure)
    number = sum(layer.bias.shape[0] for layer in params.scaffold[:-1])
    there = circuits.existing(params, structure)
    values = jnp.where(there, circuits.weight_values(params, structure), 0)

    def total(of_weights: Array) -> Array:
        return sum((jnp.zeros(number).at[side].add(of_weights) for side in ends), jnp.zeros(number))

    full = circuits.losses(task, params, structure, suite)
    delta = circuits.ablate_each(task, params, structure, suite, mode, wrt="unit") - full
    seen = circuits.chain(task, params, structure, suite.x)[1][1:]
    information = fisher(task, params, structure, data, jnp.arange(min(100, suite.x.shape[0])))
    layers = jnp.asarray(circuits.per_layer(params, structure))
    count = jnp.zeros(len(params.scaffold)).at[layers].add(there.astype(jnp.float32))
    rms = jnp.sqrt(jnp.zeros(len(params.scaffold)).at[layers].add(values**2) / jnp.maximum(count, 1))[layers]
    largest = jnp.zeros(len(params.scaffold)).at[layers].max(jnp.abs(values))[layers]
    step = jnp.maximum(largest / (2 ** (BITS - 1) - 1), 1e-12)
    rounded = jnp.round(values / step) * step
    noisy = values + NOISE * rms * jax.random.normal(key, values.shape)

    def damage(changed: Array) -> Array:
        ratio = jnp.where(values != 0, changed / jnp.where(values != 0, values, 1), 1)

        def one(unit: Array) -> Array:
            mine = (ends[0] == unit) | (ends[1] == unit)
            return jnp.mean(of(jnp.where(mine, ratio, 1)) - full)

        return jax.lax.map(one, jnp.arange(number), batch_size=min(32, number))

    return {
        "bridge": circuits.bridges(delta, total(there.astype(jnp.float32))),
        "harm": jnp.mean(jnp.maximum(delta, 0), 1),
        "activation": jnp.concatenate([jnp.mean(jnp.abs(h), 1) for h in seen]),
        "norm": jnp.sqrt(total(values**2)),
        "fisher": total(circuits.weight_values(information, structure) * values**2),
        "noise": damage(noisy),
        "rounding": damage(rounded),
    }


def relations(
    task: Task, params: Any, structure: Any, suite: Suite, keep: Array, mode: str
) -> dict[str, Array]:
    """Overlap and dependence of the circuits of all capabilities, and their pictures."""
    of = circuits.measured(task, params, structure, suite, mode)
    images = jax.vmap(lambda one: circuits.path_image(params, structure, one))(keep)
    k = jnp.arange(keep.shape[0])
    return {
        "overlap": circuits.overlap(keep),
        "dependencies": circuits.dependencies(of, keep),
        "images": images[k, k],
        "shared": jnp.mean((jnp.sum(keep, 0) > 1).astype(jnp.float32), where=jnp.any(keep, 0)),
    }


def transplanted(
    loss: Callable[[Any, Any, Array], Array], params: Any, structure: Any, keep: Array, other: Any, its: Any,
    *, key: Key,
) -> Array:  # fmt: skip
    """``(K, 3)``, the loss of every capability in another network: as it is, with this one's circuit of the
    capability, with as many random weights of this one; by ``loss(params, structure, k)``."""

    def one(k: Array) -> Array:
        chance = circuits.random_like(params, structure, keep[k], key=jax.random.fold_in(key, k))
        nets = [
            circuits.transplant(params, structure, mask, other, its)
            for mask in (jnp.zeros_like(chance), keep[k], chance)
        ]
        return jnp.stack([loss(*net, k) for net in nets])

    return jax.lax.map(one, jnp.arange(keep.shape[0]))
