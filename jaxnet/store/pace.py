"""When a checkpoint is worth its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

OVERHEAD = 0.05
"""A checkpoint is written once writing one takes at most this share of the time since the last."""


class Pace:
    """Says when it is time for a checkpoint: after the first epoch, then as often as it costs little."""

    def __init__(self) -> None:
        """The time begins."""
        self._since, self._cost = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Whether writing one would take little of the time since the last."""
        return self._cost <= OVERHEAD * (time.perf_counter() - self._since)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing of one."""
        start = time.perf_counter()
        yield
        self._since = time.perf_counter()
        self._cost = self._since - start
