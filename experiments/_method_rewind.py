"""Iterative magnitude pruning with rewinding: trainings, each of the largest weights of the one before.

After the first epoch the values are put aside. After every training the smallest weights of all layers
together go, those that are left get the values put aside, and optimiser and schedule begin anew. The
density falls by the same factor every time.

Source: Frankle and Carbin 2019; late rewinding: Frankle et al. 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jaxnet
from experiments._method_sparser import SPARSE_BELOW, room_for
from experiments._method_sparser import by_seed as _by_seed
from jaxnet import lab
from jaxnet.methods.base import keep_best
from jaxnet.methods.scopes import scores_of
from jaxnet.structure import clear


def weights_of_rounds(density: float, rounds: int, positions: int) -> list[int]:
    """Weights of every training, the first of which has all."""
    shares = [*(density ** (done / rounds) for done in range(rounds)), density]
    return [int(share * positions) for share in shares]


def make_stages(
    task: Any,
    start: Callable[[Any, Any], Any],
    ready: Callable[[Any, Any, float], Any],
    *,
    sizes: tuple[int, ...],
    density: float,
    rounds: int,
    epochs: int,
    rates: tuple[float, ...],
) -> list[lab.Stage]:
    """The first epoch, then a stage for every training.

    Args:
      task: what training needs to know.
      start: ``(key, before) -> states`` of the networks of every rate, all weights masked.
      ready: ``(params, structure, rate) -> state`` of a network with a new optimiser.
      sizes: units per layer.
      density: after the last pruning.
      rounds: prunings.
      epochs: of every training.
      rates: learning rates, networks of which are trained side by side.
    """
    import jax
    import jax.numpy as jnp
    import optax

    by_seed = functools.partial(_by_seed, rates=len(rates))
    full = jaxnet.allocation.dense_counts(sizes)
    counts = weights_of_rounds(density, rounds, sum(full))
    names = tuple(f"{rate:g}" for rate in rates)

    def masked(state: Any, samples: Any) -> Any:
        del samples
        network = state.net.params, state.net.structure
        if isinstance(network[1].weights[0], jaxnet.Topology):
            network = jax.vmap(jaxnet.to_masked_network)(*network)
        return *network, state.diverged

    def training(number: int) -> lab.Stage:
        def begin(key: Any, before: Any) -> Any:
            del key
            states = []
            for k, rate in enumerate(rates):
                early, last = jax.tree.map(lambda leaf: leaf[k], before)  # noqa: B023
                states.append(at(rate, early, last))
            return tuple(states)

        def at(rate: float, early: Any, last: Any) -> Any:
            params, structure, diverged = last
            net = jaxnet.Net.of(params, structure, optax.identity())
            structure = keep_best(net, scores_of(net, "global"), jnp.int32(counts[number]))[0].structure
            values = early[0]
            if counts[number] <= SPARSE_BELOW * sum(full):
                room = room_for(counts[number], full)
                values, structure = jaxnet.to_sparse_network(values, structure, room)
            else:
                values = clear(values, structure)
            return ready(values, structure, rate).replace(diverged=diverged)

        return lab.Stage(
            f"training-{number}",
            epochs,
            task,
            begin,
            keep=None if number == rounds else masked,
            hand=lambda kept: (by_seed(kept["first-epoch"]), by_seed(kept[f"training-{number}"])),
            arms=names,
            order=number + 1,
        )

    def both(kept: Mapping[str, Any]) -> Any:
        first = by_seed(kept["first-epoch"])
        return first, first

    first = lab.Stage("first-epoch", 1, task, start, keep=masked, hand=both, arms=names, order=0)
    return [first, *(training(number) for number in range(rounds + 1))]
