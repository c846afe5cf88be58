"""The programs of examples/, run as they stand, and what they add to a program without jaxnet."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "least"), [("linen_cnn", 0.85), ("nnx_mlp", 0.85), ("equinox_mlp", 0.85)])
def test_ones_own_model_is_rewired(name, least, capsys):
    if name == "equinox_mlp":
        pytest.importorskip("equinox")
    accuracy = importlib.import_module(f"examples.{name}").main(epochs=6)
    assert accuracy >= least
    assert "weights" in capsys.readouterr().out
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert 0 < sum(line.endswith("  #") for line in lines) <= 15


def test_the_head_of_ones_own_model_is_patched(capsys):
    before, after = importlib.import_module("examples.patched_head").main(epochs=3)
    assert 0.2 < before < 1 and 0.2 < after < 1
    assert "with patches" in capsys.readouterr().out
