"""The choice between kernels: measured once, remembered, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from jaxnet import info
from jaxnet.kernels import choice, csr_library, dense_product

pytestmark = pytest.mark.cpu  # elsewhere there is no choice

SIZES, DENSITY, BATCH = [20, 12, 5], 0.2, 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own, which does not exist yet."""
    monkeypatch.setenv("JAXNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two kernels with made-up times (csr the faster one); returns the names of those measured."""
    calls: list[str] = []

    def fast(*args):
        raise AssertionError("nothing is computed here")

    def measure(product, *args):
        name = "dense" if product is dense_product else "csr"
        calls.append(name)
        return {"dense": 0.002, "csr": 0.001}[name]

    monkeypatch.setattr(choice, "PRODUCTS", {"dense": dense_product, "csr": fast})
    monkeypatch.setattr(choice, "_measure", measure)
    monkeypatch.setattr(csr_library, "instruction_set", lambda: "avx9")
    return calls


def test_the_faster_kernel_is_measured_once_per_task(measured: list[str]) -> None:
    assert choice.choose(SIZES, DENSITY, BATCH, 3) == "csr"
    assert choice.choose(SIZES, DENSITY, BATCH, 3) == "csr"
    assert sorted(measured) == ["csr", "dense"]
    choice.choose(SIZES, DENSITY, BATCH, 4)
    choice.choose(SIZES, DENSITY, BATCH + 1, 3)
    choice.choose(SIZES, 0.3, BATCH, 3)
    assert len(measured) == 8 and len(choice.remembered()) == 4
    (task, found) = sorted(choice.remembered().items())[0]
    assert "20x12:48 12x5:12" in task and "avx9" in task
    assert found == {"kernel": "csr", "seconds": {"csr": 0.001, "dense": 0.002}}


def test_the_number_of_threads_is_part_of_the_task(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice.choose(SIZES, DENSITY, BATCH)
    monkeypatch.setenv("JAXNET_NUM_THREADS", "777")
    choice.choose(SIZES, DENSITY, BATCH)
    assert len(measured) == 4


def test_a_damaged_file_counts_as_empty_and_is_replaced(measured: list[str], cache: Path) -> None:
    cache.mkdir()
    for text in (
        "",
        "{",
        "[1]",
        '{"task": {"kernel": 3}}',
        '{"task": {"kernel": "csr", "seconds": {"csr": "x"}}}',
    ):
        choice.choices_file().write_text(text)
        assert choice.remembered() == {}
        assert choice.choose(SIZES, DENSITY, BATCH) == "csr"
        assert len(json.loads(choice.choices_file().read_text())) == 1
    assert [file.name for file in cache.iterdir()] == ["kernel_choices.json"]  # nothing half-written


def test_a_folder_that_cannot_be_written_only_costs_the_memory(measured: list[str], cache: Path) -> None:
    cache.write_text("a file stands where the folder should be")
    assert choice.choose(SIZES, DENSITY, BATCH) == "csr"
    assert choice.choose(SIZES, DENSITY, BATCH) == "csr"
    assert len(measured) == 4


def test_a_remembered_kernel_that_is_gone_is_not_chosen(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice.choose(SIZES, DENSITY, BATCH) == "csr"
    monkeypatch.setattr(choice, "PRODUCTS", {"dense": dense_product})
    assert choice.choose(SIZES, DENSITY, BATCH) == "dense"


def test_off_the_cpu_it_is_dense_without_measuring(measured: list[str]) -> None:
    class Accelerator:
        platform = "gpu"

    assert choice.choose(SIZES, DENSITY, BATCH, device=Accelerator()) == "dense"
    assert measured == []


@pytest.mark.parametrize(("density", "times"), [(0.1, 0), (0.11, 2)])
def test_where_csr_always_wins_nothing_is_measured(measured: list[str], density: float, times: int) -> None:
    assert choice.choose([20, 10, 10], density, BATCH) == "csr"
    assert len(measured) == times


def test_wrong_arguments_are_rejected(measured: list[str]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        choice.choose(SIZES, DENSITY, 0)
    with pytest.raises(ValueError, match="density must be above 0"):
        choice.choose(SIZES, 0.0, 1)
    assert measured == []


@pytest.mark.skipif(not csr_library.available(), reason=csr_library.problem())
def test_a_real_measurement_chooses_the_smaller_time() -> None:
    chosen = choice.choose(SIZES, DENSITY, BATCH, 2, device=jax.devices("cpu")[0])
    (found,) = choice.remembered().values()
    assert set(found["seconds"]) == {"csr", "dense"} and min(found["seconds"].values()) > 0
    assert found["seconds"][chosen] == min(found["seconds"].values())


def test_info_shows_and_clears_the_choices(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    info.main(["--kernel-choices"])
    assert capsys.readouterr().out == "no kernel choices remembered\n"
    choice.choose(SIZES, DENSITY, BATCH, 3)
    info.main(["--kernel-choices"])
    shown = capsys.readouterr().out
    assert shown.startswith("csr: layers 20x12:48 12x5:12, batch 4, seeds 3,")
    assert "dense 2 ms" in shown and "csr 1 ms" in shown
    info.main(["--clear-kernel-choices"])
    assert capsys.readouterr().out == "1 kernel choices forgotten\n"
    assert choice.remembered() == {}
    info.main(["--clear-kernel-choices"])  # nothing there is no error
    assert capsys.readouterr().out == "0 kernel choices forgotten\n"


def test_info_reports_versions_and_the_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info.main([])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["jax"] == jax.__version__ and "cpu" in lines["devices"] and "dense" in lines["kernels"]
    monkeypatch.setattr(csr_library, "_LIBRARY", None)
    monkeypatch.setattr(csr_library, "_PROBLEM", "it was not built: install again")
    assert "csr kernel: not there: it was not built: install again" in info.report().splitlines()
