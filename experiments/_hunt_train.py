"""What trains the networks of a hunt, here or in a worker: samples, compiled programs, rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from experiments._hunt_plan import ACTIVATION, BATCHES, rules_of, settings
from experiments._hunt_rows import SCHEMA, leaders
from jaxnet import methods
from jaxnet.allocation import dense_counts
from jaxnet.data import Dataset
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import read_json, user_path
from jaxnet.keys import key_of
from jaxnet.lab.run import augmentation, load, make_split
from jaxnet.programs import use_compilation_cache
from jaxnet.store.folder import CONFIG
from jaxnet.sweep import Bench, DrawRules, SweepConfig, Trained
from jaxnet.sweep.calls import Call, Calls, Leaves, Result
from jaxnet.sweep.jobs import Entry, Job
from jaxnet.sweep.table import measured, named, sizes_of


class Trainer:
    """Trains networks of one hunt; a copy that a worker gets loads the data there and keeps its programs."""

    def __init__(self, config: Any, fingerprint: str, dataset: Dataset | None = None) -> None:
        self.config, self.fingerprint, self.rules = config, fingerprint, rules_of(config)
        if dataset is not None:
            self.dataset = dataset
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
            draw=DrawRules(self.rules.mask, self.rules.init, ACTIVATION, self.rules.enforced),
            common_order=not config.own_order,
            detector=config.detector,
            watch=config.detect_on,
            transform=augmentation(config, self.dataset),
            own_draws=bool(getattr(config, "own_draws", False)),
            shuffle=not self.rules.described,
            outputs=self.rules.described,
        )
        return Bench(
            how,
            self.splits,
            key_data=key_of(config.data_seed),
            memory_budget=config.memory_budget and config.memory_budget * 2**20,
            precision=config.precision,
            rungs=config.halving is not None,
        )

    @functools.cached_property
    def calls(self) -> Calls:
        """What trains calls."""
        config = self.config
        return Calls(self.bench, self.rows, functools.partial(leaders, config), config.kernel, config.chunk)

    def plan(self, call: Call) -> Entry:
        """See :meth:`jaxnet.sweep.calls.Calls.plan`; InputError where the memory does not suffice."""
        with _of(call):
            return self.calls.plan(call)

    def train(self, call: Call) -> Result:
        """See :meth:`jaxnet.sweep.calls.Calls.train`; likewise."""
        with _of(call):
            return self.calls.train(call)

    def again(self, call: Call) -> tuple[pa.Table, Leaves]:
        """See :meth:`jaxnet.sweep.calls.Calls.again`; likewise."""
        with _of(call):
            return self.calls.again(call)

    def rows(self, call: Call, trained: Trained) -> pa.Table:
        """The rows of the networks of a call."""
        job, stage, rules, number = call.job, call.job.stage, self.rules, len(call.numbers)
        same = {"group": job.group, "stage": stage.name, "epochs": stage.epochs, "mask": rules.mask}
        same |= {"split": rules.split}
        columns: dict[str, Any] = {name: [value] * number for name, value in same.items()}
        columns |= named(job.grid, call.numbers)
        sizes = map(sizes_of, columns["architecture"])
        parameters = [sum(dense_counts(one)) + sum(one[1:]) for one in sizes] if rules.described else None
        columns |= measured(trained.row, self.splits[1].size, parameters)
        return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


@contextlib.contextmanager
def _of(call: Call) -> Iterator[None]:
    """Says in one line of which job the memory does not suffice, or the kernel is not right."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{call.job.key}: {error} (--memory-budget, --sizes, --batch-size)") from None


def with_batch_size(config: Any, dataset: Dataset, jobs: Sequence[Job]) -> Any:
    """The configuration with a batch size: for ``auto`` what is measured with the largest networks.

    A continued hunt keeps that of its beginning. InputError where not even the smallest fits.
    """
    if config.batch_size is not None:
        return config
    stored = user_path(config.out) / CONFIG
    if config.resume and stored.exists() and (known := read_json(stored).get("batch_size")):
        return dataclasses.replace(config, batch_size=known)
    trainer = Trainer(dataclasses.replace(config, batch_size=BATCHES[0]), dataset.fingerprint, dataset)
    job = max(jobs, key=lambda job: max(sum(dense_counts(sizes)) for sizes, _ in job.grid.members))
    networks = min(len(job.numbers), config.chunk or trainer.calls.usual_chunk(job))
    try:
        size = trainer.bench.batch_size(job.grid, networks, config.kernel, BATCHES)
    except ValueError as error:
        raise InputError(f"--batch-size auto: {error} (--memory-budget, --chunk)") from None
    return dataclasses.replace(config, batch_size=size)


@functools.lru_cache(maxsize=1)
def _trainer(config: str, fingerprint: str) -> Trainer:
    return Trainer(settings(json.loads(config)), fingerprint)
