"""``experiments.compress``: wrong input, equal weights, a small run killed and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from experiments import _compress_shown, compress
from jaxnet.kernels import PRODUCTS
from tests.experiments.hunts import Hunted
from tests.experiments.stopped import stopped_and_continued
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


def test_scores_and_scopes_are_those_of_the_library():
    from jaxnet.compress import SCOPES, SCORES

    assert SCORES == _compress_shown.SCORES
    assert set(SCOPES) == set(get_args(get_type_hints(compress.Config)["per"]))


@pytest.mark.slow
def test_a_small_run_killed_and_continued_ends_with_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    config = compress.Config(
        sizes=(64, 12, 8, 10), ratios=(0.8,), num_seeds=2, epochs=3, facts=20, facts_epochs=1,
        samples=120, bits=(3.0,), out=str(tmp_path / "whole"), doc=str(tmp_path / "compress.md"),
    )  # fmt: skip
    whole, found = stopped_and_continued(
        compress.STUDY.main, config, (4, 6), tmp_path / "killed", monkeypatch
    )
    assert (tmp_path / "compress.md").read_text().startswith("# Compression that knows")
    assert {q["first"] for q in whole["comparisons"]} <= set(whole["arms"])
    assert json.dumps(found["arms"]) == json.dumps(whole["arms"])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_a_hunts_winner_is_compressed(hunted: Hunted, kernel: Any, tmp_path: Path) -> None:
    if kernel not in PRODUCTS:
        pytest.skip("the csr kernel is not available here")
    winner = hunted.summary["winners"][0]
    config = compress.Config(
        from_checkpoint=str(hunted.folder / winner["path"]), kernel=kernel, num_seeds=2, ratios=(0.5,),
        bits=(3.0,), samples=120, out=str(tmp_path / "run"),
    )  # fmt: skip
    found = compress.STUDY.main(config)
    assert found["kernel"] == kernel and found["weights"] == winner["nonzeros"]
    assert {q["first"] for q in found["comparisons"]} <= set(found["arms"])
    assert not [
        arm for arm in found["arms"] if "facts" in arm or "scratch" in arm
    ]  # there is but one network
