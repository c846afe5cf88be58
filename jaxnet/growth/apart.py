"""What layers and patches give apart: a network with each alone, and with neither, for an iteration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxnet.growth.decisions import Decision
from jaxnet.growth.member import Member, by_shape
from jaxnet.growth.steps import Measured
from jaxnet.growth.training import outcome, take_host
from jaxnet.train import Net


def alternatives(decision: Decision) -> dict[str, Decision]:
    """What a decision would be with less of it: ``layers`` and ``patches`` alone, ``neither``.

    Of a decision that has one of them only that is left out.
    """
    nothing: dict[str, Any] = {"change": "none", "layer": None, "size": 0, "reason": ""}
    found = {"neither": dataclasses.replace(decision, **nothing, patches=False)}
    if decision.change != "none" and decision.patches:
        found["layers"] = dataclasses.replace(decision, patches=False, reason="")
        found["patches"] = dataclasses.replace(decision, **nothing)
    return found


def measure_apart(
    population: Any,
    group: Sequence[Member],
    decisions: Sequence[Decision | None],
    nets: Net,
    measured: Measured,
    iteration: int,
) -> None:
    """Trains the networks of a group for an iteration with less than was decided.

    Their accuracies stand in the last entry of each history as ``apart``; that with all that was decided is
    the accuracy of the next iteration. The networks themselves are left as they are.

    Args:
      population: a :class:`jaxnet.growth.population.Population`.
      group: networks of equal shape.
      decisions: about each; None for one that stops.
      nets: as they were trained, leaves ``(network, ...)``.
      measured: likewise.
      iteration: counted from 0.
    """
    for place, decision in enumerate(decisions):
        group[place].history[-1]["apart"] = {} if decision is not None else None
    for name in ("neither", "layers", "patches"):
        others = [None if d is None else alternatives(d).get(name) for d in decisions]
        copies = [Member(m.seed, m.spec, m.net, m.history) for m in group]
        population.change(copies, others, nets, measured, iteration, ahead=False)
        changed = [copy for copy, other in zip(copies, others, strict=True) if other is not None]
        for alike in by_shape(changed):
            state = population.start_group(alike)
            state = population.train(alike, state, 0, told=False)
            judged, _ = outcome(population.plan, state)
            for i, copy in enumerate(alike):
                accuracy = float(jnp.asarray(take_host(judged, i).accuracy))
                copy.history[-1]["apart"][name] = accuracy
