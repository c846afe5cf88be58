"""What a seed hunt trains: architectures, densities, and which of them share a compiled program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import jaxnet
from jaxnet.errors import InputError
from jaxnet.lab.shown import sizes_label

if TYPE_CHECKING:  # a wrong flag is answered before JAX is loaded
    from jaxnet.sweep.jobs import Groups, Job, Stage

COARSE = (0.001, 0.01, 0.1)
"""Densities of the coarse part of ``--mode sweep``."""

RANGES = {"ultra": (0.0005, 0.005), "moderate": (0.005, 0.05), "dense": (0.05, 0.2)}
"""Densities searched finely where a coarse density within is promising."""

LEAST_DRAWN, DRAWN_PER_SEED = 100_000, 2_000
"""With ``--require-reach``: scaffolds of an architecture and density that are drawn before it is given up."""

ACTIVATION, PLAN = "relu", "plan.json"

BATCHES = (512, 1024, 2048, 4096, 8192)
"""What ``--batch-size auto`` chooses from."""


class Rules(NamedTuple):
    """How masks and values are drawn, which samples rank networks, and by which scores."""

    mask: str
    init: str
    split: str
    enforced: bool = True  # the mask holds in training too
    described: bool = False  # scores and order of the samples as in the texts on the original


def rules_of(config: Any) -> Rules:
    """The original's protocols, ``seed`` and ``described``, read the test samples for every network."""
    if config.protocol != "clean":
        described = config.protocol == "described"
        enforced = not described or getattr(config, "mask_mode", None) == "enforced"
        return Rules("bernoulli", "dense-fan-in", "test", enforced, described)
    mask = config.allocation if config.allocation == "constant-fan-in" else "uniform"
    return Rules(mask, "sparse-fan-in", "validation")


def settings(values: Mapping[str, Any]) -> Any:
    """A configuration from what JSON keeps of it."""
    return SimpleNamespace(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def make_groups(config: Any, dataset: jaxnet.data.Dataset) -> Groups:
    """Architectures of a hunt; InputError where ``--sizes`` does not fit the data."""
    features, classes = dataset.num_features, dataset.num_classes
    sizes = config.sizes or (features, 128, classes)
    if sizes[0] != features or sizes[-1] < classes:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: it has {features} features "
            f"and {classes} classes, so give {features},...,{classes}"
        )
    groups: Groups = {"sizes": (tuple(sizes),)}
    if config.portfolio:
        groups = jaxnet.sweep.jobs.portfolio(config.portfolio, features, classes)
    if config.portfolio and (config.method is not None or not rules_of(config).enforced):
        # what rewires networks must not find units that only pad them to the width of others, and dense
        # networks pay for these
        return {sizes_label(a): (a,) for group in groups.values() for a in group}
    return groups


def make_jobs(
    stage: Stage, groups: Groups, seeds: range, config: Any
) -> tuple[list[Job], list[tuple[str, float]]]:
    """The jobs of a stage by the rules of a hunt, and what is left out: see :mod:`jaxnet.sweep.jobs`."""
    return jaxnet.sweep.jobs.make_jobs(stage, groups, seeds, rules_of(config).mask, config.allocation)


def seeds_of(config: Any) -> range:
    """Seeds that networks are drawn from: with ``--require-reach`` as many as it takes."""
    if getattr(config, "require_reach", None) is None:
        return range(config.seed, config.seed + config.num_seeds)
    return range(config.seed, 2**32)


def check_reach(config: Any, jobs: Sequence[Job], classes: int) -> None:
    """Raises InputError where ``--require-reach`` asks for what no scaffold can have."""
    least = config.require_reach
    if least is None:
        return
    if least > classes:
        raise InputError(f"--require-reach must be at most {classes}, the classes there are: {least}")
    for job in jobs:
        for architecture, density in job.grid.members if job.grid.mask != "bernoulli" else ():
            last = jaxnet.allocate(architecture, density, config.allocation)[-1]
            if last < least:
                raise InputError(
                    f"--require-reach {least}: the last layer of {sizes_label(architecture)} has "
                    f"{last} weights at density {density:g}, so no scaffold reaches {least} classes"
                )


def reaching(config: Any, job: Job, classes: int) -> tuple[Job, int]:
    """The job with the networks that ``--require-reach`` leaves, and how many were drawn to find them.

    Raises:
      InputError: they are too few of those drawn.
    """
    rules, wanted = rules_of(config), config.num_seeds
    draw = jaxnet.sweep.DrawRules(rules.mask, rules.init, ACTIVATION)
    most = LEAST_DRAWN + DRAWN_PER_SEED * wanted
    try:
        found = jaxnet.sweep.reaching(job.grid, draw, config.require_reach, classes, wanted, most)
    except ValueError as error:
        raise InputError(f"--require-reach: {error}: lower it, or raise --densities") from None
    return job._replace(chosen=found.numbers), sum(found.drawn)


def first_densities(config: Any) -> tuple[float, ...]:
    """Densities that are trained first, ascending."""
    if config.mode == "range":
        lowest, highest = config.densities
        return jaxnet.sweep.jobs.spaced(lowest, highest, config.points or 5)
    return tuple(sorted(config.densities or (COARSE if config.mode == "sweep" else (0.02,))))


def epochs_of(config: Any, stage: str) -> int:
    """Epochs of the networks of a stage that train to the end."""
    if config.mode != "sweep":
        return int(config.epochs or 5)
    return int((config.coarse_epochs or 3) if stage == "coarse" else (config.fine_epochs or 7))
