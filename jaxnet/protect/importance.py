"""How much a weight matters for what was learned, and penalties that hold it where it was.

- **EWC** (Kirkpatrick et al. 2017): importance is the diagonal of the Fisher information (:func:`fisher`).
- **SI** (Zenke, Poole and Ganguli 2017): importance is what a weight has done for the loss on its way
  (:func:`track_path`), over the square of that way.

Both hold weights by the same :func:`penalty`; what it needs is carried beside the parameters, a tree like
them each (:class:`Memory`), and follows every change of structure (:class:`jaxnet.train.Net`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnet.data.batches import Data
from jaxnet.errors import check_choice
from jaxnet.losses import labels_of, over_places
from jaxnet.optim import replaced
from jaxnet.structure import clear
from jaxnet.train import Task
from jaxnet.types import Array, Int, Key, PyTree, Scalar

T = TypeVar("T")

LABELS = ("expected", "drawn", "data")
"""Labels of the Fisher information: all, by the model's own probabilities; one drawn by them; the data's."""


class Memory(flax.struct.PyTreeNode):
    """What a penalty holds weights by; ``carried`` of a net.

    Attributes:
      anchor: where the weights were.
      importance: of every weight, 0 or more.
      strength: of the penalty.
    """

    anchor: PyTree
    importance: PyTree
    strength: Scalar


def no_memory(params: PyTree, strength: float | Scalar) -> Memory:
    """Before anything was learned: no weight is important."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Memory(jax.tree.map(jnp.copy, params), zeros, jnp.asarray(strength, jnp.float32))


def penalty(params: PyTree, memory: Memory) -> Scalar:
    """``strength / 2 * sum(importance * (params - anchor)^2)``, for :class:`jaxnet.train.Task` or any loss.

    >>> memory = Memory({"w": jnp.zeros(2)}, {"w": jnp.asarray([1.0, 3.0])}, jnp.asarray(2.0))
    >>> float(penalty({"w": jnp.asarray([1.0, 2.0])}, memory))
    13.0
    """
    parts = jax.tree.map(lambda p, a, f: jnp.sum(f * (p - a) ** 2), params, memory.anchor, memory.importance)
    whole = jax.tree.reduce(jnp.add, parts)
    return memory.strength.astype(whole.dtype) * whole / 2


def remember(memory: Memory, params: PyTree, importance: PyTree, *, decay: float = 1.0) -> Memory:
    """After a task: the anchor is where the weights are, and importance is added to the old."""
    kept = jax.tree.map(lambda old, new: decay * old + new, memory.importance, importance)
    return memory.replace(anchor=jax.tree.map(jnp.copy, params), importance=kept)


def fisher(
    task: Task,
    params: T,
    structure: PyTree,
    data: Data,
    index: Int[Array, "sample"],
    *,
    labels: str = "expected",
    key: Key | None = None,
    chunk: int = 16,
) -> T:
    """The diagonal of the Fisher information, a mean over samples; zero for weights that do not exist.

    ``E_x sum_c p(c | x) (d log p(c | x) / dw)^2`` with ``labels="expected"``.

    Args:
      task: its model is asked for logits.
      params: the values.
      structure: which weights exist.
      data: the samples.
      index: ``(sample,)``, of which of them.
      labels: one of :data:`LABELS`.
      key: of the labels that are drawn.
      chunk: samples whose gradients are in memory at once.

    Of samples with places (tokens) it is of the weighted mean of the log-likelihoods of the places that
    count; ``expected`` would need a gradient per place and class, and is refused.

    Raises:
      ValueError: unknown labels, or none can be drawn without a key; ``expected`` of samples with places.
    """
    check_choice("labels", labels, LABELS)
    if labels == "drawn" and key is None:
        raise ValueError("labels are drawn from a key: give key")
    axis = task.model.class_axis

    def logs(values: Any, x: Array) -> Array:
        logits, _ = task.model(values, structure, x[None], key_forward=None)
        return jax.nn.log_softmax(jnp.moveaxis(logits, axis, -1)[0])

    def one(args: tuple[Array, Array]) -> Any:
        row, number = args
        x, y = data.batch(row[None])
        if labels == "expected":
            share = jnp.exp(logs(params, x[0]))
            if share.ndim > 1:
                raise ValueError('labels="expected" is for samples without places: take "drawn" or "data"')
            grads = jax.jacrev(logs)(params, x[0])
            return jax.tree.map(lambda g: jnp.tensordot(share, g**2, 1), grads)
        label = labels_of(y)[0]
        if labels == "drawn":
            assert key is not None
            label = jax.random.categorical(jax.random.fold_in(key, number), logs(params, x[0]))

        def score(values: Any) -> Scalar:
            said = jnp.take_along_axis(logs(values, x[0]), label[..., None], -1)[..., 0]
            return over_places(said[None], y)[0]

        return jax.tree.map(lambda g: g**2, jax.grad(score)(params))

    size = index.shape[0]
    chunk = min(chunk, size)
    steps = -(-size // chunk)
    rows = jnp.pad(index, (0, steps * chunk - size), mode="edge").reshape(steps, chunk)
    there = (jnp.arange(steps * chunk) < size).reshape(steps, chunk)

    def add(total: Any, batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows, there, step = batch
        found = jax.vmap(lambda r, n: one((r, n)))(rows, step * chunk + jnp.arange(chunk))
        sums = jax.tree.map(lambda g: jnp.tensordot(there.astype(g.dtype), g, 1), found)
        return jax.tree.map(jnp.add, total, sums), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add, zeros, (rows, there, jnp.arange(steps)))
    return clear(jax.tree.map(lambda t: t / size, total), structure)


class PathState(NamedTuple):
    """State of :func:`track_path`."""

    path: PyTree
    inner: PyTree


def track_path(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser beside which every weight's part in the fall of the loss is summed up.

    ``path += -gradient * update``, of the loss that is minimised, its penalty included (so has
    Avalanche; the authors leave the penalty out).
    """
    wrapped = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PathState:
        return PathState(jax.tree.map(jnp.zeros_like, params), wrapped.init(params))

    def update(
        grads: PyTree, state: PathState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PathState]:
        updates, moved = wrapped.update(grads, state.inner, params, **extra)
        path = jax.tree.map(lambda p, g, u: p - g * u, state.path, grads, updates)
        return updates, PathState(path, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def path_of(state: PyTree) -> tuple[PyTree, PyTree]:
    """What :func:`track_path` has summed up, and the state with sums that begin anew."""
    found: list[PathState] = []

    def take(old: PathState) -> PathState:
        found.append(old)
        return PathState(jax.tree.map(jnp.zeros_like, old.path), old.inner)

    again = replaced(state, PathState, take)
    return found[0].path, again


def path_importance(path: PyTree, params: PyTree, anchor: PyTree, *, damping: float = 0.1) -> PyTree:
    """SI's importance after a task: ``max(path, 0) / ((params - anchor)^2 + damping)``."""
    return jax.tree.map(lambda w, p, a: jnp.maximum(w, 0) / ((p - a) ** 2 + damping), path, params, anchor)
