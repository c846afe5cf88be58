"""A population: many networks trained at once, epoch by epoch, killed and continued at will.

Used by the experiments. One compiled program trains an epoch of all seeds,
evaluates them and notes the best; after every epoch the rows and a checkpoint
are on disk.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments._cli import Progress
from jaxnet import checkpoint, data
from jaxnet.data import Dataset
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.programs import Clock
from jaxnet.records import RunFolder
from jaxnet.train import EpochResult, Evaluation, Task, TrainState, evaluate, make_watched_epoch
from jaxnet.types import Key, PyTree


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


def make_split(
    dataset: Dataset, part: Literal["train", "val", "test"], samples: slice = slice(None)
) -> Split:
    """Puts a part of a data set on the device as it is stored; all ``samples`` or some."""
    x, y = getattr(dataset, f"x_{part}"), getattr(dataset, f"y_{part}")
    # a NumPy copy first: device arrays must not alias a memory-mapped cache file
    x, y = np.array(x[samples]), np.array(y[samples])
    return Split(jnp.asarray(x), jnp.asarray(y), jnp.asarray(dataset.mean), jnp.asarray(dataset.std))


def network_spec(
    dataset: Dataset, sizes: tuple[int, ...] | None, hidden: tuple[int, ...] = (256, 128), **fields: Any
) -> NetworkSpec:
    """The network for a data set.

    Args:
      dataset: decides the first and the last size.
      sizes: as given by ``--sizes``.
      hidden: units of the hidden layers if no sizes are given.
      fields: the other fields of the specification.

    Raises:
      InputError: ``--sizes`` does not fit the data, or the density is too low for the sizes.
    """
    ends = (dataset.num_features, dataset.num_classes)
    sizes = sizes or (ends[0], *hidden, ends[1])
    if (sizes[0], sizes[-1]) != ends:
        raise InputError(
            f"--sizes {','.join(map(str, sizes))} does not fit {dataset.name}: "
            f"it has {ends[0]} features and {ends[1]} classes, so give {ends[0]},...,{ends[1]}"
        )
    try:
        return NetworkSpec(sizes, **fields)
    except ValueError as error:
        raise InputError(str(error)) from None


BetweenEpochs = Callable[[int, TrainState, PyTree, EpochResult], tuple[TrainState, PyTree]]


@dataclasses.dataclass
class Phase:
    """A number of epochs with one optimiser.

    Attributes:
      name: ``scaffold`` or ``patch``; part of rows and checkpoint names.
      epochs: how many.
      task: what training needs to know.
      train: samples to train on.
      watch: samples to evaluate on after every epoch.
      watch_name: ``validation`` or ``test``; part of rows.
      key_data: order of the samples, common to all seeds.
      patience: epochs without a new best before a seed stops; None for never.
      arms: where networks of several arms are trained side by side, the arms' names: the
        networks are all seeds of the first arm, then all of the second, and so on.
      between: changes the networks under fixed shapes between two epochs, as
        ``between(epochs done, state, extra, result) -> (state, extra)``.
      gradient_norms: ``between`` wants the norm of every gradient.
    """

    name: str
    epochs: int
    task: Task
    train: Split
    watch: Split
    watch_name: str
    key_data: Key
    patience: int | None = None
    arms: tuple[str, ...] = ()
    between: BetweenEpochs | None = None
    gradient_norms: bool = False


def run_phase(
    phase: Phase,
    state: TrainState,
    seeds: range,
    folder: RunFolder,
    clock: Clock,
    *,
    first_epoch: int = 0,
    extra: PyTree = None,
) -> tuple[TrainState, PyTree]:
    """Trains all seeds for the epochs of ``phase`` that are still to do.

    Args:
      phase: what to do.
      state: of all seeds, leaves ``(seed, ...)``.
      seeds: their numbers, for the rows.
      folder: where rows and checkpoints go.
      clock: adds up the time.
      first_epoch: epochs done before (of a continued run).
      extra: kept in the checkpoints beside the state.

    Returns:
      State and ``extra`` after the last epoch.
    """
    if first_epoch >= phase.epochs or bool(np.all(np.asarray(state.stopped))):
        # a run continued after the epoch in which its last seed stopped has nothing to do
        return state, extra
    epoch = make_watched_epoch(phase.task, patience=phase.patience, gradient_norms=phase.gradient_norms)
    together = jax.vmap(epoch, in_axes=(0, None, None, None, None))
    number = jnp.asarray(first_epoch, jnp.int32)
    args = (phase.train, phase.watch, phase.key_data)
    program = clock.compiled(together, state, *args, number, donate=(0,))
    networks = f"{len(phase.arms) * len(seeds)} networks" if phase.arms else f"{len(seeds)} seeds"
    with Progress(phase.epochs, f"{phase.name}, {networks}") as progress:
        progress.update(first_epoch)
        for done in range(first_epoch, phase.epochs):
            state, result = program(state, *args, jnp.asarray(done, jnp.int32))
            labels = [
                {
                    **({} if arm is None else {"arm": arm}),
                    "seed": seed,
                    "phase": phase.name,
                    "epoch": done + 1,
                }
                for arm, seed in itertools.product(phase.arms or (None,), seeds)
            ]
            length = folder.append_rows(result.rows(labels, phase.watch_name))
            if phase.between is not None and done + 1 < phase.epochs:
                state, extra = phase.between(done + 1, state, extra, result)
            save_progress(folder, phase.name, done + 1, state, extra, clock, length)
            progress.advance(note=median_note(np.asarray(result.evaluation.accuracy)))
            if bool(np.all(np.asarray(state.stopped))):
                break
    return state, extra


def median_note(accuracy: np.ndarray) -> str:
    """What stands behind a progress bar: the median accuracy, and how many networks diverged."""
    finite = accuracy[np.isfinite(accuracy)]
    median = f"median {np.median(finite):.4f}" if finite.size else "no accuracy"
    return median + (f", {accuracy.size - finite.size} diverged" if finite.size < accuracy.size else "")


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
