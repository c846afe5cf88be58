"""What hunts find on MNIST: a thousand seeds, the portfolio, and the check against masked dense networks.

python -m experiments.seed_hunt_results --dataset mnist --doc docs/results/seed_hunt.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments._cli import run_main
from experiments._options import check_document, option, run_values
from experiments._shown import number
from experiments.seed_hunt import Config as HuntConfig
from jaxnet.errors import InputError
from jaxnet.files import user_path


@dataclass(frozen=True)
class Config:
    """Two hunts and a reference, and the document of what came out."""

    dataset: str = option("mnist", "data set by name, or path of an .npz file or a folder of IDX files")
    data_dir: str | None = option(None, "folder of tensorflow-datasets (default: $JAXNET_DATA_DIR)")
    num_seeds: int = option(1000, "seeds of the hunt of one architecture")
    portfolio_seeds: int = option(20, "seeds of every architecture of the portfolio")
    reference_seeds: int = option(
        64, "seeds of the first hunt that are also trained as masked dense networks"
    )
    epochs: int = option(5, "passes over the training samples", "epochs")
    kernel: str = option("auto", "sparse product: auto, dense or csr")
    doc: str | None = option(None, "also write what was found as Markdown to this file, plots beside it")
    out: str = option("checkpoints/seed_hunt_results", "folder for the hunts, one in a folder each")
    resume: bool = option(False, "keep what is in --out: finished hunts are read, an unfinished one goes on")
    overwrite: bool = option(False, "replace the hunts in --out")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if not 2 <= self.reference_seeds <= self.num_seeds:
            raise InputError(
                f"--reference-seeds must be at least 2 and at most --num-seeds: {self.reference_seeds}"
            )
        check_document(self.doc)


def hunt_config(config: Config, name: str, **changes: Any) -> HuntConfig:
    """One of the hunts."""
    return HuntConfig(**{**run_values(config, name), "epochs": config.epochs, **changes})


def main(config: Config) -> dict[str, Any]:
    """Runs both hunts and the reference; writes the document."""
    from experiments import seed_hunt
    from experiments._hunt_document import compare, write_document
    from experiments._hunt_reference import masked_dense_accuracy
    from experiments._hunt_table import HuntTable
    from experiments._population import load
    from jaxnet.files import read_json, write_json

    many = hunt_config(config, "many-seeds", num_seeds=config.num_seeds)
    portfolio = hunt_config(config, "portfolio", num_seeds=config.portfolio_seeds, portfolio=True)
    summaries = {"many": seed_hunt.main(many), "portfolio": seed_hunt.main(portfolio)}
    hunts = {"many": many, "portfolio": portfolio}
    rows = {name: HuntTable(user_path(hunt.out)).read()[0] for name, hunt in hunts.items()}
    stored = user_path(config.out) / "reference.json"
    if config.resume and stored.exists():
        accuracy = read_json(stored)["accuracy"]
    else:
        accuracy = masked_dense_accuracy(many, load(many), config.reference_seeds)
        write_json(stored, {"accuracy": accuracy})
    by_seed = {row["seed"]: row["accuracy"] for row in rows["many"]}
    agreement = compare([by_seed[many.seed + i] for i in range(len(accuracy))], accuracy)
    print(
        f"hunt against masked dense, {agreement['n']} seeds: mean difference "
        f"{number(agreement['mean'], '+.3f')} points, largest {number(agreement['largest'])}"
    )
    if config.doc is not None:
        write_document(user_path(config.doc), config, summaries, rows, agreement)
    return {"summaries": summaries, "agreement": agreement}


if __name__ == "__main__":
    run_main(main, Config, prog="python -m experiments.seed_hunt_results", description=__doc__)
