"""Arrays written and read by Orbax, undisturbed by signals and without a word on the terminal."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.errors import InputError


@functools.cache
def _orbax() -> tuple[Any, Any]:
    """The Orbax module (slow to import) and one checkpointer that all saves and restores share."""
    import orbax.checkpoint as ocp

    return ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name into a new folder; raises OSError where the disk will not have them."""
    with _silent():
        ocp, checkpointer = _orbax()
        try:
            _undisturbed(checkpointer.save, path.absolute(), ocp.args.PyTreeSave(arrays))
        except Exception as error:
            # Writes still under way report to an event loop that is gone: let them end in silence. What
            # others of them raised is reported when they are collected, which may be much later.
            logging.getLogger("asyncio").addFilter(_is_no_other_write)
            time.sleep(0.2)
            if isinstance(error, OSError):
                raise
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # TensorStore raises a ValueError
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code)) from error
            raise OSError(errno.EIO, str(error).splitlines()[0] if str(error) else repr(error)) from error


def read_arrays(path: Path, names: list[str], ways: str) -> dict[str, np.ndarray]:
    """Reads arrays by name; an InputError says why they cannot be read and ends with ``ways``."""
    with _silent():
        ocp, checkpointer = _orbax()
        try:
            plan = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            return dict(
                _undisturbed(checkpointer.restore, path.absolute(), ocp.args.PyTreeRestore(restore_args=plan))
            )
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} cannot be read ({reason}): {ways}") from error


def _is_no_other_write(record: logging.LogRecord) -> bool:
    """False for the report of one more write that failed beside the one that was raised."""
    said = record.getMessage()
    return not (said.startswith("Future exception was never retrieved") and "OCDBT" in said)


def _undisturbed(function: Callable[..., Any], *args: Any) -> Any:
    """Calls ``function`` in a thread of its own: a Ctrl-C waits for its end, then raises here.

    Interrupted itself, Orbax would leave threads behind that print tracebacks.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps the log of Orbax and the tracebacks of its threads off the terminal; errors still raise."""
    log = logging.getLogger("absl")
    level, hook = log.level, sys.unraisablehook

    def without_closed_loops(unraisable: sys.UnraisableHookArgs) -> None:
        if not (unraisable.exc_type is RuntimeError and "Event loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    log.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = without_closed_loops
    try:
        yield
    finally:
        log.setLevel(level)
        sys.unraisablehook = hook
