"""Networks that start dense and are pruned: as soon as it pays, only the weights that exist are computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from jaxnet import lab

SPARSE_BELOW = 0.25
"""Density up to which the weights that exist are computed alone."""


def sparser_from(existed: Sequence[int], per_epoch: int, positions: int) -> list[int]:
    """After how many epochs networks get arrays of the weights that are left.

    Once where these are few enough to be computed alone, and once where no more will go.

    Args:
      existed: weights before the first step, after it, and so on.
      per_epoch: steps.
      positions: of all weights.
    """
    after = list(existed[::per_epoch])
    found = []
    for most in (int(SPARSE_BELOW * positions), existed[-1]):
        epoch = next((number for number, count in enumerate(after) if count <= most), None)
        if epoch is not None and 0 < epoch < len(after) - 1:
            found.append(epoch)
    return sorted(set(found))


def room_for(weights: int, full: Sequence[int]) -> list[int]:
    """Slots of every layer, for so many weights wherever they are."""
    return [min(size, weights) for size in full]


def by_seed(tree: Any, rates: int) -> Any:
    """Leaves ``(rate x seed, ...)`` as ``(seed, rate, ...)``."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(rates, -1, *leaf.shape[1:]), 0, 1), tree)


def sparser(state: Any, capacities: Sequence[int], may_be_best: bool) -> Any:
    """The state of one network with arrays of other sizes: function, moments and the best are unchanged.

    Args:
      state: of a network in training.
      capacities: slots of every layer.
      may_be_best: the best so far counts; else what comes is the best.
    """
    import jax
    import jax.numpy as jnp

    import jaxnet
    from jaxnet.trees import where

    if jax.tree.leaves(state.method):
        raise TypeError("a method that keeps something for every weight would not follow")
    net = jaxnet.changes.to_sparse(state.net, capacities)
    # a network that had more weights was never the best: what it was does not matter, only its shapes
    best = jaxnet.to_sparse_network(*jaxnet.to_masked_network(*state.best), capacities)
    accuracy = state.best_accuracy if may_be_best else jnp.full_like(state.best_accuracy, -1.0)
    params, structure = where(accuracy < 0, (net.params, net.structure), best)
    return state.replace(net=net, best_params=params, best_structure=structure, best_accuracy=accuracy)


def make_stages(
    task: Any,
    start: Callable[[Any, Any], Any],
    *,
    epochs: int,
    existed: Sequence[int],
    full: Sequence[int],
    arms: tuple[str, ...],
    between: Callable[..., Any],
    **fields: Any,
) -> list[lab.Stage]:
    """One training in stages, between which the arrays get smaller; results but for their last bits do not.

    Args:
      task: what training needs to know.
      start: ``(key, before) -> states`` of the networks of every arm.
      epochs: in all.
      existed: weights before the first step, after it, and so on.
      full: positions of every layer.
      arms: names.
      between: of :class:`jaxnet.lab.Stage`, by epochs of the whole training.
      fields: of every stage.
    """
    import jax

    per_epoch = (len(existed) - 1) // epochs

    def go_on(key: Any, before: Any) -> Any:
        return tuple(jax.tree.map(lambda leaf, k=k: leaf[k], before) for k in range(len(arms)))

    def stage(first: int, end: int) -> lab.Stage:
        name = f"train-from-{first}" if first else "train"

        def keep(state: Any, samples: Any) -> Any:
            weights = existed[end * per_epoch]
            room, small = room_for(weights, full), weights <= existed[-1]
            return jax.vmap(lambda one: sparser(one, room, may_be_best=small))(state)

        return lab.Stage(
            name,
            end - first,
            task,
            go_on if first else start,
            keep=keep if end < epochs else None,
            hand=lambda kept: by_seed(kept[name], len(arms)),
            arms=arms,
            order=0,
            after=first,
            between=lambda done, *rest: between(first + done, *rest),
            **fields,
        )

    bounds = [0, *sparser_from(existed, per_epoch, sum(full)), epochs]
    return [stage(*ends) for ends in itertools.pairwise(bounds)]
