"""What a seed hunt trains: architectures, densities, and which of them share a compiled program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import jaxnet
from jaxnet.errors import InputError
from jaxnet.lab.flags import flag_name
from jaxnet.lab.shown import sizes_label

if TYPE_CHECKING:  # a wrong flag is answered before JAX is loaded
    from jaxnet.sweep.jobs import Groups, Job, Stage

COARSE = (0.001, 0.01, 0.1)
"""Densities of the coarse part of ``--mode sweep``."""

RANGES = {"ultra": (0.0005, 0.005), "moderate": (0.005, 0.05), "dense": (0.05, 0.2)}
"""Densities searched finely where a coarse density within is promising."""

LEAST_DRAWN, DRAWN_PER_SEED = 100_000, 2_000
"""With ``--require-reach``: scaffolds of an architecture and density that are drawn before it is given up."""

ACTIVATION = "relu"

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


def refusals(config: Any) -> Iterator[tuple[bool, str]]:
    """What may be wrong, one after the other, and what is said then."""
    d, mode, protocol = config.densities, config.mode, config.protocol
    uses = {"points": "sweep range", "epochs": "single range"}
    for flag, modes in (uses | dict.fromkeys(("coarse_epochs", "fine_epochs"), "sweep")).items():
        way_out = f"leave it out or choose --mode {modes.replace(' ', ' or ')}"
        used = getattr(config, flag) is not None and mode not in modes.split()
        yield used, f"{flag_name(flag)} has no meaning with --mode {mode}: {way_out}"
    yield (
        config.require_reach is not None and mode == "sweep",
        "--require-reach and --mode sweep exclude each other: whether a scaffold of a density found "
        "later can reach so many classes is not known at the start",
    )
    yield config.num_seeds > 10**8, f"--num-seeds must be at most {10**8}: {config.num_seeds}"
    yield config.min_accuracy > 1, f"--min-accuracy must be at least 0 and at most 1: {config.min_accuracy}"
    yield (
        re.fullmatch(r"(?=.*[1-9])(\d+seeds|(\d+|\d*\.\d+)s)", config.budget or "1s") is None,
        "--budget must be a number above 0 with its unit, seconds or whole seeds, for instance 300s "
        f"or 500seeds: {config.budget!r}",
    )
    yield (
        config.sizes is not None and config.portfolio is not None,
        "--sizes and --portfolio exclude each other: the portfolio has its own sizes",
    )
    yield (
        protocol != "clean" and config.allocation != "uniform",
        f"--allocation {config.allocation} has no meaning with --protocol {protocol}, whose masks are "
        "drawn weight by weight: leave it out",
    )
    yield (
        config.mask_mode is not None and protocol != "described",
        "--mask-mode has a meaning with --protocol described only: leave it out",
    )
    yield (
        protocol == "described" and (config.own_order or config.normalise == "channels"),
        "--protocol described takes the samples in one order and pixels / 255: leave --own-order and "
        "--normalise out",
    )
    for flag in ("method", "halving", "require_reach"):
        way_out = "give --mask-mode enforced with it"
        useless = not rules_of(config).enforced and getattr(config, flag) is not None
        yield useless, f"{flag_name(flag)} has no meaning where all weights are trained: {way_out}"
    different = f"--densities must be different numbers, at least one: {list(d or ())}"
    yield d is not None and len(set(d)) < max(1, len(d)), different
    yield (
        mode == "range" and (d is None or len(d) != 2 or d[0] >= d[1]),
        "--mode range needs --densities lowest,highest, for instance 0.005,0.05",
    )
    yield (
        config.halving is not None and config.method is not None,
        "--method and --halving exclude each other: rungs pass on values, not structures",
    )


def settings(values: Mapping[str, Any]) -> Any:
    """A configuration from what JSON keeps of it."""
    return SimpleNamespace(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _jobs() -> Any:
    from jaxnet.sweep import jobs

    return jobs


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
        groups = _jobs().portfolio(config.portfolio, features, classes)
    if config.portfolio and (config.method is not None or not rules_of(config).enforced):
        # what rewires networks must not find units that only pad them to the width of others, and dense
        # networks pay for these
        return {sizes_label(a): (a,) for group in groups.values() for a in group}
    return groups


def make_jobs(
    stage: Stage, groups: Groups, seeds: range, config: Any
) -> tuple[list[Job], list[tuple[str, float]]]:
    """The jobs of a stage by the rules of a hunt, and what is left out: see :mod:`jaxnet.sweep.jobs`."""
    return _jobs().make_jobs(stage, groups, seeds, rules_of(config).mask, config.allocation)


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
        return _jobs().spaced(lowest, highest, config.points or 5)
    return tuple(sorted(config.densities or (COARSE if config.mode == "sweep" else (0.02,))))


def epochs_of(config: Any, stage: str) -> int:
    """Epochs of the networks of a stage that train to the end."""
    if config.mode != "sweep":
        return int(config.epochs or 5)
    return int((config.coarse_epochs or 3) if stage == "coarse" else (config.fine_epochs or 7))
