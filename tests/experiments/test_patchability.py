"""``experiments.patchability``: wrong input, what hunts take, and (slow) a small run to the document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import _patchability_run as runs
from experiments.patchability import CONTROLS, Config
from jaxnet.lab import run_main

WRONG = [
    (["--num-seeds", "30"], "--num-seeds 30 are no whole hunts of 16: give a multiple"),
    (["--patch-kinds", "mlp,mlp"], "--patch-kinds must be some of mlp, dense, each once"),
    (["--sizes", "64,10"], "--sizes needs three or more positive sizes"),
    (["--dataset", "digits", "--max-patches", "300"], "--max-patches 300: the widest hidden layer has 256"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG)
def test_wrong_input_is_one_line(flags: list[str], said: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(CONTROLS.main, Config, [*flags, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_hunts_take_the_best_the_median_and_the_worst() -> None:
    config = runs.PatchedConfig(num_seeds=6, hunt_size=3)
    score = np.array([1.0, 3.0, 2.0, 5.0, 9.0, 4.0])
    gone = np.array([False, False, False, False, True, False])  # the best of the second hunt has diverged
    columns = dict.fromkeys(runs.CRITERIA.values(), score)
    arms = runs.hunts(config, columns, {"gain": np.where(gone, np.nan, 10 * score)}, gone)
    assert set(arms) == set(runs.arms_of_hunts())
    taken = {place: [e["gain"] for e in arms[f"patchability: {place}"]] for place in runs.PLACES}
    assert taken == {"top": [30, 50], "middle": [20, 40], "bottom": [10, 40]}
    assert [e["gain"] for e in arms["all"]] == [20, 45] and not arms["all"][1]["diverged"]


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    config = Config(
        dataset="digits",
        sizes=(64, 48, 32, 10),
        density=0.15,
        num_seeds=24,
        hunt_size=2,
        scaffold_epochs=2,
        patch_epochs=2,
        permutations=20,
        out=str(tmp_path / "out"),
        doc=str(tmp_path / "patchability.md"),
    )
    found = CONTROLS.main(config)
    for summary in found["groups"]["runs"].values():
        seeds = summary["arms"]["scaffolds"]["seeds"]
        assert len(seeds) == 24 and all(
            s["gain"] == pytest.approx(s["accuracy"] - s["scaffold"]) for s in seeds
        )
        assert all(0 <= s["predictors"]["described score"] <= 90 for s in seeds)  # units and logits
        best = max(s["predictors"]["accuracy"] for s in seeds[:2])
        first = summary["arms"]["accuracy: top"]["seeds"][0]
        assert first["scaffold"] in [s["scaffold"] for s in seeds[:2] if s["predictors"]["accuracy"] == best]
        assert set(summary["predicted"]) == set(runs.TARGETS)
    text = (tmp_path / "patchability.md").read_text()
    assert "Two regimes?" in text and "erdos-renyi" in text and "no verdict" not in text
