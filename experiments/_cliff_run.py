"""The run of ``experiments.cliff_rescue``: all arms as one population, growth, summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _runtime
from experiments._cliff_arms import SCHEDULER, Treatment
from experiments._cliff_plots import PLOTS
from experiments._population import (
    Clock,
    EpochResult,
    Phase,
    evaluate_all,
    load_progress,
    make_split,
    network_spec,
    run_phase,
)
from experiments._runtime import resolve_kernel
from experiments._shown import diverged_in
from experiments.cliff_rescue import ARMS, Arm
from jaxnet import data, optim, scheduler, trees
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import json_safe
from jaxnet.kernels import product
from jaxnet.keys import REGROW, key_of, keys_of, purpose
from jaxnet.masks import allocate
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import count_nonzeros
from jaxnet.programs import ONCE
from jaxnet.provenance import provenance
from jaxnet.records import RunFolder
from jaxnet.statistics import aggregate, exact_fraction, paired_difference, paired_rates, success_rate
from jaxnet.train import Task, TrainState
from jaxnet.types import Array, Key, PyTree

if TYPE_CHECKING:
    from experiments.cliff_rescue import Config

PHASE = "train"

Accounts = scheduler.SchedulerState | None
"""The schedulers of the seeds of the arm that has them."""


class CliffRun:
    """One run in one folder; its networks are all seeds of the first arm, then of the second, ..."""

    def __init__(self, config: Config, folder: RunFolder, dataset: data.Dataset) -> None:
        self.config, self.folder, self.dataset = config, folder, dataset
        # static first: the others are compared with it
        self.arms = {name: ARMS[name] for name in sorted(config.arms, key=lambda name: name != "static")}
        self.spec = make_spec(config, dataset)
        self.task = Task(MLP(self.spec, product(config.kernel)), config.batch_size)
        self.optimizer = optim.dual_rate_adam(config.lr, 0.0)
        self.treatment = Treatment(config, self.spec, self.task, self.optimizer)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        self.keys = keys_of(self.seeds)
        self.clock = Clock()
        seed = config.protocol == "seed"
        self.train = make_split(dataset, "train")
        self.watch = make_split(dataset, "test" if seed else "val")
        self.shown = self.watch if seed else self.train  # the samples that show the extrema
        self.programs: dict[str, Any] = {}

    # All networks.

    def of_arm(self, tree: PyTree, number: int) -> PyTree:
        """The part of a tree of all networks that belongs to an arm."""
        n = len(self.seeds)
        return jax.tree.map(lambda leaf: leaf[number * n : (number + 1) * n], tree)

    def init_all(self, keys: Key) -> tuple[TrainState, Accounts]:
        """All networks before training; a seed has the same start in every arm of one allocation."""
        made = {
            allocation: jax.vmap(partial(self.treatment.init_one, allocation))(keys)
            for allocation in dict.fromkeys(arm.allocation for arm in self.arms.values())
        }
        parts = [made[arm.allocation] for arm in self.arms.values()]
        state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        accounts = None
        if any(arm.scheduled for arm in self.arms.values()):
            accounts = trees.stack([scheduler.init_scheduler(SCHEDULER)] * len(self.seeds))
        return state, accounts

    def grow_all(
        self, state: TrainState, split: Split, keys: Key, epoch: Array, now: Array, *, scheduled: bool
    ) -> TrainState:
        """A growth of all networks, or of those of scheduled arms, each in its arm's way.

        Args:
          state: of all networks.
          split: samples that show the extrema.
          keys: ``(seed,)``.
          epoch: epochs done.
          now: ``(seed,)``, which seeds grow.
          scheduled: which arms are treated; the others stay as they are.
        """

        def one(arm: Arm, state: TrainState, key: Key, now: Array) -> TrainState:
            if arm.scheduled != scheduled:
                return state
            grown = self.treatment.grow_one(arm, state, split, purpose(key, REGROW, epoch))
            return trees.where(now, grown, state)

        parts = []
        for number, arm in enumerate(self.arms.values()):
            parts.append(jax.vmap(partial(one, arm))(self.of_arm(state, number), keys, now))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def between(
        self, epoch: int, state: TrainState, accounts: Accounts, result: EpochResult
    ) -> tuple[TrainState, Accounts]:
        """Between two epochs: growth every ``--grow-every`` epochs, and where the scheduler says so."""
        number = jnp.asarray(epoch, jnp.int32)
        everyone = jnp.ones(len(self.seeds), bool)
        if epoch % self.config.grow_every == 0 and any(
            arm.grow != "none" and not arm.scheduled for arm in self.arms.values()
        ):
            args = (state, self.shown, self.keys, number, everyone)
            state = self.program(partial(self.grow_all, scheduled=False), "grow", *args)
        if accounts is not None:
            place = next(i for i, arm in enumerate(self.arms.values()) if arm.scheduled)
            norms = self.of_arm(np.asarray(result.info.gradient_norms), place)
            # the scheduler counts epochs from 0
            see = jax.vmap(self.treatment.consult, in_axes=(0, 0, None))
            accounts, now = self.program(see, "consult", accounts, norms, number - 1)
            if bool(np.any(np.asarray(now))):
                args = (state, self.shown, self.keys, number, now)
                state = self.program(partial(self.grow_all, scheduled=True), "scheduled", *args)
        return state, accounts

    def program(self, function: Callable[..., Any], name: str, *args: Any) -> Any:
        """Runs ``function``, compiled at its first call."""
        if name not in self.programs:
            self.programs[name] = self.clock.compiled(function, *args)
        return self.programs[name](*args)

    # The run.

    def run(self) -> dict[str, Any]:
        """Trains, grows and writes the summary; continues where a run stopped."""
        self.folder.write_json("provenance.json", self.provenance())
        start, accounts = self.clock.compiled(self.init_all, self.keys, options=ONCE)(self.keys)
        at = load_progress(self.folder, {PHASE: lambda: (start, accounts)}, self.clock)
        _, epoch, state, accounts = at or (PHASE, 0, start, accounts)
        phase = Phase(
            name=PHASE,
            epochs=self.config.epochs,
            task=self.task,
            train=self.train,
            watch=self.watch,
            watch_name="test" if self.config.protocol == "seed" else "validation",
            key_data=key_of(self.config.data_seed),
            arms=tuple(self.arms),
            between=self.between,
            gradient_norms=accounts is not None,
        )
        state, accounts = run_phase(
            phase, state, self.seeds, self.folder, self.clock, first_epoch=epoch, extra=accounts
        )
        summary = self.summarise(state, accounts)
        self.folder.write_json("summary.json", summary)
        return summary

    def summarise(self, state: TrainState, accounts: Accounts) -> dict[str, Any]:
        """Everything ``summary.json`` holds."""
        params, structure = state.net.params, state.net.structure
        if self.config.protocol == "seed":
            judged, accuracy = self.watch, np.asarray(state.best_accuracy)
        else:
            judged = test = make_split(self.dataset, "test")
            accuracy = np.asarray(evaluate_all(self.clock, self.task, params, structure, test).accuracy)
        # of a diverged network the best accuracy is that of an earlier epoch, or of none
        accuracy = np.where(np.asarray(state.diverged), np.nan, accuracy)
        accuracy = np.array([exact_fraction(float(a), judged.size) for a in accuracy])
        count = self.clock.compiled(jax.vmap(count_nonzeros), params, structure, options=ONCE)
        counts = jax.device_get(count(params, structure))
        layers = np.stack([c.num_nonzeros for c in jax.device_get(structure.weights)], axis=1)
        arms: dict[str, Any] = {}
        for number, name in enumerate(self.arms):
            of_arm = self.of_arm({"accuracy": accuracy, "counts": counts, "layers": layers}, number)
            seeds = [
                seed_entry(seed, trees.take(of_arm, i), self.config.target, self.spec)
                for i, seed in enumerate(self.seeds)
            ]
            if self.arms[name].scheduled and accounts is not None:
                for entry, times in zip(seeds, np.asarray(accounts.growths), strict=True):
                    entry["growths"] = int(times)
            arms[name] = {**arm_entry(seeds, arms.get("static")), "seeds": seeds}
        summary: dict[str, Any] = json_safe(
            {
                "experiment": "cliff_rescue",
                "config": self.folder.read_json("config.json"),
                "sizes": list(self.spec.sizes),
                "kernel": self.config.kernel,
                "target": self.config.target,
                "start": list(self.treatment.sizes.start),
                "provenance": self.provenance(),
                "arms": arms,
                "diverged": diverged_in(arms),
                "timing": self.clock.as_dict(),
            }
        )
        return summary

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, and which data."""
        return {**provenance(), "dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}


def seed_entry(seed: int, of_seed: dict[str, Any], target: float, spec: NetworkSpec) -> dict[str, Any]:
    """The entry of one seed of an arm; a diverged network is neither rescued nor not."""
    counts = {name: int(value) for name, value in of_seed["counts"].items()}
    accuracy = float(of_seed["accuracy"])
    diverged = not np.isfinite(accuracy)
    return {
        "seed": seed,
        "diverged": diverged,
        "accuracy": accuracy,
        "rescued": None if diverged else accuracy >= target,
        "weights": counts["total"] - counts["bias"],
        "nonzeros": {**counts, "layers": [int(n) for n in of_seed["layers"]]},
        # skips apart: they lie between layers that have no weights between them in the dense network
        "density": counts["scaffold"] / spec.dense_weights,
        "skip_weights": counts.get("skip", 0),
    }


def arm_entry(seeds: list[dict[str, Any]], static: dict[str, Any] | None) -> dict[str, Any]:
    """The numbers of an arm over the seeds that have not diverged, and its pairs with ``static``."""

    def column(entries: list[dict[str, Any]], name: str) -> list[float]:
        return [np.nan if s["diverged"] else float(s[name]) for s in entries]

    against = None
    if static is not None:
        pairs = {
            name: (column(seeds, name), column(static["seeds"], name)) for name in ("accuracy", "rescued")
        }
        against = {
            "difference": paired_difference(*pairs["accuracy"]),
            "rescued": paired_rates(*pairs["rescued"]),
        }
    return {
        "accuracy": aggregate(column(seeds, "accuracy")),
        "rescued": success_rate(column(seeds, "rescued")),
        **{name: aggregate(column(seeds, name)) for name in ("weights", "density", "skip_weights")},
        "against_static": against,
    }


def run(config: Config, folder: RunFolder, dataset: data.Dataset) -> dict[str, Any]:
    """Runs the experiment in an open folder; returns its summary."""
    return CliffRun(config, folder, dataset).run()


def open_folder(config: Config, dataset: data.Dataset) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.records.RunFolder.open`."""
    return _runtime.open_folder(config, dataset, PLOTS)


def make_spec(config: Config, dataset: data.Dataset) -> NetworkSpec:
    """The network at the start; see :func:`experiments._population.network_spec`."""
    init = config.init or ("dense-fan-in" if config.protocol == "seed" else "sparse-fan-in")
    return network_spec(
        dataset, config.sizes, density=config.density, activation=config.activation, init=init
    )


def prepare(config: Config, dataset: data.Dataset) -> Config:
    """Checks what can be checked before anything is written, and settles ``--kernel auto``.

    Raises:
      InputError: the sizes or the density do not fit the data, there are no
        samples to evaluate on, or the kernel is not available.
    """
    spec = make_spec(config, dataset)
    for name in config.arms:
        try:
            allocate(spec.sizes, spec.density, ARMS[name].allocation)
        except ValueError as error:
            raise InputError(f"arm {name}: {error}") from None
    for part, y in (("validation", dataset.y_val), ("test", dataset.y_test)):
        if not len(y) and (part == "test" or config.protocol == "clean"):
            raise InputError(f"{dataset.name} has no {part} samples")
    networks = config.num_seeds * len(config.arms)
    kernel = resolve_kernel(config.kernel, spec, config.batch_size, networks, config.out, config.resume)
    return dataclasses.replace(config, kernel=cast(Any, kernel))
