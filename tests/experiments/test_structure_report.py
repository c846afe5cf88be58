"""``experiments.structure_report``: bars of a file, wrong input, and (slow) a small report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.structure_report import CONTROLS, PLACED, BarsConfig, Config, bars_main, command
from jaxnet.errors import InputError

WRONG = [
    (["bars", "nowhere.npz"], "nowhere.npz cannot be read as an NPZ file of matrices"),
    (["bars", "{good}", "--tol", "0"], "--tol must be above 0: 0.0"),
    (["bars", "{good}", "--tol", "2"], "the tolerance must be above 0 and below 1: 2.0"),
    (["bars", "{odd}"], "matrix 2 of 2 holds values that are not finite"),
    (["bars", "{close}"], "around the cut 1e-08 lie the singular values 2e-08 and 5e-09, a factor of 4"),
    (["--densities", "0.1,0.1"], "--densities must be different numbers, at least one"),
    (["--placed-sizes", "64,32,10"], "--placed-sizes needs four or more positive sizes (two hidden ones"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG)
def test_wrong_input_is_one_line(flags, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "good": [np.eye(2)],
        "odd": [np.eye(2), np.array([[np.inf, 0.0]])],
        "close": [np.diag([1.0, 2e-8, 5e-9])],
    }
    for name, mats in files.items():
        np.savez(tmp_path / f"{name}.npz", *mats)
    names = {name: str(tmp_path / f"{name}.npz") for name in files}
    with pytest.raises(SystemExit) as stopped:
        command([flag.format(**names) for flag in flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_the_bars_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", [[1.0, 0.0]], [[0.0], [2.0]])
    found = bars_main(
        BarsConfig(file=str(tmp_path / "m.npz"), picture=str(tmp_path / "m.png")), lambda line: None
    )
    assert found["bars"] == [[1, 0, 1], [0, 0, 0], [0, 0, 1]] and (tmp_path / "m.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_small_report(tmp_path: Path) -> None:
    doc = tmp_path / "structure.md"
    config = Config(
        densities=(0.2,),
        num_seeds=16,
        placed_seeds=12,
        epochs=2,
        out=str(tmp_path / "out"),
        doc=str(doc),
    )
    found = CONTROLS.main(config)
    predicted, placed = found["groups"]["0.2"]["0.2"], found["groups"][PLACED][PLACED]
    (arm,) = predicted["arms"].values()
    assert all(0 < s["live_inputs"] <= 64 and s["disjoint_paths"] <= 10 for s in arm["seeds"])
    assert predicted["rank_is_paths"] > 0.9 and set(predicted["along"]["checkpoints"]) == {
        "drawn",
        "first",
        "rest",
    }
    assert sum(placed["chosen"]["random"]) == 12
    for what in ("bottleneck", "extrema", "random"):  # a chosen layer is one of those at all places
        accuracy = [s["accuracy"] for s in placed["arms"][f"layer: {what}"]["seeds"]]
        places = [[s["accuracy"] for s in placed["arms"][f"layer-{k}"]["seeds"]] for k in (1, 2)]
        assert all(a in pair for a, *pair in zip(accuracy, *places, strict=True))
    text = doc.read_text()
    assert "patches at bottlenecks − extrema" in text and "live inputs" in text and "no verdict" not in text
    with pytest.raises(InputError, match="--resume"):
        CONTROLS.main(config)
