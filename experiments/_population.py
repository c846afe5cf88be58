"""A population: many networks trained at once, epoch by epoch, killed and continued at will.

Used by the experiments. One compiled program trains an epoch of all seeds,
evaluates them and notes the best; after every epoch the rows and a checkpoint
are on disk.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._cli import Progress
from jaxnet import checkpoint, data
from jaxnet.data import Dataset
from jaxnet.errors import InputError
from jaxnet.network import Params, Structure
from jaxnet.records import RunFolder
from jaxnet.train import EpochInfo, Evaluation, Split, Task, TrainState, evaluate, make_epoch, track_best
from jaxnet.types import Key, PyTree


@dataclasses.dataclass
class Clock:
    """Seconds spent compiling and running, over all parts of a continued run."""

    compile_seconds: float = 0.0
    run_seconds: float = 0.0

    def add(self, seconds: dict[str, Any]) -> None:
        """Adds what :meth:`as_dict` gave in an earlier part of the run; other entries are ignored."""
        self.compile_seconds += float(seconds["compile_seconds"])
        self.run_seconds += float(seconds["run_seconds"])

    def as_dict(self) -> dict[str, float]:
        """For ``summary.json`` and checkpoints."""
        return dataclasses.asdict(self)

    def compiled(self, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Compiles ``function`` for ``args`` ahead of time; returns it as a timed callable."""
        start = time.perf_counter()
        program = jax.jit(function, donate_argnums=donate).lower(*args).compile()
        self.compile_seconds += time.perf_counter() - start

        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(program(*args))
            self.run_seconds += time.perf_counter() - start
            return result

        return run


class DataChoice(Protocol):
    """What every experiment's configuration says of its data."""

    @property
    def dataset(self) -> str:
        """Name or path."""

    @property
    def data_dir(self) -> str | None:
        """Folder of tensorflow-datasets."""

    @property
    def protocol(self) -> Literal["clean", "seed"]:
        """Whether a validation split is carved."""


def load(config: DataChoice) -> Dataset:
    """Loads the data set of a configuration: all training samples under ``--protocol seed``."""
    fraction = 0.0 if config.protocol == "seed" else data.DEFAULT_VALIDATION_FRACTION
    return data.load(config.dataset, data_dir=config.data_dir, validation_fraction=fraction)


def make_split(dataset: Dataset, part: Literal["train", "val", "test"], limit: int | None = None) -> Split:
    """Puts a part of a data set on the device as it is stored; the first ``limit`` samples, or all."""
    x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
    # a NumPy copy first: device arrays must not alias a memory-mapped cache file
    x, y = np.array(x[:limit]), np.array(y[:limit])
    return Split(jnp.asarray(x), jnp.asarray(y), jnp.asarray(dataset.mean), jnp.asarray(dataset.std))


def seed_keys(seeds: range) -> Key:
    """``(seed,)`` keys; the key of a seed depends on its number only."""
    return jax.vmap(jax.random.key)(jnp.asarray(list(seeds), jnp.uint32))


@flax.struct.dataclass
class EpochResult:
    """What one epoch of all seeds gave; leaves ``(seed,)``."""

    info: EpochInfo
    evaluation: Evaluation


@dataclasses.dataclass
class Phase:
    """A number of epochs with one optimiser.

    Attributes:
      name: ``scaffold`` or ``patch``; part of rows and checkpoint names.
      epochs: how many.
      task: what training needs to know.
      optimizer: of both groups.
      train: samples to train on.
      watch: samples to evaluate on after every epoch.
      watch_name: ``validation`` or ``test``; part of rows.
      key_data: order of the samples, common to all seeds.
      patience: epochs without a new best before a seed stops; None for never.
    """

    name: str
    epochs: int
    task: Task
    optimizer: optax.GradientTransformation
    train: Split
    watch: Split
    watch_name: str
    key_data: Key
    patience: int | None = None


def run_phase(
    phase: Phase,
    state: TrainState,
    structure: Structure,
    seeds: range,
    folder: RunFolder,
    clock: Clock,
    *,
    first_epoch: int = 0,
    extra: PyTree = None,
) -> TrainState:
    """Trains all seeds for the epochs of ``phase`` that are still to do.

    Args:
      phase: what to do.
      state: of all seeds, leaves ``(seed, ...)``.
      structure: of all seeds.
      seeds: their numbers, for the rows.
      folder: where rows and checkpoints go.
      clock: adds up the time.
      first_epoch: epochs done before (of a continued run).
      extra: kept in the checkpoints beside the state.

    Returns:
      The state after the last epoch.
    """
    if first_epoch >= phase.epochs or bool(np.all(np.asarray(state.stopped))):
        return state  # a run continued after the epoch in which its last seed stopped has nothing to do
    train_epoch = make_epoch(phase.task, phase.optimizer)

    def epoch(
        state: TrainState, structure: Structure, train: Split, watch: Split, key: Key, number: jax.Array
    ) -> tuple[TrainState, EpochResult]:
        stopped = state.stopped
        state, info = train_epoch(state, structure, train, key, number)
        # what a stopped seed was trained in vain was thrown away: no number rather than a wrong one
        info = jax.tree.map(lambda value: jnp.where(stopped, jnp.nan, value), info)
        # not 0 or 1: those give the two keys that train_epoch splits off
        key_eval = jax.random.fold_in(jax.random.fold_in(key, number), 2)
        result = evaluate(phase.task, state.params, structure, watch, key_forward=key_eval)
        return track_best(state, result.accuracy, phase.patience), EpochResult(info, result)

    together = jax.vmap(epoch, in_axes=(0, 0, None, None, None, None))
    number = jnp.asarray(first_epoch, jnp.int32)
    args = (structure, phase.train, phase.watch, phase.key_data)
    program = clock.compiled(together, state, *args, number, donate=(0,))
    with Progress(phase.epochs, f"{phase.name}, {len(seeds)} seeds") as progress:
        progress.update(first_epoch)
        for done in range(first_epoch, phase.epochs):
            state, result = program(state, *args, jnp.asarray(done, jnp.int32))
            length = folder.append_rows(epoch_rows(phase.name, done + 1, seeds, phase.watch_name, result))
            save_progress(folder, phase.name, done + 1, state, extra, clock, length)
            accuracy = np.asarray(result.evaluation.accuracy)
            progress.advance(note=f"median {np.median(accuracy):.4f}")
            if bool(np.all(np.asarray(state.stopped))):
                break
    return state


def save_progress(
    folder: RunFolder,
    phase: str,
    epoch: int,
    state: TrainState,
    extra: PyTree,
    clock: Clock,
    metrics_bytes: int,
) -> None:
    """Saves a checkpoint from which the run continues after ``epoch`` of ``phase``."""
    meta = {"phase": phase, "epoch": epoch, "metrics_bytes": metrics_bytes, **clock.as_dict()}
    checkpoint.save(folder.checkpoints, f"{phase}-{epoch}", {"state": state, "extra": extra}, meta)


def load_progress(
    folder: RunFolder, likes: dict[str, Callable[[], tuple[TrainState, PyTree]]], clock: Clock
) -> tuple[str, int, TrainState, PyTree] | None:
    """Finds where an earlier run was; rows written after its last checkpoint are dropped.

    Args:
      folder: the run's.
      likes: for each phase, what builds a state and an ``extra`` of the right shapes.
      clock: gets the seconds spent so far added.

    Returns:
      Phase, epochs done in it, state and extra; None where there is no checkpoint yet.
    """
    name = checkpoint.latest(folder.checkpoints)
    if name is None:
        folder.truncate_metrics(0)
        return None
    phase = name.rsplit("-", 1)[0]
    if phase not in likes:
        raise InputError(
            f"{folder.checkpoints} holds a checkpoint {name!r} that this experiment did not write: remove it"
        )
    state, extra = likes[phase]()
    tree, meta = checkpoint.restore(folder.checkpoints, name, {"state": state, "extra": extra})
    folder.truncate_metrics(int(meta["metrics_bytes"]))
    clock.add(meta)
    return meta["phase"], int(meta["epoch"]), tree["state"], tree["extra"]


def evaluate_all(clock: Clock, task: Task, params: Params, structure: Structure, split: Split) -> Evaluation:
    """Loss and accuracy of every seed on a split, ``(seed,)``."""

    def one(params: Params, structure: Structure, split: Split) -> Evaluation:
        return evaluate(task, params, structure, split)

    together = jax.vmap(one, in_axes=(0, 0, None))
    evaluation: Evaluation = clock.compiled(together, params, structure, split)(params, structure, split)
    return evaluation


def epoch_rows(phase: str, epoch: int, seeds: range, split: str, result: EpochResult) -> list[dict[str, Any]]:
    """Rows of one epoch, a seed each; ``split`` names what the seeds were evaluated on."""
    host = jax.tree.map(np.asarray, result)
    return [
        {
            "seed": seed,
            "phase": phase,
            "epoch": epoch,
            "train_loss": float(host.info.loss[i]),
            "train_accuracy": float(host.info.accuracy[i]),
            "split": split,
            "loss": float(host.evaluation.loss[i]),
            "accuracy": float(host.evaluation.accuracy[i]),
        }
        for i, seed in enumerate(seeds)
    ]
