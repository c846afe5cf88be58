"""Several processes, on one host or many, that share one run.

Seeds are independent: every process trains its share on its own devices, and no
array ever crosses a host. What is left to agree on goes through the key-value
store of JAX's coordination service, which process 0 runs:

- :meth:`Hosts.meet`: all wait for each other, and learn what process 0 brought;
- a process that fails says so, and the others stop with its message;
- a process that is killed stops counting its heartbeat, and the others stop too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax

from jaxnet.errors import InputError

Item = TypeVar("Item")

BEAT_SECONDS = 2.0
"""Time between two heartbeats of a process."""

PATIENCE_SECONDS = 60.0
"""Time without a heartbeat after which a process counts as dead."""

_FAREWELL_SECONDS = 60.0  # process 0 runs the store: it waits for the others to be gone


class Store(Protocol):
    """A key-value store that all processes reach (JAX's distributed client is one)."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Sets a value; all see it when this returns."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """All keys below a folder, whole, with their values."""


class Hosts:
    """The processes of a run, of which this is one; use it as a context around the run.

    Attributes:
      index: number of this process.
      count: number of processes.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        store: Store | None = None,
        close: Callable[[], None] | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        beat: float = BEAT_SECONDS,
    ) -> None:
        """A process alone by default.

        Args:
          index: number of this process.
          count: number of processes.
          store: needed for more than one.
          close: ends the connection to the store.
          patience: seconds without a heartbeat after which another process counts as dead.
          beat: seconds between heartbeats.

        Raises:
          ValueError: there is no such process, or no store.
        """
        if not 0 <= index < count or (count > 1 and store is None):
            raise ValueError(f"process {index} of {count} cannot be, or has no store")
        self.index, self.count = index, count
        self._store, self._close, self._patience, self._beat = store, close, patience, beat
        self._seen: dict[str, tuple[str, float]] = {}  # heartbeat of every process, and when it came
        self._ended = threading.Event()
        self._start = time.monotonic()

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it alone owns the folder and prints."""
        return self.index == 0

    def share(self, items: Sequence[Item], offset: int = 0) -> list[Item]:
        """The items that fall to this process when they are dealt out in turn, from process ``offset`` on."""
        return list(items[(self.index - offset) % self.count :: self.count])

    def meet(self, name: str, brought: str = "") -> str:
        """Waits until every process has come to ``name``.

        Args:
          name: a place, unique within the run.
          brought: of process 0: what it tells the others.

        Returns:
          What process 0 brought.

        Raises:
          InputError: another process has failed or is gone.
        """
        if self._store is None:
            return brought
        self._set(f"meet/{name}/{self.index}", brought)
        while True:
            there = self._get(f"meet/{name}")
            if len(there) == self.count:
                return there["0"]
            self.check()
            time.sleep(min(0.2, self._beat))

    def check(self) -> None:
        """Raises InputError if another process has failed or is gone."""
        if self._store is None:
            return
        for index, message in sorted(self._get("failed").items()):
            if index != str(self.index):
                raise InputError(f"process {index} stopped, so this one does: {message}")
        for index in sorted(self._dead()):
            raise InputError(
                f"process {index} was killed or cannot be reached (no sign of life for "
                f"{self._patience:.0f} s), so this one stops: start all again with --resume"
            )

    def __enter__(self) -> Hosts:
        if self._store is not None:
            self._set(f"beat/{self.index}", "0")
            threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._store is None:
            return
        with contextlib.suppress(Exception):  # the run is over: nothing here may hide how it ended
            if error is not None:
                message = " ".join((str(error) or type(error).__name__).splitlines())
                self._set(f"failed/{self.index}", message)
            self._set(f"left/{self.index}", "")
            until = time.monotonic() + _FAREWELL_SECONDS
            while self.first and time.monotonic() < until:
                if len(self._get("left").keys() | self._dead()) == self.count:
                    time.sleep(self._beat / 2)  # their connections are closed by now
                    break
                time.sleep(min(0.2, self._beat))
        self._ended.set()
        if self._close is not None:
            with contextlib.suppress(Exception):
                self._close()

    def _dead(self) -> set[str]:
        """Other processes whose heartbeat has not changed for too long."""
        now, beats, dead = time.monotonic(), self._get("beat"), set()
        for index in map(str, range(self.count)):
            value, since = self._seen.get(index, ("", self._start))
            if beats.get(index, "") != value:
                self._seen[index] = beats[index], now
            elif now - since > self._patience and index != str(self.index):
                dead.add(index)
        return dead

    def _live(self) -> None:
        number = 0
        with contextlib.suppress(Exception):  # without the store there is nobody to tell
            while not self._ended.wait(self._beat):
                number += 1
                self._set(f"beat/{self.index}", str(number))

    def _set(self, key: str, value: str) -> None:
        assert self._store is not None
        self._store.key_value_set(f"jaxnet/{key}", value, allow_overwrite=True)

    def _get(self, folder: str) -> dict[str, str]:
        """Values by the last part of their key."""
        assert self._store is not None
        return {k.rsplit("/", 1)[1]: v for k, v in self._store.key_value_dir_get(f"jaxnet/{folder}/")}


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> Hosts:
    """Joins the processes of a run; before anything is computed.

    Args:
      coordinator: ``host:port`` of process 0, the same in all processes.
      num_processes: how many there are.
      process_id: number of this one.
      timeout: seconds to wait for the others.

    Returns:
      This process among the others. What is not given is found out from SLURM,
      Open MPI, Kubernetes or a TPU pod.

    Raises:
      InputError: the others cannot be reached, or there is no cluster to be found.
    """
    if num_processes == 1:
        return Hosts()
    # A process that dies must not abort the others from within XLA: they say what happened and end.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM ends a process as ever
    # by default the service listens on every interface, even if all are on this host
    own = (coordinator or "").rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            coordinator_bind_address=coordinator if own else None,
        )
    except ValueError as error:
        raise InputError(
            f"no cluster was found ({error}): start within SLURM, Open MPI, Kubernetes or a TPU pod, or give "
            "--coordinator, --num-processes and --process-id"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the processes did not find each other in {timeout} s ({reason}): start all of them, "
            "with the address of process 0 and a free port as --coordinator"
        ) from None
    from jax._src import distributed  # JAX has no public way to its key-value store

    state = distributed.global_state
    return Hosts(state.process_id, state.num_processes, state.client, jax.distributed.shutdown)
