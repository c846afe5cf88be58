"""The run of ``experiments.cliff_rescue``: all arms as one population, growth, summary."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

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
    seed_keys,
)
from experiments._runtime import resolve_kernel
from experiments.cliff_rescue import ARMS, Arm
from jaxnet import data, extrema, network, optim, rewire, train, trees
from jaxnet.errors import InputError
from jaxnet.extrema import Extrema
from jaxnet.kernels import product
from jaxnet.masks import allocate
from jaxnet.network import NetworkSpec, Params, Structure
from jaxnet.provenance import provenance
from jaxnet.records import MAY_DIFFER, RunFolder
from jaxnet.statistics import aggregate, paired_difference, paired_rates, success_rate
from jaxnet.train import Split, Task, TrainState
from jaxnet.types import Array, Key, PyTree

if TYPE_CHECKING:
    from experiments.cliff_rescue import Config

_MASK, _INIT, _GROW = 0, 1, 2  # purposes of a seed's key
PHASE = "train"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many weights there are at the start, how many a growth adds, how many slots there must be.

    Attributes:
      start: weights of each layer of a network with the uniform allocation.
      step: of each layer, what ``random`` adds at a growth: a fraction of ``start``, in
        the hidden layers only.
      capacity: slots of each layer, enough for every arm.
      skips: slots of each bank of skip connections.
    """

    start: tuple[int, ...]
    step: tuple[int, ...]
    capacity: tuple[int, ...]
    skips: int

    @classmethod
    def of(cls, config: Config, spec: NetworkSpec) -> Sizes:
        """The numbers of a configuration."""
        start = allocate(spec.sizes, spec.density)
        step = (*(max(1, int(config.grow_fraction * n)) for n in start[:-1]), 0)
        times = (config.epochs - 1) // config.grow_every
        arms = [ARMS[name] for name in config.arms]
        capacity = []
        for layer, (num_in, num_out) in enumerate(zip(spec.sizes[:-1], spec.sizes[1:], strict=True)):
            slots = [allocate(spec.sizes, spec.density, arm.allocation)[layer] for arm in arms]
            if any(arm.grow in ("random", "skips") for arm in arms):
                slots.append(start[layer] + times * step[layer])
            if layer == len(start) - 1 and any(arm.grow == "output" for arm in arms):
                slots.append(start[layer] + times * sum(step))
            capacity.append(min(max(slots), num_in * num_out))
        return cls(start, step, tuple(capacity), times * sum(step))


class CliffRun:
    """One run in one folder; its networks are all seeds of the first arm, then of the second, ..."""

    def __init__(self, config: Config, folder: RunFolder, dataset: data.Dataset) -> None:
        self.config, self.folder, self.dataset = config, folder, dataset
        # static first: the others are compared with it
        self.arms = {name: ARMS[name] for name in sorted(config.arms, key=lambda name: name != "static")}
        self.spec = make_spec(config, dataset)
        self.sizes = Sizes.of(config, self.spec)
        self.task = Task(self.spec, config.batch_size, product=product(config.kernel))
        self.optimizer = optim.dual_rate_adam(config.lr, 0.0)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        self.keys = seed_keys(self.seeds)
        self.clock = Clock()
        seed = config.protocol == "seed"
        self.train = make_split(dataset, "train")
        self.watch = make_split(dataset, "test" if seed else "val")
        self.shown = self.watch if seed else self.train  # the samples that show the extrema
        self._edit: Any = None

    # The pieces, for one network; vmap gives all seeds.

    def init_one(self, arm: Arm, key: Key) -> tuple[TrainState, Structure]:
        """A network before training, with room for what its arm and the others add."""
        spec = dataclasses.replace(self.spec, allocation=arm.allocation)
        params, structure = network.init(
            spec, key_mask=jax.random.fold_in(key, _MASK), key_init=jax.random.fold_in(key, _INIT)
        )
        extra = tuple(
            slots - topology.capacity
            for slots, topology in zip(self.sizes.capacity, structure.connectivity, strict=True)
        )
        params, structure = rewire.with_room(params, structure, extra)
        if any(arm.grow == "skips" for arm in self.arms.values()):
            params, structure = rewire.with_skips(params, structure, self.sizes.skips)
        return train.init_state(params, self.optimizer.init(params)), structure

    def grow_one(
        self, arm: Arm, state: TrainState, structure: Structure, split: Split, key: Key
    ) -> tuple[TrainState, Structure]:
        """One growth of a network."""
        args = (state.params, structure, state.opt_state)
        step = self.sizes.step
        if arm.grow == "none":
            return state, structure
        if arm.grow == "random":
            done = rewire.grow_random(*args, step, step, key_rewire=key)[:3]
        elif arm.grow == "output":
            counts = (*(0 for _ in step[:-1]), sum(step))
            done = rewire.grow_random(*args, counts, counts, key_rewire=key)[:3]
        else:
            stats = train.collect_stats(self.task, state.params, structure, split)
            found = tuple(extrema.detect(s, self.config.detector) for s in stats)
            if arm.grow == "clone":
                done = rewire.clone_and_prune(*args, found, step, key_rewire=key)[:3]
            else:
                done = self.grow_skips(*args, found, key)
        params, structure, opt_state = done
        # best_params stay: they belong to an earlier topology, and only their accuracy is reported
        return state.replace(params=params, opt_state=opt_state), structure

    def grow_skips(
        self, params: Params, structure: Structure, opt_state: PyTree, found: tuple[Extrema, ...], key: Key
    ) -> tuple[Params, Structure, PyTree]:
        """Skip connections as far as they can be routed, the rest at random into the hidden layers."""
        step, total = self.sizes.step, sum(self.sizes.step)
        *grown, added = rewire.route_skips(
            params,
            structure,
            opt_state,
            found,
            total,
            total,
            max_incoming=self.config.max_incoming,
            key_rewire=jax.random.fold_in(key, 0),
        )
        counts, left = [], total - added
        for most in step:
            counts.append(jnp.minimum(left, most))
            left = left - counts[-1]
        key = jax.random.fold_in(key, 1)
        return rewire.grow_random(*cast(Any, grown), counts, step, key_rewire=key)[:3]

    # All networks.

    def of_arm(self, tree: PyTree, number: int) -> PyTree:
        """The part of a tree of all networks that belongs to an arm."""
        n = len(self.seeds)
        return jax.tree.map(lambda leaf: leaf[number * n : (number + 1) * n], tree)

    def init_all(self, keys: Key) -> tuple[TrainState, Structure]:
        """All networks before training; a seed has the same start in every arm of one allocation."""
        parts = [jax.vmap(lambda key, arm=arm: self.init_one(arm, key))(keys) for arm in self.arms.values()]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def grow_all(
        self, state: TrainState, structure: Structure, split: Split, keys: Key, epoch: Array
    ) -> tuple[TrainState, Structure]:
        """One growth of all networks, each in its arm's way."""

        def one(arm: Arm, state: TrainState, structure: Structure, key: Key) -> tuple[TrainState, Structure]:
            key = jax.random.fold_in(jax.random.fold_in(key, _GROW), epoch)
            return self.grow_one(arm, state, structure, split, key)

        parts = [
            jax.vmap(lambda s, c, k, arm=arm: one(arm, s, c, k))(*self.of_arm((state, structure), i), keys)
            for i, arm in enumerate(self.arms.values())
        ]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def edit(
        self, epoch: int, state: TrainState, structure: Structure, extra: PyTree, result: EpochResult
    ) -> tuple[TrainState, Structure, PyTree]:
        """Between two epochs: every ``--grow-every`` epochs, a growth."""
        if epoch % self.config.grow_every == 0:
            args = (state, structure, self.shown, self.keys, jnp.asarray(epoch, jnp.int32))
            if self._edit is None:
                self._edit = self.clock.compiled(self.grow_all, *args)
            state, structure = self._edit(*args)
        return state, structure, structure

    # The run.

    def run(self) -> dict[str, Any]:
        """Trains, grows and writes the summary; continues where a run stopped."""
        self.folder.write_json("provenance.json", self.provenance())
        start, structure = self.clock.compiled(self.init_all, self.keys)(self.keys)
        at = load_progress(self.folder, {PHASE: lambda: (start, structure)}, self.clock)
        _, epoch, state, structure = at or (PHASE, 0, start, structure)
        phase = Phase(
            name=PHASE,
            epochs=self.config.epochs,
            task=self.task,
            optimizer=self.optimizer,
            train=self.train,
            watch=self.watch,
            watch_name="test" if self.config.protocol == "seed" else "validation",
            key_data=jax.random.key(self.config.data_seed),
            arms=tuple(self.arms),
            edit=self.edit,
        )
        state, structure, _ = run_phase(
            phase,
            state,
            structure,
            self.seeds,
            self.folder,
            self.clock,
            first_epoch=epoch,
            extra=structure,
        )
        summary = self.summarise(state, structure)
        self.folder.write_json("summary.json", summary)
        return summary

    def summarise(self, state: TrainState, structure: Structure) -> dict[str, Any]:
        """Everything ``summary.json`` holds."""
        if self.config.protocol == "seed":
            accuracy = np.asarray(state.best_accuracy)
        else:
            test = make_split(self.dataset, "test")
            accuracy = evaluate_all(self.clock, self.task, state.params, structure, test)
        count = self.clock.compiled(jax.vmap(network.count_nonzeros), state.params, structure)
        counts = jax.tree.map(np.asarray, count(state.params, structure))
        layers = np.stack([np.asarray(c.num_nonzeros) for c in structure.connectivity], axis=1)
        arms: dict[str, Any] = {}
        for number, name in enumerate(self.arms):
            of_arm = self.of_arm({"accuracy": accuracy, "counts": counts, "layers": layers}, number)
            seeds = [
                seed_entry(seed, trees.take(of_arm, i), self.config.target, self.spec)
                for i, seed in enumerate(self.seeds)
            ]
            arms[name] = {**arm_entry(seeds, arms.get("static")), "seeds": seeds}
        return {
            "experiment": "cliff_rescue",
            "config": self.folder.read_json("config.json"),
            "sizes": list(self.spec.sizes),
            "kernel": self.config.kernel,
            "target": self.config.target,
            "start": list(self.sizes.start),
            "provenance": self.provenance(),
            "arms": arms,
            "timing": self.clock.as_dict(),
        }

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, and which data."""
        return {**provenance(), "dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}


def seed_entry(seed: int, of_seed: dict[str, Any], target: float, spec: NetworkSpec) -> dict[str, Any]:
    """The entry of one seed of an arm."""
    counts = {name: int(value) for name, value in of_seed["counts"].items()}
    weights = counts["total"] - counts["bias"]
    accuracy = float(of_seed["accuracy"])
    return {
        "seed": seed,
        "accuracy": accuracy,
        "rescued": accuracy >= target,
        "weights": weights,
        "nonzeros": {**counts, "layers": [int(n) for n in of_seed["layers"]]},
        "density": weights / spec.dense_weights,
    }


def arm_entry(seeds: list[dict[str, Any]], static: dict[str, Any] | None) -> dict[str, Any]:
    """The numbers of an arm over its seeds, and against ``static`` on the same ones."""

    def column(entries: list[dict[str, Any]], name: str) -> list[float]:
        return [float(s[name]) for s in entries]

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
        "weights": aggregate(column(seeds, "weights")),
        "against_static": against,
    }


def run(config: Config, folder: RunFolder, dataset: data.Dataset) -> dict[str, Any]:
    """Runs the experiment in an open folder; returns its summary."""
    return CliffRun(config, folder, dataset).run()


def open_folder(config: Config, dataset: data.Dataset) -> RunFolder:
    """Opens the folder of a run; see :meth:`jaxnet.records.RunFolder.open`."""
    flags = {**dataclasses.asdict(config), "data_fingerprint": dataset.fingerprint}
    return RunFolder.open(
        config.out,
        flags,
        resume=config.resume,
        overwrite=config.overwrite,
        may_differ=(*MAY_DIFFER, "data_dir"),
        owns=PLOTS,
    )


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
