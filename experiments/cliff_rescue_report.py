"""Both data sets of the cliff rescue in one document: every arm, paired seeds, whichever way it comes out.

python -m experiments.cliff_rescue_report --num-seeds 16 --kernel csr --doc docs/results/cliff_rescue.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import cliff_rescue as cliff
from jaxnet import lab
from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab import changed, option


@dataclass(frozen=True)
class Config(lab.DocumentFlags, lab.RunFlags):
    """Runs ``experiments.cliff_rescue`` on several data sets and writes the results down."""

    datasets: tuple[str, ...] = option(("cliff", "mnist"), "data sets by name")
    data_dir: str | None = changed(lab.DataFlags, "data_dir")
    num_seeds: int = changed(cliff.Config, "num_seeds")
    epochs: int = changed(cliff.Config, "epochs")
    seed_protocol: bool = option(True, "also as the original: best of all epochs, by test images")
    out: str = option("checkpoints/cliff_rescue_report", "folder for results, a run in a folder each")

    def check(self) -> None:
        """Raises InputError for data sets that cannot stand beside each other."""
        super().check()
        if not self.datasets or len(set(self.datasets)) != len(self.datasets):
            raise InputError("--datasets must be different names, at least one")

    def runs(self) -> dict[str, cliff.Config]:
        """The run of each data set, then of each under the protocol ``seed``."""
        flags = ("data_dir", "num_seeds", "epochs", "kernel", "resume", "overwrite")
        handed = {flag: getattr(self, flag) for flag in flags}
        found = {}
        for protocol in ("clean", "seed") if self.seed_protocol else ("clean",):
            for data in self.datasets:
                name = data if protocol == "clean" else f"{data}, protocol seed"
                how: dict[str, Any] = {
                    "dataset": data,
                    "protocol": protocol,
                    "out": str(user_path(self.out) / Path(name).name),
                }
                found[name] = cliff.Config(**how, **handed)
        return found


def run_all(config: Config) -> dict[str, Any]:
    """Runs every data set, and prints its table."""
    return {"data sets": {name: cliff.STUDY.main(run) for name, run in config.runs().items()}}


def questions(config: Config) -> list[lab.Question]:
    """What is asked of every data set: one family."""
    return [q for name in config.runs() for q in cliff.questions(tuple(cliff.ARMS), name)]


def draw(path: Path, config: Config, groups: Any, comparisons: Any) -> None:
    """Two plots for every data set."""
    from jaxnet.store import read_rows

    runs, found = config.runs(), groups["data sets"]
    with lab.plots.picture(path, len(runs), 2, size=(13, 4.4 * len(runs)), squeeze=False) as axes:
        for (left, right), (name, run) in zip(axes, runs.items(), strict=True):
            rows = read_rows(user_path(run.out) / "metrics.jsonl")
            cliff.draw_epochs(left, found[name], rows)
            cliff.draw_final(right, found[name], rows)


REPORT = Path(__file__).parent / "reports" / "cliff_rescue.md"
DOCUMENT = lab.Document(REPORT, lambda *_: {"arms": cliff.ARMS}, {"": draw})
CONTROLS = lab.Controls("cliff_rescue_report", Config, run_all, DOCUMENT, ("rescued",), questions=questions)

if __name__ == "__main__":
    CONTROLS.command(__doc__)
