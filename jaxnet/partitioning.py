"""A decoder over many devices: samples along one axis of a mesh, the weights of every layer along another.

Attention and perceptron are cut as in Megatron: kernels into heads and hidden units by their columns, those
back into the stream by their rows, embedding and head by the vocabulary. XLA's partitioner adds what the
devices have to tell each other. Whatever has a decoder's paths (parameters, moments, a whole
:class:`jaxnet.train.TrainState`) is laid out by them.

Source: Shoeybi et al. 2019 (Megatron-LM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet.train import Task, TrainState, make_epoch
from jaxnet.train.net import Transform
from jaxnet.types import Array, Key, PyTree

DATA, TENSOR = "data", "tensor"
"""The axes of a mesh."""

_COLUMNS = ("query/kernel", "key/kernel", "value/kernel", "up/kernel", "head/kernel")
_ROWS = ("out/kernel", "down/kernel", "embed/embedding")
CUT = {**dict.fromkeys(_COLUMNS, (None, TENSOR)), **dict.fromkeys(_ROWS, (TENSOR, None))}
"""Along which axis of a mesh the axes of a parameter lie, by the end of its path; all else is everywhere."""


def mesh(data: int, tensor: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices as ``(data, tensor)``.

    Args:
      data: parts of a batch.
      tensor: parts of every layer.
      devices: those used, by default the first ones there are.

    Raises:
      ValueError: there are fewer devices.
    """
    there = jax.devices() if devices is None else list(devices)
    if min(data, tensor) < 1 or data * tensor > len(there):
        raise ValueError(f"a mesh of {data} x {tensor} needs as many devices: there are {len(there)}")
    return Mesh(np.asarray(there[: data * tensor]).reshape(data, tensor), (DATA, TENSOR))


def shardings(tree: PyTree, over: Mesh) -> PyTree:
    """How every leaf of a tree with a decoder's paths lies on a mesh, as a tree of shardings.

    An axis that the mesh's does not divide lies on every device whole.
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        # names stand in dictionaries and in attributes (of optimiser states)
        names = [str(getattr(part, "key", getattr(part, "name", ""))) for part in path]
        axes = CUT.get("/".join(names[-2:]), ())
        fits = len(axes) == leaf.ndim and all(
            axis is None or size % over.shape[axis] == 0 for axis, size in zip(axes, leaf.shape, strict=True)
        )
        return NamedSharding(over, PartitionSpec(*axes) if fits else PartitionSpec())

    return jax.tree_util.tree_map_with_path(of, tree)


def init_over(over: Mesh, start: Callable[[Key], PyTree], key: Key) -> PyTree:
    """``start(key)``, each device computing its own part: no device holds the whole."""
    shapes = jax.eval_shape(start, key)
    drawn: PyTree = jax.jit(start, out_shardings=shardings(shapes, over))(key)
    return drawn


def batch_over(over: Mesh) -> Transform:
    """For :class:`jaxnet.train.Task`: the samples of a batch are shared out along the axis ``data``."""
    where = NamedSharding(over, PartitionSpec(DATA))

    def transform(x: Array, y: PyTree, *, key: Key) -> tuple[Array, PyTree]:
        del key
        laid: tuple[Array, PyTree] = jax.lax.with_sharding_constraint((x, y), where)
        return laid

    return transform


def everywhere(tree: PyTree, over: Mesh) -> PyTree:
    """Arrays that lie whole on every device of a mesh, such as a text; equal on all hosts."""
    laid: PyTree = jax.device_put(tree, NamedSharding(over, PartitionSpec()))
    return laid


def epoch_over(over: Mesh, task: Task, state: TrainState) -> Any:
    """The compiled :func:`jaxnet.train.make_epoch` of a state (or its shapes) that lies on a mesh.

    The state is donated.

    Raises:
      ValueError: the axis ``data`` does not divide the batch.
    """
    if task.batch_size % over.shape[DATA]:
        raise ValueError(f"{over.shape[DATA]} parts of a batch do not divide {task.batch_size} samples")
    laid, whole = shardings(state, over), NamedSharding(over, PartitionSpec())
    epoch = make_epoch(task, can_stop=False)
    ins, outs = (laid, whole, whole, whole), (laid, whole)
    return jax.jit(epoch, in_shardings=ins, out_shardings=outs, donate_argnums=0)


def save(folder: Path, tree: PyTree) -> None:
    """Writes a tree with plain Orbax, every process its own part; the folder appears whole.

    Raises:
      ValueError: the folder is there already.
    """
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def restore(folder: Path, like: PyTree, over: Mesh) -> PyTree:
    """Reads what :func:`save` wrote onto a mesh, which may be another one, of other devices.

    Args:
      folder: what was written.
      like: a tree of the same shapes (``jax.eval_shape``).
      over: where it shall lie.
    """
    import orbax.checkpoint as ocp

    def plan(leaf: Any, where: NamedSharding) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    with ocp.StandardCheckpointer() as checkpointer:
        found: PyTree = checkpointer.restore(
            folder.absolute(), jax.tree.map(plan, like, shardings(like, over))
        )
    return found
