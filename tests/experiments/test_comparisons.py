"""What the documents of docs/results say of paired differences, by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from experiments._comparisons import Comparison, command_line, compare, correction
from experiments._options import option


def of(mean: float, half: float, p: float) -> Comparison:
    return Comparison("a against b", "a", "b", mean, mean - half, mean + half, 1, 9, p)


@pytest.mark.parametrize(
    ("mean", "half", "p", "said"),
    [
        (0.8, 0.2, 0.01, "better by 0.80 points"),
        (-0.8, 0.2, 0.01, "**worse** by 0.80 points"),
        (0.8, 0.9, 0.01, "no difference shown"),  # the interval has zero in it
        (0.8, 0.2, 0.09, "no difference shown"),  # interval and test disagree
        (0.8, math.nan, math.nan, "no difference shown"),  # a single pair
    ],
)
def test_a_difference_needs_interval_and_test(mean: float, half: float, p: float, said: str) -> None:
    assert of(mean, half, p).verdict == said


def test_differences_are_paired_and_in_points() -> None:
    arms = {
        name: {"seeds": [{"accuracy": a} for a in values]}
        for name, values in {"first": (0.5, 0.7, 0.9), "second": (0.4, 0.7, 0.7)}.items()
    }
    (found,) = compare(arms, [("title", "first", "second")], "accuracy")
    assert found.mean == pytest.approx(10)
    assert (found.wins, found.n) == (2, 3)
    assert (found.low + found.high) / 2 == pytest.approx(10)


def test_the_correction_counts_what_is_called_a_difference() -> None:
    text = correction([of(1, 0.1, 0.001), of(1, 0.1, 0.02), of(1, 2, 0.001)])
    assert text.startswith("3 comparisons") and "1 of the 2 differences" in text


@dataclass(frozen=True)
class Config:
    dataset: str = option("mnist", "")
    data_dir: str | None = option(None, "")
    num_seeds: int = option(4, "")
    doc: str | None = option(None, "")
    sizes: tuple[int, ...] = option((1, 2), "")
    epochs: int = option(3, "")
    out: str = option("a", "")
    resume: bool = option(False, "")
    overwrite: bool = option(False, "")


def test_the_command_names_what_decides_the_results() -> None:
    config = Config(data_dir="x", doc="d.md", sizes=(3, 4), out="b", resume=True)
    assert command_line("m", config) == "python -m m --dataset mnist --num-seeds 4 --sizes 3,4 --doc d.md"
