"""Accuracy against weights: every kind has as many weights as the density says, and the picture is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.accuracy_by_weights import STUDY, Config, small_hidden
from jaxnet.lab.run import run_study
from tests.experiments.patched import compiling_once


def test_a_small_dense_network_has_as_many_weights() -> None:
    assert small_hidden((784, 256, 128, 10), 1.0) == (256, 128)
    wide, narrow = small_hidden((784, 256, 128, 10), 0.02)
    wanted = 0.02 * (784 * 256 + 256 * 128 + 128 * 10)
    assert abs(784 * wide + wide * narrow + narrow * 10 - wanted) <= 784 / 2 + 2 * wide


@pytest.mark.slow
def test_all_kinds_on_digits(tmp_path: Path, xla_cache: Path) -> None:
    out = str(tmp_path / "out")
    config = Config(hidden=(24, 12), densities=(0.1,), epochs=2, num_seeds=2, kernel="dense", out=out)
    with compiling_once(xla_cache):
        summary, _ = run_study(STUDY, config, report=lambda line: None)
    weights = {name: [seed["weights"] for seed in arm["seeds"]] for name, arm in summary["arms"].items()}
    sparse = round(0.1 * (64 * 24 + 24 * 12 + 12 * 10))
    for kind in ("uniform", "erdos-renyi", "rigl"):
        assert weights[f"{kind} 0.1"] == pytest.approx([sparse] * 2, abs=1)
    assert weights["small 0.1"] == [64 * 3 + 3 * 2 + 2 * 10] * 2
    assert weights["dense"] == [64 * 24 + 24 * 12 + 12 * 10] * 2
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 0
