"""Leaves of a tree on disk: what describes them, and NumPy arrays there and back."""

from __future__ import annotations

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
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    # 'V' are bfloat16 and its kin, which NumPy does not know by a letter of its own.
    if array.dtype.kind not in "biufcV" or array.dtype.fields:
        raise ValueError(f"leaf {_path(path)} cannot be saved: {type(leaf).__name__} is no array or number")
    return array


def from_numpy(array: np.ndarray | None, wanted: Any, facts: dict[str, Any]) -> Any:
    """Makes the leaf that ``wanted`` stands for out of what Orbax read (``None`` for an empty array)."""
    if is_key(wanted):
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


def check_leaves(path: Path, saved: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
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
