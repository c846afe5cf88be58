"""The run of ``experiments.seed_hunt``: stages of compiled programs, call by call, killed and continued."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import _hunt_plan as plans
from experiments._hunt_plan import PLAN, RANGES, epochs_of
from experiments._hunt_report import lines
from experiments._hunt_rows import (
    PROMISING,
    SCHEMA,
    finalists,
    leaders,
    promising_lines,
    promising_ranges,
    table_of,
)
from experiments._hunt_train import Trainer
from jaxnet.files import read_json
from jaxnet.lab.cluster import Executor
from jaxnet.lab.run import Run
from jaxnet.lab.terminal import progress
from jaxnet.store import States, Table
from jaxnet.store.folder import CONFIG, PROVENANCE
from jaxnet.sweep.calls import Call, Result
from jaxnet.sweep.halving import surviving
from jaxnet.sweep.jobs import Entry, Job, Stage, find_entries, spaced
from jaxnet.sweep.table import network_id, numbers_in, ranked, where

TOGETHER = 10**10 - 1
"""Part of OUT/kept that holds what is best in the end; no call has this number."""


def parts_of(out: Path) -> tuple[Table, States, States]:
    """The rows of a hunt, what goes on to the next rung, and the best networks."""
    return table_of(out), States(out), States(out, "kept")


class Hunt:
    """One hunt in one folder.

    Attributes:
      best: rows of the networks among the best so far, which lie in OUT/kept, written before their rows.
      plan: of plan.json, by name and epochs of the stage.
      complete: whether nothing is left to train.
    """

    def __init__(self, run: Run[Any], workers: Executor) -> None:
        self.config, self.folder, self.report, self.workers = run.config, run.folder, run.report, workers
        self.dataset, self.seeds, self.start = run.dataset, plans.seeds_of(run.config), time.perf_counter()
        self.trainer = Trainer(run.config, run.dataset.fingerprint, run.dataset)
        self.groups = plans.make_groups(run.config, run.dataset)
        self.table, self.states, self.kept = parts_of(run.folder.path)
        self.best, self.jobs, self.complete = SCHEMA.empty_table(), dict[str, Job](), True
        stored = run.folder.path / PLAN
        stages = read_json(stored)["stages"] if run.folder.resumed and stored.exists() else []
        self.plan: dict[tuple[str, int], dict[str, Any]] = {(s["name"], s["epochs"]): s for s in stages}
        self.slowest = 0.0  # seconds of the slowest call per epoch of its networks
        self.drawing_seconds = 0.0  # to find the scaffolds that --require-reach asks for
        self.handed = 0  # networks given to be trained, here and now

    def train_all(self) -> None:
        """Trains everything that is not in the table yet."""
        for parts in (self.table, self.states, self.kept):
            if parts is self.table or parts.path.exists():
                parts.clean()
        done = finalists(self.config, self.table.read())
        self.best = done.take(leaders(self.config, done))
        for stage in self.stages():
            self.train(stage)
            if not self.complete:
                break

    def stages(self) -> Iterator[Stage]:
        """The stages; the fine ones follow from the rows of the coarse one."""
        config, number = self.config, 0
        first = "coarse" if config.mode == "sweep" else config.mode
        names, fine = [first], RANGES if config.mode == "sweep" else {}
        planned = {first: plans.first_densities(config)}
        planned |= {name: spaced(*ends, config.points or 5) for name, ends in fine.items()}
        for name, densities in planned.items():
            rungs = Stage(name, number, epochs_of(config, name), densities).rungs(config.halving)
            number += len(rungs)
            if name in names:
                yield from rungs
            if name == "coarse":
                rows = where(finalists(config, self.table.read()), stage=name)
                if not (names := promising_ranges(rows)):
                    least = " and ".join(f"{measure} {v}" for measure, v in PROMISING.items())
                    ends = f"{RANGES['ultra'][0]:g} to {RANGES['dense'][1]:g}"
                    what = f"no network of a coarse density within {ends} reaches {least}"
                    self.report(f"no fine stage: {what}")

    def train(self, stage: Stage) -> None:
        """Plans and trains one stage."""
        jobs, left_out = plans.make_jobs(stage, self.groups, self.seeds, self.config)
        why = "every network would have a layer without weights"
        if stage.start:
            why, left_out = "of the rung before every network diverged", []
            before = where(self.table.read(), stage=stage.name, epochs=stage.start)
            on = before.take(surviving(before, self.config.halving))
            chosen = [(job, numbers_in(job.grid, where(on, group=job.group))) for job in jobs]
            jobs = [job._replace(chosen=numbers) for job, numbers in chosen if numbers]
        drawn = None
        if self.config.require_reach is not None and not stage.start:
            jobs, drawn = self.reaching(jobs)
        if not jobs:
            self.report(f"{stage.name}: nothing to train, {why}")
        self.jobs |= {job.key: job for job in jobs}
        entries = self.planned(stage, jobs)
        total = sum(len(job.numbers) for job in jobs)
        left = sum(len(job.numbers[f : f + e["chunk"]]) for job, e in entries for f in self.pending(job, e))
        told: dict[str, Any] = {"name": stage.name, "start": stage.start, "epochs": stage.epochs}
        told |= {"densities": list(stage.densities), "networks": total, "left_out": list(map(list, left_out))}
        told["programs"] = [{k: v for k, v in e.items() if k not in ("start", "epochs")} for _, e in entries]
        told |= {} if drawn is None else {"drawn": drawn, "drawing_seconds": self.drawing_seconds}
        self.plan[stage.name, stage.epochs] = told
        self.folder.write_json(PLAN, {"stages": list(self.plan.values())})
        shown = {"drawn": None, **told, "done": total - left, "seeds": self.seeds}
        for line in lines("hunt_plan.txt", {**shown, "reach": self.config.require_reach}):
            self.report(line)
        asked: list[tuple[Job, int, Sequence[int]]] = []
        with progress(total, f"{stage.name}, {total} networks") as show:
            show(completed=total - left)
            for index, result in self.workers.run(self.trainer.train, self.calls(entries, asked)):
                self.take(*asked[index], result)
                show(advance=len(result.rows), note=self.note())
        self.complete = not any(self.pending(*planned) for planned in entries)
        if self.complete:  # all rows of this stage are on disk
            self.states.drop(stage.number if stage.last else stage.number - 1)

    def reaching(self, jobs: Sequence[Job]) -> tuple[list[Job], int]:
        """The jobs with the networks that ``--require-reach`` leaves, and how many were drawn."""
        before, found = time.perf_counter(), list[Job]()
        drawn = 0
        with progress(len(jobs), "drawing scaffolds") as show:
            for job in jobs:
                job, number = plans.reaching(self.config, job, self.dataset.num_classes)
                found.append(job)
                drawn += number
                show(advance=1, note=job.group)
        self.drawing_seconds += time.perf_counter() - before
        return found, drawn

    def planned(self, stage: Stage, jobs: Sequence[Job]) -> list[tuple[Job, Entry]]:
        """The jobs with their entries; compiles what is new or still to train."""
        planned = {job.key: find_entries(self.plan.values(), job) for job in jobs}
        found = {key: entries[-1] for key, entries in planned.items() if entries}
        known = {key for key, entry in found.items() if entry["epochs"] == stage.epochs}
        missing = [j for j in jobs if j.key not in known or self.pending(j, found[j.key])]
        with progress(len(jobs), f"{stage.name}, compiling") as show:
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
            keep = 0 if stage.last else -(-seeds // self.config.halving)
            yield self.call(job, numbers, carried=carried, keep=keep)

    def take(self, job: Job, first: int, numbers: Sequence[int], result: Result) -> None:
        """Puts what a call gave on disk.

        What belongs to the rows goes first: whenever the process is killed, OUT/kept has all
        networks that the rows on disk call the best, and OUT/states all that may go on.
        """
        parts, wanted = self.states, set(result.leaves)
        if job.stage.last:
            both, before = pa.concat_tables([self.best, result.rows]), len(self.best)
            best = leaders(self.config, both)
            parts, wanted = self.kept, {numbers[place] for place in best[best >= before] - before}
            self.best = both.take(best)
        if result.anew:
            self.report(f"{job.key}: states of {result.anew} were lost, so the networks train again")
        parts.save(parts.part(*job.place, first), {n: result.leaves[n] for n in sorted(wanted)})
        seconds = {"compile": result.compile_seconds, "run": result.run_seconds}
        self.table.write(self.table.part(*job.place, first), result.rows, seconds)
        for line in promising_lines(result.rows, getattr(self.config, "promising", None)):
            self.report(line)
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
        budget = self.config.budget if self.handed else None
        if budget is not None and budget.endswith("seeds"):
            return self.handed + networks > int(budget.removesuffix("seeds"))
        end = time.perf_counter() - self.start + self.slowest * (stage.epochs - stage.start)
        return budget is not None and end > float(budget.removesuffix("s"))

    def note(self) -> str:
        """What stands behind the progress bar."""
        best = ranked(self.best, "accuracy", 1, 0.0).to_pylist()
        shown = f"best {100 * best[0]['accuracy']:.2f} % ({best[0]['architecture']}) " if best else ""
        return f"{shown}{self.workers.note}"


def leave_no_trace(run: Run[Any]) -> None:
    """After an error: a new hunt that has not trained anything yet need not be overwritten."""
    if not run.folder.resumed and not table_of(run.folder.path).files():
        for name in (PLAN, PROVENANCE, CONFIG):
            with contextlib.suppress(OSError):
                (run.folder.path / name).unlink()
