"""Stages: networks of all seeds (and arms) trained by one compiled program, epoch by epoch.

After every epoch its rows are on disk, and a checkpoint as often as it costs little; a run
that is killed goes on after its last checkpoint, to the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.keys import DRAW, purpose
from jaxnet.lab.run import PARTS, Run
from jaxnet.lab.terminal import progress
from jaxnet.programs import ONCE
from jaxnet.sharding import NetworkSharding
from jaxnet.store.checkpoint import Pace, latest, restore, save
from jaxnet.train import EpochInfo, EpochResult, Method, Task, TrainState, evaluate, track_best
from jaxnet.train.epoch import epoch_order, make_watched_epoch
from jaxnet.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Stage:
    """A number of epochs of every seed, in every arm.

    Attributes:
      name: part of rows and checkpoint names.
      epochs: how many.
      task: what training needs to know.
      start: ``(key, before) -> state`` of one network before the first epoch, or a tuple of
        states of equal shape, one per arm. ``before`` is what the stage before hands on.
      keep: ``(state, samples) -> tree``: what is kept, leaves ``(network, ...)``: the seeds of
        the first arm, then of the second, and so on. None keeps the state.
      hand: what the next stage starts from, leaves ``(seed, ...)``, of what all stages so far kept (by
        name); None hands on what this one kept.
      samples: what ``keep`` looks at.
      arms: names, where networks of several arms are trained side by side.
      order: number folded into the key of the data.
      after: epochs of an earlier stage that this one continues: its numbers go on from there.
      patience: epochs without a new best before a network stops; None for never.
      method: what changes the structure while networks train, or None.
      between: changes the networks under fixed shapes between two epochs, as
        ``between(epochs done, state, account, result) -> (state, account)``.
      account: what ``between`` carries along, at first.
      also: ``(state, what earlier stages kept) -> columns`` of every row, each ``(network,)``, jitted.
      gradient_norms: ``between`` wants the norm of every gradient.
      judged_at_start: without epochs the networks are evaluated as they start.
      quick: ``start`` may be compiled without optimisations: the bits are the same.
    """

    name: str
    epochs: int
    task: Task
    start: Callable[[Key, Any], Any]
    keep: Callable[[TrainState, Any], PyTree] | None = None
    hand: Callable[[Mapping[str, PyTree]], PyTree] | None = None
    samples: Any = None
    arms: tuple[str, ...] = ()
    order: int | None = None
    after: int = 0
    patience: int | None = None
    method: Method | None = None
    between: Callable[[int, TrainState, PyTree, EpochResult], tuple[TrainState, PyTree]] | None = None
    account: PyTree = None
    also: Callable[[TrainState, Mapping[str, PyTree]], Mapping[str, Any]] | None = None
    gradient_norms: bool = False
    judged_at_start: bool = False
    quick: bool = True

    @functools.cached_property  # one function object, so that JAX traces it once for shapes and program
    def starts(self) -> Callable[[Key, Any], TrainState]:
        """``(keys, before) -> state`` of all networks before the first epoch."""

        def starts(keys: Key, before: Any) -> TrainState:
            made = jax.vmap(self.start)(keys, before)
            if isinstance(made, TrainState):
                return made
            joined: TrainState = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
            return joined

        return starts

    def handed(self, kept: Mapping[str, PyTree]) -> PyTree:
        """What the next stage starts from."""
        return kept[self.name] if self.hand is None else self.hand(kept)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A stage that is done: what it keeps, its rows, and (None of an earlier part of the run) its account."""

    kept: PyTree
    rows: list[dict[str, Any]]
    account: PyTree = None


def train_stages(
    run: Run[Any], stages: Sequence[Stage], given: Mapping[str, Trained] | None = None
) -> dict[str, Trained]:
    """Trains the stages that are still to do, one after the other; names are unique.

    ``given`` are stages that another run of the same seeds and settings has trained already.

    Returns:
      Every stage by name.
    """
    given, accounts = given or {}, dict[str, PyTree]()
    first, epoch, state, account, kept = _load(run, stages)
    for number, stage in enumerate(stages[first:], first):
        if state is None and stage.name in given:
            run.folder.append_rows(given[stage.name].rows)
            kept[stage.name] = given[stage.name].kept
            continue
        if state is None:
            before = stages[number - 1].handed(kept) if number else None
            for ahead, module in ((1, "orbax.checkpoint"), (2, "jaxnet.lab.plots")):
                coming = stages[number : number + ahead]
                if coming[-1].name not in given:
                    _begin(run, coming, before, dict(kept))
                run.beside.load(module)
            run.order(stage.task.batch_size)
            args, options = (run.keys, before), ONCE if stage.quick else None
            program = run.compiled(f"the start of {stage.name}", stage.starts, *args, options=options)
            epoch, state, account = 0, program(*args), stage.account
        state, accounts[stage.name] = _train(run, stage, state, account, epoch, kept)
        if stage.keep is not None:
            seen = state, stage.samples
            state = run.compiled(f"what is kept of {stage.name}", stage.keep, *seen)(*seen)
        kept[stage.name], state = state, None
    found = {stage.name: Trained(kept[stage.name], [], accounts.get(stage.name)) for stage in stages}
    for row in run.folder.read_rows():
        if row["phase"] in found:
            found[row["phase"]].rows.append(row)
    return found


def _begin(run: Run[Any], stages: Sequence[Stage], before: PyTree, kept: Mapping[str, PyTree]) -> None:
    """Begins to compile, beside the rest, what the last of these stages needs; the first starts now."""
    stage, lock = stages[-1], threading.Lock()
    for part in ("train", run.watched):  # made here, once, and not in the threads that compile
        run.split(part)

    def shapes() -> tuple[PyTree, TrainState]:
        with lock:
            return _shapes(run, stages, before, kept)[:2]

    def start() -> tuple[Any, ...]:
        return stage.starts, (run.keys, shapes()[0]), (), ONCE if stage.quick else None

    def epoch() -> tuple[Any, ...]:
        one, args, each, _ = _epoch(run, stage, shapes()[1])
        sharding = _sharding(run, stage)
        return sharding.over(one, each), sharding.place(args, each), (0,)

    run.beside.begin(f"the start of {stage.name}", start)
    if stage.epochs:
        run.beside.begin(f"an epoch of {stage.name}", epoch)
    if stage.keep is not None:
        run.beside.begin(f"what is kept of {stage.name}", lambda: (stage.keep, (shapes()[1], stage.samples)))


def _sharding(run: Run[Any], stage: Stage) -> NetworkSharding:
    """Of the networks of all arms."""
    return NetworkSharding.of(len(run.seeds) * max(1, len(stage.arms)))


def _epoch(
    run: Run[Any], stage: Stage, state: TrainState
) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[bool, ...], Key]:
    """An epoch of one network, the arguments of all, which of these are ``(network, ...)``, and a key."""
    more: dict[str, Any] = {"patience": stage.patience, "gradient_norms": stage.gradient_norms}
    epoch = make_watched_epoch(stage.task, stage.method, **more)
    key = run.key_data if stage.order is None else jax.random.fold_in(run.key_data, stage.order)
    train, number = run.split("train"), jnp.zeros((), jnp.int32)
    order = functools.partial(epoch_order, train.size, stage.task.batch_size)
    batches, draws = jax.eval_shape(order, key, number), key
    if own := bool(getattr(run.config, "own_draws", False)):
        draws = jax.vmap(lambda one: purpose(one, DRAW, 0 if stage.order is None else stage.order))(run.keys)
        draws = jnp.concatenate([draws] * max(1, len(stage.arms)))
    args = (state, train, run.split(run.watched), draws, number, batches)
    return epoch, args, (True, False, False, own, False, False), key


def _train(
    run: Run[Any], stage: Stage, state: TrainState, account: PyTree, first: int, kept: Mapping[str, Any]
) -> tuple[TrainState, PyTree]:
    """Trains the rest of a stage."""
    named = [{"arm": arm} for arm in stage.arms] or [{}]
    networks = [{**arm, "seed": seed, "phase": stage.name} for arm in named for seed in run.seeds]
    pace = Pace()

    def record(done: int, result: EpochResult, last: bool) -> None:
        labels = [{**network, "epoch": stage.after + done} for network in networks]
        more = {} if stage.also is None else {k: np.asarray(v) for k, v in stage.also(state, kept).items()}
        rows = enumerate(result.rows(labels, PARTS[run.watched]))
        length = run.folder.append_rows({**r, **{k: float(v[i]) for k, v in more.items()}} for i, r in rows)
        if last or pace.due():
            meta = {"phase": stage.name, "epoch": done, "metrics_bytes": length, **run.clock.as_dict()}
            tree = {"state": state, "extra": {"kept": dict(kept), "account": account}}
            with pace.writing():
                save(run.folder.checkpoints, f"{stage.name}-{done}", tree, meta)

    if stage.judged_at_start and not stage.epochs and not first:
        seen, judge = (state.net.params, state.net.structure), functools.partial(evaluate, stage.task)
        judged = run.over_seeds("the evaluation", judge, *seen, run.split(run.watched))
        state = run.over_seeds("the start", track_best, state, judged.accuracy, options=ONCE)
        nothing = jnp.full(judged.accuracy.shape, jnp.nan)
        record(0, EpochResult(EpochInfo(nothing, nothing), judged), last=True)
    if first >= stage.epochs or bool(np.all(np.asarray(state.stopped))):
        return state, account  # continued after the epoch in which the last network stopped
    one, args, each, key = _epoch(run, stage, state)
    sharding = _sharding(run, stage)
    placed = sharding.place(args, each)
    program = run.compiled(f"an epoch of {stage.name}", sharding.over(one, each), *placed, donate=(0,))
    order, (state, *samples) = run.order(stage.task.batch_size), placed[:4]
    with progress(stage.epochs, f"{stage.name}, {len(networks)} networks") as show:
        show(completed=first)
        for done in range(first, stage.epochs):
            number = jnp.asarray(stage.after + done, jnp.int32)
            placed = sharding.place((state, *samples, number, order(key, number)), each)
            state, result = sharding.gather(program(*placed))
            if stage.between is not None and done + 1 < stage.epochs:
                state, account = stage.between(done + 1, state, account, result)
            last = done + 1 == stage.epochs or bool(np.all(np.asarray(state.stopped)))
            record(done + 1, result, last)
            show(completed=done + 1, note=median_note(np.asarray(result.evaluation.accuracy)))
            if last:
                break
    return state, account


def median_note(accuracy: np.ndarray) -> str:
    """What stands behind a progress bar: the median accuracy, and how many networks diverged."""
    finite = accuracy[np.isfinite(accuracy)]
    median = f"median {np.median(finite):.4f}" if finite.size else "no accuracy"
    return median + (f", {accuracy.size - finite.size} diverged" if finite.size < accuracy.size else "")


def _shapes(
    run: Run[Any], stages: Sequence[Stage], before: PyTree = None, earlier: Mapping[str, PyTree] | None = None
) -> tuple[PyTree, TrainState, dict[str, PyTree]]:
    """Shapes: what the last of these stages starts from, its state, and what those before it keep."""
    kept = dict(earlier or {})
    for stage in stages[:-1]:
        found = jax.eval_shape(stage.starts, run.keys, before)
        if stage.keep is not None:
            found = jax.eval_shape(stage.keep, found, stage.samples)
        kept[stage.name] = found
        before = jax.eval_shape(stage.handed, kept)
    state: TrainState = jax.eval_shape(stages[-1].starts, run.keys, before)
    return before, state, kept


def _load(run: Run[Any], stages: Sequence[Stage]) -> tuple[int, int, Any, PyTree, dict[str, Any]]:
    """Where an earlier run was: stage, epochs done, state (None at a start), account, what is kept."""
    folder = run.folder.checkpoints
    name = latest(folder)
    if name is None:
        run.folder.truncate_rows(0)
        return 0, 0, None, None, {}
    names = [stage.name for stage in stages]
    phase = name.rsplit("-", 1)[0]
    if phase not in names:
        what = f"a checkpoint {name!r} that this experiment did not write"
        raise InputError(f"{folder} holds {what}: remove it")
    here = names.index(phase)
    _, state, kept = _shapes(run, stages[: here + 1])
    like: dict[str, Any] = {"state": state, "extra": {"kept": kept, "account": stages[here].account}}
    tree, meta = restore(folder, name, like)
    run.folder.truncate_rows(int(meta["metrics_bytes"]))  # later rows will be written again
    run.clock.add(meta)
    return here, int(meta["epoch"]), tree["state"], tree["extra"]["account"], tree["extra"]["kept"]
