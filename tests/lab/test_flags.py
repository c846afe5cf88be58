"""The checks that all configurations share: what passes, and what a refusal says."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks._report import check_output
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.lab.run import arm_values


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags, lab.TrainFlags, lab.SeedFlags, lab.NetworkFlags, lab.DataFlags):
    """All parts together."""

    epochs: int = lab.option(3, "of training", "epochs", least=1)
    densities: tuple[float, ...] = lab.option((0.1,), "tried", fraction=True)
    seed: int = lab.changed(lab.SeedFlags, "seed", 5, "another text")


def test_what_is_at_the_bounds_passes() -> None:
    config = Config(epochs=1, density=1.0, lr=None, seed=2**32 - 8, num_seeds=8, resume=True)
    assert config.seed == 2**32 - 8 and Config().seed == 5
    names = [f.name for f in dataclasses.fields(Config)]
    assert names[0] == "dataset" and names[-1] == "densities", "the last part named comes first"
    (seed,) = (f for f in dataclasses.fields(Config) if f.name == "seed")
    assert seed.metadata["help"] == "another text" and seed.metadata["least"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1: 0"),
        ({"density": 0.0}, "--density must be above 0 and at most 1: 0.0"),
        ({"density": float("nan")}, "--density must be above 0 and at most 1: nan"),
        ({"densities": (0.5, 1.5)}, "--densities must be above 0 and at most 1: 1.5"),
        ({"lr": float("inf")}, "--lr must be above 0: inf"),
        ({"lr": 0.0}, "--lr must be above 0: 0.0"),
        ({"seed": 2**32 - 7}, "seeds must be below 2**32"),
        ({"data_seed": 2**32}, "seeds must be below 2**32"),
        ({"overwrite": True, "resume": True}, "--resume and --overwrite exclude each other"),
        ({"out": " "}, "--out must name a folder"),
        ({"out": "~nobody-here/x"}, "~nobody-here/x: there is no home folder ~nobody-here"),
        ({"sizes": (4, 2)}, "--sizes needs three or more positive sizes"),
    ],
)
def test_what_is_beyond_them_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**changes)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_home_folders_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Config(doc="~/results.md")
    check_output("~/result.json")
    with pytest.raises(InputError, match=f"--doc: the folder {tmp_path}/docs does not exist"):
        Config(doc="~/docs/results.md")
    assert arm_values(Config(out="~/o"), "arm")["out"] == f"{tmp_path}/o/arm"


def test_no_script_takes_a_path_as_it_was_given() -> None:
    # jaxnet.files.user_path does what a shell leaves out
    root = Path(__file__).parents[2]
    taken = re.compile(r"\bPath\(\w+\.(out|doc|json|load|data_dir|from_checkpoint|dataset)\)")
    sources = [
        p for folder in ("experiments", "benchmarks", "jaxnet/lab") for p in root.glob(f"{folder}/*.py")
    ]
    assert sources and [path.name for path in sources if taken.search(path.read_text())] == []


def test_the_runs_of_a_document_have_folders_of_their_own() -> None:
    values = arm_values(Config(out="o", resume=True, kernel="csr"), "to--Erdős, 95 %")
    handed = {"dataset": "digits", "data_dir": None, "kernel": "csr", "resume": True, "overwrite": False}
    assert values == {**handed, "out": "o/to--erds--95--"}


def test_what_is_settled_is_not_asked_for_again() -> None:
    config = lab.settled(Config(density=None, lr=0.5), {"density": 0.3, "lr": 0.1, "nothing": 1})
    assert (config.density, config.lr) == (0.3, 0.5)
    assert lab.settled(config, {"density": 0.9}) is config
