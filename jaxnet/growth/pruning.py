"""What grown networks did not need: their smallest weights go, and they are trained on."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnet.growth.budget import Budget, Target
from jaxnet.growth.member import GrowthData, Member, by_shape
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.population import Population
from jaxnet.growth.training import outcome, padded, stack_host, take_host
from jaxnet.methods.base import keep_best
from jaxnet.methods.scopes import scores_of
from jaxnet.programs import Clock
from jaxnet.structure import entries
from jaxnet.train import Net


def prune(
    plan: GrowthPlan,
    data: GrowthData,
    members: Sequence[Member],
    fraction: float,
    epochs: int,
    clock: Clock | None = None,
) -> list[Member]:
    """Networks without the smallest weights of their scaffolds, all layers together, trained on; copies.

    Patches stay as they are. The best epoch by the watched samples is kept.

    Args:
      plan: how they were grown; rates and optimiser state are kept.
      data: what to train on and to judge by.
      members: grown networks.
      fraction: of the weights that go, in [0, 1).
      epochs: of training on, at least 1.
      clock: adds up the time.

    Raises:
      ValueError: a fraction out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the fraction must be in [0, 1): {fraction}")
    how = {"epochs": epochs, "patience": None, "method": None, "select": "best", "schedule": "constant"}
    population = Population(
        dataclasses.replace(plan, **how),  # type: ignore[arg-type]
        data,
        Target(1.0),
        Budget(),
        None,
        clock or Clock(),
    )

    def cut(net: Net) -> Net:
        there = jnp.sum(jnp.stack([entry.num_nonzeros for entry in entries(net.structure).values()]))
        keep = there - jnp.floor(fraction * there.astype(jnp.float32)).astype(jnp.int32)
        return keep_best(net, scores_of(net, "global"), keep)[0]

    found = dict[int, Member]()
    with contextlib.closing(population.programs):
        for group in by_shape(members):
            nets = jax.jit(jax.vmap(cut))(stack_host(padded([m.net for m in group])))
            copies = [
                dataclasses.replace(m, net=take_host(nets, i), history=[*m.history])
                for i, m in enumerate(group)
            ]
            state = population.train(copies, population.start_group(copies), 0, told=False)
            _, trained = outcome(population.plan, state)
            for i, copy in enumerate(copies):
                found[copy.seed] = dataclasses.replace(copy, net=take_host(trained, i))
    return [found[m.seed] for m in members]
