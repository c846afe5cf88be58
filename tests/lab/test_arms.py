"""Arms of a comparison: each is trained on the data that its own flags ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet import lab


@dataclass(frozen=True)
class Config(lab.RunFlags, lab.SeedFlags, lab.DataFlags):
    """A study that looks at its data and trains nothing."""


def look(run: lab.Run[Config]) -> lab.Found:
    split = run.split("train")
    entry = {"seed": 0, "diverged": False, "size": split.size, "mean": float(abs(split.mean).sum())}
    return lab.Found({"one": [entry]})


STUDY = lab.Study("looking", Config, look)


def test_arms_of_other_data_get_them(tmp_path: Path) -> None:
    config = Config(dataset="digits", num_seeds=1, out=str(tmp_path))
    arms: dict[str, Any] = {
        "plain": {},
        "pixels": {"normalise": "pixels"},
        "seed": {"protocol": "seed"},
        "again": {},
    }
    found = lab.run_arms(STUDY, arms, config)
    seen = {name: one["arms"]["one"]["seeds"][0] for name, one in found.items()}
    assert seen["plain"]["mean"] > 0 == seen["pixels"]["mean"]
    assert seen["seed"]["size"] > seen["plain"]["size"]  # nothing is held out
    assert seen["again"] == seen["plain"]
