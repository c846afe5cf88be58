"""Schedules with everything: boundaries, accuracy and snapshots, on a network that is moved by hand."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import scheduler, trees
from jaxnet.growth.apart import alternatives
from jaxnet.growth.decisions import Decision
from jaxnet.growth.patterns import patterns
from jaxnet.growth.scheduled import PRESETS, ScheduleRules, consult, init_account, members
from jaxnet.snapshots import ensemble_logits
from jaxnet.train import Net
from jaxnet.units import Extrema
from tests import networks

RULES = ScheduleRules(
    scheduler.SchedulerConfig(bootstrap_credits=0.0, growth_credits=80.0),
    boundary=0.5,
    accuracy=True,
    snapshots=2,
    fall=0.1,
)


OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def net(value: float) -> Net:
    """A network of one weight; its optimiser's state moves with it."""
    made = Net.of({"w": jnp.full((), value)}, {"w": None}, OPTIMIZER)
    return made.replace(opt_state=jax.tree.map(lambda leaf: leaf + value, made.opt_state))


def extrema(*high: bool) -> list[Extrema]:
    mask, zero, none = np.array(high), np.zeros(len(high), np.float32), np.zeros(len(high), bool)
    return [Extrema(mask, none, zero, zero, zero, none)]  # type: ignore[arg-type]


def test_a_boundary_grows_and_a_fall_goes_back() -> None:
    account, calm = init_account(RULES, net(0.0), 4), np.ones(3, np.float32)
    see = networks.quick(functools.partial(consult, RULES), static_argnames="structures")
    seen = [
        # value, which units are extreme, accuracy: a boundary wants half of the four to change
        (1.0, (True, True, True, True), 0.5),  # the first epoch has none before it
        (2.0, (True, True, True, False), 0.55),  # one of four; 5 points more: a snapshot
        (3.0, (False, False, True, False), 0.4),  # two of four: 80 credits, it grows; no way back then
        (4.0, (False, False, True, False), 0.3),  # 10 points below the last snapshot (0.4), and not more
        (5.0, (False, False, True, False), 0.2),  # below: back to the snapshot at growth, of value 3
    ]
    told = []
    for epoch, (value, high, accuracy) in enumerate(seen):
        given = (net(value), extrema(*high), calm, np.int32(epoch), np.float32(accuracy))
        account, now, grow = see(account, *given, structures=1)
        told.append((float(now.params["w"]), bool(grow)))
    assert told == [(1.0, False), (2.0, False), (3.0, True), (4.0, False), (3.0, False)]
    assert (int(account.boundaries), int(account.restored)) == (1, 1)
    assert trees.equal(now.opt_state, net(3.0).opt_state), "the optimiser goes back too"
    assert account.ring is not None and account.ring.epoch.tolist() == [1, 2]
    asked = members(account.ring, net(9.0), 5)
    mean = ensemble_logits(asked, lambda kept: kept[0]["w"][None])
    assert float(mean[0]) == pytest.approx((3 + 9) / 2), "the oldest of two makes room"


def test_limits_per_scale_hold_back_growth() -> None:
    config = dataclasses.replace(RULES.config, structures=(3, 50, 200))
    rules = dataclasses.replace(RULES, config=config, fall=None)
    account, calm, still = init_account(rules, net(0.0), 2), np.ones(2, np.float32), net(0.0)
    see = networks.quick(functools.partial(consult, rules), static_argnames="structures")
    grew = []
    for epoch in range(40):
        high = epoch % 2 == 0
        given = (still, extrema(high, high), calm, np.int32(epoch), np.float32(0.5))
        account, _, grow = see(account, *given, structures=2)
        grew.append(bool(grow))
    assert np.flatnonzero(grew).tolist() == [1], "a second growth of two structures would be the fourth"


def test_presets_and_wrong_rules() -> None:
    assert PRESETS["gradients"].boundary is None and PRESETS["fixes"].config is scheduler.FIXES
    for wrong in ({"boundary": 0.0}, {"snapshots": -1}, {"fall": 0.1}):
        given: Any = wrong
        with pytest.raises(ValueError):
            ScheduleRules(**given)


def test_what_is_left_of_a_decision() -> None:
    both = Decision("insert", 1, 8, True, "why")
    found = alternatives(both)
    nothing = Decision("none", None, 0, False, "")
    assert found == {
        "neither": nothing,
        "layers": Decision("insert", 1, 8, False, ""),
        "patches": Decision("none", None, 0, True, ""),
    }
    assert alternatives(Decision("none", None, 0, True, "why")) == {"neither": nothing}


def test_patterns_of_histories() -> None:
    def entry(accuracy: float, weights: int, apart: Any = None) -> dict[str, Any]:
        found = {"extrema_high": [2], "extrema_low": [3], "architecture": [8, 10, 4], "apart": apart}
        return {"accuracy": accuracy, "weights": weights, **found}

    some = {"neither": 0.5, "layers": 0.6, "patches": 0.55}
    seeds = [
        {"history": [entry(0.4, 10, some), entry(0.7, 20)], "stop_reason": "target"},
        {"history": [entry(0.5, 10, {"neither": 0.5}), entry(0.6, 30)], "stop_reason": "target"},
    ]
    told = patterns([{**s, "accuracy": 0.7, "architecture": [8, 10, 4]} for s in seeds])
    first, last = told["iterations"]
    assert first["gain_both"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert first["gain_layers"]["mean"] == pytest.approx(0.1) and first["gain_layers"]["n"] == 1
    assert first["gain_patches"]["mean"] == pytest.approx((0.05 + 0.1) / 2), (
        "alone they are all that was done"
    )
    assert "gain_both" not in last and last["weights"]["median"] == 25
    assert last["high"]["mean"] == pytest.approx(0.2)
    assert told["stops"] == {"target": 2} and told["architectures"] == {"8-10-4": 2}
