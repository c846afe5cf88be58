"""Files that appear call by call: rows of networks as Parquet, their states as NumPy arrays.

A part's name says which networks it holds (``stage-job-first``), so a run that
was killed knows what is still to train: no row is lost, none is there twice. A
part is on disk whole, or not at all.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, write_bytes

_NAME = re.compile(r"(\d{2})-(\d{2})-(\d{10})\.[a-z]+", re.ASCII)


class Parts:
    """The parts of one kind: files ``OUT/folder/SS-JJ-FFFFFFFFFF.suffix``."""

    def __init__(self, out: Path, folder: str, suffix: str) -> None:
        self.path, self.suffix = out / folder, suffix

    def part(self, stage: int, job: int, first: int) -> Path:
        """Where the part of the call that starts with network ``first`` of a job of a stage is."""
        return self.path / f"{stage:02d}-{job:02d}-{first:010d}.{self.suffix}"

    def files(self) -> list[Path]:
        """The finished parts, by name."""
        return [path for path in self._all() if not path.name.startswith(".")]

    def names(self) -> list[str]:
        """All parts, finished or not, relative to the folder of the run."""
        return [f"{self.path.name}/{path.name}" for path in self._all()]

    def clean(self) -> None:
        """Makes the folder, and removes what a process killed while writing left behind."""
        with disk_errors(self.path, "use"):
            self.path.mkdir(exist_ok=True)
            for path in self._all():
                if path.name.startswith("."):
                    path.unlink()

    def drop(self, stage: int) -> None:
        """Deletes the parts of all stages up to one."""
        for path in self._all():
            if path.name.startswith(".") or int(path.name[:2]) <= stage:
                with disk_errors(path, "delete"):
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are later ones, or none at all
            self.path.rmdir()

    def _write(self, path: Path, data: bytes) -> None:
        with disk_errors(self.path, "use"):
            self.path.mkdir(exist_ok=True)
        write_bytes(path, data)

    def _all(self) -> list[Path]:
        with disk_errors(self.path, "read"):
            found = self.path.iterdir() if self.path.is_dir() else ()
            return sorted(p for p in found if self._ours(p.name.removeprefix(".").removesuffix(".partial")))

    def _ours(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and name.endswith(f".{self.suffix}")


class Table(Parts):
    """Rows of networks, read as one Parquet data set (``pandas.read_parquet(OUT/table)``, DuckDB)."""

    def __init__(self, out: Path, schema: pa.Schema, folder: str = "table") -> None:
        super().__init__(out, folder, "parquet")
        self.schema = schema

    def write(self, path: Path, rows: Mapping[str, Any] | pa.Table, seconds: Mapping[str, float]) -> None:
        """Writes a part; it is on disk and whole when this returns.

        Args:
          path: from :meth:`part`.
          rows: columns of :attr:`schema`, an entry per network.
          seconds: time that this part took, by name.

        Raises:
          InputError: the disk is full or cannot be written; the other parts are intact.
        """
        table = rows if isinstance(rows, pa.Table) else pa.table(dict(rows), schema=self.schema)
        metadata = {f"jaxnet.{name}_seconds": repr(value) for name, value in seconds.items()}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        self._write(path, sink.getvalue().to_pybytes())

    def read(self) -> pa.Table:
        """All rows, in the order of the parts' names."""
        parts = [self.read_part(path).replace_schema_metadata() for path in self.files()]
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def seconds(self, name: str) -> float:
        """Time of one name, over all parts."""
        key = f"jaxnet.{name}_seconds".encode()
        return sum(float((self.read_part(p).schema.metadata or {}).get(key, b"0")) for p in self.files())

    def read_part(self, path: Path) -> pa.Table:
        """One part.

        Raises:
          InputError: it is damaged, has other columns or cannot be read.
        """
        with disk_errors(path, "read"):
            data = path.read_bytes()
        try:
            table = pq.read_table(pa.BufferReader(data))
            if not table.schema.equals(self.schema):
                raise ValueError
        except (pa.ArrowException, ValueError, OSError):
            raise InputError(
                f"{path} is damaged, or of another release: delete it, and the same command with --resume "
                "trains its networks again"
            ) from None
        return table


class States(Parts):
    """What networks go on from later, by their numbers; a file that is lost or damaged holds none."""

    def __init__(self, out: Path, folder: str = "states") -> None:
        super().__init__(out, folder, "npz")

    def save(self, path: Path, states: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Writes the leaves of networks by their number; nothing where there is none.

        Raises:
          InputError: the disk is full or cannot be written.
        """
        if not states:
            return
        leaves = {f"leaf{k}": np.stack(leaf) for k, leaf in enumerate(zip(*states.values(), strict=True))}
        buffer = io.BytesIO()
        np.savez(buffer, numbers=np.asarray(list(states), np.int64), **leaves)  # type: ignore[arg-type]
        self._write(path, buffer.getvalue())

    def load(self, stage: int, job: int, numbers: Sequence[int]) -> dict[int, list[np.ndarray]]:
        """Leaves of the states of some networks by their number; without those that no file holds."""
        wanted = set(numbers)
        found: dict[int, list[np.ndarray]] = {}
        for path in self.files():
            if not path.name.startswith(f"{stage:02d}-{job:02d}-"):
                continue
            with disk_errors(path, "read"):
                data = path.read_bytes()
            with (
                contextlib.suppress(ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile),
                np.load(io.BytesIO(data)) as stored,
            ):
                here = [(k, n) for k, n in enumerate(stored["numbers"].tolist()) if n in wanted]
                if here:
                    leaves = [stored[f"leaf{k}"] for k in range(len(stored.files) - 1)]
                    found |= {n: [leaf[k] for leaf in leaves] for k, n in here}
        return found
