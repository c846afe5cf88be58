"""The programs of examples/, run as they stand, and what they add to a program without jaxnet."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "least"),
    [pytest.param("linen_cnn", 0.85, marks=pytest.mark.slow), ("nnx_mlp", 0.85), ("equinox_mlp", 0.85)],
)
def test_ones_own_model_is_rewired(name, least, capsys):
    if name == "equinox_mlp":
        pytest.importorskip("equinox")
    accuracy = importlib.import_module(f"examples.{name}").main(epochs=6)
    assert accuracy >= least
    assert "weights" in capsys.readouterr().out
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert 0 < sum(line.endswith("  #") for line in lines) <= 15


@pytest.mark.slow
def test_the_head_of_ones_own_model_is_patched(capsys):
    before, after = importlib.import_module("examples.patched_head").main(epochs=3)
    assert 0.2 < before < 1 and 0.2 < after < 1
    assert "with patches" in capsys.readouterr().out


def test_a_study_of_ones_own_ends_with_a_document(tmp_path, capsys, standard_promotion):
    from examples.own_study import ARMS, STUDY, Config

    doc = tmp_path / "own.md"
    config = Config(num_seeds=12, epochs=2, kernel="dense", out=str(tmp_path / "run"), doc=str(doc))
    summary = STUDY.main(config)
    (asked,) = summary["comparisons"]
    assert asked["n"] == 12 and asked["verdict"] != "no verdict" and asked["p_holm"] is not None
    text, numbers = doc.read_text(), json.loads(doc.with_suffix(".json").read_text())
    flags = f"--dataset digits --num-seeds 12 --kernel dense --epochs 2 --doc {doc}"
    assert f"python -m examples.own_study {flags}\n" in text
    assert asked["verdict"] in text.replace("*", "") and "correlation over seeds" in text
    assert list(numbers["arms"]) == list(ARMS) and doc.with_suffix(".png").is_file()
    assert all(len(numbers["arms"][arm]["seeds"]) == 12 for arm in ARMS)
    assert asked["verdict"] in capsys.readouterr().out
