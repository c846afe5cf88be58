"""A rate per level, driven by its convergence: what still has a direction moves, what only shakes rests."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.levels.arm import Arm
from jaxnet.transformer import Spec
from jaxnet.types import Array, Float, PyTree, Scalar

DECAY = 0.95
"""Of the running means of the gradient and of its square: about twenty steps."""

MOST = 4.0
"""A level's rate is at most so many times the mean rate, and at least so many times smaller."""

_BLOCK = re.compile(r"block_(\d+)")


class LevelState(NamedTuple):
    """Running mean of the gradient, that of every level's squared norm, and the inner state."""

    mean: PyTree
    square: Float[Array, "level"]
    inner: PyTree


def level_of(path: Any, levels: int) -> int:
    """The level of a parameter: its block; 0 for the embedding, the last for what is behind the blocks."""
    name = jax.tree_util.keystr(path)
    if found := _BLOCK.search(name):
        return min(int(found[1]), levels - 1)
    return 0 if "embed" in name else levels - 1


def factors(signal: Float[Array, "level"]) -> Float[Array, "level"]:
    """Rates of levels relative to their mean, which is 1, from the signal in each one's gradient."""
    bounded = jnp.clip(signal / jnp.maximum(jnp.mean(signal), 1e-12), 1 / MOST, MOST)
    return bounded / jnp.mean(bounded)


def with_level_rates(inner: optax.GradientTransformation, levels: int) -> optax.GradientTransformation:
    """An optimiser whose updates of a level are multiplied by how little it has converged.

    A level has converged where its gradients no longer agree: ``|mean g|^2 / mean |g|^2``, the share of
    signal, which is 1 for a constant gradient and about ``(1 - d) / (1 + d)`` for noise, ``d`` being the
    decay. Levels get rates in proportion, within bounds, of mean 1: the total is that of the plain optimiser.

    Source of the measure: the gradient noise scale, McCandlish et al. 2018 (arXiv 1812.06162).
    """

    def sums(tree: PyTree) -> Float[Array, "level"]:
        found: list[Any] = [jnp.zeros(()) for _ in range(levels)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[level_of(path, levels)] += jnp.sum(jnp.square(leaf))
        return jnp.stack(found)

    def init(params: PyTree) -> LevelState:
        return LevelState(jax.tree.map(jnp.zeros_like, params), jnp.zeros(levels), inner.init(params))

    def update(updates: PyTree, state: LevelState, params: PyTree = None) -> tuple[PyTree, LevelState]:
        mean = jax.tree.map(lambda m, g: DECAY * m + (1 - DECAY) * g, state.mean, updates)
        square = DECAY * state.square + (1 - DECAY) * sums(updates)
        # both start at zero: in their share the bias of the first steps is one factor, that of one mean
        rate = factors(sums(mean) / jnp.maximum(square, 1e-30))
        made, after = inner.update(updates, state.inner, params)

        def scaled(path: Any, leaf: Array) -> Scalar:
            return (leaf * rate[level_of(path, levels)]).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(scaled, made), LevelState(mean, square, after)

    return optax.GradientTransformation(init, update)


def optimizer(spec: Spec, plain: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """The plain optimiser with a rate per block."""
    return with_level_rates(plain, spec.layers)


ARM = Arm("every block has a rate of its own, by how much its gradients still agree", optimizer=optimizer)
