"""The run of ``experiments.seed_hunt``: which stages there are, and what is said while it trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from experiments import _hunt_plan as plans
from experiments._hunt_plan import RANGES, epochs_of
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
from jaxnet.lab.cluster import Executor
from jaxnet.lab.run import Run
from jaxnet.lab.terminal import progress
from jaxnet.store.folder import CONFIG, PROVENANCE
from jaxnet.sweep.hunt import PLAN, Hunt
from jaxnet.sweep.jobs import Job, Stage, spaced
from jaxnet.sweep.table import where


class SeedHunt(Hunt):
    """The hunt of a configuration."""

    def __init__(self, run: Run[Any], workers: Executor) -> None:
        config, dataset = run.config, run.dataset
        trainer = Trainer(config, dataset.fingerprint, dataset)
        how: Any = {"halving": config.halving, "budget": config.budget}
        super().__init__(run.folder, SCHEMA, trainer, workers, progress, run.report, **how)
        self.config, self.dataset, self.seeds = config, dataset, plans.seeds_of(config)
        self.rules, self.splits = trainer.rules, trainer.splits
        self.groups = plans.make_groups(config, dataset)
        self.drawing_seconds = 0.0  # to find the scaffolds that --require-reach asks for

    def finalists(self, rows: pa.Table) -> pa.Table:
        """See :func:`experiments._hunt_rows.finalists`."""
        return finalists(self.config, rows)

    def leaders(self, rows: pa.Table) -> np.ndarray:
        """See :func:`experiments._hunt_rows.leaders`."""
        return leaders(self.config, rows)

    def seen(self, rows: pa.Table) -> None:
        """Says which networks are promising."""
        for line in promising_lines(rows, self.config.promising):
            self.report(line)

    def planned_now(self, told: dict[str, Any], done: int) -> None:
        """Says what a stage trains."""
        shown = {"drawn": None, **told, "done": done, "seeds": self.seeds, "reach": self.config.require_reach}
        for line in lines("hunt_plan.txt", shown):
            self.report(line)

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
                rows = where(self.finalists(self.table.read()), stage=name)
                if not (names := promising_ranges(rows)):
                    least = " and ".join(f"{measure} {v}" for measure, v in PROMISING.items())
                    ends = f"{RANGES['ultra'][0]:g} to {RANGES['dense'][1]:g}"
                    what = f"no network of a coarse density within {ends} reaches {least}"
                    self.report(f"no fine stage: {what}")

    def jobs_of(self, stage: Stage) -> tuple[list[Job], dict[str, Any]]:
        """The jobs of a stage; with ``--require-reach`` with the networks that are left."""
        jobs, left_out = plans.make_jobs(stage, self.groups, self.seeds, self.config)
        told: dict[str, Any] = {"left_out": list(map(list, left_out))}
        if self.config.require_reach is not None and not stage.start:
            jobs, drawn = self.reaching(jobs)
            told |= {"drawn": drawn, "drawing_seconds": self.drawing_seconds}
        return jobs, told

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


def leave_no_trace(run: Run[Any]) -> None:
    """After an error: a new hunt that has not trained anything yet need not be overwritten."""
    if not run.folder.resumed and not table_of(run.folder.path).files():
        for name in (PLAN, PROVENANCE, CONFIG):
            with contextlib.suppress(OSError):
                (run.folder.path / name).unlink()
