"""Rows of a run as TensorBoard scalars: ``python -m jaxnet.lab.tensorboard OUT`` (extra ``tensorboard``).

A curve per network below ``OUT/tensorboard``, for every number of its rows, by epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.store.folder import METRICS, read_rows


@dataclass(frozen=True)
class Config(Flags):
    """Writes the rows of a run as TensorBoard scalars."""

    out: str = option("checkpoints/run", "folder of the run")


def export(rows: Sequence[Mapping[str, Any]], folder: Path) -> int:
    """Writes rows as scalars; returns how many networks there are. InputError: the package is missing."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("tensorboardX is not installed: pip install tensorboardX") from None
    networks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = "/".join(str(row[key]) for key in ("phase", "arm") if key in row)
        networks.setdefault(f"{name}/seed-{row['seed']}".lstrip("/"), []).append(row)
    for name, mine in networks.items():
        with SummaryWriter(str(folder / name)) as writer:
            for row in mine:
                for key in (key for key, value in row.items() if isinstance(value, float)):
                    writer.add_scalar(key, row[key], row["epoch"])
    return len(networks)


def main(config: Config) -> None:
    """Reads the rows of a folder and writes them beside."""
    out = user_path(config.out)
    rows = read_rows(out / METRICS)
    if not rows:
        raise InputError(f"{out}: there are no rows here: give the folder that --out named")
    print(f"{export(rows, out / 'tensorboard')} networks in {out / 'tensorboard'}")


if __name__ == "__main__":
    run_main(main, Config, prog="python -m jaxnet.lab.tensorboard", description=__doc__)
