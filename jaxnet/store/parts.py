"""Files that appear call by call, whole: rows of networks as Parquet, their states as NumPy arrays.

A part's name (``stage-job-first``) says which networks it holds, and so what is still to train.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, write_bytes


class Parts:
    """The parts of one kind: files ``OUT/folder/SS-JJ-FFFFFFFFFF.suffix``, unfinished ones with a dot."""

    def __init__(self, out: Path, folder: str, suffix: str) -> None:
        self.path, self.suffix = out / folder, suffix
        self._ours = re.compile(rf"\.?[0-9]{{2}}-[0-9]{{2}}-[0-9]{{10}}\.{suffix}(\.partial)?")

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

    def _contents(self, start: str = "") -> Iterator[tuple[Path, io.BytesIO]]:
        for path in self.files():
            if path.name.startswith(start):
                with disk_errors(path, "read"):
                    data = io.BytesIO(path.read_bytes())
                yield path, data

    def _all(self) -> list[Path]:
        with disk_errors(self.path, "read"):
            found = self.path.iterdir() if self.path.is_dir() else ()
            return sorted(p for p in found if self._ours.fullmatch(p.name))


class Table(Parts):
    """Rows of networks, read as one Parquet data set (``pandas.read_parquet(OUT/table)``, DuckDB)."""

    def __init__(self, out: Path, schema: pa.Schema) -> None:
        super().__init__(out, "table", "parquet")
        self.schema = schema

    def write(self, path: Path, rows: pa.Table, seconds: Mapping[str, float]) -> None:
        """Writes a part, on disk and whole when this returns: a row per network, ``seconds`` by name.

        Raises:
          InputError: the disk is full or cannot be written; the other parts are intact.
        """
        metadata = {f"jaxnet.{name}_seconds": repr(value) for name, value in seconds.items()}
        sink = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata(metadata), sink, compression="zstd")
        self._write(path, sink.getvalue())

    def read(self) -> pa.Table:
        """All rows, in the order of the parts' names; InputError: a part is damaged or of other columns."""
        parts = [part.replace_schema_metadata() for part in self._read()]
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def seconds(self, name: str) -> float:
        """Time of one name, over all parts."""
        key = f"jaxnet.{name}_seconds".encode()
        return sum(float((part.schema.metadata or {}).get(key, b"0")) for part in self._read())

    def _read(self) -> Iterator[pa.Table]:
        for path, data in self._contents():
            try:
                table = pq.read_table(data)
                if not table.schema.equals(self.schema):
                    raise ValueError
            except (pa.ArrowException, ValueError, OSError):
                ways = "delete it, and the same command with --resume trains its networks again"
                raise InputError(f"{path} is damaged, or of another release: {ways}") from None
            yield table


class States(Parts):
    """What networks go on from later, by their numbers; a file that is lost or damaged holds none."""

    def __init__(self, out: Path, folder: str = "states") -> None:
        super().__init__(out, folder, "npz")

    def save(self, path: Path, states: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Writes the leaves of networks by their number, if there are any; see :meth:`Table.write`."""
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
        for _, data in self._contents(f"{stage:02d}-{job:02d}-"):
            with (
                contextlib.suppress(ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile),
                np.load(data) as stored,
            ):
                here = [(k, n) for k, n in enumerate(stored["numbers"].tolist()) if n in wanted]
                if here:
                    leaves = [stored[f"leaf{k}"] for k in range(len(stored.files) - 1)]
                    found |= {n: [leaf[k] for leaf in leaves] for k, n in here}
        return found
