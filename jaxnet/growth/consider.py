"""What to do with a network after an iteration, or why it stops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxnet.growth.budget import Budget, Target
from jaxnet.growth.decisions import Decision, LayerCount, decide
from jaxnet.growth.member import Member, capacity
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.steps import fitted
from jaxnet.keys import key_of


def consider(
    plan: GrowthPlan,
    budget: Budget,
    target: Target,
    member: Member,
    *,
    samples: int,
    seconds: float,
    shapes: Callable[[tuple[Decision, ...]], tuple[Any, Any]],
) -> Decision | None:
    """Decides about a network; where it stops, notes why and returns None.

    Args:
      plan: how to decide.
      budget: what growth may cost.
      target: when a network does well enough.
      member: the network, with the entry of its last iteration.
      samples: watched.
      seconds: spent so far.
      shapes: sizes and shapes of a network after some decisions.
    """
    history, rules = member.history, plan.decisions
    last = history[-1]
    counts = zip(member.spec.sizes[1:-1], last["extrema_high"], last["extrema_low"], strict=True)
    layers = [LayerCount(*c) for c in counts]
    accuracies = [h["accuracy"] for h in history]
    if last["diverged"]:
        member.stop = "diverged"
        return None
    member.stop = budget.stop_reason(target, accuracies, samples, seconds)
    if member.stop is None and rules.needs_extrema and not any(c.extrema for c in layers):
        member.stop = "no extrema"
    if member.stop is not None:
        return None
    # a draw of the network's own, the same whatever grows beside it
    draw = int(jax.random.bits(jax.random.fold_in(key_of(member.seed), len(history))))
    decision = fitted(plan, member.spec, decide(layers, rules, draw=draw))
    if budget.nonzeros is not None:
        _, after = shapes((*member.decisions, dataclasses.replace(decision, reason="")))
        # capacities: patches that stay inactive count too, so that no change can lead beyond
        if capacity(after) > budget.nonzeros:
            member.stop = "budget: non-zeros"
            return None
    return decision
