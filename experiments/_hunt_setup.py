"""What a seed hunt computes with: protocol, data, compiled programs, and the rows they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._hunt_kept import Row
from experiments._hunt_plan import COARSE, Group, Job, Stage, label, make_jobs, portfolio, spaced
from experiments._population import make_split
from jaxnet import data, environment
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.kernels import product
from jaxnet.kernels.choice import choose
from jaxnet.keys import key_of, keys_of
from jaxnet.masks import drawable_density
from jaxnet.statistics import exact_fraction
from jaxnet.sweep import DrawRules, Program, SweepConfig, Trained, Variant, make_variant
from jaxnet.sweep.hosts import Hosts
from jaxnet.sweep.hosts import start as start_hosts
from jaxnet.types import Key

if TYPE_CHECKING:
    from experiments.seed_hunt import Config

ACTIVATION = "relu"
Entry = dict[str, Any]
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the protocol decides."""

    mask: str
    init: str
    split: str  # accuracy of the rows: "validation" or "test"

    @classmethod
    def of(cls, protocol: str) -> Rules:
        """The original's ``seed`` protocol reads the test samples for every network."""
        if protocol == "seed":
            return cls("bernoulli", "dense-fan-in", "test")
        return cls("uniform", "sparse-fan-in", "validation")


def join_hosts(config: Config) -> Hosts:
    """This process among those that share the hunt.

    Raises:
      InputError: the others cannot be reached.
    """
    if config.distributed == "off" and config.coordinator is None:
        return Hosts()
    return start_hosts(config.coordinator, config.num_processes, config.process_id)


def make_groups(config: Config, dataset: data.Dataset) -> tuple[Group, ...]:
    """Architectures of a hunt.

    Raises:
      InputError: ``--sizes`` does not fit the data.
    """
    features, classes = dataset.num_features, dataset.num_classes
    if config.portfolio:
        return portfolio(features, classes)
    sizes = config.sizes or (features, 128, classes)
    if sizes[0] != features or sizes[-1] < classes:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: it has {features} features "
            f"and {classes} classes, so give {features},...,{classes}"
        )
    return (Group("sizes", (tuple(sizes),)),)


def first_densities(config: Config) -> tuple[float, ...]:
    """Densities that are trained first, ascending."""
    if config.mode == "sweep":
        return tuple(sorted(config.densities or COARSE))
    if config.mode == "range":
        assert config.densities is not None
        return spaced(config.densities[0], config.densities[1], config.points or 5)
    return tuple(sorted(config.densities or (0.02,)))


def check(config: Config, dataset: data.Dataset) -> None:
    """Checks what can be checked before anything is written.

    Raises:
      InputError: the sizes or densities do not fit the data, or the kernel is not available.
    """
    if not len(dataset.y_test if config.protocol == "seed" else dataset.y_val):
        raise InputError(f"{dataset.name} has no {Rules.of(config.protocol).split} samples")
    groups = make_groups(config, dataset)
    rules = Rules.of(config.protocol)
    stage = Stage("first", 0, 1, first_densities(config))
    try:
        jobs, left_out = make_jobs(stage, groups, range(1), rules.mask)
        for job in jobs:
            job.family()
    except ValueError as error:
        raise InputError(str(error)) from None
    if not jobs or (left_out and not config.portfolio and config.mode == "single"):
        architecture, density = left_out[0]
        raise InputError(
            f"density {density} leaves a layer of {label(architecture)} without any weight: raise --densities"
        )
    environment.check()
    if config.kernel != "auto":
        product(config.kernel, config.precision)


def make_splits(config: Config, dataset: data.Dataset) -> tuple[Split, Split, Split]:
    """Samples to train on, to judge by, and to watch for extrema (training samples)."""
    return (
        make_split(dataset, "train"),
        make_split(dataset, "test" if config.protocol == "seed" else "val"),
        make_split(dataset, "train", slice(config.extrema_samples)),
    )


def choose_kernel(config: Config, job: Job) -> str:
    """Name of the sparse product of a job; ``auto`` is measured at the mean density."""
    if config.kernel != "auto":
        return config.kernel
    if config.precision != "f32":  # the csr kernel knows no other
        return "dense"
    sizes = job.family().sizes
    mean = sum(density for _, density in job.members) / len(job.members)
    return choose(sizes, drawable_density(sizes, mean), config.batch_size, job.size)


def default_chunk(devices: Sequence[jax.Device]) -> int:
    """Networks of a call that keep the devices busy: beyond, seeds per second hardly grow."""
    return max(128, 64 * len(devices)) if devices[0].platform == "cpu" else 2048 * len(devices)


def make_program(
    config: Config,
    job: Job,
    kernel: str,
    splits: tuple[Split, Split, Split],
    *,
    chunk: int,
    num_devices: int | None = None,
    num_networks: int | None = None,
) -> Program:
    """Compiles the program of a job, for all its networks or a number of them.

    A planned call keeps its chunk: with ``num_devices``, those it was planned for, or as many
    of those that are here as share the chunk evenly.

    Raises:
      InputError: not even one network fits the memory.
    """
    rules = Rules.of(config.protocol)
    how = SweepConfig(
        epochs=job.stage.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        draw=DrawRules(rules.mask, rules.init, ACTIVATION),
        common_order=not config.own_order,
        product=product(kernel, config.precision),
    )
    budget = None if config.memory_budget is None else config.memory_budget * MIB
    try:
        return Program(
            job.family(),
            how,
            job.size if num_networks is None else num_networks,
            splits,
            key_data=key_of(config.data_seed),
            chunk=chunk,
            memory_budget=budget,
            devices=None if num_devices is None else sharing_devices(chunk, num_devices),
            rungs=config.halving is not None,
        )
    except ValueError as error:
        raise InputError(f"{job.key}: {error} (--memory-budget, --sizes, --batch-size)") from None


def sharing_devices(chunk: int, at_most: int) -> list[jax.Device]:
    """As many local devices as share a chunk evenly."""
    devices = jax.local_devices()
    number = max(n for n in range(1, min(at_most, len(devices)) + 1) if chunk % n == 0)
    return devices[:number]


def find_entries(plan: Sequence[dict[str, Any]], stage: str, group: str, epochs: int) -> list[Entry]:
    """How a hunt trains a group of a stage up to some epochs: entries of plan.json, rung by rung."""
    rungs = sorted(
        (s for s in plan if s["name"] == stage and s["epochs"] <= epochs), key=lambda s: int(s["epochs"])
    )
    return [
        {**program, "start": rung.get("start", 0), "epochs": rung["epochs"]}
        for rung in rungs
        for program in rung["programs"]
        if program["group"] == group
    ]


def train_again(
    config: Config,
    job: Job,
    indices: Sequence[int],
    entries: Sequence[Entry],
    splits: tuple[Split, Split, Split],
) -> Trained:
    """Trains networks of a job once more, in the programs of the hunt: the same bits.

    Args:
      config: of the hunt.
      job: networks.
      indices: which of them; more than a call holds are trained call by call.
      entries: from :func:`find_entries`, one per rung.
      splits: samples.
    """
    parts: list[Trained] = []
    chunk = min(entry["chunk"] for entry in entries)
    programs = [
        make_program(
            config,
            job,
            e["kernel"],
            splits,
            chunk=e["chunk"],
            num_devices=e.get("devices", 1),
            num_networks=e["chunk"],
        )
        for e in entries
    ]
    for first in range(0, len(indices), chunk):
        given = inputs(job, indices[first : first + chunk])
        trained = None
        for entry, program in zip(entries, programs, strict=True):
            if config.halving is None:
                trained = program(*given)
            else:
                carried = None if trained is None else trained.carried
                trained = program(*given, carried, range(entry["start"], entry["epochs"]))
        assert trained is not None
        parts.append(trained)
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)


def inputs(job: Job, indices: Sequence[int]) -> tuple[Key, Variant]:
    """Keys ``(network,)`` and members, leaves ``(network, ...)``, of some networks of a job.

    A key depends on the number of the seed only: architectures and densities
    share their seeds' keys.
    """
    networks = [job.network(i) for i in indices]
    made = {m: jax.tree.map(np.asarray, make_variant(*m, job.mask)) for m in job.members}
    members: Variant = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)), *(made[a, d] for a, d, _ in networks)
    )
    seeds = np.asarray([seed for _, _, seed in networks], np.uint32)
    return keys_of(seeds.tolist()), members


def make_rows(job: Job, indices: Sequence[int], trained: Trained, split: str, num_judged: int) -> list[Row]:
    """One row per network, see ``SCHEMA``; a network without an accuracy has diverged."""
    host = jax.tree.map(np.asarray, trained.row)
    rows = []
    for i, index in enumerate(indices):
        architecture, density, seed = job.network(index)
        hidden, nonzeros = int(host.hidden[i]), int(host.nonzeros[i])
        high, low = int(host.high[i]), int(host.low[i])
        # float32 holds the fraction to 7 digits only; the number of right answers is whole
        accuracy = exact_fraction(float(host.accuracy[i]), num_judged)
        score = (high + low) / max(hidden, 1)
        rows.append(
            {
                "seed": seed,
                "architecture": label(architecture),
                "group": job.group.name,
                "density": density,
                "stage": job.stage.name,
                "epochs": job.stage.epochs,
                "mask": job.mask,
                "split": split,
                "accuracy": accuracy,
                "loss": float(host.loss[i]),
                "high": high,
                "low": low,
                "extrema_score": score,
                "patchability": score * (1 - accuracy),
                "efficiency": 1000 * accuracy / max(nonzeros, 1),
                "dead": round(float(host.dead[i]) * hidden) / max(hidden, 1),
                "saturated": float(host.saturated[i]),
                "hidden": hidden,
                "nonzeros": nonzeros,
                "biases": int(host.biases[i]),
                "diverged": bool(host.diverged[i]),
            }
        )
    return rows
