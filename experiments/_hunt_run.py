"""The run of ``experiments.seed_hunt``: stages of compiled programs, call by call, killed and continued."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments._cli import Progress
from experiments._hunt_kept import KEPT, Kept, Network, Row, kept_files
from experiments._hunt_plan import (
    PROMISING_ACCURACY,
    PROMISING_PATCHABILITY,
    RANGES,
    Architecture,
    Job,
    Stage,
    label,
    make_jobs,
    network_id,
    promising_ranges,
    spaced,
)
from experiments._hunt_rungs import carried_states, going_on, save_states
from experiments._hunt_setup import (
    MIB,
    Entry,
    Rules,
    choose_kernel,
    default_chunk,
    find_entries,
    first_densities,
    inputs,
    make_groups,
    make_program,
    make_rows,
    make_splits,
    train_again,
)
from experiments._hunt_states import States
from experiments._hunt_table import HuntTable
from jaxnet import data
from jaxnet.errors import InputError
from jaxnet.files import disk_errors, read_json
from jaxnet.provenance import provenance
from jaxnet.records import CONFIG, PROVENANCE, RunFolder
from jaxnet.sweep import Program, Trained, trim
from jaxnet.sweep.hosts import Hosts

if TYPE_CHECKING:
    from experiments.seed_hunt import Config

PLAN = "plan.json"


@dataclasses.dataclass
class Running:
    """A job, how it is called, and what is still to train.

    Attributes:
      job: networks.
      entry: of plan.json.
      program: compiled; None where nothing is left to train for this process.
      pending: first network of every call still to make, by any process.
      compile_seconds: time that the next call's part accounts for.
    """

    job: Job
    entry: dict[str, Any]
    program: Program | None
    pending: list[int]
    compile_seconds: float

    @property
    def left(self) -> int:
        """Networks still to train."""
        return sum(self.size(first) for first in self.pending)

    def size(self, first: int) -> int:
        """Networks of the call that begins with network ``first``."""
        return min(int(self.entry["chunk"]), self.job.size - first)


class Hunt:
    """One hunt in one folder."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        dataset: data.Dataset,
        report: Callable[[str], None],
        hosts: Hosts | None = None,
    ) -> None:
        self.config, self.folder, self.dataset, self.report = config, folder, dataset, report
        self.hosts = hosts or Hosts()
        self.start = time.perf_counter()
        self.rules = Rules.of(config.protocol)
        self.groups = make_groups(config, dataset)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        self.table = HuntTable(folder.path)
        self.kept = Kept(config.top_k, config.min_accuracy, self.hosts.index)
        self.splits = make_splits(config, dataset)
        self.states = States(folder.path)
        self.plan = plan_of(folder) if folder.resumed else {}
        self.jobs: dict[str, Job] = {}
        self.slowest = 0.0  # seconds of the slowest call per epoch of its networks
        self.trained = 0  # networks, here and now
        self.complete = True

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, and which data."""
        data_facts = {"dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}
        return {**provenance(), **data_facts, "processes": self.hosts.count}

    def run(self) -> list[Row]:
        """Trains everything that is not in the table yet; returns all rows.

        Raises:
          InputError: the memory does not suffice, the disk is full, a file is damaged.
        """
        if self.hosts.first:
            self.table.clean()
        self.hosts.meet("start")
        self.kept.rank(self.finalists(self.table.read()[0]))
        self.kept.load(self.folder.path)
        for stage in self.stages():
            self.train(stage)
            if not self.complete:
                break
        rows = self.table.read()[0]
        if self.hosts.first:
            self.gather(rows)
        return rows

    def gather(self, rows: Sequence[Row]) -> None:
        """Brings the best networks of all processes together in one file."""
        self.kept = Kept(self.config.top_k, self.config.min_accuracy)
        self.kept.rank(self.finalists(rows))
        self.kept.load(self.folder.path)
        self.restore_networks()
        others = [name for name in kept_files(self.folder.path) if name != KEPT]
        if others:
            self.kept.save(self.folder.path)
        for name in others:
            with disk_errors(self.folder.path / name, "delete"):
                (self.folder.path / name).unlink()

    def finalists(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of networks that trained to the end: only these are ranked."""
        return [row for row in rows if row["epochs"] == self.config.epochs_of(row["stage"])]

    def leave_no_trace(self) -> None:
        """After an error: a new hunt that has not trained anything yet need not be overwritten."""
        if not self.folder.resumed and not self.table.parts():
            with contextlib.suppress(OSError):
                for name in (PLAN, PROVENANCE, CONFIG):
                    (self.folder.path / name).unlink(missing_ok=True)

    def stages(self) -> Iterator[Stage]:
        """The stages; the fine ones follow from the rows of the coarse one."""
        config = self.config
        if config.mode != "sweep":
            yield from Stage(config.mode, 0, config.epochs_of(config.mode), first_densities(config)).rungs(
                config.halving
            )
            return
        coarse = Stage("coarse", 0, config.epochs_of("coarse"), first_densities(config)).rungs(config.halving)
        yield from coarse
        rows = self.finalists(self.table.read()[0])
        names = promising_ranges([row for row in rows if row["stage"] == "coarse"])
        if not names:
            self.report(
                f"no fine stage: no network of a coarse density within {RANGES['ultra'][0]:g} to "
                f"{RANGES['dense'][1]:g} reaches accuracy {PROMISING_ACCURACY} and patchability "
                f"{PROMISING_PATCHABILITY}"
            )
        number = len(coarse)
        for name, (low, high) in RANGES.items():
            fine = Stage(name, number, config.epochs_of(name), spaced(low, high, config.points or 5))
            rungs = fine.rungs(config.halving)
            number += len(rungs)
            if name in names:
                yield from rungs

    def train(self, stage: Stage) -> None:
        """Compiles, plans and trains one stage."""
        name = f"{stage.name}, {stage.epochs} epochs,"
        jobs, left_out = make_jobs(stage, self.groups, self.seeds, self.rules.mask)
        if stage.start:
            jobs, left_out = going_on(self, stage, jobs), []
        if not jobs:
            why = "of the rung before every network diverged"
            if not stage.start:
                why = "every network would have a layer without weights"
            self.report(f"{stage.name}: nothing to train, {why}")
        self.jobs |= {job.key: job for job in jobs}
        if not self.hosts.first:  # process 0 plans for all
            self.hosts.meet(f"{name} is planned")
            self.plan = plan_of(self.folder)
        running = []
        with Progress(len(jobs), f"{stage.name}, compiling") as progress:
            for job in jobs:
                running.append(self.compile(job))
                progress.advance(note=job.group.name)
        if self.hosts.first:
            self.announce(stage, running, left_out)
            self.hosts.meet(f"{name} is planned")
        self.hosts.meet(f"{name} is compiled")  # and nothing pending is on disk yet
        calls = sorted(
            # all programs advance together, so that a hunt cut short has seen all architectures
            ((first + 0.5) / r.job.size, i, first)
            for i, r in enumerate(running)
            for first in self.hosts.share(r.pending, r.job.number)
        )
        total = sum(job.size for job in jobs)
        with Progress(total, f"{stage.name}, {total} networks") as progress:
            progress.update(total - sum(r.left for r in running))
            for _, i, first in calls:
                if self.out_of_budget(running[i], first):
                    break
                self.hosts.check()
                progress.advance(self.call(running[i], first), note=self.note())
        self.hosts.meet(f"{name} is trained")
        self.complete = not any(self.pending(r.job, r.entry["chunk"]) for r in running)
        if self.complete and self.hosts.first:  # all rows of this stage are on disk
            self.states.drop(stage.number if stage.last else stage.number - 1)

    def compile(self, job: Job) -> Running:
        """Plans and compiles the program of a job; a continued hunt keeps its kernel and its calls."""
        before = time.perf_counter()
        stage = job.stage
        entry = self.entry(job, stage.epochs)
        if entry is not None:
            pending = self.pending(job, entry["chunk"])
            if not self.hosts.share(pending, job.number):
                return Running(job, entry, None, pending, 0.0)
        planned = entry or (self.entry(job, stage.start) if stage.start else None)  # one kernel in all rungs
        kernel = planned["kernel"] if planned else choose_kernel(self.config, job)
        chunk = entry["chunk"] if entry else self.config.chunk or default_chunk(jax.local_devices())
        devices = entry.get("devices", 1) if entry else None
        program = make_program(self.config, job, kernel, self.splits, chunk=chunk, num_devices=devices)
        plan = program.plan
        if entry is not None and plan.chunk != chunk:
            raise InputError(
                f"this hunt trains {chunk} networks of {job.key} per call, but here and now "
                f"{plan.chunk} fit: free memory, raise --memory-budget, or use the devices it began on"
            )
        entry = {
            "group": job.group.name,
            "architectures": [label(a) for a in job.group.architectures],
            "networks": job.size,
            "kernel": kernel,
            "chunk": plan.chunk,
            "devices": program.num_devices,
            "calls": plan.chunks,
            "bytes_per_call": plan.bytes_per_call,
            "bytes_allowed": plan.budget,
        }
        return Running(job, entry, program, self.pending(job, plan.chunk), time.perf_counter() - before)

    def entry(self, job: Job, epochs: int) -> dict[str, Any] | None:
        """The plan of a job's networks, up to some number of epochs."""
        known = self.plan.get((job.stage.name, epochs), {"programs": []})["programs"]
        return next((e for e in known if e["group"] == job.group.name), None)

    def pending(self, job: Job, chunk: int) -> list[int]:
        """First network of every call whose part is not in the table."""
        return [
            first
            for first in range(0, job.size, chunk)
            if not self.table.part(job.stage.number, job.number, first).exists()
        ]

    def announce(
        self, stage: Stage, running: Sequence[Running], left_out: list[tuple[Architecture, float]]
    ) -> None:
        """Writes the plan and prints it, before anything is trained."""
        names = [[label(a), d] for a, d in left_out]
        size = sum(r.job.size for r in running)
        self.plan[stage.name, stage.epochs] = {
            "name": stage.name,
            "start": stage.start,
            "epochs": stage.epochs,
            "densities": list(stage.densities),
            "networks": size,
            "left_out": names,
            "programs": [r.entry for r in running],
        }
        self.folder.write_json(PLAN, {"stages": list(self.plan.values())})
        done = size - sum(r.left for r in running)
        densities = ", ".join(f"{d:g}" for d in stage.densities)
        ends = several(stage.epochs, "epoch") + (f" ({stage.start} of them done)" if stage.start else "")
        self.report(
            f"{stage.name}: {size} networks, densities {densities}, {ends}, "
            f"seeds {self.seeds.start} to {self.seeds.stop - 1}" + (f"; {done} are done" if done else "")
        )
        for r in running:
            e, number = r.entry, len(r.job.group.architectures)
            self.report(
                f"  {e['group']}: {e['networks']} networks of {several(number, 'architecture')}, "
                f"{several(e['calls'], 'call')} of {e['chunk']}, "
                f"{e['bytes_per_call'] / MIB:.0f} of {e['bytes_allowed'] / MIB:.0f} MiB, {e['kernel']} kernel"
            )
        if names:
            shown = ", ".join(f"{a} at {d:g}" for a, d in names[:3]) + (", ..." if len(names) > 3 else "")
            self.report(f"  left out, since a layer would have no weight: {len(names)} ({shown})")

    def call(self, running: Running, first: int) -> int:
        """Trains one call's networks and puts their rows on disk; returns their number."""
        job, program = running.job, running.program
        assert program is not None
        before = time.perf_counter()
        indices = range(first, min(first + running.entry["chunk"], job.size))
        if self.config.halving is None:
            trained = jax.block_until_ready(program(*inputs(job, indices)))
        else:
            epochs = range(job.stage.start, job.stage.epochs)
            carried = carried_states(self, job, indices, program) if epochs.start else None
            trained = jax.block_until_ready(program(*inputs(job, indices), carried, epochs))
        rows = make_rows(job, indices, trained, self.rules.split, self.splits[1].size)
        seconds = time.perf_counter() - before
        # What belongs to the rows goes first: whenever the process is killed, kept.npz holds all
        # networks that the rows on disk call the best, and the states all that may go on.
        if not job.stage.last:
            save_states(self, job, first, indices, trained, rows)
        elif self.kept.offer(rows, lambda chosen: networks(job, indices, trained, chosen)):
            self.kept.save(self.folder.path)
            self.kept.forget()
        path = self.table.part(job.stage.number, job.number, first)
        self.table.write(path, rows, {"compile": running.compile_seconds, "run": seconds})
        running.compile_seconds = 0.0  # counted once
        self.slowest = max(self.slowest, (time.perf_counter() - before) / job.stage.passes)
        self.trained += len(rows)
        return len(rows)

    def entries(self, job: Job, epochs: int) -> list[Entry]:
        """How a job's networks are trained up to some epochs."""
        return find_entries(list(self.plan.values()), job.stage.name, job.group.name, epochs)

    def restore_networks(self) -> None:
        """Trains networks among the best again, each alone, that a lost or damaged file took away."""
        missing = self.kept.missing()
        if not missing:
            return
        self.report(f"training {len(missing)} of the best networks again: kept.npz does not hold them")
        for key, job in self.jobs.items():
            rows = [row for row in missing if f"{row['stage']}/{row['group']}" == key]
            whole = dataclasses.replace(job, chosen=None)
            # the hunt's own programs: the same bits
            entries = self.entries(job, job.stage.epochs)
            for row in rows:
                index = [whole.find(row)]
                trained = train_again(self.config, whole, index, entries, self.splits)
                self.kept.networks[network_id(row)] = networks(whole, index, trained, [0])[0]
        self.kept.save(self.folder.path)

    def out_of_budget(self, running: Running, first: int) -> bool:
        """Whether the budget does not suffice for another call; the first one is always made."""
        if not self.trained:
            return False
        seconds, seeds = self.config.budget_in("s"), self.config.budget_in("seeds")
        job = running.job
        if seconds is not None:
            return time.perf_counter() - self.start + self.slowest * job.stage.passes > seconds
        # several processes share a number of networks in equal parts
        return seeds is not None and self.trained + running.size(first) > seeds / self.hosts.count

    def note(self) -> str:
        """What stands behind the progress bar."""
        best = self.kept.best("accuracy")
        return f"best {100 * best[0]['accuracy']:.2f} % ({best[0]['architecture']})" if best else ""


def networks(job: Job, indices: Sequence[int], trained: Trained, chosen: Sequence[int]) -> list[Network]:
    """Some of a call's networks on the host, without padding."""
    host = jax.tree.map(np.asarray, trained)
    found = []
    for i in chosen:
        one = jax.tree.map(lambda leaf, i=i: leaf[i], host)
        found.append(trim(one.params, one.structure, job.network(indices[i])[0]))
    return found


def several(number: int, what: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def plan_of(folder: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    """The stages of plan.json by name and epochs; none where there is no such file yet."""
    path = folder.path / PLAN
    stages = read_json(path)["stages"] if path.exists() else []
    return {(stage["name"], stage["epochs"]): stage for stage in stages}
