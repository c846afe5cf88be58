"""The folder of a growing population: rows and checkpoints, to continue from at any moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jaxnet.errors import InputError
from jaxnet.programs import Clock
from jaxnet.store import checkpoint
from jaxnet.store.folder import RunFolder
from jaxnet.types import PyTree


class Grown(Protocol):
    """What is kept of a network."""

    seed: int
    net: Any
    history: list[dict[str, Any]]
    stop: str | None


class Journal:
    """Writes down what a population does, and reads it back.

    A checkpoint holds all networks and, in the middle of an iteration, the state
    of the group that is being trained. The shapes of the arrays follow from the
    decisions in the histories, which stand in the checkpoint's meta.

    Attributes:
      epoch: epochs that the group in the middle of an iteration has done; 0 for none.
    """

    def __init__(self, folder: RunFolder, clock: Clock) -> None:
        self.folder, self.clock = folder, clock
        self.epoch = 0
        self._name: str | None = None
        self._length = 0

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of results."""
        self._length = self.folder.append_rows(rows)

    def save(self, members: Sequence[Grown], running: PyTree, iteration: int, epoch: int) -> None:
        """Saves a checkpoint."""
        told = [{"seed": m.seed, "history": m.history, "stop": m.stop} for m in members]
        meta = {"members": told, "epoch": epoch, "metrics_bytes": self._length, **self.clock.as_dict()}
        tree = {"networks": [m.net for m in members], "running": running}
        checkpoint.save(self.folder.checkpoints, f"iteration-{iteration + 1}-epoch-{epoch}", tree, meta)

    def read(self, seeds: Sequence[int]) -> list[tuple[list[dict[str, Any]], str | None]] | None:
        """History and stop reason of every seed as of the last checkpoint; None where there is none.

        Rows written after the checkpoint are dropped.
        """
        self._name = checkpoint.latest(self.folder.checkpoints)
        if self._name is None:
            self.folder.truncate_rows(0)
            return None
        meta = checkpoint.read_meta(self.folder.checkpoints, self._name)
        try:
            told = {m["seed"]: (m["history"], m["stop"]) for m in meta["members"]}
            self.epoch, self._length = int(meta["epoch"]), int(meta["metrics_bytes"])
            found = [told[seed] for seed in seeds]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.folder.checkpoints} holds a checkpoint {self._name!r} that this experiment "
                "did not write: remove it"
            ) from error
        self.folder.truncate_rows(self._length)
        self.clock.add(meta)
        return found

    def restore(self, networks: list[PyTree], running: PyTree) -> tuple[list[PyTree], PyTree]:
        """The networks and the group in the middle of an iteration, of the shapes given."""
        assert self._name is not None
        like = {"networks": networks, "running": running}
        tree, _ = checkpoint.restore(self.folder.checkpoints, self._name, like)
        return tree["networks"], tree["running"]
