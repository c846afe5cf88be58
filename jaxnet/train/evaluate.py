"""What a network makes of samples: loss, accuracy, statistics of its units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import losses
from jaxnet.data.batches import Data, check_data, epoch_batches
from jaxnet.train.net import Evaluation, Task
from jaxnet.trees import zero_of
from jaxnet.types import Array, Bool, Key, PyTree, Scalar, UnitMask
from jaxnet.units import UnitStats, init_stats, update_stats


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in a tree is finite."""
    numbers = [a.ravel() for a in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
    # laid end to end: every reduction of its own costs compile time
    return jnp.all(jnp.isfinite(jnp.concatenate(numbers))) if numbers else jnp.ones((), bool)


def _finite_logits(logits: Array, weight: Array) -> Bool[Array, ""]:
    """Whether the logits ``(class, batch, ...)`` of all samples but padding are finite."""
    there = weight.reshape(-1, *[1] * (logits.ndim - 2)) > 0
    return jnp.all(jnp.where(there, jnp.isfinite(logits), True))


def evaluate(
    task: Task, params: Any, structure: Any, data: Data, *, key_forward: Key | None = None
) -> Evaluation:
    """Loss and accuracy of one network on all samples.

    A network with a weight, a logit or a loss that is not finite has diverged:
    its accuracy is NaN, so that it counts nowhere as good or bad.

    Raises:
      ValueError: there are no samples, not a label for each, or (where labels
        are known on the host) one that is no class.
    """
    check_data(data)
    axis = task.model.class_axis

    def step(carry: tuple[Scalar, Scalar, Array], batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows, weight, number = batch
        x, y = data.batch(rows)
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        logits, _ = task.model(params, structure, x, key_forward=key)
        check_data(data, logits.shape[axis])
        total, correct, finite = carry
        total = total + task.loss(logits, y, weight, axis=axis) * jnp.sum(weight)
        correct = correct + losses.num_correct(logits, y, weight, axis=axis)
        shown = jnp.moveaxis(logits, axis, 0)
        finite &= _finite_logits(shown, weight)
        return (total, correct, finite), None

    index, weight = epoch_batches(data.size, min(task.eval_batch_size, data.size), None)
    zero = zero_of(params)
    (loss, correct, finite), _ = jax.lax.scan(
        step, (zero, zero, all_finite(params)), (index, weight, jnp.arange(index.shape[0]))
    )
    loss = loss / data.size
    return Evaluation(loss, jnp.where(finite & jnp.isfinite(loss), correct / data.size, jnp.nan))


def answers(
    task: Task, params: Any, structure: Any, data: Data, *, key_forward: Key | None = None
) -> tuple[Bool[Array, "sample"], Bool[Array, ""]]:
    """Which samples one network answers right, in their order; and whether all it says is finite.

    Of samples with places (tokens): which places, ``(sample, time)``, those that do not count too.
    """
    check_data(data)
    axis = task.model.class_axis

    def step(finite: Array, batch: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        rows, weight, number = batch
        x, y = data.batch(rows)
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        logits, _ = task.model(params, structure, x, key_forward=key)
        shown = jnp.moveaxis(logits, axis, 0)
        finite &= _finite_logits(shown, weight)
        return finite, jnp.argmax(shown, axis=0) == losses.labels_of(y)

    index, weight = epoch_batches(data.size, min(task.eval_batch_size, data.size), None)
    finite, right = jax.lax.scan(step, all_finite(params), (index, weight, jnp.arange(index.shape[0])))
    return right.reshape(-1, *right.shape[2:])[: data.size], finite


def collect_stats(
    task: Task,
    params: Any,
    structure: Any,
    data: Data,
    *,
    values: str = "pre",
    output: bool = False,
    key_forward: Key | None = None,
) -> tuple[UnitStats, ...]:
    """Statistics of every hidden layer over all samples, streamed batch by batch.

    Args:
      task: its model must give activations with fields ``pre`` and ``post``, a
        tuple of arrays ``(unit, batch)`` each, and say the name of its ``activation``.
      params: the values.
      structure: which weights exist.
      data: the samples.
      values: watch ``pre`` or ``post`` activations.
      output: also those of the output layer, which come last: of the logits.
      key_forward: for models that draw in every pass.

    Raises:
      ValueError: ``values`` is neither, or there are no samples.
    """
    if values not in ("pre", "post"):
        raise ValueError(f"values must be pre or post: {values!r}")
    check_data(data)
    activation: str = task.model.activation  # type: ignore[attr-defined]

    def see(rows: Array, number: Array) -> Any:
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        logits, seen = task.model(params, structure, data.batch(rows)[0], key_forward=key)
        last = (jnp.moveaxis(logits, task.model.class_axis, 0),) if output else ()
        return [(*layers, *last) for layers in (seen.pre if values == "pre" else seen.post, seen.post)]

    def step(
        stats: tuple[UnitStats, ...], batch: tuple[Array, Array, Array]
    ) -> tuple[tuple[UnitStats, ...], None]:
        rows, weight, number = batch
        watched, post = see(rows, number)
        return tuple(
            update_stats(s, v, p, activation, weight) for s, v, p in zip(stats, watched, post, strict=True)
        ), None

    index, weight = epoch_batches(data.size, min(task.eval_batch_size, data.size), None)
    steps = jnp.arange(index.shape[0])
    hidden = [units.shape[0] for units in jax.eval_shape(see, index[0], steps[0])[1]]
    start = tuple(init_stats(units) for units in hidden)
    return jax.lax.scan(step, start, (index, weight, steps))[0]


def outside(
    task: Task,
    params: Any,
    structure: Any,
    data: Data,
    low: float = 0.05,
    high: float = 0.95,
    *,
    exist: Sequence[UnitMask] | None = None,
) -> Scalar:
    """How many outputs of linear layers lie below ``low`` or above ``high``, mean over the samples.

    Counted are the values before the activation and the logits, of every unit and sample: what the texts
    on the original call extrema (:func:`collect_stats` and the signals judge means over samples).

    Args:
      task: its model must give activations with a field ``pre``, arrays ``(unit, batch)``.
      params: the values.
      structure: which weights exist.
      data: the samples.
      low: threshold below.
      high: threshold above.
      exist: of every layer, the output's last, which units there are; None: all.
    """
    check_data(data)

    def step(total: Scalar, batch: tuple[Array, Array]) -> tuple[Scalar, None]:
        rows, weight = batch
        logits, seen = task.model(params, structure, data.batch(rows)[0], key_forward=None)
        layers = (*seen.pre, jnp.moveaxis(logits, task.model.class_axis, 0))
        for number, values in enumerate(layers):
            beyond = ((values < low) | (values > high)) & (weight > 0)
            if exist is not None:
                beyond &= exist[number][:, None]
            total = total + jnp.sum(beyond, dtype=total.dtype)
        return total, None

    index, weight = epoch_batches(data.size, min(task.eval_batch_size, data.size), None)
    return jax.lax.scan(step, zero_of(params), (index, weight))[0] / data.size
