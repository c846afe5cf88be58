"""``experiments.forgetting``: wrong input, what is chosen, a small run killed and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import forgetting
from experiments._forgetting_arms import METHODS, ArmConfig, settle_arm
from jaxnet import data
from jaxnet.errors import InputError
from tests.experiments.wrong_input import assert_refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "1"], "--tasks must be at least 2: 1"),
        (["--stream", "split", "--tasks", "11"], "--tasks 11: digits has 10 classes to split"),
        (["--methods", "row-projection", "--dials", "1.5"], "energy of row-projection must be above 0"),
        (["--buffer", "0"], "--buffer must be at least 1: 0"),
        (["--methods", "prayer"], "unknown method 'prayer'"),
        (["--densities", "0.1,0.1"], "--densities must be different"),
        (["--dials", "1,0"], "--dials must be numbers above 0, or METHOD=number: 0"),
        (["--dials", "ewc=much"], "--dials must be numbers above 0, or METHOD=number: ewc=much"),
        (["--dials", "prayer=1"], "--dials: unknown method 'prayer'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    assert_refused(forgetting.CONTROLS.main, forgetting.Config, flags, said, tmp_path / "run", capsys)


def test_methods_are_those_of_the_library():
    from jaxnet.continual import LEARNERS

    assert tuple(LEARNERS) == METHODS and all(len(learner.values) == 4 for learner in LEARNERS.values())


def test_the_dial_that_learns_as_well_and_keeps_most_is_chosen():
    def tried(*found: tuple[float, float, float]) -> list[dict[str, Any]]:
        return [{"dial": d, "learning": a, "accuracy": b} for d, a, b in found]

    some = tried((1, 0.95, 0.6), (2, 0.947, 0.8), (3, 0.9, 0.9))
    assert forgetting.choose("naive", some, None, 0.005) == (1, False)
    assert forgetting.choose("ewc", some, 0.95, 0.005) == (2, True)
    assert forgetting.choose("ewc", some, 0.99, 0.005) == (3, False)


def test_dials_are_of_all_methods_or_of_one():
    assert forgetting.dials_of(("0.5", "ewc=10", "ewc=100")) == {"": (0.5,), "ewc": (10, 100)}
    assert forgetting.dials_of(("ewc=10",)) == {"ewc": (10,)}
    with pytest.raises(InputError, match="one or more numbers"):
        forgetting.Config(dials=())


def test_small_layers_have_no_room_for_patches():
    digits = data.load("digits")
    with pytest.raises(InputError, match="20 units or more"):
        settle_arm(ArmConfig(arm="patches", sizes=(64, 10, 10), density=0.5, kernel="dense"), digits)


@pytest.mark.slow
def test_a_small_run_is_compared_and_written(tmp_path: Path) -> None:
    doc = tmp_path / "forgetting.md"
    config = forgetting.Config(
        sizes=(64, 24, 20, 10), tasks=2, methods=("naive", "ewc", "free-weights"), densities=(0.5,),
        num_seeds=2, trial_seeds=1, look=20, kernel="dense", out=str(tmp_path / "run"), doc=str(doc),
    )  # fmt: skip
    found = forgetting.CONTROLS.main(config)
    runs = found["groups"]["0.5"]
    assert list(runs) == ["0.5: naive", "0.5: ewc", "0.5: free-weights"]
    assert all(len(run["tried"]) == 4 for run in runs.values())
    tuned = 1e-3 * runs["0.5: naive"]["dial"]
    assert [run["config"]["lr"] for run in runs.values()] == [1e-3, tuned, tuned]
    for comparison in found["comparisons"]:
        assert comparison.question.primary == runs[comparison.question.first]["matched"]
    text = doc.read_text()
    assert "Told which task a sample is from" in text and "python -m experiments.forgetting" in text


@pytest.mark.slow
def test_every_method_runs_and_is_sound(tmp_path: Path) -> None:
    config = forgetting.Config(
        sizes=(64, 24, 20, 10), tasks=2, methods=("all",), densities=(0.5,), dials=("0.5",), num_seeds=2,
        look=20, epochs=4, batch_size=32, kernel="dense", out=str(tmp_path / "run"),
    )  # fmt: skip
    runs = forgetting.CONTROLS.main(config)["groups"]["0.5"]
    assert [name.split(": ")[1] for name in runs] == list(METHODS)
    learned = [arm["aggregate"]["learning"]["mean"] for run in runs.values() for arm in run["arms"].values()]
    assert min(learned) > 0.2
