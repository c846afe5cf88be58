"""The checks that all configurations share: what passes, and what a refusal says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks._report import check_output
from experiments import _options as options
from jaxnet.errors import InputError

GOOD = {
    "epochs": 3,
    "lr": 0.1,
    "density": 1.0,
    "patience": None,
    "seed": 2**32 - 8,
    "num_seeds": 8,
    "data_seed": 0,
    "out": "x",
    "resume": True,
    "overwrite": False,
}


def check(**changes: object) -> None:
    config = SimpleNamespace(**{**GOOD, **changes})
    options.check_at_least(config, epochs=1, patience=1)
    options.check_fractions(config, "density")
    options.check_positive(config, "lr", "patience")
    options.check_seeds(config)
    options.check_folder(config)


def test_what_is_at_the_bounds_passes() -> None:
    check()
    check(epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1: 0"),
        ({"density": 0.0}, "--density must be above 0 and at most 1: 0.0"),
        ({"density": float("nan")}, "--density must be above 0 and at most 1: nan"),
        ({"lr": float("inf")}, "--lr must be above 0: inf"),
        ({"lr": 0.0}, "--lr must be above 0: 0.0"),
        ({"seed": 2**32 - 7}, "seeds must be below 2**32"),
        ({"data_seed": 2**32}, "seeds must be below 2**32"),
        ({"overwrite": True}, "--resume and --overwrite exclude each other"),
        ({"out": " "}, "--out must name a folder"),
        ({"out": "~nobody-here/x"}, "~nobody-here/x: there is no home folder ~nobody-here"),
    ],
)
def test_what_is_beyond_them_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check(**changes)
    assert message in str(caught.value)


def test_home_folders_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options.check_document("~/results.md")
    check_output("~/result.json")
    with pytest.raises(InputError, match=f"--doc: the folder {tmp_path}/docs does not exist"):
        options.check_document("~/docs/results.md")
    config = SimpleNamespace(
        dataset="d", data_dir=None, kernel="csr", out="~/o", resume=True, overwrite=False, doc="x"
    )
    assert options.run_values(config, "arm")["out"] == f"{tmp_path}/o/arm"


def test_no_script_takes_a_path_as_it_was_given() -> None:
    # jaxnet.files.user_path does what a shell leaves out
    root = Path(options.__file__).parent.parent
    taken = re.compile(r"\bPath\(\w+\.(out|doc|json|load|data_dir|from_checkpoint|dataset)\)")
    sources = [*root.glob("experiments/*.py"), *root.glob("benchmarks/*.py")]
    assert sources and [path.name for path in sources if taken.search(path.read_text())] == []


def test_the_runs_of_a_document_have_folders_of_their_own() -> None:
    config = SimpleNamespace(
        dataset="d", data_dir=None, kernel="csr", out="o", resume=True, overwrite=False, doc="x"
    )
    values = options.run_values(config, "to--Erdős, 95 %")
    assert values.pop("out") == "o/to--erds--95--"
    assert values == {
        "dataset": "d",
        "data_dir": None,
        "kernel": "csr",
        "resume": True,
        "overwrite": False,
    }
