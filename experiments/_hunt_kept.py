"""The best networks of a hunt, kept on the host while calls stream by."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments._hunt_plan import network_id
from jaxnet.files import disk_errors, write_bytes
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology

CRITERIA = ("accuracy", "patchability", "efficiency")
"""Columns that networks are ranked by, the larger the better."""

KEPT = "kept.npz"
"""What process 0 keeps; see :func:`kept_files`."""

Row = dict[str, Any]
Network = tuple[Params, Structure]
Scope = tuple[str, str, float]  # criterion, stage, density


class Kept:
    """The best ``top_k`` rows by every criterion for every stage and density, and their networks.

    Only networks that reach ``min_accuracy`` are ranked by patchability and
    efficiency: a network that learnt nothing, with a handful of weights, would
    lead both.
    """

    def __init__(self, top_k: int, min_accuracy: float, process: int = 0) -> None:
        self.top_k, self.min_accuracy = top_k, min_accuracy
        self.file = f"kept-{process:04d}.npz" if process else KEPT
        self.networks: dict[str, Network] = {}
        self._best: dict[Scope, list[Row]] = {}

    def offer(self, rows: Sequence[Row], fetch: Callable[[Sequence[int]], list[Network]]) -> bool:
        """Considers new rows.

        Args:
          rows: of one call.
          fetch: gives the trained networks of some of them, by index.

        Returns:
          Whether any of them is now among the best. Networks that were among
          the best before the call are still there (:meth:`forget` drops them).
        """
        before = set(self.ids())
        self.rank(rows)
        new = self.ids() - before
        entered = [i for i, row in enumerate(rows) if network_id(row) in new]
        for i, network in zip(entered, fetch(entered) if entered else [], strict=True):
            self.networks[network_id(rows[i])] = network
        return bool(entered)

    def rank(self, rows: Iterable[Row]) -> None:
        """Considers new rows without their networks (of a part that is already on disk)."""
        for row in rows:
            for criterion in CRITERIA:
                if not self._counts(row, criterion):
                    continue
                best = self._best.setdefault((criterion, row["stage"], row["density"]), [])
                best.append(row)
                best.sort(key=lambda r: order(r, criterion))
                del best[self.top_k :]

    def forget(self) -> None:
        """Drops networks that are no longer among the best."""
        ids = self.ids()
        self.networks = {name: network for name, network in self.networks.items() if name in ids}

    def ids(self) -> set[str]:
        """Networks among the best by anything anywhere."""
        return {network_id(row) for best in self._best.values() for row in best}

    def scopes(self) -> list[Scope]:
        """Criteria, stages and densities that have a best network."""
        return list(self._best)

    def best(self, criterion: str, stage: str | None = None, density: float | None = None) -> list[Row]:
        """The best rows, of all stages and densities or of one."""
        chosen = [
            row
            for (c, s, d), best in self._best.items()
            for row in best
            if c == criterion and (stage is None or (s, d) == (stage, density))
        ]
        return sorted(chosen, key=lambda r: order(r, criterion))[: self.top_k]

    def _counts(self, row: Row, criterion: str) -> bool:
        if not math.isfinite(row[criterion]):
            return False
        return criterion == "accuracy" or bool(row["accuracy"] >= self.min_accuracy)

    def save(self, out: Path) -> None:
        """Writes the networks to ``OUT/kept.npz``, whole or not at all."""
        arrays: dict[str, np.ndarray] = {}
        index = {}
        for number, (name, (params, structure)) in enumerate(sorted(self.networks.items())):
            shapes = []
            for k, (layer, t) in enumerate(zip(params.scaffold, structure.weights, strict=True)):
                assert isinstance(t, Topology)
                shapes.append(list(t.shape))
                parts = (layer.weight, layer.bias, t.rows, t.cols, t.row_ptr)
                for part, array in zip(_PARTS, parts, strict=True):
                    arrays[f"{number}.{k}.{part}"] = np.asarray(array)
            index[name] = {"number": number, "shapes": shapes}
        text = np.frombuffer(json.dumps(index).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, index=text, **arrays)  # type: ignore[arg-type]
        write_bytes(out / self.file, buffer.getvalue())

    def load(self, out: Path) -> None:
        """Reads the networks that every process saved; what the files lack is :meth:`missing`."""
        for name in kept_files(out):
            with disk_errors(out / name, "read"):
                data = (out / name).read_bytes()
            # a damaged file: every network can be trained again
            with (
                contextlib.suppress(ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile),
                np.load(io.BytesIO(data)) as stored,
            ):
                index = json.loads(stored["index"].tobytes())
                self.networks |= {name: _network(stored, entry) for name, entry in index.items()}
        self.forget()

    def missing(self) -> list[Row]:
        """Rows among the best whose networks are not here."""
        rows = {network_id(row): row for best in self._best.values() for row in best}
        return [row for name, row in sorted(rows.items()) if name not in self.networks]


def kept_files(out: Path) -> list[str]:
    """Files of kept networks: one per process until all are brought together in :data:`KEPT`."""
    return sorted(path.name for path in out.glob("kept*.npz"))


_PARTS = ("weight", "bias", "rows", "cols", "row_ptr")


def order(row: Row, criterion: str) -> tuple[Any, ...]:
    """Sort key: the best first, NaN last; equal ones by seed, then name."""
    value = row[criterion]
    name = (row["seed"], row["architecture"], row["density"], row["stage"])
    return (False, -value, *name) if math.isfinite(value) else (True, 0.0, *name)


def _network(stored: Any, entry: dict[str, Any]) -> Network:
    layers, topologies = [], []
    for k, shape in enumerate(entry["shapes"]):
        weight, bias, rows, cols, row_ptr = (stored[f"{entry['number']}.{k}.{part}"] for part in _PARTS)
        layers.append(LayerParams(weight, bias))
        topologies.append(Topology(rows, cols, row_ptr, (shape[0], shape[1])))
    return Params(tuple(layers)), Structure.of(topologies)
