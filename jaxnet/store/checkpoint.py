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

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from jaxnet.errors import InputError
from jaxnet.files import disk_error, disk_errors, json_safe, sync_path, user_path
from jaxnet.store.folder import CHECKPOINT_FOLDER
from jaxnet.store.leaves import check_leaves, describe, from_numpy, to_numpy
from jaxnet.store.orbax import read_arrays, save_arrays
from jaxnet.types import PyTree

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
    arrays = {str(i): to_numpy(path, leaf) for i, (path, leaf) in enumerate(leaves)}
    described = [describe(path, leaf) for path, leaf in leaves]
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
                save_arrays(partial / STATE, stored)
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
    check_leaves(path, manifest["leaves"], [describe(*leaf) for leaf in expected])
    for file, facts in manifest["files"].items():
        _check_file(path / file, facts, ways)
    stored = [str(i) for i, leaf in enumerate(manifest["leaves"]) if 0 not in leaf["shape"]]
    arrays = read_arrays(path / STATE, stored, ways) if stored else {}
    leaves = [
        from_numpy(arrays.get(str(i)), wanted, facts)
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
