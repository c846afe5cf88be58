"""Both data sets of the cliff rescue in one document: every arm, paired seeds, whichever way it comes out.

python -m experiments.cliff_rescue_report --kernel csr --doc docs/results/cliff_rescue.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments._cli import run_main
from experiments._options import check_document, option
from experiments.cliff_rescue import Config as RunConfig
from jaxnet.errors import InputError
from jaxnet.files import user_path


@dataclass(frozen=True)
class Config:
    """Runs ``experiments.cliff_rescue`` on several data sets and writes the results down."""

    datasets: tuple[str, ...] = option(("cliff", "mnist"), "data sets by name")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: int = option(32, "networks in each arm")
    epochs: int = option(50, "epochs of training", "epochs")
    kernel: Literal["auto", "dense", "csr"] = option("auto", "sparse product; auto: the faster one here")
    doc: str | None = option(None, "write the results as Markdown to this file, a picture beside it")
    out: str = option("checkpoints/cliff_rescue_report", "folder for results, a run in a folder each")
    resume: bool = option(False, "keep what is in --out: finished runs are read, an unfinished one continued")
    overwrite: bool = option(False, "replace the runs in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if not self.datasets or len(set(self.datasets)) != len(self.datasets):
            raise InputError("--datasets must be different names, at least one")
        check_document(self.doc)
        self.runs()  # checks the rest

    def runs(self) -> dict[str, RunConfig]:
        """The run of each data set."""
        return {
            name: RunConfig(
                dataset=name,
                data_dir=self.data_dir,
                num_seeds=self.num_seeds,
                epochs=self.epochs,
                kernel=self.kernel,
                out=str(user_path(self.out) / Path(name).name),
                resume=self.resume,
                overwrite=self.overwrite,
            )
            for name in self.datasets
        }


def main(config: Config) -> None:
    """Runs every data set, prints the tables, writes the document."""
    from experiments._cliff_document import write_document
    from experiments.cliff_rescue import main as run

    summaries = {name: run(arguments) for name, arguments in config.runs().items()}
    if config.doc is not None:
        write_document(user_path(config.doc), config, summaries)


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.cliff_rescue_report", description=__doc__)
