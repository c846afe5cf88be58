"""``experiments.circuits``: wrong input, the rule for "faithful", a small run killed and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import circuits
from tests.experiments.stopped import stopped_and_continued
from tests.experiments.wrong_input import assert_refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--fraction", "1"], "--fraction must be below 1: 1.0"),
        (["--samples", "3"], "has no samples among the first 3 of digits"),
        (["--densities", "0.1,0.1"], "--densities must be different"),
        (["--from-checkpoint", "nowhere"], "there is no such folder"),
        (["--sizes", "784,20,10"], "does not fit digits"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    assert_refused(circuits.CONTROLS.main, circuits.Config, flags, said, tmp_path / "run", capsys)


def summary(mine: float, shuffled: float | None, untrained: float | None, *, held: float) -> dict[str, Any]:
    """Of three seeds with two classes, of equal sizes but for a little."""

    def arm(size: float | None) -> dict[str, Any]:
        by_class = [size, None if size is None else size * 1.1]
        seeds = [
            {
                "by_class": by_class,
                "size": size,
                "never": float(size is None),
                "held": held,
                "diverged": False,
            }
            for _ in range(3)
        ]
        return {"seeds": seeds, "aggregate": {"size": {"mean": size}}}

    sizes = mine, shuffled, untrained
    return {"arms": dict(zip(circuits.ARMS, map(arm, sizes), strict=True))}


@pytest.mark.parametrize(
    ("sizes", "held", "faithful"),
    [
        ((0.1, 0.3, 0.2), 1.05, True),
        ((0.1, 0.3, 0.19), 1.05, False),  # more than half of an untrained network's
        ((0.1, 0.3, 0.2), 1.11, False),  # the rest matters
        ((0.1, 0.3, None), 1.0, False),  # nonsense that never gets there is no pass
    ],
)
def test_faithful_is_said_where_the_rule_holds(sizes, held, faithful):
    found = summary(*sizes, held=held)
    rule = circuits.faithful(found)
    assert rule["faithful"] is faithful
    line = circuits.said(found)
    assert ("not shown to be faithful" in line) is not faithful


@pytest.mark.slow
def test_a_small_run_killed_and_continued_ends_with_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    config = circuits.Config(
        sizes=(64, 12, 8, 10), densities=(0.5,), num_seeds=2, epochs=2, shuffled_epochs=1, samples=100,
        chunks=4, nodes=2, kernel="dense", out=str(tmp_path / "whole"), doc=str(tmp_path / "circuits.md"),
    )  # fmt: skip
    whole, found = (
        groups["circuits"]["0.5"]
        for groups in stopped_and_continued(
            lambda config: circuits.CONTROLS.main(config)["groups"],
            config,
            (2, 9),
            tmp_path / "killed",
            monkeypatch,
        )
    )
    assert list(whole["arms"]) == [*circuits.ARMS, *circuits.AGAIN]
    assert (tmp_path / "circuits.md").read_text().startswith("# Circuits of sparse networks")
    for part in ("arms", "overlaps", "images"):
        assert json.dumps(found[part]) == json.dumps(whole[part])
