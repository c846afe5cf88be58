"""The benchmark for accelerators: its arithmetic with times made up, its flags, a whole small run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from benchmarks import _sweep_jax, gpu
from benchmarks.seed_sweep import dense_flops
from jaxnet.errors import InputError
from jaxnet.sweep import Plan

SECONDS = {"f32": 0.5, "tf32": 0.25, "bf16": 0.125}


class MadeUp:
    """A sweep whose epoch takes what :data:`SECONDS` says, for one seed."""

    accuracy = 0.875

    def __init__(
        self, work: _sweep_jax.Work, loaded: Any, chunk: int, epochs: int, kernel: str, precision: str
    ) -> None:
        assert kernel == "dense" and work.batch == 64
        self.program = SimpleNamespace(plan=Plan(chunk - 1, 1, 3 * 2**20, 2**30))
        self.seconds = SECONDS[precision] * epochs

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.cpu
def test_rates_ratios_and_the_device(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_sweep_jax, "Sweep", MadeUp)
    file = tmp_path / "gpu.json"
    result = gpu.main(gpu.Config(dataset="digits", chunks=(8,), epochs=2, repeats=3, json=str(file)))
    assert result["ratios"] == {"c8.tf32_vs_f32": 2.0, "c8.bf16_vs_f32": 4.0}
    found = result["by_chunk"]["c8"]["bf16"]
    assert found["chunk"] == 7 and found["bytes_per_call"] == 3 * 2**20  # as planned, not as asked for
    assert found["seeds_per_second"]["values"] == [1 / 0.625] * 3  # 5 epochs of 0.125 s
    samples = 1438  # what digits has to train on without a validation split
    # of the 128 hidden units no more than 26 can be read by the 25 weights of the output layer
    expected = dense_flops((64, 26, 10), samples) / 0.625e9
    assert found["gflops"]["median"] == pytest.approx(expected)
    assert json.loads(file.read_text())["ratios"] == result["ratios"]
    said = capsys.readouterr().out
    device = jax.local_devices()[0]
    assert f"dense product on 1 x {device.device_kind} (cpu)" in said and "this is no accelerator" in said
    assert "dense bf16" in said and "4.00" in said and "87.5" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"repeats": 0}, "--repeats must be at least 1"),
        ({"chunks": ()}, "--chunks needs numbers"),
        ({"precisions": ("f32", "f16")}, "--precisions needs some of f32, tf32, bf16"),
        ({"density": 0.0}, "--density must be"),
        ({"json": "no/such/folder/result.json"}, "no such folder"),
    ],
)
def test_wrong_flags_are_rejected(wrong, words):
    with pytest.raises(InputError, match=words):
        gpu.Config(**wrong)


def test_a_result_is_shown_again_and_put_into_a_document(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_sweep_jax, "Sweep", MadeUp)
    file, doc = tmp_path / "gpu.json", tmp_path / "doc.md"
    doc.write_text("before\n<!-- gpu -->\nold\n<!-- end gpu -->\nafter\n")
    result = gpu.main(gpu.Config(dataset="digits", chunks=(8,), repeats=1, json=str(file)))
    said = capsys.readouterr().out
    assert gpu.main(gpu.Config(load=str(file), doc=str(doc))) == json.loads(json.dumps(result))
    assert capsys.readouterr().out == said
    text = doc.read_text()
    assert text.startswith("before\n<!-- gpu -->\ndigits, 128 hidden units") and "old" not in text
    assert "| dense bf16 | 7 | 3 |" in text and text.endswith("<!-- end gpu -->\nafter\n")


@pytest.mark.slow
def test_a_small_run_measures_everything(run_python, tmp_path):
    flags = {"dataset": "digits", "hidden": 8, "density": 0.2, "chunks": 2, "repeats": 1, "epochs": 5}
    flags |= {"precisions": "f32,bf16", "json": tmp_path / "gpu.json"}
    given = [f"--{name}={value}" for name, value in flags.items()]
    done = run_python("-m", "benchmarks.gpu", *given, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"]["platform"] == "cpu" and found["ratios"]["c2.bf16_vs_f32"] > 0
    assert 0.2 < found["by_chunk"]["c2"]["bf16"]["median_accuracy"] <= 1
