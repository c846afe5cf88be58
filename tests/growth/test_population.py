"""Populations that grow: a network grown among others equals one grown alone; why they stop."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.growth import (
    Budget,
    Decision,
    DecisionRules,
    GrowthData,
    GrowthPlan,
    Member,
    Target,
    grow_until,
    prune,
)
from jaxnet.growth.population import Population
from jaxnet.growth.steps import fitted, new_weights, start_net
from jaxnet.growth.training import padded, padded_size
from jaxnet.keys import key_of
from jaxnet.methods import SET, RigL
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import sparse
from jaxnet.patches import PatchRules
from jaxnet.programs import Clock
from jaxnet.topology import topology_mask
from tests.networks import samples

PLAN = GrowthPlan(
    NetworkSpec((10, 6, 5, 4), 0.5, allocation="erdos-renyi"),
    # random places, so that the networks soon have different shapes
    DecisionRules(rule="always", change="widen", place="random", patches=False, size=2),
    added=8,
    epochs=2,
    patience=None,
    select="last",
    batch_size=6,
)
START = int(0.5 * (60 + 30 + 20))
NEVER = Target(1.0)


def data() -> GrowthData:
    return GrowthData(samples(20), samples(16), samples(12), jax.random.key(5))


def grow_quickly(
    seeds: Sequence[int], plan: GrowthPlan = PLAN, iterations: int = 2, **more: Any
) -> list[Member]:
    """Compiled without the optimisations: what runs once compiles in half the time."""
    compiled = Clock.compiled

    def plain(clock: Clock, function: Any, *args: Any, options: Any = None, **given: Any) -> Any:
        return compiled(clock, function, *args, options={"xla_backend_optimization_level": 0}, **given)

    with mock.patch.object(Clock, "compiled", plain):
        return grow_until(plan, data(), NEVER, Budget(iterations), seeds, **more)


@functools.cache
def grown() -> tuple[Member, ...]:
    return tuple(grow_quickly((1, 2)))  # whose draws differ


@pytest.mark.slow
@pytest.mark.cpu  # elsewhere the order of sums depends on the number of networks
def test_a_network_grown_alone_equals_its_row() -> None:
    members = grown()
    assert len({m.spec.sizes for m in members}) > 1, "the draw shall give different shapes"
    alone = grow_quickly([members[1].seed])[0]
    # an optimiser of its own is another object, its state is the same
    assert trees.equal(alone.net.replace(optimizer=members[1].net.optimizer), members[1].net)
    assert alone.history == members[1].history and alone.stop == members[1].stop


@pytest.mark.slow
def test_what_a_method_draws_is_each_members_own() -> None:
    """Members alike in all but their number get other weights from SET."""
    plan = dataclasses.replace(PLAN, method=SET(fraction=0.5, every=1))

    def alike(population: Population, key: jax.Array) -> Any:
        del key
        return start_net(plan, population.optimizer, key_of(0))

    with mock.patch.object(Population, "start_one", alike):
        members = grow_quickly((1, 2, 3), plan, iterations=1)
    places = [[set(np.flatnonzero(topology_mask(t))) for t in sparse(m.net.structure)] for m in members]
    for layer in range(3):
        assert len({len(p[layer]) for p in places}) == 1, "every layer keeps its number"
        assert all(a[layer] != b[layer] for a, b in itertools.combinations(places, 2)), "a draw in common"


def test_every_change_adds_what_it_should() -> None:
    for m in grown():
        assert [h["nonzeros"]["scaffold"] for h in m.history] == [START, START + 8]
        assert [sum(h["architecture"][1:-1]) for h in m.history] == [11, 13]
        assert [h["decision"] is None for h in m.history] == [False, True]
        assert m.stop == "budget: iterations"
        assert m.spec.sizes == tuple(m.history[-1]["architecture"])
        for layer, c in zip(m.net.params.scaffold, sparse(m.net.structure), strict=True):
            assert layer.weight.shape == c.rows.shape and layer.bias.shape == (c.shape[0],)


def considered(plan: GrowthPlan, budget: Budget, **told: Any) -> Member:
    """A network after its first iteration, with ``told`` of it, once it was decided about."""
    first = grown()[0]
    entry = {**first.history[0], "decision": None, **told}
    member = Member(first.seed, PLAN.spec, first.net, [entry])
    Population(plan, data(), NEVER, budget, None, Clock()).consider(member)
    return member


def test_a_change_beyond_the_budget_is_not_made() -> None:
    assert considered(PLAN, Budget(nonzeros=START + 8)).stop is None
    assert considered(PLAN, Budget(nonzeros=START + 7)).stop == "budget: non-zeros"


def test_without_extrema_there_is_nothing_to_follow() -> None:
    none = {"extrema_high": [0, 0], "extrema_low": [0, 0]}
    follows = dataclasses.replace(PLAN, decisions=dataclasses.replace(PLAN.decisions, place="worst"))
    assert considered(follows, Budget(), **none).stop == "no extrema"
    assert considered(PLAN, Budget(), **none).stop is None  # a random place needs none
    assert considered(follows, Budget(), accuracy=1.0, **none).stop == "target"


def test_a_start_beyond_the_budget() -> None:
    with pytest.raises(InputError, match=f"budget of {START - 1} weights is exceeded at the start"):
        grow_until(PLAN, data(), NEVER, Budget(nonzeros=START - 1), [0])


@pytest.mark.parametrize(
    ("accuracies", "seconds", "reason"),
    [
        ([0.90], 0.0, "target"),
        ([0.899], 0.0, None),
        ([0.1] * 10, 0.0, "budget: iterations"),
        ([0.1], 60.0, "budget: seconds"),
        ([0.5, 0.6, 0.605], 0.0, None),  # 0.105 within 2 iterations
        ([0.5, 0.6, 0.605, 0.601], 0.0, "diminishing returns"),
        ([0.5, 0.4, 0.45], 0.0, "diminishing returns"),
    ],
)
def test_stop_reasons(accuracies: list[float], seconds: float, reason: str | None) -> None:
    budget = Budget(10, seconds=60.0, min_gain=0.01, stall=2)
    assert budget.stop_reason(Target(0.9), accuracies, 1000, seconds) == reason


def test_a_target_is_reached_exactly_and_not_to_float32() -> None:
    for hundredths in range(1, 101):  # float32 of most is below
        assert Target(hundredths / 100).reached(float(np.float32(hundredths / 100)), 10_000)
        assert not Target(hundredths / 100).reached(
            float(np.float32((100 * hundredths - 1) / 10_000)), 10_000
        )


def test_a_target_with_standard_errors() -> None:
    error = np.sqrt(0.96 * 0.04 / 400)
    assert Target(0.96 - 1.001 * error, 1.0).reached(0.96, 400)
    assert not Target(0.96 - 0.999 * error, 1.0).reached(0.96, 400)


@pytest.mark.parametrize(
    "wrong",
    [
        {"operator": "melt"},
        {"select": "best", "method": RigL()},
        {"schedule": "cosine", "patience": 3},
        {"epochs": 0},
        {"lr": 0.0},
        {"decisions": DecisionRules()},  # patches without rules
        {"spec": NetworkSpec((4, 3), 0.5)},
    ],
)
def test_wrong_plans(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(PLAN, **wrong)


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"nonzeros": 0}, {"seconds": 0.0}, {"min_gain": -1.0}])
def test_wrong_budgets(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)
    with pytest.raises(ValueError, match="target"):
        Target(1.01)


def test_shares_of_new_weights() -> None:
    assert sum(new_weights(PLAN, 10, 2, 5)) == 8
    assert sum(new_weights(dataclasses.replace(PLAN, added=30), 10, 2, 5)) == 30  # all there is room for
    with pytest.raises(ValueError, match="no room for 31"):
        new_weights(dataclasses.replace(PLAN, added=31), 10, 2, 5)
    few = dataclasses.replace(PLAN, added=2)
    assert new_weights(few, 784, 16, 10) == (1, 1)
    dense = dataclasses.replace(PLAN, added=None)
    assert new_weights(dense, 10, 4, 3) == (20, 6)


def test_a_change_gets_the_units_that_it_needs() -> None:
    spec, widen = NetworkSpec((10, 6, 5, 4), 0.5), Decision("widen", 1, 1, False, "")
    assert fitted(PLAN, spec, widen).size == 1  # 6 + 4 positions for 8 weights
    assert fitted(dataclasses.replace(PLAN, added=21), spec, widen).size == 3
    insert = Decision("insert", 0, 2, False, "")
    assert fitted(PLAN, spec, insert).size == 6  # it passes six units on
    assert fitted(dataclasses.replace(PLAN, operator="redraw"), spec, insert).size == 2
    assert fitted(PLAN, spec, Decision("none", None, 0, True, "")).size == 0


def test_padding_adds_less_than_a_half() -> None:
    for n in range(1, 200):
        size = padded_size(n)
        assert n <= size < 1.5 * n and len(padded(list(range(n)))) == size
    assert len({padded_size(n) for n in range(1, 65)}) <= 12


@pytest.mark.slow
def test_what_layers_and_patches_give_apart_and_what_pruning_leaves() -> None:
    rules = DecisionRules(rule="always", change="widen", patches=True, size=2)
    plan = dataclasses.replace(PLAN, decisions=rules, patches=PatchRules("dense", 2), select="best")
    apart = grow_quickly((1,), plan, apart=True)[0]
    first, last = apart.history
    assert set(first["apart"]) == {"neither", "layers", "patches"} and last["apart"] is None
    assert all(0 <= accuracy <= 1 for accuracy in first["apart"].values())
    plain = grow_quickly((1,), plan)[0]
    assert [h["accuracy"] for h in plain.history] == [h["accuracy"] for h in apart.history]
    for change in ({"patches": False}, {"change": "none"}):  # each alone is what a run without the other does
        other = grow_quickly((1,), dataclasses.replace(plan, decisions=dataclasses.replace(rules, **change)))[
            0
        ]
        name = "layers" if "patches" in change else "patches"
        assert other.history[1]["accuracy"] == pytest.approx(first["apart"][name], abs=0.1)
    (half,) = prune(plan, data(), [apart], 0.5, 1)
    there = sum(int(t.num_nonzeros) for t in sparse(apart.net.structure))
    left = sum(int(t.num_nonzeros) for t in sparse(half.net.structure))
    assert left == there - there // 2 and len(half.history) == len(apart.history)
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        prune(plan, data(), [apart], 1.0, 1)


@pytest.mark.slow
def test_a_given_network_is_what_grows() -> None:
    member = grown()[0]
    spec, net = PLAN.spec, start_net(PLAN, optax.identity(), key_of(9))
    given = net.params, net.structure
    plan = dataclasses.replace(PLAN, decisions=dataclasses.replace(PLAN.decisions, change="none"))
    alike = grow_quickly((1, 2), plan, 1, given=given)
    assert spec.sizes == alike[0].spec.sizes and trees.equal(alike[0].net.params, alike[1].net.params)
    assert not trees.equal(alike[0].net.params, member.net.params)
