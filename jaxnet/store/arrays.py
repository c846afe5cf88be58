"""Leaves of a tree as NumPy arrays there and back; Orbax writes and reads these, undisturbed and silent."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.trees import is_key
from jaxnet.types import Array


def describe(path: Any, leaf: Any) -> dict[str, Any]:
    """Path, shape and type of a leaf, as the manifest holds them."""
    if not hasattr(leaf, "dtype"):
        leaf = to_numpy(path, leaf)
    return {"path": _path(path), "dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the tree itself"


def to_numpy(path: Any, leaf: Any) -> np.ndarray:
    """A leaf as an array; ValueError for one that is no array or number."""
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    # 'V' are bfloat16 and its kin, which NumPy does not know by a letter of its own.
    if array.dtype.kind not in "biufcV" or array.dtype.fields:
        raise ValueError(f"leaf {_path(path)} cannot be saved: {type(leaf).__name__} is no array or number")
    return array


def from_numpy(array: np.ndarray | None, wanted: Any, facts: dict[str, Any]) -> Any:
    """Makes the leaf that ``wanted`` stands for out of what Orbax read (``None`` for an empty array)."""
    if is_key(wanted):
        leaf = jnp.zeros((0,), wanted.dtype)  # knows the implementation
        if array is None:
            return _place(leaf.reshape(facts["shape"]), wanted)
        return _place(jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf)), wanted)
    if array is None:
        array = np.zeros(facts["shape"], np.dtype(wanted.dtype))
    if isinstance(wanted, np.ndarray):
        return np.array(array)
    if isinstance(wanted, np.generic):
        return array[()]
    if not hasattr(wanted, "dtype"):
        return type(wanted)(array.item())
    leaf = jnp.array(array)  # a copy: the result may be donated to a jitted step
    if leaf.dtype != wanted.dtype:
        raise ValueError(f"JAX turns {wanted.dtype} into {leaf.dtype}: enable x64 to restore {facts['path']}")
    return _place(leaf, wanted)


def _place(leaf: Array, wanted: Any) -> Array:
    """Moves ``leaf`` to the devices of ``wanted``, unless it lies there already."""
    sharding = getattr(wanted, "sharding", None)
    return leaf if sharding is None or sharding == leaf.sharding else jax.device_put(leaf, sharding)


def check_leaves(path: Path, saved: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Raises InputError that names the first leaf in which the checkpoint is not what is wanted."""

    def shown(leaf: dict[str, Any]) -> str:
        return f"{leaf['dtype']}[{','.join(map(str, leaf['shape']))}]"

    hint = "restore it with the configuration it was saved with, or choose another --out"
    there, here = ({leaf["path"]: leaf for leaf in leaves} for leaves in (saved, wanted))
    for key in (*here, *there):
        if key not in there:
            differs = f"({shown(here[key])}) is not in this checkpoint"
        elif key not in here:
            differs = f"({shown(there[key])}) of this checkpoint has no place"
        elif here[key] != there[key]:
            differs = f"is {shown(there[key])} in this checkpoint, not {shown(here[key])}"
        else:
            continue
        raise InputError(f"{path}: leaf {key} {differs}: {hint}")


@functools.cache
def _orbax() -> tuple[Any, Any]:
    """The Orbax module (slow to import) and one checkpointer that all saves and restores share."""
    import orbax.checkpoint as ocp

    return ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name into a new folder; raises OSError where the disk will not have them."""
    with _silent() as (ocp, checkpointer, pool):
        try:
            pool.submit(checkpointer.save, path.absolute(), ocp.args.PyTreeSave(arrays)).result()
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
            raise OSError(errno.EIO, (str(error) or repr(error)).splitlines()[0]) from error


def read_arrays(path: Path, names: list[str], ways: str) -> dict[str, np.ndarray]:
    """Reads arrays by name; an InputError says why they cannot be read and ends with ``ways``."""
    with _silent() as (ocp, checkpointer, pool):
        try:
            plan = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            args = ocp.args.PyTreeRestore(restore_args=plan)
            return dict(pool.submit(checkpointer.restore, path.absolute(), args).result())
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} cannot be read ({reason}): {ways}") from error


def _is_no_other_write(record: logging.LogRecord) -> bool:
    """False for the report of one more write that failed beside the one that was raised."""
    said = record.getMessage()
    return not (said.startswith("Future exception was never retrieved") and "OCDBT" in said)


@contextlib.contextmanager
def _silent() -> Iterator[tuple[Any, Any, ThreadPoolExecutor]]:
    """Orbax, its checkpointer and a thread for them, whose log and tracebacks stay off the terminal.

    Errors still raise, and a Ctrl-C waits for the end of what the thread does: interrupted
    itself, Orbax would leave threads behind that print tracebacks.
    """
    log = logging.getLogger("absl")
    level, hook = log.level, sys.unraisablehook

    def without_closed_loops(unraisable: sys.UnraisableHookArgs) -> None:
        if not (unraisable.exc_type is RuntimeError and "Event loop is closed" in str(unraisable.exc_value)):
            hook(unraisable)

    log.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = without_closed_loops
    try:
        with ThreadPoolExecutor(1) as pool:
            yield *_orbax(), pool
    finally:
        log.setLevel(level)
        sys.unraisablehook = hook
