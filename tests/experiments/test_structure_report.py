"""``experiments.structure_report``: wrong input, and (slow) a small report."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.structure_report import CONTROLS, PLACED, Config
from jaxnet.errors import InputError
from jaxnet.lab import run_main

WRONG = [
    (["--densities", "0.1,0.1"], "--densities must be different numbers, at least one"),
    (["--placed-sizes", "64,32,10"], "--placed-sizes needs four or more positive sizes (two hidden ones"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG)
def test_wrong_input_is_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(CONTROLS.main, Config, flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


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
