"""Questions and what their answers allow to say, by hand and against SciPy's and NumPy's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from experiments import forgetting
from jaxnet import lab
from jaxnet.lab.command import parse
from jaxnet.lab.compare import Comparison, compare, corrected, correction
from jaxnet.lab.report import command_line
from jaxnet.lab.summary import arm_summary, halves
from jaxnet.statistics import holm, paired_rates
from tests.lab.test_flags import Config

ASKED = lab.Question("a", "b", "accuracy")


def of(mean: float, half: float, p: float | None, n: int = 12, primary: bool = True) -> Comparison:
    question = lab.Question("a", "b", "accuracy", primary=primary)
    interval = None if math.isnan(half) else (mean - half, mean + half)
    return Comparison(question, mean, interval, p, 1, n)


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (of(0.008, 0.002, 0.01), "better by 0.80 points"),
        (of(-0.008, 0.002, 0.01), "**worse** by 0.80 points"),
        (of(0.008, 0.009, 0.01), "no difference shown"),  # the interval has zero in it
        (of(0.008, 0.002, 0.09), "no difference shown"),  # interval and test disagree
        (of(0.008, 0.002, 0.001, n=11), "no verdict (11 pairs, 12 needed)"),
        (of(0.008, 0.002, 0.001, primary=False), "not judged"),
    ],
)
def test_a_difference_needs_pairs_interval_and_test(comparison: Comparison, said: str) -> None:
    (found,) = corrected([comparison])
    assert found.said() == said


def test_the_family_is_all_primary_questions() -> None:
    found = corrected([of(1, 0.1, 0.02), of(1, 0.1, 0.04), of(1, 0.1, 0.03, primary=False)])
    assert [c.p_holm for c in found] == [0.04, 0.04, None]
    found = corrected([of(1, 0.1, 0.02), of(1, 0.1, 0.03), of(1, 0.1, 0.9)])
    assert [c.verdict for c in found] == ["no difference shown"] * 3, "0.02 times 3"
    text = correction(found)
    assert "all 3 questions" in text and "0 of 3" in text and "(2 have" in text
    assert "nothing is judged" in correction([of(1, 0.1, 0.03, primary=False)])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_a_bound_on_every_subset(p: list[float]) -> None:
    """By closure: a hypothesis is rejected where every subset with it is, by Bonferroni."""
    found = holm(p)
    for i, value in enumerate(p):
        subsets = (s for s in range(1 << len(p)) if s >> i & 1)
        worst = max(
            min(1.0, bin(s).count("1") * min(q for j, q in enumerate(p) if s >> j & 1)) for s in subsets
        )
        assert found[i] == pytest.approx(worst) and found[i] >= value


def test_differences_are_paired_and_diverged_seeds_left_out() -> None:
    def arm(*values: float | None) -> dict[str, object]:
        return {"seeds": [{"accuracy": v, "diverged": v is None, "deep": {"x": v}} for v in values]}

    arms = {"a": arm(0.5, 0.7, 0.9, None), "b": arm(0.4, 0.7, 0.7, 0.1)}
    found, deep = compare(arms, [ASKED, lab.Question("a", "b", "deep.x", primary=False)])
    assert found.difference == pytest.approx(0.1) == deep.difference
    assert (found.wins, found.n, found.not_finite) == (2, 3, 1)
    told = found.as_dict()
    assert {"first", "second", "measure", "difference", "ci95", "p", "p_holm", "wins", "n", "verdict"} <= set(
        told
    )
    assert told["verdict"] == "no verdict" and deep.p_holm is None


def test_rates_are_compared_by_mcnemar() -> None:
    first = [True] * 9 + [False] * 3
    second = [False] * 8 + [True] * 1 + [False] * 3
    arms = {n: {"seeds": [{"ok": v, "diverged": False} for v in s]} for n, s in (("a", first), ("b", second))}
    (found,) = compare(arms, [lab.Question("a", "b", "ok")], rates=("ok",))
    assert found.p == pytest.approx(binomtest(8, 8).pvalue) and found.difference == pytest.approx(8 / 12)
    # Agresti and Min: half a pair is added to each of the four outcomes
    cells = np.array([8.5, 0.5, 1.5, 3.5])  # only a, only b, both, none
    share = cells / cells.sum()
    mean = share[0] - share[1]
    half = 1.96 * math.sqrt((share[0] + share[1] - mean**2) / cells.sum())
    assert found.ci95 == pytest.approx((mean - half, mean + half), abs=1e-4)
    assert paired_rates([None], [True])["ci95"] is None


def test_halves_tell_luck_from_skill() -> None:
    seeds = [{"seed": i, "diverged": False, "accuracy_halves": [i / 10, i / 20 + 0.1]} for i in range(5)]
    assert halves(seeds)["accuracy"] == {"correlation": pytest.approx(1.0), "n": 5}
    seeds[0]["diverged"] = True
    assert halves(seeds[:3])["accuracy"] == {"correlation": None, "n": 2}, "two points are on every line"


def test_entries_by_arm_and_seed() -> None:
    """Two seeds in two arms; parts of parts, lists as they are, and nothing of what was not measured."""
    found = lab.entries(
        range(4, 6),
        ("a", "b"),
        diverged=np.array([False, True, False, False]),
        sizes={"layers": np.arange(8).reshape(4, 2), "all": np.arange(4)},
        told=[{"n": n} for n in range(4)],
        missing=None,
    )
    assert found["b"] == [
        {"seed": 4, "diverged": False, "sizes": {"layers": [4, 5], "all": 2}, "told": {"n": 2}},
        {"seed": 5, "diverged": False, "sizes": {"layers": [6, 7], "all": 3}, "told": {"n": 3}},
    ]
    assert [s["diverged"] for s in found["a"]] == [False, True]


def test_aggregates_leave_diverged_networks_out() -> None:
    seeds = [
        {"seed": 0, "diverged": False, "x": 1.0, "ok": True, "part": {"n": 3}, "none": None},
        {"seed": 1, "diverged": True, "x": 9.0, "ok": True, "part": {"n": 9}, "none": None},
        {"seed": 2, "diverged": False, "x": 2.0, "ok": False, "part": {"n": 5}, "none": None},
    ]
    found = arm_summary(seeds)["aggregate"]
    assert found["x"]["mean"] == 1.5 and found["part.n"]["mean"] == 4 and found["x"]["not_finite"] == 1
    assert (found["ok"]["successes"], found["ok"]["n"]) == (1, 2) and found["none"]["n"] == 0
    assert "seed" not in found


def test_the_command_names_what_decides_the_results() -> None:
    config = Config(data_dir="x", doc="d.md", sizes=(3, 4, 5), out="b", resume=True, num_seeds=4)
    assert command_line("m", config) == "python -m m --dataset digits --sizes 3,4,5 --num-seeds 4 --doc d.md"


def test_the_command_of_a_document_is_one_that_is_understood() -> None:
    config = forgetting.Config(
        bias=False, dials=("1.0", "2.5"), sizes=None, data_dir="x", doc="d.md", lr=None
    )
    program, *flags = command_line("m", config).removeprefix("python -m ").split()
    assert program == "m" and "--no-bias" in flags and flags[flags.index("--lr") + 1] == "auto"
    assert parse(forgetting.Config, flags) == dataclasses.replace(config, data_dir=None)
