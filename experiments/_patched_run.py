"""The run of ``experiments.patched_density``: phases, checkpoints, summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _runtime
from experiments._patched_plots import PLOTS
from experiments._patched_summary import aggregate_seeds, patch_entries, seed_entry
from experiments._patched_winner import adopt, read_winner
from experiments._population import (
    Clock,
    Phase,
    evaluate_all,
    load,
    load_progress,
    make_split,
    network_spec,
    run_phase,
    save_progress,
)
from experiments._runtime import resolve_kernel
from experiments.patched_density import FRESH
from jaxnet import data, optim, patches, signals, train
from jaxnet.changes import reshape, with_optimizer, with_patches
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import json_safe
from jaxnet.kernels import product
from jaxnet.keys import INIT, MASK, PATCH, key_of, keys_of, purpose
from jaxnet.nn import mlp
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure, count_nonzeros, release_masks, to_masked_network
from jaxnet.original import OriginalRules
from jaxnet.programs import ONCE
from jaxnet.provenance import provenance
from jaxnet.records import RunFolder
from jaxnet.train import Net, Task, TrainState
from jaxnet.types import Key, PyTree
from jaxnet.units import Extrema

if TYPE_CHECKING:
    from experiments.patched_density import Config

_SCAFFOLD_ORDER, _PATCH_ORDER = 0, 1  # purposes of the data key


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the protocol decides; each switch is explained in docs/protocols.md."""

    watch: Literal["val", "test"]
    extrema_part: Literal["train", "test"]
    extrema_samples: int | None
    init: str
    patch_from_best: bool
    fresh_optimizer: bool
    original_patches: bool

    @classmethod
    def of(cls, config: Config) -> Setting:
        """The switches of ``--protocol``, with what flags override."""
        seed = config.protocol == "seed"
        samples = config.extrema_samples
        return cls(
            watch="test" if seed else "val",
            extrema_part="test" if seed else "train",
            extrema_samples=1000 if seed and samples is None else samples,
            init=config.init or ("dense-fan-in" if seed else "sparse-fan-in"),
            patch_from_best=not seed,
            fresh_optimizer=seed or config.mask_mode == "scaffold-phase",
            original_patches=seed,
        )


@dataclasses.dataclass(frozen=True)
class Scaffolds:
    """Trained scaffolds of all seeds, to be patched in several ways."""

    state: TrainState
    rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run: its summary and the scaffolds it started from."""

    summary: dict[str, Any]
    scaffolds: Scaffolds


class PatchedRun:
    """One run in one folder."""

    def __init__(self, config: Config, folder: RunFolder, dataset: data.Dataset | None = None) -> None:
        self.config, self.folder = config, folder
        self.setting = Setting.of(config)
        self.dataset = dataset if dataset is not None else load(config)
        self.spec = make_spec(config, self.dataset, self.setting)
        self.winner = read_winner(config.from_checkpoint) if config.from_checkpoint is not None else None
        self.task = Task(MLP(self.spec, product(config.kernel)), config.batch_size)
        self.rules = patch_rules(config, self.setting)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        self.keys = keys_of(self.seeds)
        self.key_data = key_of(config.data_seed)
        self.clock = Clock()
        self.train = make_split(self.dataset, "train")
        self.watch = make_split(self.dataset, self.setting.watch)
        self.watch_name = "validation" if self.setting.watch == "val" else "test"
        assert config.lr is not None, "settled by prepare"
        self.optimizers = {
            "scaffold": optim.dual_rate_adam(config.lr, config.lr_patch),
            "patch": optim.dual_rate_adam(config.lr_scaffold, config.lr_patch),
        }

    # The pieces, for one network; vmap gives all seeds.

    def init_one(self, key: Key) -> TrainState:
        """A scaffold before training, or the trained one of ``--from-checkpoint``, whatever the key."""
        if self.winner is not None:
            params, structure = self.winner.params, self.winner.structure
        else:
            params, structure = mlp.init(self.spec, key_mask=purpose(key, MASK), key_init=purpose(key, INIT))
        return train.init_state(Net.of(params, structure, self.optimizers["scaffold"]))

    def find_one(self, scaffold: TrainState, split: Split) -> tuple[Extrema, ...]:
        """The extrema of the scaffold that is patched."""
        params, structure = self.scaffold_params(scaffold), scaffold.net.structure
        config = self.config
        return signals.find(self.task, params, structure, split, config.detector, values=config.detect_on)

    def patch_one(self, scaffold: TrainState, found: tuple[Extrema, ...], key: Key) -> TrainState:
        """Patches at the extrema, and the state before the patch phase."""
        net = scaffold.net.replace(params=self.scaffold_params(scaffold))

        def patched(params: Params) -> tuple[Params, Structure]:
            return with_patches(params, net.structure, found, self.rules, key_patch=purpose(key, PATCH))

        optimizer = self.optimizers["patch"]
        if not self.setting.fresh_optimizer:
            state = train.init_state(reshape(with_optimizer(net, optimizer), patched))
            return state.replace(diverged=scaffold.diverged)
        params, structure = patched(net.params)
        if self.config.mask_mode == "scaffold-phase":
            params, structure = to_masked_network(params, structure)
            structure = release_masks(structure)
        state = train.init_state(Net.of(params, structure, optimizer))
        return state.replace(diverged=scaffold.diverged)

    def scaffold_params(self, scaffold: TrainState) -> Params:
        """The scaffold that is patched and reported: the best on validation, or the last."""
        params: Params = scaffold.best_params if self.setting.patch_from_best else scaffold.net.params
        return params

    # The run.

    def run(self, given: Scaffolds | None = None) -> Outcome:
        """Trains, patches, trains on and writes the summary; continues where a run stopped."""
        self.folder.write_json("provenance.json", self.provenance())
        start = self.clock.compiled(jax.vmap(self.init_one), self.keys, options=ONCE)(self.keys)
        at = load_progress(
            self.folder,
            {"scaffold": lambda: (start, None), "patch": lambda: self.like_patch_phase(start)},
            self.clock,
        )
        phase, epoch, state, extra = at or ("scaffold", 0, start, None)
        if phase == "scaffold":
            if at is None and self.winner is not None:
                given = self.trained_scaffolds(start)
            if at is None and given is not None:
                state, epoch = given.state, self.scaffold_epochs
                length = self.folder.append_rows(given.rows)
                save_progress(self.folder, "scaffold", epoch, state, None, self.clock, length)
            state = self.phase("scaffold", _SCAFFOLD_ORDER, state, epoch, None)
            scaffold, epoch = state, 0
            state, found = self.add_patches(scaffold)
            extra = {"scaffold": scaffold, "extrema": found}
        assert extra is not None
        scaffold, found = extra["scaffold"], extra["extrema"]
        state = self.phase("patch", _PATCH_ORDER, state, epoch, extra)
        summary = self.summarise(scaffold, state, found)
        self.folder.write_json("summary.json", summary)
        rows = [row for row in self.folder.read_rows() if row["phase"] == "scaffold"]
        return Outcome(summary, Scaffolds(scaffold, rows))

    @property
    def scaffold_epochs(self) -> int:
        """Epochs before patches."""
        assert self.config.scaffold_epochs is not None, "settled by prepare"
        return self.config.scaffold_epochs

    def trained_scaffolds(self, start: TrainState) -> Scaffolds:
        """What no epoch is trained on: rows of epoch 0, the state itself the best."""
        evaluation = evaluate_all(self.clock, self.task, start.net.params, start.net.structure, self.watch)
        args = start, evaluation.accuracy
        state = self.clock.compiled(jax.vmap(train.track_best), *args, options=ONCE)(*args)
        nothing = jnp.full(len(self.seeds), jnp.nan)
        labels = [{"seed": seed, "phase": "scaffold", "epoch": 0} for seed in self.seeds]
        result = train.EpochResult(train.EpochInfo(nothing, nothing), evaluation)
        return Scaffolds(state, result.rows(labels, self.watch_name))

    def phase(self, name: str, order: int, state: TrainState, epoch: int, extra: PyTree) -> TrainState:
        """Trains the rest of a phase."""
        config = self.config
        phase = Phase(
            name=name,
            epochs=self.scaffold_epochs if name == "scaffold" else config.patch_epochs,
            task=self.task,
            train=self.train,
            watch=self.watch,
            watch_name=self.watch_name,
            key_data=jax.random.fold_in(self.key_data, order),
            patience=config.patience,
        )
        return run_phase(phase, state, self.seeds, self.folder, self.clock, first_epoch=epoch, extra=extra)[0]

    def like_patch_phase(self, start: TrainState) -> tuple[TrainState, PyTree]:
        """Shapes of the state and the extras of the patch phase, without computing them."""
        found = jax.eval_shape(jax.vmap(self.find_one, in_axes=(0, None)), start, self.extrema_split())
        state = jax.eval_shape(jax.vmap(self.patch_one), start, found, self.keys)
        return state, {"scaffold": start, "extrema": found}

    def extrema_split(self) -> Split:
        """The samples whose activations are watched for extrema."""
        return make_split(self.dataset, self.setting.extrema_part, slice(self.setting.extrema_samples))

    def add_patches(self, scaffold: TrainState) -> tuple[TrainState, tuple[Extrema, ...]]:
        """Finds the extrema of all seeds and patches them."""
        seen = scaffold, self.extrema_split()
        found = self.clock.compiled(jax.vmap(self.find_one, in_axes=(0, None)), *seen)(*seen)
        args = scaffold, found, self.keys
        return self.clock.compiled(jax.vmap(self.patch_one), *args)(*args), found

    # The results.

    def summarise(
        self, scaffold: TrainState, state: TrainState, found: tuple[Extrema, ...]
    ) -> dict[str, Any]:
        """Everything ``summary.json`` holds."""
        structure, patched = scaffold.net.structure, state.net.structure
        trained = self.config.patch_epochs > 0
        if self.setting.watch == "test":
            # as the original prints it: the last scaffold epoch, the best patched epoch
            last = {r["seed"]: r["accuracy"] for r in self.folder.read_rows() if r["phase"] == "scaffold"}
            scaffold_accuracy = np.asarray([last[seed] for seed in self.seeds], float)
            final = state.net.params
            patched_accuracy = np.asarray(state.best_accuracy) if trained else scaffold_accuracy
        else:
            test = make_split(self.dataset, "test")
            final = state.best_params
            scaffold_accuracy, patched_accuracy = (
                np.asarray(evaluate_all(self.clock, self.task, params, s, test).accuracy)
                for params, s in ((self.scaffold_params(scaffold), structure), (final, patched))
            )
        # of a diverged network the best values are those of an earlier epoch, or of none
        gone = jax.device_get((scaffold.diverged, state.diverged))
        scaffold_accuracy = np.where(gone[0], np.nan, scaffold_accuracy)
        patched_accuracy = np.where(gone[1], np.nan, patched_accuracy)
        diverged = ~np.isfinite(scaffold_accuracy + patched_accuracy)
        counts, sizes = self.count(final, patched)
        lost, together = self.measure_patches(final, patched)
        lost = np.where(diverged[:, None], np.nan, lost)
        host = jax.device_get((found, patched.bank))
        epochs = jax.device_get((scaffold.best_epoch, scaffold.epoch, state.best_epoch))
        seeds = []
        for i, seed in enumerate(self.seeds):
            entry = seed_entry(i, seed, scaffold_accuracy, patched_accuracy, counts, host, self.spec)
            entry["scaffold_epoch"] = int(epochs[0][i] if self.setting.patch_from_best else epochs[1][i])
            entry["patched_epoch"] = int(epochs[2][i])
            entry["patches"] = patch_entries(i, host[1], sizes, lost)
            if together is not None:
                entry["redundancy"] = np.where(diverged[i], np.nan, together[i])
            seeds.append(entry)
        summary: dict[str, Any] = json_safe(
            {
                "experiment": "patched_density",
                "config": self.folder.read_json("config.json"),
                "sizes": list(self.spec.sizes),
                "kernel": self.config.kernel,
                "provenance": self.provenance(),
                "seeds": seeds,
                "diverged": [s["seed"] for s in seeds if s["diverged"]],
                "aggregate": aggregate_seeds(seeds),
                "first_patch_accuracy": self.first_patch_accuracy(),
                "timing": self.clock.as_dict(),
            }
        )
        return summary

    def count(self, params: Params, structure: Structure) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What exists, each ``(seed,)``, and the values of every slot for patches, ``(seed, slot)``."""

        def one(params: Params, structure: Structure) -> tuple[dict[str, jax.Array], jax.Array]:
            assert structure.bank is not None
            return count_nonzeros(params, structure), patches.slot_sizes(structure.bank, params.patches)

        args = params, structure
        counted = self.clock.compiled(jax.vmap(one), *args, options=ONCE)(*args)
        host: tuple[dict[str, np.ndarray], np.ndarray] = jax.device_get(counted)
        return host

    def first_patch_accuracy(self) -> list[float | None]:
        """Accuracy of every seed on the watched samples after the first epoch with patches."""
        rows = self.folder.read_rows()
        return [row["accuracy"] for row in rows if row["phase"] == "patch" and row["epoch"] == 1]

    def measure_patches(self, params: Params, structure: Structure) -> tuple[np.ndarray, np.ndarray | None]:
        """Contribution of every patch on the watched samples, and redundancy if asked for."""
        assert structure.bank is not None
        if not patches.active_slots(structure.bank).shape[-1]:
            return np.zeros((len(self.seeds), 0)), None

        def measured(measure: Callable[..., jax.Array]) -> np.ndarray:
            def one(params: Params, structure: Structure, split: Split) -> jax.Array:
                def accuracy(bank: patches.PatchBank) -> jax.Array:
                    return train.evaluate(self.task, params, structure.replace(bank=bank), split).accuracy

                return measure(accuracy, structure.bank)

            together = jax.vmap(one, in_axes=(0, 0, None))
            args = (params, structure, self.watch)
            return np.asarray(self.clock.compiled(together, *args)(*args))

        lost = measured(patches.contributions)
        return lost, measured(patches.redundancy) if self.config.redundancy else None

    def provenance(self) -> dict[str, Any]:
        """Code, versions, device, time, which data, and which trained scaffold."""
        facts = {"dataset": self.dataset.name, "data_fingerprint": self.dataset.fingerprint}
        return {**provenance(), **facts, **({"checkpoint": self.winner.facts()} if self.winner else {})}


def run(
    config: Config,
    folder: RunFolder,
    *,
    dataset: data.Dataset | None = None,
    scaffolds: Scaffolds | None = None,
) -> Outcome:
    """Runs the experiment in an open folder.

    Args:
      config: what to do, from :func:`prepare`.
      folder: where results go.
      dataset: saves loading it again.
      scaffolds: trained scaffolds of the same seeds and settings, to be patched
        instead of training them again.

    Raises:
      InputError: the data cannot be read, or the sizes do not fit them.
    """
    return PatchedRun(config, folder, dataset).run(scaffolds)


def open_folder(config: Config, dataset: data.Dataset) -> RunFolder:
    """Opens the folder of a run; where a trained scaffold lies does not change the results."""
    unknown = ("checkpoint_fingerprint",) if config.checkpoint_fingerprint is None else ()
    return _runtime.open_folder(config, dataset, PLOTS, may_differ=("from_checkpoint",), leave_out=unknown)


def prepare(config: Config, dataset: data.Dataset) -> Config:
    """Checks what can be checked before anything is written, and settles what is ``auto``.

    Raises:
      InputError: the sizes or the density do not fit the data, there are no
        samples to evaluate on, the kernel is not available, or the scaffold of
        ``--from-checkpoint`` does not fit.
    """
    if config.from_checkpoint is not None:
        config = adopt(config, read_winner(config.from_checkpoint), dataset)
    unsaid = {name: value for name, value in FRESH.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **unsaid)
    spec = make_spec(config, dataset, Setting.of(config))
    part = "validation" if config.protocol == "clean" else "test"
    if not len(dataset.y_val if config.protocol == "clean" else dataset.y_test):
        raise InputError(f"{dataset.name} has no {part} samples")
    kernel = resolve_kernel(
        config.kernel, spec, config.batch_size, config.num_seeds, config.out, config.resume
    )
    return dataclasses.replace(config, kernel=cast(Any, kernel))


def patch_rules(config: Config, setting: Setting) -> patches.PatchRules:
    """How patches are made; the original's have its faults (:mod:`jaxnet.original`)."""
    original = setting.original_patches
    make = OriginalRules if original and config.patch_kind == "mlp" else patches.PatchRules
    return make(
        "original" if make is OriginalRules else config.patch_kind,
        config.max_patches,
        "first" if original and config.placement == "extrema" else config.placement,
        config.patch_density,
    )


def make_spec(config: Config, dataset: data.Dataset, setting: Setting) -> NetworkSpec:
    """The network for a data set.

    Raises:
      InputError: ``--sizes`` does not fit the data, or the density is too low for the sizes.
    """
    assert config.density is not None and config.activation is not None and config.allocation is not None
    return network_spec(
        dataset,
        config.sizes,
        density=config.density,
        activation=config.activation,
        allocation=config.allocation,
        init=setting.init,
    )
