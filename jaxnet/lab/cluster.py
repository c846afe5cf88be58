"""Independent tasks, one after the other here, or in the workers of Dask distributed.

>>> with executor(None) as here:
...     list(here.run(abs, [-1, 2]))
[(0, 1), (1, 2)]
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxnet.errors import InputError
from jaxnet.lab.flags import Flags, option
from jaxnet.provenance import version

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # tasks handed out per worker: one to work on, one to go on with
DEATHS = 8  # of local workers over one task before it is given up; another scheduler has its own limit
SECONDS = 60  # for a scheduler to answer, and for its first worker to be there


@dataclass(frozen=True)
class WorkerFlags(Flags):
    """Who computes."""

    workers: str | None = option(
        None,
        "local:N: N processes here; tcp://HOST:PORT, tls://...: those of a Dask scheduler; none: this one",
    )

    def check(self) -> None:
        """Raises InputError for what names no workers."""
        if not re.fullmatch(r"local:[1-9]\d*|(tcp|tls)://.+:\d+", self.workers or "local:1"):
            allowed = "none, local:N, tcp://HOST:PORT or tls://HOST:PORT"
            raise InputError(f"--workers must be {allowed}: {self.workers!r}")
        super().check()


@dataclass
class Executor:
    """Runs tasks: here, one after the other, or in the workers of a Dask scheduler."""

    client: Any = None
    address: str = ""

    @property
    def note(self) -> str:
        """Who computes, for a progress bar."""
        return "" if self.client is None else f"{self._count()} workers"

    def _count(self) -> int:
        with self._asking():
            return len(self.client.nthreads())

    def run(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """Number and result of every item, as they come; items are drawn when someone can take them.

        For workers, function, items and results are pickled; one may die over a task, which is
        run again. InputError: the scheduler is gone, a worker has other versions, or too many died.
        """
        waiting = enumerate(items)
        if self.client is None:
            yield from ((number, function(item)) for number, item in waiting)
            return
        import distributed

        task = functools.partial(_checked, versions(), function)
        numbers: dict[Any, int] = {}
        done = distributed.as_completed(loop=self.client.loop)
        try:
            while True:
                room = AHEAD * max(1, self._count()) - len(numbers)
                for number, item in itertools.islice(waiting, max(0, room)):
                    with self._asking():
                        future = self.client.submit(task, item, pure=False)
                    numbers[future] = number
                    done.add(future)
                if not numbers:
                    return
                future = next(done)
                with self._asking():
                    if future.status not in ("finished", "error"):
                        raise OSError(future.status)
                    error = future.exception()
                    found = future.result() if error is None else None
                if error is not None:
                    raise _explained(error)
                yield numbers.pop(future), found  # type: ignore[misc]
                del future, found  # the workers may forget it
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel(list(numbers))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (CancelledError, OSError):
            words = "start it and its workers again, then continue with --resume"
            raise InputError(f"the Dask scheduler {self.address} is gone: {words}") from None


def _explained(error: BaseException) -> BaseException:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        died = f"{error.allowed_failures + 1} workers died over one task"
        return InputError(f"{died}: look into their logs (memory?), then continue with --resume")
    if isinstance(error, ImportError) or "deserializ" in str(error):
        what = "the scheduler or a worker cannot load what it is to run"
        return InputError(f"{what}: start them in the same checkout and environment (docs/scaling.md)")
    return error


def _checked(wanted: dict[str, str | None], function: Callable[[Any], Any], item: Any) -> Any:
    """What a worker runs: the function, where the versions are the driver's."""
    import distributed

    here, worker = versions(), distributed.get_worker().address
    if differ := [f"{n} {here[n]} instead of {v}" for n, v in wanted.items() if here[n] != v]:
        raise InputError(f"the worker {worker} has {', '.join(differ)}: install the same on both sides")
    return function(item)


@functools.cache
def versions() -> dict[str, str | None]:
    """What must be the same in all workers."""
    return {name: version(name) for name in ("jaxnet", "jax", "flax", "optax")}


@contextlib.contextmanager
def executor(workers: str | None) -> Iterator[Executor]:
    """What ``--workers`` names; local processes listen on the loopback interface only, and end with this."""
    if workers is None:
        yield Executor()
        return
    try:
        import dask
        import distributed
    except ImportError:
        raise InputError("--workers needs the extra `cluster`: pip install 'distributed>=2025'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in one line
    silent = {"distributed.admin.large-graph-warning-threshold": "1TB"}
    number, address = int(workers.split(":")[1]) if workers.startswith("local:") else 0, workers
    with dask.config.set({**silent, "distributed.scheduler.allowed-failures": DEATHS}), ExitStack() as stack:
        try:
            if number:
                where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}  # of its HTTP server
                how = {"scheduler_kwargs": {"dashboard": False}, "silence_logs": logging.CRITICAL}
                what = {"n_workers": number, "threads_per_worker": 1, "memory_limit": None}
                local = distributed.LocalCluster(processes=True, **where, **how, **what)
                address = stack.enter_context(local)
            client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
            stack.enter_context(client).wait_for_workers(1, timeout=SECONDS)
        except (OSError, TypeError):  # a TypeError: tls:// without any certificates
            words = "no Dask scheduler with a worker answers: start both, for tls:// with certificates"
            raise InputError(f"{workers}: {words} (docs/scaling.md)") from None
        if number:
            client.run(_own_processors, number)
        yield Executor(client, workers)


def _own_processors(number: int, dask_worker: Any) -> None:
    """Gives each of ``number`` workers on this machine processors of its own, where there are enough."""
    if hasattr(os, "sched_getaffinity"):
        every = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, every[int(dask_worker.name) :: number] or every)
