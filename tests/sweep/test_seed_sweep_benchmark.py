"""The benchmark of the sweep: its bound by hand, its flags, and a whole small run where PyTorch is there."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.seed_sweep import METHODS, Config, dense_flops
from jaxnet.errors import InputError
from jaxnet.kernels import csr_library


def test_operations_of_dense_training_by_hand():
    # layer 1: forward and weights, 2 products of 3 * 2; layer 2 also the input, 3 of 2 * 1;
    # 2 operations each, 10 samples, 5 epochs
    assert dense_flops((3, 2, 1), 10) == 2 * (2 * 6 + 3 * 2) * 10 * 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"repeats": 0}, "--repeats must be at least 1"),
        ({"batches": ()}, "--batches needs numbers"),
        ({"batches": (64, 0)}, "--batches needs numbers"),
        ({"density": 0.0}, "--density must be"),
        ({"json": "no/such/folder/result.json"}, "no such folder"),
    ],
)
def test_wrong_flags_are_rejected(wrong, words):
    with pytest.raises(InputError, match=words):
        Config(**wrong)


@pytest.mark.slow
def test_a_small_run_measures_everything(run_python, tmp_path):
    pytest.importorskip("torch")
    if not csr_library.available():
        pytest.skip(csr_library.problem())
    flags = {"dataset": "digits", "batches": "32,64", "chunk": 4, "stack": 2, "epochs": 1, "steps": 2}
    flags |= {"repeats": 1, "json": tmp_path / "found.json"}
    given = [f"--{name}={value}" for name, value in flags.items()]
    done = run_python("-m", "benchmarks.seed_sweep", *given)
    assert done.returncode == 0, done.stderr[-2000:]
    ratios = json.loads((tmp_path / "found.json").read_text())["ratios"]
    expected = {f"b{b}.csr_vs_{name}" for b in (32, 64) for name in METHODS if name != "csr"}
    assert ratios.keys() == expected
    assert all(math.isfinite(value) and value > 0 for value in ratios.values())
    assert "jaxnet csr, 4 at once" in done.stdout
