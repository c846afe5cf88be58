"""Calls: networks of a job trained together, and what they give: rows, and arrays of the best."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from jaxnet.sweep.bench import Bench
from jaxnet.sweep.halving import surviving
from jaxnet.sweep.jobs import Entry, Job
from jaxnet.sweep.program import default_chunk
from jaxnet.sweep.rows import Trained

Leaves = Mapping[int, list[np.ndarray]]
"""Arrays of some networks by their numbers."""


class Call(NamedTuple):
    """Networks of a job that are trained together."""

    job: Job  # without its chosen ones
    numbers: Sequence[int]  # of the networks
    entries: Sequence[Entry]  # how they are trained, rung by rung, as far as it is planned
    carried: Leaves | None = None  # what they go on from in a later rung; who is missing is trained anew
    keep: int = 0  # how many of a member may go on to the next rung


class Result(NamedTuple):
    """What a call gives."""

    rows: pa.Table
    leaves: Leaves  # of those that may be among the best, or, in a rung that is not the last, go on
    anew: int  # how many were trained anew, since what they go on from was lost
    compile_seconds: float  # since the last call
    run_seconds: float


class Calls:
    """Trains calls on a bench, whose programs it keeps for one stage.

    Attributes:
      bench: compiled programs.
      rows: ``(call, trained) -> table``, a row per network.
      leaders: ``table -> places`` of the rows that may be among the best.
      kernel: of new plans.
      chunk: most networks of a call; None for what keeps the devices busy.
    """

    def __init__(
        self,
        bench: Bench,
        rows: Callable[[Call, Trained], pa.Table],
        leaders: Callable[[pa.Table], np.ndarray],
        kernel: str,
        chunk: int | None,
    ) -> None:
        self.bench, self.rows, self.leaders, self.kernel, self.chunk = bench, rows, leaders, kernel, chunk
        self._stage: Any = None
        self._compile_seconds = 0.0

    def plan(self, call: Call) -> Entry:
        """Compiles a job's program; what is planned keeps its calls, and all rungs have one kernel.

        Raises:
          ValueError: not even one network fits the memory, or the kernel is not right here.
        """
        job, size, entry = call.job, len(call.numbers), call.entries[-1] if call.entries else None
        with self._compiling(job):
            if entry and entry["epochs"] == job.stage.epochs:
                self.bench.program(job.grid, entry)
                return entry
            kernel = entry["kernel"] if entry else self.kernel
            chunk = self.chunk or self.usual_chunk(job)
            planned = self.bench.plan(job.grid, job.stage.epochs, size, kernel, chunk)
        names = dict.fromkeys("-".join(map(str, architecture)) for architecture, _ in job.grid.members)
        return {"group": job.group, "architectures": [*names], "networks": size, **planned}

    def usual_chunk(self, job: Job) -> int:
        """Networks of a call that keep the devices busy."""
        devices, config = jax.local_devices(), self.bench.config
        if devices[0].platform == "cpu" and not config.draw.enforced:
            return 8 * len(devices)  # all weights exist: few networks fill the caches
        return default_chunk(devices, job.grid.family(), config.batch_size)

    def train(self, call: Call) -> Result:
        """Trains the networks of a call; ValueError where they do not fit the memory any more."""
        job, numbers, carried = call.job, call.numbers, dict(call.carried or {})
        with self._compiling(job):
            self.bench.program(job.grid, call.entries[-1])
        before = time.perf_counter()
        missing = [n for n in numbers if n not in carried] if call.entries[-1]["start"] else []
        if missing:
            again = self.bench.train(job.grid, missing, call.entries[:-1])
            carried |= by_number(again.carried, missing, range(len(missing)))
        trained = self.bench.train(job.grid, numbers, call.entries[-1:], carried)
        rows = self.rows(call, trained)
        places, kept = surviving(rows, 1, call.keep), trained.carried
        if job.stage.last:
            places, kept = self.leaders(rows), (trained.params, trained.structure)
        compiled, self._compile_seconds = self._compile_seconds, 0.0
        leaves, seconds = by_number(kept, numbers, places.tolist()), time.perf_counter() - before
        return Result(rows, leaves, len(missing), compiled, seconds)

    def again(self, call: Call) -> tuple[pa.Table, Leaves]:
        """Rows and arrays of networks, trained once more from the start to the same bits."""
        with self._compiling(call.job):
            trained = self.bench.train(call.job.grid, call.numbers, call.entries)
        network = trained.params, trained.structure
        return self.rows(call, trained), by_number(network, call.numbers, range(len(call.numbers)))

    @contextlib.contextmanager
    def _compiling(self, job: Job) -> Iterator[None]:
        """Counts the seconds; the programs of the stage before are not needed any more."""
        if self._stage != job.stage:
            self._stage = job.stage
            self.bench.forget()
        before = time.perf_counter()
        yield
        self._compile_seconds += time.perf_counter() - before


def by_number(tree: Any, numbers: Sequence[int], places: Iterable[int]) -> Leaves:
    """Leaves of the networks at some places, by number."""
    leaves = jax.tree.leaves(tree)
    return {numbers[k]: [leaf[k] for leaf in leaves] for k in places}
