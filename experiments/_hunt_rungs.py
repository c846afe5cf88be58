"""What passes from rung to rung of a hunt with ``--halving``: who goes on, and from what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments._hunt_kept import Row
from experiments._hunt_plan import Job, Stage, network_id, survivors
from experiments._hunt_setup import train_again
from jaxnet.sweep import Program, Trained

if TYPE_CHECKING:
    from experiments._hunt_run import Hunt


def going_on(hunt: Hunt, stage: Stage, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of a rung, with the best networks of the rung before, if any of it did not diverge."""
    assert hunt.config.halving is not None
    rows = [r for r in hunt.table.read()[0] if (r["stage"], r["epochs"]) == (stage.name, stage.start)]
    best = survivors(rows, hunt.config.halving)
    narrowed = (job.narrowed([row for row in best if row["group"] == job.group.name]) for job in jobs)
    return [job for job in narrowed if job.size]


def save_states(
    hunt: Hunt, job: Job, first: int, indices: Sequence[int], trained: Trained, rows: Sequence[Row]
) -> None:
    """Puts what the next rung goes on from on disk, of those that are not beaten by this call alone."""
    assert hunt.config.halving is not None
    seeds = -(-job.size // len(job.members))  # of a member: every one has as many
    best = {network_id(r) for r in survivors(rows, 1, keep=-(-seeds // hunt.config.halving))}
    places = [i for i, row in enumerate(rows) if network_id(row) in best]
    if not places:  # every network of this call diverged
        return
    carried = jax.tree.map(lambda leaf: np.asarray(leaf)[places], trained.carried)
    grid = [job.grid(indices[i]) for i in places]
    hunt.states.save(job.stage.number, job.number, first, grid, carried)


def carried_states(hunt: Hunt, job: Job, indices: Sequence[int], program: Program) -> Any:
    """What networks go on from, leaves ``(network, ...)``; trained again where no file holds it."""
    grid = [job.grid(i) for i in indices]
    found = hunt.states.load(job.stage.number - 1, job.number, grid)
    missing = [i for i, g in zip(indices, grid, strict=True) if g not in found]
    if missing:
        hunt.report(f"{job.key}: states of {len(missing)} lost, so the networks train again")
        again = train_again(hunt.config, job, missing, hunt.entries(job, job.stage.start), hunt.splits)
        for k, i in enumerate(missing):
            found[job.grid(i)] = [np.asarray(leaf)[k] for leaf in jax.tree.leaves(again.carried)]
    leaves = zip(*(found[g] for g in grid), strict=True)
    return jax.tree.unflatten(program.carried_structure, [np.stack(leaf) for leaf in leaves])
