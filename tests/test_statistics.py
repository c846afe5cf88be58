"""Summaries of seeds against values worked by hand, SciPy, and all 2**n sign assignments."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxnet.statistics import (
    EXACT_PAIRS,
    aggregate,
    paired_difference,
    paired_rates,
    sign_flip_p,
    success_rate,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_three_values_by_hand() -> None:
    # Spread 1, t quantile of 2 degrees of freedom 4.302653, half width 4.302653 / sqrt(3).
    result = aggregate([1.0, 2.0, 3.0])
    half = 4.302652729696142 / math.sqrt(3)
    assert result["ci95"] == pytest.approx([2 - half, 2 + half])
    assert {k: v for k, v in result.items() if k != "ci95"} == {
        "mean": 2.0, "std": 1.0, "median": 2.0, "min": 1.0, "max": 3.0, "n": 3, "not_finite": 0,
    }  # fmt: skip


def test_one_value_has_neither_spread_nor_interval() -> None:
    result = aggregate([0.25])
    assert (result["mean"], result["std"], result["ci95"], result["n"]) == (0.25, None, None, 1)


def test_a_diverged_seed_is_counted_apart() -> None:
    result = aggregate([1.0, float("nan"), 3.0, float("inf")])
    assert (result["mean"], result["n"], result["not_finite"]) == (2.0, 2, 2)
    nothing = aggregate([float("nan")])
    assert nothing["n"] == 0 and nothing["mean"] is None and nothing["median"] is None


@pytest.mark.parametrize("wrong", [[], [[1.0, 2.0]], 3.0])
def test_wrong_shapes_raise(wrong: object) -> None:
    with pytest.raises(ValueError, match="one number per seed"):
        aggregate(wrong)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_agrees_with_scipy(values: list[float]) -> None:
    result = aggregate(values)
    tolerance = 1e-9 * max(1.0, max(map(abs, values)))
    assert result["mean"] == pytest.approx(np.mean(values), abs=tolerance)
    assert result["std"] == pytest.approx(np.std(values, ddof=1), abs=tolerance)
    if np.std(values) > 0:  # SciPy has no interval where the squares vanish
        low, high = stats.t.interval(0.95, len(values) - 1, result["mean"], stats.sem(values))
        assert result["ci95"] == pytest.approx([low, high], abs=100 * tolerance)


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_order_and_json(values: list[float]) -> None:
    result = aggregate(values)
    assert result["mean"] is not None and result["min"] is not None and result["max"] is not None
    assert result["min"] <= result["mean"] <= result["max"]
    if result["ci95"] is not None:
        assert result["ci95"][0] <= result["mean"] <= result["ci95"][1]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@given(FINITE, st.integers(2, 30))
def test_equal_values_have_no_spread(value: float, n: int) -> None:
    result = aggregate([value] * n)
    assert (result["mean"], result["std"], result["ci95"]) == (value, 0.0, [value, value])


def test_interval_covers_the_mean_95_times_in_100() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 6))
    intervals = np.array([aggregate(row)["ci95"] for row in draws])
    covered = np.mean((intervals[:, 0] <= 3.0) & (3.0 <= intervals[:, 1]))
    assert covered == pytest.approx(0.95, abs=0.02)  # four standard errors


def test_paired_difference_by_hand() -> None:
    result = paired_difference([3.0, 2.0, 5.0, 4.0], [1.0, 1.0, 1.0, 4.0])
    assert (result["mean"], result["n"], result["wins"], result["ties"], result["losses"]) == (
        1.75, 4, 3, 1, 0,
    )  # fmt: skip
    # Differences 2, 1, 4, 0: |sum| = 7 is reached with equal signs only, the zero's sign is free: 4 of 16.
    assert (result["p"], result["test"]) == (0.25, "sign-flip, exact")


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=9))
def test_sign_flip_is_the_share_of_all_assignments(differences: list[int]) -> None:
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    share = sum(total >= seen for total in sums) / len(sums)
    assert paired_difference(differences, [0] * len(differences))["p"] == share


def test_sign_flip_agrees_with_scipys_permutation_test() -> None:
    difference = np.random.default_rng(1).normal(0.4, 1.0, 12)
    reference = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_p(difference) == pytest.approx(reference.pvalue, abs=1e-12)


def test_many_pairs_use_wilcoxon() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)
    result = paired_difference(a, b)
    assert result["test"] == "wilcoxon"
    assert result["p"] == pytest.approx(stats.wilcoxon(a, b).pvalue, rel=1e-6)


@pytest.mark.parametrize("n", [2, EXACT_PAIRS, EXACT_PAIRS + 1])
def test_no_difference_at_all(n: int) -> None:
    result = paired_difference(np.ones(n), np.ones(n))
    assert (result["p"], result["mean"], result["wins"], result["ties"]) == (1.0, 0.0, 0, n)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=25))
def test_swapping_the_sides_mirrors_the_result(pairs: list[tuple[float, float]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one["p"] is not None and 0 < one["p"] <= 1
    assert one["p"] == pytest.approx(other["p"])
    assert one["mean"] == pytest.approx(-other["mean"])  # type: ignore[operator]
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])


def test_pairs_with_a_diverged_side_are_left_out_and_counted() -> None:
    result = paired_difference([1.0, float("nan"), 3.0], [0.0, 1.0, float("inf")])
    assert (result["n"], result["not_finite"], result["mean"], result["p"]) == (1, 2, 1.0, None)


def test_different_lengths_raise() -> None:
    with pytest.raises(ValueError, match="equal length: 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_a_success_rate_has_wilsons_interval() -> None:
    rate = success_rate([True] * 9 + [False])
    # Wilson by hand: z = 1.959964, (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert (rate["successes"], rate["n"], rate["rate"]) == (9, 10, 0.9)
    assert rate["ci95"] == pytest.approx([0.595850, 0.982124], abs=1e-5)
    nothing: Any = success_rate([False] * 32)
    assert nothing["ci95"][0] == 0 and 0.1 < nothing["ci95"][1] < 0.11


def test_paired_rates_count_the_pairs_that_differ() -> None:
    a, b = [1, 1, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]
    # 5 against 1: two-sided binomial, 2 * (1 + 6) / 64
    found = paired_rates(a, b)
    assert (found["wins"], found["losses"], found["ties"], found["n"], found["not_finite"]) == (5, 1, 2, 8, 0)
    assert found["p"] == pytest.approx(14 / 64) and found["mean"] == 0.5
    assert paired_rates(a, a)["p"] == 1
    with pytest.raises(ValueError, match="equal length"):
        paired_rates(a, b[:3])


def test_rates_leave_diverged_seeds_out_and_count_them() -> None:
    nan = float("nan")
    rate = success_rate([True, nan, None, False])
    assert (rate["successes"], rate["n"], rate["rate"], rate["not_finite"]) == (1, 2, 0.5, 2)
    nobody = success_rate([nan, None])
    assert (nobody["n"], nobody["rate"], nobody["ci95"], nobody["not_finite"]) == (0, None, None, 2)
    # the second pair would count for a, the third for b
    pairs = paired_rates([1, 1, nan, 1], [0, nan, 1, 1])
    assert (pairs["wins"], pairs["losses"], pairs["n"], pairs["not_finite"]) == (1, 0, 2, 2)
    none = paired_rates([nan], [1])
    assert none["p"] is None and none["mean"] is None and none["ci95"] is None
