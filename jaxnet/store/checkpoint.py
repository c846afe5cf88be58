"""Checkpoints: a pytree and a little JSON in a folder, whole or not at all.

For a run that may be killed at any moment: Orbax writes the arrays into a ``.partial``
folder, a manifest with the size and SHA-256 of every file is added, everything is
synced, and one rename makes it a checkpoint. Layout::

    checkpoints/000007.step-1200/state/...       Orbax, one array per leaf, named 0, 1, ...
    checkpoints/000007.step-1200/manifest.json   meta, leaves and files
    checkpoints/000008.step-1400.partial/        left by a killed process, removed at the next save

The number counts the saves: the largest is the newest, and a name may be saved again
without a moment in which neither exists.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from jaxnet.errors import InputError
from jaxnet.files import disk_errors, json_safe, sync_path, user_path
from jaxnet.store.arrays import check_leaves, describe, from_numpy, read_arrays, save_arrays, to_numpy
from jaxnet.store.folder import CHECKPOINT_FOLDER, checkpoint_folders
from jaxnet.types import PyTree

MANIFEST, STATE = "manifest.json", "state"
FORMAT = 1
OVERHEAD = 0.05  # of the time since the last checkpoint, that writing one may take: see Pace
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
    """Saves ``tree``, which is on disk and whole when this returns; gives the checkpoint's folder.

    Args:
      folder: for the checkpoints of one run; only one process may save there at a time.
      name: letters, digits, ``-`` and ``_``. A name may be saved again.
      tree: arrays (JAX or NumPy, any shape), typed PRNG keys and Python numbers
        as leaves; ``None`` is kept as part of the structure.
      meta: JSON-like; comes back from :func:`restore`.
      keep: how many checkpoints to keep, the newest ones.

    Raises:
      InputError: the disk is full or cannot be written; those from before are intact.
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
        for match, path in checkpoint_folders(folder):
            if match["partial"]:
                shutil.rmtree(path)
    order = max((c.order for c in checkpoints(folder)), default=0) + 1
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
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            }
            content = {"format": FORMAT, "name": name, "meta": meta, "leaves": described, "files": files}
            manifest = json.dumps({**content, "sha256": _content_hash(content)}, indent=1)
            (partial / MANIFEST).write_text(manifest, encoding="utf-8")
            # All at once: a file system with a journal then commits them together.
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(sync_path, [partial, *partial.rglob("*")]))
            os.rename(partial, final)
            sync_path(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _prune(folder, keep)
    return final


def latest(folder: str | os.PathLike[str]) -> str | None:
    """Name of the newest checkpoint in ``folder``, damaged or not; ``None`` where there is none."""
    found = checkpoints(folder)
    return found[-1].name if found else None


def checkpoints(folder: str | os.PathLike[str]) -> list[Checkpoint]:
    """The finished checkpoints in ``folder``, oldest first."""
    folder = user_path(folder)
    with disk_errors(folder, "read"):
        named = checkpoint_folders(folder)
    return sorted(Checkpoint(int(m["order"]), m["name"], path) for m, path in named if not m["partial"])


def restore(
    folder: str | os.PathLike[str], name: str, like: Tree, *, way_out: str | None = None
) -> tuple[Tree, dict[str, Any]]:
    """Reads the newest checkpoint in ``folder`` called ``name``, bit for bit as it was saved.

    Args:
      folder: where the checkpoints lie.
      name: as for :func:`save`.
      like: a pytree of what is expected, arrays or ``jax.ShapeDtypeStruct``. The kind of leaf decides
        the kind restored: NumPy array, Python number, JAX array (placed as the array in ``like``).
      way_out: what to advise where the checkpoint is damaged; None for an older one of the run.

    Returns:
      The pytree and the ``meta`` that was saved with it.

    Raises:
      InputError: there is no such checkpoint, a file of it is missing or damaged, or a
        leaf is not that of ``like``.
    """
    path, manifest, ways = _find(folder, name, way_out)
    expected = jax.tree_util.tree_leaves_with_path(like)
    check_leaves(path, manifest["leaves"], [describe(*leaf) for leaf in expected])
    for file, facts in manifest["files"].items():
        with _reading(path / file, ways):
            size = (path / file).stat().st_size
            damage = ""
            if size != facts["size"]:
                damage = f"{size} bytes instead of {facts['size']}"
            elif _sha256(path / file) != facts["sha256"]:
                damage = "its checksum does not match"
            if damage:
                raise InputError(f"{path / file} is damaged ({damage}): {ways}")
    stored = [str(i) for i, leaf in enumerate(manifest["leaves"]) if 0 not in leaf["shape"]]
    arrays = read_arrays(path / STATE, stored, ways) if stored else {}
    leaves = [
        from_numpy(arrays.get(str(i)), wanted, facts)
        for i, ((_, wanted), facts) in enumerate(zip(expected, manifest["leaves"], strict=True))
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves), manifest["meta"]


def read_meta(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, for trees whose shape only it tells; errors as of :func:`restore`."""
    meta: dict[str, Any] = _find(folder, name)[1]["meta"]
    return meta


def _find(
    folder: str | os.PathLike[str], name: str, ways: str | None = None
) -> tuple[Path, dict[str, Any], str]:
    """Path, manifest and, for errors, the way out of the newest checkpoint called ``name``."""
    folder, there = user_path(folder), checkpoints(folder)
    found = [c for c in there if c.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(c.name for c in there)) or "there is none"
        raise InputError(f"{folder}: no checkpoint {name!r}: choose one of those there ({names})")
    path = found[-1].path
    older = there[: there.index(found[-1])]
    if older and ways is None:
        ways = f"delete the folder {path} to continue from {older[-1].path.name}"
    ways = ways or "there is no older checkpoint: start again with --overwrite"
    with _reading(path / MANIFEST, ways):
        data = (path / MANIFEST).read_bytes()
    try:
        manifest = json.loads(data)
        intact = manifest.pop("sha256") == _content_hash(manifest)
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise InputError(f"{path / MANIFEST} is damaged: {ways}")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path}: format {manifest['format']} is not known: use the jaxnet that saved it")
    return path, manifest, ways


@contextlib.contextmanager
def _reading(path: Path, ways: str) -> Iterator[None]:
    """One line with a way out where a file of a checkpoint is missing or cannot be read."""
    with disk_errors(path, "read"):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path} is missing: {ways}") from None


def _content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` names, and older saves of those."""
    there = checkpoints(folder)
    kept = sorted({c.name: c for c in there}.values())[-keep:]
    for path in (c.path for c in there if c not in kept):
        # A rename first: a folder half deleted must not look like a checkpoint.
        with disk_errors(path, "delete"):
            os.rename(path, gone := path.with_name(path.name + ".partial"))
            shutil.rmtree(gone)


def _check_space(folder: Path, nbytes: int) -> None:
    """Raises ENOSPC before Orbax does: it would leave threads behind that print tracebacks."""
    disk = shutil.disk_usage(folder)
    # Random numbers do not compress; a state that would fit only by compression fills the disk anyway.
    if disk.total and disk.free < nbytes + 2**16:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
