"""What trains the networks of a hunt, here or in a worker: samples, compiled programs, rows."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from experiments._hunt_plan import ACTIVATION, Entry, Job, rules_of, settings
from experiments._hunt_rows import SCHEMA, leaders
from jaxnet import methods
from jaxnet.data import Dataset
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.keys import key_of
from jaxnet.lab.run import augmentation, load, make_split, use_compilation_cache
from jaxnet.lab.shown import sizes_label
from jaxnet.sweep import Bench, DrawRules, SweepConfig, Trained, default_chunk
from jaxnet.sweep.halving import surviving
from jaxnet.sweep.table import measured, named

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


class Trainer:
    """Trains networks of one hunt; a copy that a worker gets loads the data there and keeps its programs."""

    def __init__(self, config: Any, fingerprint: str, dataset: Dataset | None = None) -> None:
        self.config, self.fingerprint, self.rules = config, fingerprint, rules_of(config)
        if dataset is not None:
            self.dataset = dataset
        self._stage: Any = None
        self._compile_seconds = 0.0
        use_compilation_cache()

    def __reduce__(self) -> Any:
        return _trainer, (json.dumps(vars(self.config)), self.fingerprint)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The samples, which must be those of the hunt."""
        dataset = load(self.config)
        if dataset.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.config.dataset}: other samples lie here (fingerprint {dataset.fingerprint}) than the "
                f"hunt is on ({self.fingerprint}): give the right --data-dir or --dataset"
            )
        return dataset

    @functools.cached_property
    def splits(self) -> tuple[Split, Split, Split]:
        """Samples to train on, to judge by, and to watch for extrema (training samples)."""
        judged = make_split(self.dataset, "test" if self.rules.split == "test" else "val")
        watched = make_split(self.dataset, "train", slice(self.config.extrema_samples))
        return make_split(self.dataset, "train"), judged, watched

    @functools.cached_property
    def bench(self) -> Bench:
        """Programs."""
        config = self.config
        how = SweepConfig(
            batch_size=config.batch_size,
            lr=config.lr,
            method=config.method and methods.make(config.method),
            draw=DrawRules(self.rules.mask, self.rules.init, ACTIVATION),
            common_order=not config.own_order,
            detector=config.detector,
            watch=config.detect_on,
            transform=augmentation(config, self.dataset),
            own_draws=bool(getattr(config, "own_draws", False)),
        )
        return Bench(
            how,
            self.splits,
            key_data=key_of(config.data_seed),
            memory_budget=config.memory_budget and config.memory_budget * 2**20,
            precision=config.precision,
            rungs=config.halving is not None,
        )

    def plan(self, call: Call) -> Entry:
        """Compiles a job's program; what is planned keeps its calls, and all rungs have one kernel."""
        job, size, entry = call.job, len(call.numbers), call.entries[-1] if call.entries else None
        with self._compiling(job):
            if entry and entry["epochs"] == job.stage.epochs:
                self.bench.program(job.grid, entry)
                return entry
            kernel = entry["kernel"] if entry else self.config.kernel
            chunk = self.config.chunk or default_chunk(
                jax.local_devices(), job.grid.family(), self.config.batch_size
            )
            planned = self.bench.plan(job.grid, job.stage.epochs, size, kernel, chunk)
        names = [*dict.fromkeys(sizes_label(architecture) for architecture, _ in job.grid.members)]
        return {"group": job.group, "architectures": names, "networks": size, **planned}

    def train(self, call: Call) -> Result:
        """Trains the networks of a call."""
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
            places, kept = leaders(self.config, rows), (trained.params, trained.structure)
        compiled, self._compile_seconds = self._compile_seconds, 0.0
        leaves, seconds = by_number(kept, numbers, places.tolist()), time.perf_counter() - before
        return Result(rows, leaves, len(missing), compiled, seconds)

    def again(self, call: Call) -> tuple[pa.Table, Leaves]:
        """Rows and arrays of networks, trained once more from the start to the same bits."""
        with self._compiling(call.job):
            trained = self.bench.train(call.job.grid, call.numbers, call.entries)
        network = trained.params, trained.structure
        return self.rows(call, trained), by_number(network, call.numbers, range(len(call.numbers)))

    def rows(self, call: Call, trained: Trained) -> pa.Table:
        """The rows of the networks of a call."""
        job, stage, rules = call.job, call.job.stage, self.rules
        same = {"group": job.group, "stage": stage.name, "epochs": stage.epochs, "mask": rules.mask}
        same |= {"split": rules.split}
        columns = {name: [value] * len(call.numbers) for name, value in same.items()}
        columns |= {**named(job.grid, call.numbers), **measured(trained.row, self.splits[1].size)}
        return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)

    @contextlib.contextmanager
    def _compiling(self, job: Job) -> Iterator[None]:
        """Counts the seconds; the programs of the stage before are not needed any more."""
        if self._stage != job.stage:
            self._stage = job.stage
            self.bench.forget()
        before = time.perf_counter()
        try:
            yield
        except ValueError as error:
            raise InputError(f"{job.key}: {error} (--memory-budget, --sizes, --batch-size)") from None
        self._compile_seconds += time.perf_counter() - before


@functools.lru_cache(maxsize=1)
def _trainer(config: str, fingerprint: str) -> Trainer:
    return Trainer(settings(json.loads(config)), fingerprint)


def by_number(tree: Any, numbers: Sequence[int], places: Iterable[int]) -> Leaves:
    """Leaves of the networks at some places, by number."""
    leaves = jax.tree.leaves(tree)
    return {numbers[k]: [leaf[k] for leaf in leaves] for k in places}
