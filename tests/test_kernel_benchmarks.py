"""The benchmarks of one large network and of growing numbers: their sums by hand, flags, small whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, large_network, seed_scaling
from benchmarks._report import markdown, spread, write_section
from jaxnet.errors import InputError
from jaxnet.files import read_json
from jaxnet.kernels import csr_library


def test_crossover_by_hand():
    # the logarithm of the ratio falls from log 4 to log 1/4: half way, on a logarithmic axis
    assert large_network.crossover([0.01, 0.04], [4.0, 0.25]) == pytest.approx(0.02)
    assert large_network.crossover([0.01, 0.04, 0.16], [8.0, 2.0, 0.5]) == pytest.approx(0.08)
    assert large_network.crossover([0.01, 0.04], [4.0, 1.0]) == pytest.approx(0.04)
    assert large_network.crossover([0.01, 0.04], [4.0, 2.0]) is None
    assert large_network.crossover([0.01, 0.04], [0.5, 0.1]) == 0.0


def test_growth_by_hand():
    def row(seeds: int, csr: float) -> dict[str, object]:
        return {"grows": "seeds", "seeds": seeds, "seconds_per_step": {"csr": spread([csr])}}

    rows = [row(1, 5.0), row(4, 2.0), row(16, 8.0)]
    assert seed_scaling.growth(rows, "seeds", "csr") == pytest.approx(1.0)
    assert seed_scaling.growth(rows, "seeds", "dense") is None
    assert seed_scaling.growth(rows[:1], "seeds", "csr") is None


def test_a_section_of_a_document_is_replaced_and_nothing_else(tmp_path: Path):
    doc = tmp_path / "page.md"
    doc.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nafter\n")
    table = markdown(["x", "y"], [[1, None]])
    for _ in range(2):
        write_section(doc, "a", table)
        expected = "before\n<!-- a -->\n| x | y |\n| --- | --- |\n| 1 | - |\n<!-- end a -->\nafter\n"
        assert doc.read_text() == expected
    with pytest.raises(InputError, match="has no section from '<!-- b -->'"):
        write_section(doc, "b", table)


def test_the_table_of_a_gpu_is_that_of_its_numbers(tmp_path: Path):
    docs = Path(gpu.__file__).parents[1] / "docs"
    text, copy = (docs / "scaling.md").read_text(), tmp_path / "scaling.md"
    copy.write_text(text.replace("1468.393", "0"))
    gpu.report(read_json(docs / "results" / "gpu.json"), str(copy))
    assert copy.read_text() == text and "1468.393" in text


@pytest.mark.parametrize(
    ("config", "wrong", "words"),
    [
        (large_network.Config, {"steps": 0}, "--steps must be at least 1"),
        (large_network.Config, {"densities": (0.1, 0.01)}, "--densities must ascend"),
        (large_network.Config, {"densities": ()}, "--densities needs numbers"),
        (large_network.Config, {"hidden": (0,)}, "--hidden needs numbers"),
        (large_network.Config, {"json": "no/such/folder/result.json"}, "no such folder"),
        (large_network.Config, {"doc": "no/such/page.md"}, "no such file"),
        (seed_scaling.Config, {"others": 0}, "--others must be at least 1"),
        (seed_scaling.Config, {"seeds": (0,)}, "--seeds needs numbers"),
        (seed_scaling.Config, {"densities": (2.0,)}, "--densities needs numbers"),
        (seed_scaling.Config, {"memory": 0.0}, "--memory must be above 0"),
    ],
)
def test_wrong_flags_are_rejected(config, wrong, words):
    with pytest.raises(InputError, match=words):
        config(**wrong)


needs_csr = pytest.mark.skipif(not csr_library.available(), reason=csr_library.problem())


def run(run_python, tmp_path: Path, name: str, flags: dict[str, object]) -> dict[str, Any]:
    """Runs a benchmark, and once more on its own file to fill a document; returns what it found."""
    found, doc = tmp_path / "found.json", tmp_path / "page.md"
    doc.write_text(f"# Page\n<!-- {name} -->\n<!-- end {name} -->\n")
    given = [f"--{flag}={value}" for flag, value in (flags | {"json": found}).items()]
    done = run_python("-m", f"benchmarks.{name}", *given, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    again = run_python("-m", f"benchmarks.{name}", f"--load={found}", f"--doc={doc}", timeout=280)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout == done.stdout and "| --- |" in doc.read_text()
    result: dict[str, Any] = json.loads(found.read_text())
    return result


@needs_csr
@pytest.mark.slow
def test_a_small_large_network_measures_everything(run_python, tmp_path):
    pytest.importorskip("torch")
    flags = {"dataset": "digits", "hidden": "32,16", "densities": "0.1,0.5", "batch": 16}
    result = run(run_python, tmp_path, "large_network", flags | {"steps": 2, "repeats": 1})
    methods = [name for name in large_network.METHODS if name != "csr"]
    assert set(result["ratios"]) == {f"d{d}.csr_vs_{name}" for d in (0.1, 0.5) for name in methods}
    assert all(math.isfinite(value) and value > 0 for value in result["ratios"].values())
    assert {"crossover_dense", "crossover_torch_masked"} <= result.keys()


@needs_csr
@pytest.mark.slow
def test_a_small_scaling_measures_everything(run_python, tmp_path):
    flags = {"dataset": "digits", "seeds": "1,2", "densities": "0.1", "widths": "16", "others": 2}
    result = run(run_python, tmp_path, "seed_scaling", flags | {"batch": 16, "steps": 2, "repeats": 1})
    names = ("seeds1", "seeds2", "density0.1", "width16")
    assert set(result["ratios"]) == {f"{name}.csr_vs_dense" for name in names}
    for row in result["results"]:
        assert all(0 < row["program_bytes"][k] < row["peak_bytes"][k] for k in ("csr", "dense"))


@needs_csr
@pytest.mark.slow
def test_pytorch_sparse_layers_have_the_right_gradients():
    torch = pytest.importorskip("torch")
    from benchmarks import _large_torch as theirs

    torch.manual_seed(0)
    for way in theirs.WAYS:
        layer = theirs.SparseLinear(7, 5, 12, way)
        x = torch.randn(7, 4, requires_grad=True)
        layer(x).sin().sum().backward()
        values, copy = (a.detach().clone().requires_grad_() for a in (layer.values, x))
        dense = torch.zeros(5, 7).index_put((layer.rows, layer.cols), values)
        (dense @ copy + layer.bias.detach()).sin().sum().backward()
        torch.testing.assert_close(layer.values.grad, values.grad)
        torch.testing.assert_close(x.grad, copy.grad)
