"""Networks that diverged: counted and named, in no mean, ranking or comparison; how that is shown."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from jaxnet import lab
from jaxnet.lab import shown
from jaxnet.lab.compare import compare
from jaxnet.lab.report import comparison_table
from jaxnet.lab.stages import median_note

NAN = math.nan


def test_how_they_are_shown() -> None:
    assert doctest.testmod(shown).failed == 0
    assert shown.diverged_line([], 4) is None
    line = shown.diverged_line(list(range(20)), 20)
    assert line is not None and "20 of 20 networks (seeds 0, 1, " in line and "and 12 more" in line
    assert median_note(np.array([NAN, 0.5, 0.7])) == "median 0.6000, 1 diverged"
    assert median_note(np.array([NAN])) == "no accuracy, 1 diverged"


def test_pairs_are_left_out_and_counted() -> None:
    arms = {
        name: {"seeds": [{"accuracy": a} for a in values]}
        for name, values in {"a": (0.5, None, 0.9), "b": (0.4, 0.1, 0.7), "c": (None, NAN, None)}.items()
    }
    asked = [lab.Question("a", "b", "accuracy", "first"), lab.Question("a", "c", "accuracy", "second")]
    found, nobody = compare(arms, asked)
    assert (found.n, found.not_finite, found.wins) == (2, 1, 2)
    assert found.difference == pytest.approx(0.15)
    assert (nobody.n, nobody.not_finite, nobody.verdict) == (0, 3, "no verdict")
    assert comparison_table([found, nobody]).splitlines()[2:] == [
        "| first | +15.00 | -48.53 .. +78.53 | 2/2 (1 left out) | 0.5 | 0.5 "
        "| no verdict (2 pairs, 12 needed) |",
        "| second | - | - | 0/0 (3 left out) | - | - | no pair left to compare |",
    ]
