"""What networks go on from in the next rung of a hunt with ``--halving``: files beside the table's parts.

``OUT/states`` has one file per call, whole or not at all and written before the
rows of the call, with values and Adam's state of the networks that may go on.
Masks are not in it, they follow from the seeds. Once the next rung is on disk,
its predecessor's files are deleted. A file that is lost or damaged costs the
time to train its networks again.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.files import disk_errors, write_bytes

STATES = "states"

_FILE = re.compile(r"(\d{2})-(\d{2})-(\d{10})\.npz", re.ASCII)


class States:
    """The files in ``OUT/states``."""

    def __init__(self, out: Path) -> None:
        self.path = out / STATES

    @staticmethod
    def files(out: Path) -> tuple[str, ...]:
        """Names of all files below ``out``, finished or not, relative to it."""
        folder = out / STATES
        names = (p.name for p in folder.iterdir()) if folder.is_dir() else ()
        ours = (n for n in names if _FILE.fullmatch(n.removeprefix(".").removesuffix(".partial")))
        return tuple(sorted(f"{STATES}/{name}" for name in ours))

    def save(self, stage: int, job: int, first: int, grid: Sequence[int], carried: Any) -> None:
        """Writes the states of one call.

        Args:
          stage: number.
          job: number.
          first: first network of the call.
          grid: number of every network in the grid of its job.
          carried: leaves ``(network, ...)``.

        Raises:
          InputError: the disk is full or cannot be written.
        """
        leaves = {f"leaf{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(carried))}
        buffer = io.BytesIO()
        np.savez(buffer, grid=np.asarray(grid, np.int64), **leaves)  # type: ignore[arg-type]
        with disk_errors(self.path, "use"):
            self.path.mkdir(exist_ok=True)
        write_bytes(self.path / f"{stage:02d}-{job:02d}-{first:010d}.npz", buffer.getvalue())

    def load(self, stage: int, job: int, grid: Sequence[int]) -> dict[int, list[np.ndarray]]:
        """Leaves of the states of some networks by their number; without those that no file holds."""
        wanted = set(grid)
        found: dict[int, list[np.ndarray]] = {}
        for name in self.files(self.path.parent):
            match = _FILE.fullmatch(Path(name).name)
            if match is None or (int(match[1]), int(match[2])) != (stage, job):
                continue
            with disk_errors(self.path, "read"):
                data = (self.path.parent / name).read_bytes()
            try:
                with np.load(io.BytesIO(data)) as stored:
                    here = [(k, g) for k, g in enumerate(stored["grid"].tolist()) if g in wanted]
                    if here:
                        leaves = [stored[f"leaf{k}"] for k in range(len(stored.files) - 1)]
                        found |= {g: [leaf[k] for leaf in leaves] for k, g in here}
            except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
                continue  # damaged
        return found

    def drop(self, stage: int) -> None:
        """Deletes the files of all stages up to one: nothing goes on from them any more."""
        for name in self.files(self.path.parent):
            path = self.path.parent / name
            if path.name.startswith(".") or int(path.name[:2]) <= stage:
                with disk_errors(path, "delete"):
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are later ones, or none at all
            self.path.rmdir()
