"""Checkpoints: a pytree and a little JSON in a folder, whole or not at all.

Orbax writes the arrays. Around it stands what a run that may be killed at any
moment needs: everything is written into a ``.partial`` folder, a manifest with
the size and SHA-256 of every file is added, and one rename makes it a
checkpoint. Layout::

    checkpoints/000007.step-1200/state/...       Orbax, one array per leaf, named 0, 1, ...
    checkpoints/000007.step-1200/manifest.json   meta, leaves and files
    checkpoints/000008.step-1400.partial/        left by a killed process, removed at the next save

The number in front counts the saves: it decides which checkpoint is the newest,
and lets a name be saved again without a moment in which neither exists.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.files import disk_error, disk_errors, json_safe, sync_path, user_path
from jaxnet.records import CHECKPOINT_FOLDER
from jaxnet.types import Array, PyTree

MANIFEST, STATE = "manifest.json", "state"
FORMAT = 1
Tree = TypeVar("Tree")


class Checkpoint(NamedTuple):
    """A finished checkpoint in a folder."""

    order: int
    name: str
    path: Path


def save(
    folder: str | os.PathLike[str],
    name: str,
    tree: PyTree,
    meta: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Saves ``tree``; it is on disk and whole when this returns.

    Args:
      folder: where the checkpoints of one run lie; made where it does not exist.
        Only one process may save there at a time (``RunFolder`` sees to it).
      name: letters, digits, ``-`` and ``_``. A name may be saved again.
      tree: arrays (JAX or NumPy, any shape), typed PRNG keys and Python numbers
        as leaves; ``None`` is kept as part of the structure.
      meta: JSON-like; comes back from :func:`restore`.
      keep: how many checkpoints to keep, the newest ones.

    Returns:
      The folder of the checkpoint.

    Raises:
      InputError: the disk is full or cannot be written; the checkpoints from
        before are intact.
      ValueError: a leaf cannot be saved, or ``name`` or ``keep`` is not allowed.
    """
    folder = user_path(folder)
    if CHECKPOINT_FOLDER.fullmatch(f"000001.{name}") is None or keep < 1:
        raise ValueError(f"name must be letters, digits, - and _, keep at least 1: {name!r}, {keep}")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {str(i): _to_numpy(path, leaf) for i, (path, leaf) in enumerate(leaves)}
    described = [_describe(path, leaf) for path, leaf in leaves]
    meta = json_safe(dict(meta or {}))
    with disk_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            match = CHECKPOINT_FOLDER.fullmatch(entry.name)
            if match and match["partial"]:
                shutil.rmtree(entry)
    before = checkpoints(folder)
    order = before[-1].order + 1 if before else 1
    final = folder / f"{order:06d}.{name}"
    partial = final.with_name(final.name + ".partial")
    try:
        with disk_errors(final, "write"):
            partial.mkdir()
            # Orbax stores neither empty trees nor empty arrays; the description says all about them.
            stored = {key: array for key, array in arrays.items() if array.size}
            if stored:
                _check_space(folder, sum(array.nbytes for array in stored.values()))
                _orbax_save(partial / STATE, stored)
            files = {
                path.relative_to(partial).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
                for path in _files(partial)
            }
            content = {"format": FORMAT, "name": name, "meta": meta, "leaves": described, "files": files}
            manifest = json.dumps({**content, "sha256": _content_hash(content)}, indent=1)
            (partial / MANIFEST).write_text(manifest, encoding="utf-8")
            _sync_tree(partial)
            os.rename(partial, final)
            sync_path(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _prune(folder, keep)
    return final


def latest(folder: str | os.PathLike[str]) -> str | None:
    """Name of the newest checkpoint in ``folder``, ``None`` where there is none.

    A damaged one counts: :func:`restore` says what to do about it, rather than
    an older state being taken without a word.
    """
    found = checkpoints(folder)
    return found[-1].name if found else None


def checkpoints(folder: str | os.PathLike[str]) -> list[Checkpoint]:
    """The finished checkpoints in ``folder``, oldest first."""
    folder = user_path(folder)
    found = []
    with disk_errors(folder, "read"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            match = CHECKPOINT_FOLDER.fullmatch(entry.name)
            if match and not match["partial"] and entry.is_dir():
                found.append(Checkpoint(int(match["order"]), match["name"], entry))
    return sorted(found)


def restore(
    folder: str | os.PathLike[str], name: str, like: Tree, *, way_out: str | None = None
) -> tuple[Tree, dict[str, Any]]:
    """Reads the newest checkpoint called ``name``, bit for bit as it was saved.

    Args:
      folder: as for :func:`save`.
      name: as for :func:`save`, or what :func:`latest` returned.
      like: a pytree with the structure, shapes and types that are expected; its
        leaves are arrays or ``jax.ShapeDtypeStruct``. The kind of leaf decides
        the kind restored: NumPy array, Python number, JAX array (placed as the
        array in ``like``).
      way_out: what an error advises where the checkpoint is damaged; for a run,
        whose older checkpoint can be continued from, None says so.

    Returns:
      The pytree and the ``meta`` that was saved with it.

    Raises:
      InputError: there is no such checkpoint, a file of it is missing or
        damaged, or its structure, a shape or a type is not that of ``like``.
    """
    folder = user_path(folder)
    found = _newest(folder, name)
    path = found.path
    ways = way_out or _way_out(folder, found)
    manifest = _read_manifest(path, ways)
    expected = jax.tree_util.tree_leaves_with_path(like)
    _check_leaves(path, manifest["leaves"], [_describe(*leaf) for leaf in expected])
    for file, facts in manifest["files"].items():
        _check_file(path / file, facts, ways)
    stored = [str(i) for i, leaf in enumerate(manifest["leaves"]) if 0 not in leaf["shape"]]
    arrays = _orbax_restore(path / STATE, stored, ways) if stored else {}
    leaves = [
        _from_numpy(arrays.get(str(i)), wanted, facts)
        for i, ((_, wanted), facts) in enumerate(zip(expected, manifest["leaves"], strict=True))
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves), manifest["meta"]


def read_meta(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The ``meta`` of the newest checkpoint called ``name``, without its arrays.

    For trees whose shape only the meta tells; :func:`restore` checks the files.

    Raises:
      InputError: there is no such checkpoint, or its manifest is damaged.
    """
    folder = user_path(folder)
    found = _newest(folder, name)
    meta: dict[str, Any] = _read_manifest(found.path, _way_out(folder, found))["meta"]
    return meta


def _newest(folder: Path, name: str) -> Checkpoint:
    found = [c for c in checkpoints(folder) if c.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(c.name for c in checkpoints(folder))) or "there is none"
        raise InputError(f"{folder}: no checkpoint {name!r}: choose one of those there ({names})")
    return found[-1]


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(path: Any, leaf: Any) -> dict[str, Any]:
    """Path, shape and type of a leaf, as the manifest holds them."""
    if not hasattr(leaf, "dtype"):
        leaf = _to_numpy(path, leaf)
    return {"path": _path(path), "dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the tree itself"


def _to_numpy(path: Any, leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    # 'V' are bfloat16 and its kin, which NumPy does not know by a letter of its own.
    if array.dtype.kind not in "biufcV" or array.dtype.fields:
        raise ValueError(f"leaf {_path(path)} cannot be saved: {type(leaf).__name__} is no array or number")
    return array


def _from_numpy(array: np.ndarray | None, wanted: Any, facts: dict[str, Any]) -> Any:
    """Makes the leaf that ``wanted`` stands for out of what Orbax read (``None`` for an empty array)."""
    if _is_key(wanted):
        impl = _impl(str(wanted.dtype))
        if array is None:
            width = jax.random.key_data(jax.random.key(0, impl=impl)).shape
            array = np.zeros((*facts["shape"], *width), np.uint32)
        return _place(jax.random.wrap_key_data(jnp.array(array), impl=impl), wanted)
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


def _impl(dtype: str) -> str:
    """Name of the key implementation behind a key type such as ``key<fry>``."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if str(jax.random.key(0, impl=impl).dtype) == dtype:
            return impl
    raise ValueError(f"unknown key type {dtype}")


def _place(leaf: Array, wanted: Any) -> Array:
    """Moves ``leaf`` to the devices of ``wanted``, unless it lies there already."""
    sharding = getattr(wanted, "sharding", None)
    return leaf if sharding is None or sharding == leaf.sharding else jax.device_put(leaf, sharding)


def _check_leaves(path: Path, saved: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Raises InputError that names the first leaf in which the checkpoint is not what is wanted."""

    def shown(leaf: dict[str, Any]) -> str:
        return f"{leaf['dtype']}[{','.join(map(str, leaf['shape']))}]"

    hint = "restore it with the configuration it was saved with, or choose another --out"
    there, here = ({leaf["path"]: leaf for leaf in leaves} for leaves in (saved, wanted))
    for key, leaf in here.items():
        if key not in there:
            raise InputError(f"{path}: leaf {key} ({shown(leaf)}) is not in this checkpoint: {hint}")
        if there[key] != leaf:
            raise InputError(
                f"{path}: leaf {key} is {shown(there[key])} in this checkpoint, not {shown(leaf)}: {hint}"
            )
    for key, leaf in there.items():
        if key not in here:
            raise InputError(f"{path}: leaf {key} ({shown(leaf)}) of this checkpoint has no place: {hint}")


def _way_out(folder: Path, checkpoint: Checkpoint) -> str:
    older = [c for c in checkpoints(folder) if c < checkpoint]
    if older:
        return f"delete the folder {checkpoint.path} to continue from {older[-1].path.name}"
    return "there is no older checkpoint: start again with --overwrite"


def _read_manifest(path: Path, ways: str) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        claimed = manifest.pop("sha256")
        intact = claimed == _content_hash(manifest)
    except FileNotFoundError:
        raise InputError(f"{path / MANIFEST} is missing: {ways}") from None
    except OSError as error:
        raise disk_error(path / MANIFEST, "read", error) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise InputError(f"{path / MANIFEST} is damaged: {ways}")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path}: format {manifest['format']} is not known: use the jaxnet that saved it")
    return dict(manifest)


def _check_file(path: Path, facts: dict[str, Any], ways: str) -> None:
    try:
        size = path.stat().st_size
        if size != facts["size"]:
            raise InputError(f"{path} is damaged ({size} bytes instead of {facts['size']}): {ways}")
        if _sha256(path) != facts["sha256"]:
            raise InputError(f"{path} is damaged (its checksum does not match): {ways}")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} is missing: {ways}") from None
    except OSError as error:
        raise disk_error(path, "read", error) from error


def _content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync_tree(folder: Path) -> None:
    """Syncs every file and folder, so that the rename never stands for files not yet on disk."""
    # All at once: a file system with a journal then commits them together, not one after the other.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync_path, [folder, *folder.rglob("*")]))


def _prune(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` names, and older saves of those."""
    kept: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        if checkpoint.name not in kept and len(kept) < keep:
            kept.append(checkpoint.name)
            continue
        # A rename first: a folder half deleted must not look like a checkpoint.
        with disk_errors(checkpoint.path, "delete"):
            gone = checkpoint.path.with_name(checkpoint.path.name + ".partial")
            os.rename(checkpoint.path, gone)
            shutil.rmtree(gone)


def _check_space(folder: Path, nbytes: int) -> None:
    """Raises ENOSPC before Orbax does: it would leave threads behind that print tracebacks."""
    disk = shutil.disk_usage(folder)
    # Random numbers do not compress; a state that would fit only by compression fills the disk anyway.
    if disk.total and disk.free < nbytes + 2**16:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@functools.cache
def _orbax() -> tuple[Any, Any]:
    """The Orbax module (slow to import) and one checkpointer that all saves and restores share."""
    import orbax.checkpoint as ocp

    # in a run of several processes, the one that saves does so alone, without waiting for the others
    here = jax.process_index()
    alone = {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process-{here}"
        )
    }
    return ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**alone), **alone)


def _orbax_save(path: Path, arrays: dict[str, np.ndarray]) -> None:
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


def _orbax_restore(path: Path, names: list[str], ways: str) -> dict[str, np.ndarray]:
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
