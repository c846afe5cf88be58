"""Stages: networks of all seeds (and arms) trained by one compiled program, epoch by epoch.

After every epoch its rows are on disk, and a checkpoint as often as it costs little; a run
that is killed goes on after its last checkpoint, to the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.lab.run import Run
from jaxnet.lab.terminal import Progress
from jaxnet.programs import ONCE
from jaxnet.store.checkpoint import latest, restore, save
from jaxnet.store.pace import Pace
from jaxnet.train import (
    EpochInfo,
    EpochResult,
    Method,
    Task,
    TrainState,
    epoch_order,
    make_watched_epoch,
    track_best,
)
from jaxnet.types import Key, PyTree

WATCH_NAME = {"val": "validation", "test": "test"}

Between = Callable[[int, TrainState, PyTree, EpochResult], tuple[TrainState, PyTree]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A number of epochs of every seed, in every arm.

    Attributes:
      name: part of rows and checkpoint names.
      epochs: how many.
      task: what training needs to know.
      start: ``(key, before) -> state`` of one network before the first epoch, or a tuple of
        states, one per arm, of equal shape. ``before`` is what the stage before kept of the seed.
      keep: ``(state, samples) -> tree``: what is kept of the stage, of all networks
        ``(network, ...)``: the seeds of the first arm, then of the second, and so on. None
        keeps the state.
      hand: what of that the next stage starts from, leaves ``(seed, ...)``; all of it by default.
      samples: what ``keep`` looks at.
      arms: names, where networks of several arms are trained side by side.
      order: number folded into the key of the data.
      patience: epochs without a new best before a network stops; None for never.
      method: what changes the structure while networks train, or None.
      between: changes the networks under fixed shapes between two epochs, as
        ``between(epochs done, state, account, result) -> (state, account)``.
      account: what ``between`` carries along, at first.
      gradient_norms: ``between`` wants the norm of every gradient.
      judged_at_start: without epochs the networks are evaluated as they start.
      quick: ``start`` may be compiled without optimisations: the bits are the same.
    """

    name: str
    epochs: int
    task: Task
    start: Callable[[Key, Any], Any]
    keep: Callable[[TrainState, Any], PyTree] | None = None
    hand: Callable[[PyTree], PyTree] = lambda kept: kept
    samples: Any = None
    arms: tuple[str, ...] = ()
    order: int | None = None
    patience: int | None = None
    method: Method | None = None
    between: Between | None = None
    account: PyTree = None
    gradient_norms: bool = False
    judged_at_start: bool = False
    quick: bool = True

    @property
    def columns(self) -> tuple[str | None, ...]:
        """The arms; one without a name where there are none."""
        return self.arms or (None,)

    # one function object each, so that JAX traces it once for shapes and program
    @functools.cached_property
    def starts(self) -> Callable[[Key, Any], TrainState]:
        """``(keys, before) -> state`` of all networks before the first epoch."""

        def starts(keys: Key, before: Any) -> TrainState:
            made = jax.vmap(self.start)(keys, before)
            if isinstance(made, TrainState):
                return made
            joined: TrainState = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
            return joined

        return starts

    @functools.cached_property
    def kept(self) -> Callable[[TrainState, Any], PyTree]:
        """``(state, samples) -> tree``: what is kept of the stage."""
        return (lambda state, samples: state) if self.keep is None else self.keep


@dataclasses.dataclass(frozen=True)
class Trained:
    """A stage that is done: what was kept, and its rows.

    Attributes:
      kept: see :attr:`Stage.keep`.
      rows: of every epoch.
      account: what ``between`` carried along at last; None of a stage before the one that a
        continued run went on from.
    """

    kept: PyTree
    rows: list[dict[str, Any]]
    account: PyTree = None


def train_stages(
    run: Run[Any], stages: Sequence[Stage], given: Mapping[str, Trained] | None = None
) -> dict[str, Trained]:
    """Trains the stages that are still to do, one after the other.

    Args:
      run: folder, samples, seeds.
      stages: in order; names are unique.
      given: stages that another run of the same seeds and settings has trained already.

    Returns:
      Every stage by name.
    """
    names = [stage.name for stage in stages]
    at = _load(run, stages)
    kept: dict[str, Any] = {} if at is None else at["extra"]["kept"]
    first = 0 if at is None else names.index(at["name"])
    accounts: dict[str, PyTree] = {}
    for number, stage in enumerate(stages[first:], first):
        before = stages[number - 1].hand(kept[names[number - 1]]) if number else None
        epoch, account = 0, stage.account
        if at is not None and number == first:
            epoch, state, account = at["epoch"], at["state"], at["extra"]["account"]
        elif given is not None and stage.name in given:
            run.folder.append_rows(given[stage.name].rows)
            kept = {**kept, stage.name: given[stage.name].kept}
            continue
        else:
            for place in (number, number + 1)[: len(stages) - number]:
                _begin(run, stages[: place + 1], given or {})
            run.order(stage.task.batch_size)
            args = run.keys, before
            options = ONCE if stage.quick else None
            state = run.compiled(f"the start of {stage.name}", stage.starts, *args, options=options)(*args)
        state, accounts[stage.name] = _train(run, stage, state, account, epoch, kept)
        if stage.keep is None:
            kept = {**kept, stage.name: state}
        else:
            seen = state, stage.samples
            program = run.compiled(f"what is kept of {stage.name}", stage.kept, *seen)
            kept = {**kept, stage.name: program(*seen)}
    rows = run.folder.read_rows()
    return {
        name: Trained(kept[name], [row for row in rows if row["phase"] == name], accounts.get(name))
        for name in names
    }


def _begin(run: Run[Any], stages: Sequence[Stage], given: Mapping[str, Trained]) -> None:
    """Begins to compile, beside the rest, what the last of these stages needs."""
    stage, lock = stages[-1], threading.Lock()
    if stage.name in given:
        return
    for part in ("train", run.watched):  # made here, once, and not in the threads that compile
        run.split(part)

    def shapes() -> tuple[Any, TrainState]:
        with lock:
            state, kept = _shapes(run, stages)
        return (stages[-2].hand(kept[stages[-2].name]) if len(stages) > 1 else None), state

    def start() -> tuple[Any, ...]:
        return stage.starts, (run.keys, shapes()[0]), (), ONCE if stage.quick else None

    def epoch() -> tuple[Any, ...]:
        together, args = _epoch(run, stage)
        return together, (shapes()[1], *args), (0,)

    run.begin(f"the start of {stage.name}", start)
    if stage.epochs:
        run.begin(f"an epoch of {stage.name}", epoch)
    if stage.keep is not None:
        run.begin(f"what is kept of {stage.name}", lambda: (stage.kept, (shapes()[1], stage.samples)))


def _epoch(run: Run[Any], stage: Stage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """An epoch of all networks, and its arguments beside the state: of the order its shapes."""
    epoch = make_watched_epoch(
        stage.task, stage.method, patience=stage.patience, gradient_norms=stage.gradient_norms
    )
    key = run.key_data if stage.order is None else jax.random.fold_in(run.key_data, stage.order)
    train, number = run.split("train"), jnp.zeros((), jnp.int32)
    order = functools.partial(epoch_order, train.size, stage.task.batch_size)
    args = (train, run.split(run.watched), key, number, jax.eval_shape(order, key, number))
    return jax.vmap(epoch, in_axes=(0, None, None, None, None, None)), args


def _train(
    run: Run[Any], stage: Stage, state: TrainState, account: PyTree, first: int, kept: Mapping[str, Any]
) -> tuple[TrainState, PyTree]:
    """Trains the rest of a stage; what ``between`` carries is the state's companion in checkpoints."""
    watch = run.split(run.watched)

    def note(done: int, result: EpochResult) -> int:
        labels = [
            {**({} if arm is None else {"arm": arm}), "seed": seed, "phase": stage.name, "epoch": done}
            for arm, seed in itertools.product(stage.columns, run.seeds)
        ]
        return run.folder.append_rows(result.rows(labels, WATCH_NAME[run.watched]))

    def checkpoint(done: int, length: int) -> None:
        meta = {"phase": stage.name, "epoch": done, "metrics_bytes": length, **run.clock.as_dict()}
        tree = {"state": state, "extra": {"kept": dict(kept), "account": account}}
        save(run.folder.checkpoints, f"{stage.name}-{done}", tree, meta)

    if stage.judged_at_start and not stage.epochs and not first:
        judged = run.evaluate(stage.task, state.net.params, state.net.structure, watch)
        state = run.over_seeds("the start", track_best, state, judged.accuracy, options=ONCE)
        nothing = jnp.full(judged.accuracy.shape, jnp.nan)
        checkpoint(0, note(0, EpochResult(EpochInfo(nothing, nothing), judged)))
    if first >= stage.epochs or bool(np.all(np.asarray(state.stopped))):
        # a run continued after the epoch in which its last network stopped has nothing to do
        return state, account
    together, args = _epoch(run, stage)
    program = run.compiled(f"an epoch of {stage.name}", together, state, *args, donate=(0,))
    order, samples, key = run.order(stage.task.batch_size), args[:3], args[2]
    networks = len(stage.columns) * len(run.seeds)
    pace = Pace()
    with Progress(stage.epochs, f"{stage.name}, {networks} networks") as progress:
        progress.update(first)
        for done in range(first, stage.epochs):
            number = jnp.asarray(done, jnp.int32)
            state, result = program(state, *samples, number, order(key, number))
            length = note(done + 1, result)
            if stage.between is not None and done + 1 < stage.epochs:
                state, account = stage.between(done + 1, state, account, result)
            last = done + 1 == stage.epochs or bool(np.all(np.asarray(state.stopped)))
            if last or pace.due():
                with pace.writing():
                    checkpoint(done + 1, length)
            progress.advance(note=median_note(np.asarray(result.evaluation.accuracy)))
            if last:
                break
    return state, account


def median_note(accuracy: np.ndarray) -> str:
    """What stands behind a progress bar: the median accuracy, and how many networks diverged."""
    finite = accuracy[np.isfinite(accuracy)]
    median = f"median {np.median(finite):.4f}" if finite.size else "no accuracy"
    return median + (f", {accuracy.size - finite.size} diverged" if finite.size < accuracy.size else "")


def _shapes(run: Run[Any], stages: Sequence[Stage]) -> tuple[TrainState, dict[str, Any]]:
    """Shapes of the state of the last of these stages, and of what those before it keep."""
    kept: dict[str, Any] = {}
    before, state = None, None
    for stage in stages:
        state = jax.eval_shape(stage.starts, run.keys, before)
        if stage is not stages[-1]:
            kept[stage.name] = jax.eval_shape(stage.kept, state, stage.samples)
            before = stage.hand(kept[stage.name])
    assert state is not None
    return state, kept


def _load(run: Run[Any], stages: Sequence[Stage]) -> dict[str, Any] | None:
    """Where an earlier run was; rows written after its last checkpoint are dropped."""
    folder = run.folder.checkpoints
    name = latest(folder)
    if name is None:
        run.folder.truncate_rows(0)
        return None
    names = [stage.name for stage in stages]
    phase = name.rsplit("-", 1)[0]
    if phase not in names:
        raise InputError(
            f"{folder} holds a checkpoint {name!r} that this experiment did not write: remove it"
        )
    here = names.index(phase)
    state, kept = _shapes(run, stages[: here + 1])
    like = {"state": state, "extra": {"kept": kept, "account": stages[here].account}}
    tree, meta = restore(folder, name, like)
    run.folder.truncate_rows(int(meta["metrics_bytes"]))
    run.clock.add(meta)
    return {"name": phase, "epoch": int(meta["epoch"]), **tree}
