"""Rounds: networks of all seeds that go through the same compiled programs again and again.

After every round its rows are on disk, and a checkpoint as often as it costs little; a run that is killed
goes on after its last checkpoint, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxnet.errors import InputError
from jaxnet.lab.run import Run
from jaxnet.lab.terminal import progress
from jaxnet.programs import ONCE
from jaxnet.sharding import NetworkSharding
from jaxnet.store.checkpoint import Pace, latest, restore, save
from jaxnet.types import PyTree

Rows = list[dict[str, Any]]

SMALL = 20_000
"""Weights of dense networks below which programs are compiled without optimisations."""


def quickly(dense_weights: int) -> dict[str, Any]:
    """How programs of such networks are compiled: small ones run in no time, and what costs is to compile."""
    return {"options": ONCE} if dense_weights < SMALL else {}


def run_rounds(
    run: Run[Any],
    name: str,
    count: int,
    start: Callable[[], PyTree],
    step: Callable[[int, PyTree], tuple[PyTree, Rows]],
    shapes: Callable[[int], PyTree],
) -> PyTree:
    """Goes through the rounds that are still to do.

    Args:
      run: of the study.
      name: of the checkpoints; its words are joined.
      count: rounds.
      start: the state before the first.
      step: a round, by its number and the state before it: the state after it, and rows.
      shapes: of the state after so many rounds.

    Returns:
      The state after the last round.
    """
    folder, pace = run.folder.checkpoints, Pace()
    name = name.replace(" ", "-")
    found = latest(folder)
    if found is None:
        run.folder.truncate_rows(0)
        first, state = 0, start()
    else:
        what, _, done = found.rpartition("-")
        if what != name or not done.isdigit():
            raise InputError(f"{folder} holds a checkpoint {found!r} that this run did not write: remove it")
        first = int(done)
        state, meta = restore(folder, found, shapes(first))
        run.folder.truncate_rows(int(meta["metrics_bytes"]))
        run.clock.add(meta)
    with progress(count, name) as show:
        show(completed=first)
        for number in range(first, count):
            state, rows = step(number, state)
            length = run.folder.append_rows(rows)
            if number + 1 == count or pace.due():
                with pace.writing():
                    meta = {"metrics_bytes": length, **run.clock.as_dict()}
                    save(folder, f"{name}-{number + 1}", state, meta)
            show(completed=number + 1)
    return state


class Together:
    """Functions of one network as programs of all, laid over the devices there are."""

    def __init__(self, run: Run[Any], networks: int) -> None:
        """For so many networks; they share one device where their number does not divide."""
        self._run, self._sharding = run, NetworkSharding.of(networks)
        self._known: dict[str, Any] = {}

    def __call__(
        self, what: str, function: Callable[..., Any], each: Sequence[bool], *args: Any, **options: Any
    ) -> Any:
        """``function`` of every network, once compiled; arguments ``(network, ...)`` where ``each``."""
        placed = self._sharding.place(args, each)
        if what not in self._known:
            program = self._run.compiled(what, self._sharding.over(function, each), *placed, **options)
            self._known[what] = program
        return self._known[what](*placed)
