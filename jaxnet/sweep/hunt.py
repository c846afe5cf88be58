"""Hunts: stages of networks trained call by call in a folder, killed and continued at any moment.

A hunt says which stages there are and which jobs a stage has (:class:`Hunt` is to be derived from); what is
done call by call, what lies on disk at every moment, and who is the best so far is here.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from jaxnet.files import read_json
from jaxnet.store import States, Table
from jaxnet.store.folder import RunFolder
from jaxnet.sweep.bench import Bench
from jaxnet.sweep.calls import Call, Result
from jaxnet.sweep.halving import surviving
from jaxnet.sweep.jobs import Entry, Job, Stage, find_entries
from jaxnet.sweep.table import network_id, numbers_in, ranked, where

TOGETHER = 10**10 - 1
"""Part of OUT/kept that holds what is best in the end; no call has this number."""

PLAN = "plan.json"


class Trainer(Protocol):
    """What trains calls, here or in a worker (:class:`jaxnet.sweep.calls.Calls`)."""

    @property
    def bench(self) -> Bench:
        """Compiled programs."""

    def plan(self, call: Call) -> Entry:
        """Compiles a job's program."""

    def train(self, call: Call) -> Result:
        """Trains the networks of a call."""

    def again(self, call: Call) -> tuple[pa.Table, Any]:
        """Rows and arrays of networks, trained once more."""


class Workers(Protocol):
    """Who computes."""

    @property
    def note(self) -> str:
        """Who computes, for a progress bar."""

    def run(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Number and result of every item, as they come."""


class Hunt(abc.ABC):
    """One hunt in one folder.

    Attributes:
      best: rows of the networks among the best so far, which lie in OUT/kept, written before their rows.
      plan: of plan.json, by name and epochs of the stage.
      complete: whether nothing is left to train.
    """

    def __init__(
        self,
        folder: RunFolder,
        schema: pa.Schema,
        trainer: Trainer,
        workers: Workers,
        progress: Callable[[int, str], Any],
        report: Callable[[str], None],
        *,
        halving: int | None = None,
        budget: str | None = None,
    ) -> None:
        """Reads what an earlier part of the hunt left.

        Args:
          folder: of the hunt.
          schema: of its table.
          trainer: what trains.
          workers: who does it.
          progress: ``(total, label) -> context`` of a function that shows how far a part is.
          report: takes a line for the reader.
          halving: factor of successive halving, or None.
          budget: ``300s`` or ``500seeds``: no call begins that would lead beyond, but the first one.
        """
        self.folder, self.trainer, self.workers = folder, trainer, workers
        self.progress, self.report, self.halving, self.budget = progress, report, halving, budget
        self.start, self.complete = time.perf_counter(), True
        self.table, self.states, self.kept = parts_of(folder.path, schema)
        self.best, self.jobs = schema.empty_table(), dict[str, Job]()
        stored = folder.path / PLAN
        stages = read_json(stored)["stages"] if folder.resumed and stored.exists() else []
        self.plan: dict[tuple[str, int], dict[str, Any]] = {(s["name"], s["epochs"]): s for s in stages}
        self.slowest = 0.0  # seconds of the slowest call per epoch of its networks
        self.handed = 0  # networks given to be trained, here and now

    @abc.abstractmethod
    def stages(self) -> Iterator[Stage]:
        """The stages, one after the other; later ones may follow from the rows of those before."""

    @abc.abstractmethod
    def jobs_of(self, stage: Stage) -> tuple[list[Job], dict[str, Any]]:
        """The jobs of a stage, and what plan.json says of it besides; a rung is given those left later."""

    @abc.abstractmethod
    def finalists(self, rows: pa.Table) -> pa.Table:
        """Rows of networks that trained to the end: only these are ranked."""

    @abc.abstractmethod
    def leaders(self, rows: pa.Table) -> np.ndarray:
        """Places of the rows that are among the best by anything."""

    @abc.abstractmethod
    def seen(self, rows: pa.Table) -> None:
        """Rows that have come."""

    @abc.abstractmethod
    def planned_now(self, told: dict[str, Any], done: int) -> None:
        """A stage is planned, and so many of its networks are trained already."""

    def train_all(self) -> None:
        """Trains everything that is not in the table yet."""
        for parts in (self.table, self.states, self.kept):
            if parts is self.table or parts.path.exists():
                parts.clean()
        done = self.finalists(self.table.read())
        self.best = done.take(self.leaders(done))
        for stage in self.stages():
            self.train(stage)
            if not self.complete:
                break

    def train(self, stage: Stage) -> None:
        """Plans and trains one stage."""
        jobs, more = self.jobs_of(stage)
        if stage.start:
            before = where(self.table.read(), stage=stage.name, epochs=stage.start)
            on = before.take(surviving(before, self.halving or 1))
            chosen = [(job, numbers_in(job.grid, where(on, group=job.group))) for job in jobs]
            jobs = [job._replace(chosen=numbers) for job, numbers in chosen if numbers]
            more = {"left_out": []}
        if not jobs:
            why = "of the rung before every network diverged"
            if not stage.start:
                why = "every network would have a layer without weights"
            self.report(f"{stage.name}: nothing to train, {why}")
        self.jobs |= {job.key: job for job in jobs}
        entries = self.planned(stage, jobs)
        total = sum(len(job.numbers) for job in jobs)
        left = sum(len(job.numbers[f : f + e["chunk"]]) for job, e in entries for f in self.pending(job, e))
        told: dict[str, Any] = {"name": stage.name, "start": stage.start, "epochs": stage.epochs}
        told |= {"densities": list(stage.densities), "networks": total}
        told["programs"] = [{k: v for k, v in e.items() if k not in ("start", "epochs")} for _, e in entries]
        self.plan[stage.name, stage.epochs] = told | more
        self.folder.write_json(PLAN, {"stages": list(self.plan.values())})
        self.planned_now(told | more, total - left)
        asked: list[tuple[Job, int, Sequence[int]]] = []
        with self.progress(total, f"{stage.name}, {total} networks") as show:
            show(completed=total - left)
            for index, result in self.workers.run(self.trainer.train, self.calls(entries, asked)):
                self.take(*asked[index], result)
                show(advance=len(result.rows), note=self.note())
        self.complete = not any(self.pending(*planned) for planned in entries)
        if self.complete:  # all rows of this stage are on disk
            self.states.drop(stage.number if stage.last else stage.number - 1)

    def planned(self, stage: Stage, jobs: Sequence[Job]) -> list[tuple[Job, Entry]]:
        """The jobs with their entries; compiles what is new or still to train."""
        planned = {job.key: find_entries(self.plan.values(), job) for job in jobs}
        found = {key: entries[-1] for key, entries in planned.items() if entries}
        known = {key for key, entry in found.items() if entry["epochs"] == stage.epochs}
        missing = [j for j in jobs if j.key not in known or self.pending(j, found[j.key])]
        with self.progress(len(jobs), f"{stage.name}, compiling") as show:
            show(completed=len(jobs) - len(missing))
            asked = (self.call(job, job.numbers) for job in missing)
            for index, entry in self.workers.run(self.trainer.plan, asked):
                found[missing[index].key] = entry
                show(advance=1, note=missing[index].group)
        return [(job, found[job.key]) for job in jobs]

    def call(self, job: Job, numbers: Sequence[int], **more: Any) -> Call:
        """What a worker has to know to train networks of a job."""
        return Call(job._replace(chosen=None), numbers, find_entries(self.plan.values(), job), **more)

    def pending(self, job: Job, entry: Entry) -> list[int]:
        """Place of the first network of every call whose part is not in the table."""
        there, calls = set(self.table.files()), range(0, len(job.numbers), entry["chunk"])
        return [first for first in calls if self.table.part(*job.place, first) not in there]

    def calls(
        self, entries: Sequence[tuple[Job, Entry]], asked: list[tuple[Job, int, Sequence[int]]]
    ) -> Iterator[Call]:
        """The calls still to make, within the budget; ``asked`` notes them."""
        order = sorted(
            # all programs advance together, so that a hunt cut short has seen all architectures
            ((first + 0.5) / len(job.numbers), place, first)
            for place, (job, entry) in enumerate(entries)
            for first in self.pending(job, entry)
        )
        for _, place, first in order:
            job, entry = entries[place]
            numbers, stage = job.numbers[first : first + entry["chunk"]], job.stage
            if self.out_of_budget(stage, len(numbers)):
                return
            carried = self.states.load(stage.number - 1, job.number, numbers) if stage.start else {}
            seeds = -(-len(job.numbers) // len(job.grid.members))  # of a member: every one has as many
            self.handed += len(numbers)
            asked.append((job, first, numbers))
            keep = 0 if stage.last else -(-seeds // (self.halving or 1))
            yield self.call(job, numbers, carried=carried, keep=keep)

    def take(self, job: Job, first: int, numbers: Sequence[int], result: Result) -> None:
        """Puts what a call gave on disk.

        What belongs to the rows goes first: whenever the process is killed, OUT/kept has all
        networks that the rows on disk call the best, and OUT/states all that may go on.
        """
        parts, wanted = self.states, set(result.leaves)
        if job.stage.last:
            both, before = pa.concat_tables([self.best, result.rows]), len(self.best)
            best = self.leaders(both)
            parts, wanted = self.kept, {numbers[place] for place in best[best >= before] - before}
            self.best = both.take(best)
        if result.anew:
            self.report(f"{job.key}: states of {result.anew} were lost, so the networks train again")
        parts.save(parts.part(*job.place, first), {n: result.leaves[n] for n in sorted(wanted)})
        seconds = {"compile": result.compile_seconds, "run": result.run_seconds}
        self.table.write(self.table.part(*job.place, first), result.rows, seconds)
        self.seen(result.rows)
        self.slowest = max(self.slowest, result.run_seconds / (job.stage.epochs - job.stage.start))

    def networks(self) -> dict[str, Any]:
        """The best networks by name; those that a lost or damaged file took away are trained again."""
        found: dict[str, Any] = {}
        for job in self.jobs.values():
            rows = where(self.best, stage=job.stage.name, group=job.group).to_pylist()
            names = {job.find(row): network_id(row) for row in rows}
            leaves = self.kept.load(*job.place, list(names))
            if missing := sorted(set(names) - set(leaves)):
                self.report(f"{job.key}: {len(missing)} of the best networks were lost and are trained again")
                for _, (_, again) in self.workers.run(self.trainer.again, [self.call(job, missing)]):
                    leaves |= again
            together = self.kept.part(*job.place, TOGETHER)
            others = [p for p in self.kept.files() if p.name[:6] == together.name[:6] and p != together]
            if names and (missing or others):
                self.kept.save(together, {n: leaves[n] for n in names})
                for path in others:
                    path.unlink()
            found |= {name: self.trainer.bench.restored(job.grid, n, leaves[n]) for n, name in names.items()}
        return found

    def out_of_budget(self, stage: Stage, networks: int) -> bool:
        """Whether the budget does not suffice for another call; the first one is always made."""
        budget = self.budget if self.handed else None
        if budget is not None and budget.endswith("seeds"):
            return self.handed + networks > int(budget.removesuffix("seeds"))
        end = time.perf_counter() - self.start + self.slowest * (stage.epochs - stage.start)
        return budget is not None and end > float(budget.removesuffix("s"))

    def note(self) -> str:
        """What stands behind the progress bar."""
        best = ranked(self.best, "accuracy", 1, 0.0).to_pylist()
        shown = f"best {100 * best[0]['accuracy']:.2f} % ({best[0]['architecture']}) " if best else ""
        return f"{shown}{self.workers.note}"


def parts_of(out: Path, schema: pa.Schema) -> tuple[Table, States, States]:
    """The rows of a hunt, what goes on to the next rung, and the best networks."""
    return Table(out, schema), States(out), States(out, "kept")
