"""``experiments.compress``: wrong input, equal weights, a small run killed and continued."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

import jaxnet.store.checkpoint
from experiments import _rounds, compress
from tests.experiments.wrong_input import assert_refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ratios", "0.5,1"], "--ratios must be at least 0 and below 1: 1.0"),
        (["--ratios=-0.1"], "--ratios must be at least 0 and below 1: -0.1"),
        (["--keep", "1.5"], "--keep must be above 0 and at most 1: 1.5"),
        (["--bits", "0.5"], "a weight needs at least 1 bit"),
        (["--samples", "3"], "has no samples among the first 3"),
        (["--from-checkpoint", "nowhere"], "there is no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    assert_refused(compress.STUDY.main, compress.Config, flags, said, tmp_path / "run", capsys)


def test_scores_are_those_of_the_library():
    from jaxnet.compress import SCORES

    assert SCORES == compress.SCORES


@pytest.mark.slow
def test_a_small_run_killed_and_continued_ends_with_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(jaxnet.store.checkpoint, "OVERHEAD", math.inf)
    config = compress.Config(
        sizes=(64, 12, 8, 10), ratios=(0.8,), num_seeds=2, epochs=3, facts=20, facts_epochs=1,
        samples=120, bits=(3.0,), out=str(tmp_path / "whole"), doc=str(tmp_path / "compress.md"),
    )  # fmt: skip
    whole = compress.STUDY.main(config, report=lambda line: None)
    assert (tmp_path / "compress.md").read_text().startswith("# Compression that knows")
    assert {q["first"] for q in whole["comparisons"]} <= set(whole["arms"])
    save, left = _rounds.save, [0]

    def stopping(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return save(*args, **more)

    monkeypatch.setattr(_rounds, "save", stopping)
    again = dataclasses.replace(config, out=str(tmp_path / "killed"), doc=None)
    left[0] = 4
    with pytest.raises(KeyboardInterrupt):
        compress.STUDY.compute(again, report=lambda line: None)
    left[0] = -1
    found, _ = compress.STUDY.compute(dataclasses.replace(again, resume=True), report=lambda line: None)
    assert json.dumps(found["arms"]) == json.dumps(whole["arms"])
