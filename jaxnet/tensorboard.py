"""Rows of a run as TensorBoard scalars: ``python -m jaxnet.tensorboard OUT`` (extra ``tensorboard``).

A curve per network below ``OUT/tensorboard``, for every number of its rows, by epoch.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, user_path, write_bytes
from jaxnet.lab.command import run_main
from jaxnet.lab.flags import Flags, option
from jaxnet.store.folder import METRICS, read_rows

EVENTS = "events.out.tfevents"
"""The name by which TensorBoard knows a file of events; written again, it is replaced."""


@dataclass(frozen=True)
class Config(Flags):
    """Writes the rows of a run as TensorBoard scalars."""

    out: str = option("checkpoints/run", "folder of the run")


def export(rows: Sequence[Mapping[str, Any]], folder: Path) -> int:
    """Writes rows as scalars; returns how many networks there are.

    Raises:
      InputError: the package is missing, or the disk is full.
    """
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar
    except ImportError:
        raise InputError("tensorboardX is not installed: pip install tensorboardX") from None
    networks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = "/".join(str(row[key]) for key in ("phase", "arm") if key in row)
        networks.setdefault(f"{name}/seed-{row['seed']}".lstrip("/"), []).append(row)
    for name, mine in networks.items():
        now = time.time()
        events = [Event(wall_time=now, file_version="brain.Event:2")]
        events += [
            Event(wall_time=now, step=row["epoch"], summary=scalar(key, value))
            for row in mine
            for key, value in row.items()
            if isinstance(value, float)
        ]
        with disk_errors(folder / name, "write"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # not by SummaryWriter: its thread dies of a full disk, and who waits for it waits for ever
        write_bytes(folder / name / EVENTS, b"".join(_record(event.SerializeToString()) for event in events))
    return len(networks)


def _record(data: bytes) -> bytes:
    """An entry of an events file: length, data, and a checksum behind each."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + sums[0] + data + sums[1]


def main(config: Config) -> None:
    """Reads the rows of a folder and writes them beside."""
    out = user_path(config.out)
    rows = read_rows(out / METRICS)
    if not rows:
        raise InputError(f"{out}: there are no rows here: give the folder that --out named")
    print(f"{export(rows, out / 'tensorboard')} networks in {out / 'tensorboard'}")


if __name__ == "__main__":
    run_main(main, Config, prog="python -m jaxnet.tensorboard", description=__doc__)
