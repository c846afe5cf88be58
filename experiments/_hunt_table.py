"""The table of a hunt: one Parquet file per call of a compiled program, whole or not at all.

``OUT/table/`` read as one Parquet data set is the table (for instance
``pandas.read_parquet("OUT/table")``). A part's name says which networks it
holds, so a hunt that was killed knows what is still to train: no row is lost,
none is there twice. With ``--halving`` a network has one row for every rung that
it reached, which ``epochs`` tells apart; the last one is what became of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, write_bytes

TABLE = "table"

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("architecture", pa.string()),
        ("group", pa.string()),
        ("density", pa.float64()),
        ("stage", pa.string()),
        ("epochs", pa.int32()),
        ("mask", pa.string()),
        ("split", pa.string()),
        ("accuracy", pa.float64()),
        ("loss", pa.float64()),
        ("high", pa.int32()),
        ("low", pa.int32()),
        ("extrema_score", pa.float64()),
        ("patchability", pa.float64()),
        ("efficiency", pa.float64()),
        ("dead", pa.float64()),
        ("saturated", pa.float64()),
        ("hidden", pa.int32()),
        ("nonzeros", pa.int32()),
        ("biases", pa.int32()),
        ("diverged", pa.bool_()),
    ]
)
"""Columns. ``group``: architectures that share a program. ``density``: as asked for. ``split``: samples
behind ``accuracy`` (a fraction). ``loss``: mean training loss of the last epoch, nats. ``high``, ``low``:
extrema in all hidden layers, on training samples; ``extrema_score``: both per hidden unit.
``patchability``: score * (1 - accuracy). ``efficiency``: accuracy per 1,000 weights. ``dead``: fraction of
hidden units never active; ``saturated``: mean fraction of samples that saturate a unit. ``nonzeros``:
weights that exist; ``biases`` are counted apart. ``diverged``: a loss, a weight or a logit was not
finite; ``accuracy`` and what follows from it are NaN then."""

_PART = re.compile(r"(\d{2})-(\d{2})-(\d{10})\.parquet", re.ASCII)


class HuntTable:
    """The parts in ``OUT/table``."""

    def __init__(self, out: Path) -> None:
        self.path = out / TABLE

    @staticmethod
    def files(out: Path) -> tuple[str, ...]:
        """Names of all parts below ``out``, finished or not, relative to it."""
        folder = out / TABLE
        if not folder.is_dir():
            return ()
        names = (p.name for p in folder.iterdir())
        ours = (n for n in names if _PART.fullmatch(n.removeprefix(".").removesuffix(".partial")))
        return tuple(sorted(f"{TABLE}/{name}" for name in ours))

    def part(self, stage: int, job: int, first: int) -> Path:
        """Where the rows of the call that starts with network ``first`` of a job are."""
        return self.path / f"{stage:02d}-{job:02d}-{first:010d}.parquet"

    def write(self, path: Path, rows: Sequence[dict[str, Any]], seconds: dict[str, float]) -> None:
        """Writes a part; it is on disk and whole when this returns.

        Args:
          path: from :meth:`part`.
          rows: one per network, with the columns of :data:`SCHEMA`.
          seconds: ``compile`` and ``run``, time that this part took.

        Raises:
          InputError: the disk is full or cannot be written; the other parts are intact.
        """
        metadata = {f"jaxnet.{name}_seconds": repr(value) for name, value in seconds.items()}
        table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata(metadata))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(path, sink.getvalue().to_pybytes())

    def read(self) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """All rows, in the order of the parts' names, and the seconds they took."""
        rows: list[dict[str, Any]] = []
        seconds = {"compile": 0.0, "run": 0.0}
        for path in self.parts():
            table = read_part(path)
            rows += table.to_pylist()
            metadata = table.schema.metadata or {}
            for name in seconds:
                seconds[name] += float(metadata.get(f"jaxnet.{name}_seconds".encode(), b"0"))
        return rows, seconds

    def parts(self) -> list[Path]:
        """The finished parts."""
        with disk_errors(self.path, "read"):
            if not self.path.is_dir():
                return []
            return sorted(p for p in self.path.iterdir() if _PART.fullmatch(p.name))

    def clean(self) -> None:
        """Removes what a process killed while writing left behind."""
        with disk_errors(self.path, "use"):
            self.path.mkdir(exist_ok=True)
            for path in self.path.glob(".*.partial"):
                path.unlink()


def read_part(path: Path) -> pa.Table:
    """Reads one part.

    Raises:
      InputError: it is damaged, has other columns or cannot be read.
    """
    with disk_errors(path, "read"):
        data = path.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(data))
        if not table.schema.equals(SCHEMA):
            raise ValueError
    except (pa.ArrowException, ValueError, OSError):
        raise InputError(
            f"{path} is damaged, or of another release: delete it, and the same command with --resume trains "
            "its networks again"
        ) from None
    return table
