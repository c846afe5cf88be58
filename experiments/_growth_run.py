"""The run of ``experiments.indefinite_growth``: plan, data, summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np

from experiments._cli import Progress
from experiments._population import evaluate_all, make_split, median_note, network_spec
from experiments._runtime import resolve_kernel
from experiments.indefinite_growth import RECIPES, iteration_line, settled
from jaxnet import methods
from jaxnet.data import Dataset
from jaxnet.errors import InputError
from jaxnet.files import json_safe
from jaxnet.growth import Budget, DecisionRules, GrowthData, GrowthPlan, Member, Target, grow_until
from jaxnet.growth.training import stack_host
from jaxnet.kernels import product
from jaxnet.keys import key_of
from jaxnet.original import OriginalRules
from jaxnet.patches import PatchRules
from jaxnet.programs import Clock
from jaxnet.provenance import provenance
from jaxnet.records import RunFolder
from jaxnet.statistics import aggregate, exact_fraction

if TYPE_CHECKING:
    from experiments.indefinite_growth import Config

SEED_EXTREMA = slice(128, 192)
"""Test samples for the extrema of protocol ``seed``: the original passes three batches of 64, and its last
one overwrites what the others left."""

EXCHANGED_UNTIL = 0.75
"""Share of an iteration after which no weights are exchanged any more (as RigL's authors have it)."""


def make_plan(config: Config, dataset: Dataset) -> GrowthPlan:
    """The plan of a settled configuration.

    Raises:
      InputError: sizes or density do not fit the data, or each other.
    """
    seed = config.protocol == "seed"
    c = cast(Any, config)  # every auto is settled
    hidden = RECIPES[config.recipe]["hidden"]
    spec = network_spec(
        dataset,
        config.sizes,
        hidden,
        density=c.density,
        activation=config.activation,
        allocation=c.allocation,
        init=config.init or ("dense-fan-in" if seed else "sparse-fan-in"),
    )
    steps = c.epochs * -(-len(dataset.y_train) // config.batch_size)
    method = None
    if c.exchange != "none":
        name = {"random": "set", "gradient": "rigl"}[c.exchange]
        method = methods.make(name, until=max(1, int(EXCHANGED_UNTIL * steps)))
    patches = (OriginalRules if seed else PatchRules)(max_patches=c.max_patches)
    try:
        return GrowthPlan(
            spec,
            DecisionRules(
                rule=c.rule,
                change=c.change,
                place=config.place,
                patches=c.max_patches > 0,
                min_ratio=config.min_ratio,
                max_size=config.max_size,
                size=config.size,
            ),
            operator=c.operator,
            added=config.added,
            patches=patches if c.max_patches > 0 else None,
            epochs=c.epochs,
            patience=c.patience or None,
            lr=c.lr,
            lr_patch=c.lr,
            schedule=c.schedule,
            select="last" if seed or method is not None else "best",
            judge_best=seed,
            fresh_optimizer=seed,
            method=method,
            detector=config.detector,
            detect_on=config.detect_on,
            batch_size=config.batch_size,
            product=product(config.kernel) if config.kernel != "auto" else product("dense"),
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def make_budget(config: Config) -> Budget:
    """What growth may cost."""
    return Budget(config.iterations, config.max_nonzeros, config.time_limit, config.min_gain, config.stall)


def prepare(config: Config, dataset: Dataset) -> Config:
    """Settles the recipe and ``--kernel auto``; checks what can be checked before anything is written.

    Raises:
      InputError: sizes or density do not fit the data, the network at the start
        is beyond the budget, or the kernel is not available.
    """
    config = settled(config)
    plan = make_plan(config, dataset)
    make_budget(config).check_start(plan)
    part = "validation" if config.protocol == "clean" else "test"
    if not len(dataset.y_val if config.protocol == "clean" else dataset.y_test):
        raise InputError(f"{dataset.name} has no {part} samples")
    kernel = resolve_kernel(
        config.kernel, plan.spec, config.batch_size, config.num_seeds, config.out, config.resume
    )
    return dataclasses.replace(config, kernel=cast(Any, kernel))


def run(
    config: Config, folder: RunFolder, dataset: Dataset, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Grows all seeds in an open folder and writes the summary; continues where a run stopped.

    Args:
      config: from :func:`prepare`.
      folder: where results go.
      dataset: of the configuration.
      report: gets a line for every iteration of every network.
    """
    seed = config.protocol == "seed"
    known = {**provenance(), "dataset": dataset.name, "data_fingerprint": dataset.fingerprint}
    folder.write_json("provenance.json", known)
    plan, clock = make_plan(config, dataset), Clock()
    samples = slice(config.extrema_samples)
    if seed and config.extrema_samples is None and len(dataset.y_test) >= SEED_EXTREMA.stop:
        samples = SEED_EXTREMA
    data = GrowthData(
        train=make_split(dataset, "train"),
        watch=make_split(dataset, "test" if seed else "val"),
        extrema=make_split(dataset, "test" if seed else "train", samples),
        key_data=key_of(config.data_seed),
        watch_name="test" if seed else "validation",
    )

    def told(member: Member) -> None:
        report(iteration_line(member.seed, member.stop, member.history[-1]))

    with Progress(config.iterations * plan.epochs, f"{config.num_seeds} seeds") as progress:

        def at(iteration: int, epoch: int, accuracy: np.ndarray) -> None:
            note = f"iteration {iteration}, {len(accuracy)} networks, {median_note(accuracy)}"
            progress.update((iteration - 1) * plan.epochs + epoch, note)

        members = grow_until(
            plan,
            data,
            Target(config.target, cast(float, config.standard_errors)),
            make_budget(config),
            range(config.seed, config.seed + config.num_seeds),
            folder=folder,
            clock=clock,
            on_epoch=at,
            on_iteration=told,
        )
    if seed:
        accuracy = [exact_fraction(m.history[-1]["accuracy"], data.watch.size) for m in members]
    else:
        accuracy = test_accuracy(plan, members, dataset, clock)
    seeds = [seed_entry(m, a) for m, a in zip(members, accuracy, strict=True)]
    summary: dict[str, Any] = json_safe(
        {
            "experiment": "indefinite_growth",
            "config": folder.read_json("config.json"),
            "kernel": config.kernel,
            "provenance": known,
            "seeds": seeds,
            "diverged": [s["seed"] for s in seeds if s["diverged"]],
            "aggregate": aggregate_seeds(seeds),
            "timing": clock.as_dict(),
        }
    )
    folder.write_json("summary.json", summary)
    return summary


def test_accuracy(plan: GrowthPlan, members: list[Member], dataset: Dataset, clock: Clock) -> list[float]:
    """Test accuracy of every network, read once; networks of equal shape together."""
    test = make_split(dataset, "test")
    groups: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(member.net)]
        groups.setdefault((member.spec.sizes, tuple(shapes)), []).append(i)
    accuracy = [0.0] * len(members)
    for places in groups.values():
        stack = stack_host([members[i].net for i in places])
        task = plan.task(members[places[0]].spec)
        found = np.asarray(evaluate_all(clock, task, stack.params, stack.structure, test).accuracy)
        for i, value in zip(places, found, strict=True):
            accuracy[i] = exact_fraction(float(value), test.size)
    return accuracy


def seed_entry(member: Member, accuracy: float) -> dict[str, Any]:
    """What ``summary.json`` says of one network; accuracies of a diverged one are NaN."""
    last = member.history[-1]
    counts = last["nonzeros"]
    diverged = member.stop == "diverged" or not np.isfinite(accuracy)
    return {
        "seed": member.seed,
        "diverged": diverged,
        "iterations": len(member.history),
        "architecture": last["architecture"],
        "accuracy": np.nan if diverged else accuracy,
        "nonzeros": counts,
        # of the scaffold alone: a patch may lie where a weight of the scaffold could
        "density": counts["scaffold"] / member.spec.dense_weights,
        "patch_weights": counts["patch"],
        "stop_reason": member.stop,
        # the best epoch before a network diverged, or -1 where there was none
        "history": [{**h, "accuracy": np.nan} if h["diverged"] else h for h in member.history],
    }


def aggregate_seeds(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, deviation, median, range and interval over the seeds that have not diverged."""
    columns: dict[str, list[float]] = {}
    for s in seeds:
        numbers = {name: s[name] for name in ("accuracy", "iterations", "density", "patch_weights")}
        numbers["depth"] = len(s["architecture"]) - 2
        numbers |= {
            f"nonzeros.{name}": s["nonzeros"][name] for name in ("scaffold", "bias", "patch", "total")
        }
        for name, value in numbers.items():
            columns.setdefault(name, []).append(np.nan if s["diverged"] else value)
    return {name: aggregate(values) for name, values in columns.items()}
