"""``experiments.complex_report``: matrices of anyone, and wrong files in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import complex_report
from jaxnet.lab import run_main

SIDES = np.array([[-1.0, 0, -1], [1, -1, 0], [0, 1, 1]])
FACE = np.array([[1.0], [1], [-1]])
LEVELS = {"level0": np.ones(1, int), "level1": np.zeros(3, int), "level2": np.zeros(3, int)}


def report(folder: Path, *flags: str, **arrays: Any) -> str:
    """The report of a file with these arrays."""
    np.savez(folder / "d.npz", **arrays)
    given = [str(folder / "d.npz"), "--out", str(folder / "out"), *flags]
    run_main(complex_report.main, complex_report.Config, complex_report.arguments(given))
    return (folder / "out" / "report.md").read_text()


def test_a_filled_triangle(tmp_path: Path) -> None:
    pytest.importorskip("jaxnet.reach")
    said = report(tmp_path, face=FACE, sides=SIDES, **LEVELS)
    for line in (
        "| sides | 3 x 3 | 2 |",
        "Betti numbers: 0, 0, 1.",
        "They collapse at page 2.",
        "| 1 | 0 | 0 | 1 | 0 1 |",
        "| 0 | 0 | 0 | 1 | 0 | 0 | 1 |",
        "| 1 | 2 | 2 |",
    ):
        assert line in said
    assert (tmp_path / "out" / "barcode.png").stat().st_size > 1000


def test_layers_that_are_no_complex_and_a_cloud(tmp_path: Path) -> None:
    pytest.importorskip("jaxnet.reach")
    pytest.importorskip("gudhi")
    draw = np.random.default_rng(0)
    turn = np.linspace(0, 6, 30)
    cloud = np.stack([np.cos(turn), np.sin(turn)], 1)
    said = report(tmp_path, a=draw.normal(size=(6, 8)), b=draw.normal(size=(4, 6)), points=cloud)
    assert "This is no complex" in said and "30 points: 30 bars of pieces, 1 of holes" in said


@pytest.mark.parametrize(
    ("arrays", "flags", "said"),
    [
        ({"a": SIDES, "b": np.ones((2, 2))}, (), "maps 0 and 1 do not chain"),
        ({"a": np.full((2, 2), np.nan)}, (), "a holds values that are not finite"),
        ({"a": np.ones(3)}, (), "a must be a matrix of real numbers"),
        ({"level": np.ones(3, int)}, (), "needs one matrix or more"),
        (
            {"a": np.diag([1, 3e-9, 5e-10])},
            (),
            "the singular values 1, 3e-09, 5e-10, a gap of 6",
        ),
        (
            {"a": SIDES, "level0": np.zeros(3, int), "level1": np.ones(3, int)},
            (),
            "map 0 raises the level from 0",
        ),
        ({"a": SIDES}, ("--tol", "0"), "--tol must be above 0"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: Any, flags: Any, said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        report(tmp_path, *flags, **arrays)
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.npz").write_text("nothing")
    for path, said in ((tmp_path / "x.npz", "is no .npz file"), (tmp_path / "y.npz", "is no file")):
        with pytest.raises(SystemExit) as left:
            run_main(complex_report.main, complex_report.Config, complex_report.arguments([str(path)]))
        assert left.value.code == 2 and said in capsys.readouterr().err
