"""What a run leaves on disk: a folder, rows, checkpoints; whole or not at all, whenever it is killed."""

from __future__ import annotations

from jaxnet.store.checkpoint import Checkpoint, checkpoints, latest, read_meta, restore, save
from jaxnet.store.folder import RunFolder, read_rows
from jaxnet.store.parts import States, Table

__all__ = [
    "Checkpoint",
    "RunFolder",
    "States",
    "Table",
    "checkpoints",
    "latest",
    "read_meta",
    "read_rows",
    "restore",
    "save",
]
