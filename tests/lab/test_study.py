"""A study's folder: what was run before is read again, with the time that it took."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jaxnet import lab

DATA: Any = SimpleNamespace(name="none", fingerprint="0")


@dataclasses.dataclass(frozen=True)
class Config(lab.RunFlags, lab.SeedFlags):
    """Of a study that only takes time."""

    rounds: int = lab.option(1, "to go")


def takes_time(run: lab.Run[Config]) -> lab.Found:
    """Adds a row and a second for every round that is not there yet."""
    done = len(run.folder.read_rows())
    run.clock.add({"compile_seconds": 3.0, "run_seconds": float(done)})
    for number in range(done, run.config.rounds):
        run.folder.append_rows([{"epoch": number}])
        run.clock.add({"compile_seconds": 0.0, "run_seconds": 1.0})
    return lab.Found(
        {"only": [{"seed": 0, "diverged": False, "accuracy": 0.5}]}, timing={"pace": float(done)}
    )


def test_a_run_that_is_only_read_again_took_what_it_took(tmp_path: Path) -> None:
    study = lab.Study("takes_time", Config, takes_time, may_differ=("rounds",))

    def timing(rounds: int) -> object:
        config = Config(out=str(tmp_path / "run"), resume=True, rounds=rounds)
        return study.compute(config, report=lambda line: None, dataset=DATA)[0]["timing"]

    first = {"compile_seconds": 3.0, "run_seconds": 2.0, "pace": 0.0}
    assert timing(2) == first and timing(2) == first  # the second time nothing is new
    assert timing(3) == {"compile_seconds": 3.0, "run_seconds": 3.0, "pace": 2.0}
