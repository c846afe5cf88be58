"""Training and evaluation of one network, for jit and vmap around it.

A :class:`Task` fixes what is static (network, batch size, product). Epochs are
scans inside one compiled program: the data set lies on the device as it is
stored, batches are gathered, normalised and turned features first there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import extrema, losses
from jaxnet.data import normalise
from jaxnet.kernels import Product, dense_product
from jaxnet.network import NetworkSpec, Params, Structure, forward
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Features, Float, Int, Key, PyTree, Scalar


class Split(flax.struct.PyTreeNode):
    """A part of a data set on the device.

    Attributes:
      x: ``(sample, feature)``, uint8 pixels or float32 features.
      y: ``(sample,)`` int32 labels.
      mean: ``(feature,)`` or scalar, subtracted after uint8 is scaled to [0, 1].
      std: likewise, divided by.
    """

    x: Array
    y: Int[Array, "sample"]
    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    @property
    def size(self) -> int:
        """Number of samples (static)."""
        return self.x.shape[0]

    def batch(self, index: Int[Array, "batch"]) -> tuple[Features, Int[Array, "batch"]]:
        """Gathers samples: normalised features ``(feature, batch)`` and labels ``(batch,)``."""
        return normalise(self.x[index], self.mean, self.std).T, self.y[index]


@dataclasses.dataclass(frozen=True)
class Task:
    """What training and evaluation need to know (static).

    Attributes:
      spec: the network.
      batch_size: samples per step; the last batch of an epoch may be smaller.
      eval_batch_size: samples per step of an evaluation (no influence on results
        but for rounding).
      product: the sparse product.
    """

    spec: NetworkSpec
    batch_size: int = 64
    eval_batch_size: int = 1000
    product: Product = dense_product

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")


class TrainState(flax.struct.PyTreeNode):
    """What is carried from epoch to epoch.

    Attributes:
      params: current values.
      opt_state: optimiser state.
      epoch: epochs trained.
      best_params: values after the best epoch so far.
      best_accuracy: accuracy there; -1 before the first epoch.
      best_epoch: that epoch, counted from 1; 0 before the first.
      stopped: early stopping has struck: the state no longer changes.
    """

    params: Params
    opt_state: PyTree
    epoch: Int[Array, ""]
    best_params: Params
    best_accuracy: Scalar
    best_epoch: Int[Array, ""]
    stopped: Bool[Array, ""]


class Edit(Protocol):
    """A change of which weights exist, under fixed shapes, in the middle of training."""

    def is_due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether it is to be done after ``step`` steps."""

    def __call__(
        self,
        params: Params,
        structure: Structure,
        opt_state: PyTree,
        x: Features,
        y: Int[Array, "batch"],
        weight: Float[Array, "batch"],
        step: Int[Array, ""],
        /,
    ) -> tuple[Params, Structure, PyTree]:
        """Values, structure and optimiser state after it.

        ``x``, ``y`` and ``weight`` (0 for padding) are the batch of the step.
        """


class EpochInfo(flax.struct.PyTreeNode):
    """What is observed in an epoch.

    Attributes:
      loss: mean training loss (nats).
      accuracy: training accuracy.
      gradient_norms: ``(step,)``, Euclidean norm of every gradient, where it was asked for.
    """

    loss: Scalar
    accuracy: Scalar
    gradient_norms: Float[Array, "step"] | None = None


class Evaluation(flax.struct.PyTreeNode):
    """Mean loss (nats) and accuracy (a fraction) on a split."""

    loss: Scalar
    accuracy: Scalar


class EpochResult(flax.struct.PyTreeNode):
    """What a watched epoch gave, for one network or, with a leading axis, for many."""

    info: EpochInfo
    evaluation: Evaluation

    def rows(self, labels: Sequence[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
        """A row of results per network, its label first; networks beyond the labels have no row."""
        host = jax.tree.map(np.asarray, self)
        return [
            {
                **label,
                "train_loss": float(host.info.loss[i]),
                "train_accuracy": float(host.info.accuracy[i]),
                "split": split,
                "loss": float(host.evaluation.loss[i]),
                "accuracy": float(host.evaluation.accuracy[i]),
            }
            for i, label in enumerate(labels)
        ]


def init_state(params: Params, opt_state: PyTree) -> TrainState:
    """The state before the first epoch."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        params=params,
        opt_state=opt_state,
        epoch=zero,
        best_params=params,
        best_accuracy=jnp.asarray(-1.0, jnp.float32),
        best_epoch=zero,
        stopped=jnp.zeros((), bool),
    )


def epoch_batches(size: int, batch_size: int, key: Key | None) -> tuple[Array, Array]:
    """Indices ``(step, batch)`` of one epoch and their weights (0 for padding).

    Every sample occurs once; shuffled with ``key``, in order without. The last
    batch is filled up with sample 0 at weight 0.
    """
    order = jnp.arange(size) if key is None else jax.random.permutation(key, size)
    steps = -(-size // batch_size)
    pad = steps * batch_size - size
    index = jnp.pad(order, (0, pad)).reshape(steps, batch_size)
    weight = jnp.pad(jnp.ones(size), (0, pad)).reshape(steps, batch_size)
    return index, weight


def make_epoch(
    task: Task, optimizer: optax.GradientTransformation, *, gradient_norms: bool = False
) -> Callable[[TrainState, Structure, Split, Key, Int[Array, ""]], tuple[TrainState, EpochInfo]]:
    """Builds ``epoch(state, structure, split, key_data, number) -> (state, info)`` for one network.

    The order of the samples depends on ``fold_in(key_data, number)`` only, with
    ``number`` that of the epoch: where both are unbatched under vmap, all
    networks see the same batches, which are then gathered once for all.
    ``gradient_norms`` has the info hold the norm of every gradient.
    """
    edited_epoch = make_edited_epoch(task, optimizer, None, gradient_norms=gradient_norms)

    def epoch(
        state: TrainState, structure: Structure, split: Split, key_data: Key, number: Int[Array, ""]
    ) -> tuple[TrainState, EpochInfo]:
        state, _, info = edited_epoch(state, structure, split, key_data, number)
        return state, info

    return epoch


def make_edited_epoch(
    task: Task,
    optimizer: optax.GradientTransformation,
    edit: Edit | None,
    *,
    gradient_norms: bool = False,
) -> Callable[[TrainState, Structure, Split, Key, Int[Array, ""]], tuple[TrainState, Structure, EpochInfo]]:
    """As :func:`make_epoch`, with an edit of the weights that exist after steps of its choice.

    ``epoch(state, structure, split, key_data, number) -> (state, structure, info)``.
    Steps are counted from 1 and on from epoch to epoch; under vmap with ``number``
    unbatched, an edit that is not due is not computed. ``best_params`` stay in the
    slots of the epoch they are from: keep its structure if they are wanted.
    """

    def epoch(
        state: TrainState, structure: Structure, split: Split, key_data: Key, number: Int[Array, ""]
    ) -> tuple[TrainState, Structure, EpochInfo]:
        key_order, key_forward = jax.random.split(jax.random.fold_in(key_data, number))
        index, weight = epoch_batches(split.size, task.batch_size, key_order)
        start = structure

        def step(
            carry: tuple[Params, PyTree, Structure | None, Scalar, Scalar], batch: tuple[Array, Array, Array]
        ) -> tuple[Any, Any]:
            params, opt_state, edited, loss_sum, correct = carry
            structure = start if edited is None else edited
            rows, w, number_of_step = batch
            x, y = split.batch(rows)

            def loss_fn(p: Params) -> tuple[Scalar, Scalar]:
                logits, _ = forward(
                    task.spec,
                    p,
                    structure,
                    x,
                    product=task.product,
                    key_forward=jax.random.fold_in(key_forward, number_of_step),
                )
                return losses.cross_entropy(logits, y, w), losses.num_correct(logits, y, w)

            (loss, hits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
            # optax mixes int and float (Adam's step count); our own code holds under strict promotion
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimizer.update(grads, opt_state, params)
                params = optax.apply_updates(params, updates)
            if edit is not None:
                done = number * index.shape[0] + number_of_step + 1
                params, edited, opt_state = jax.lax.cond(
                    edit.is_due(done),
                    lambda p, c, o: edit(p, c, o, x, y, w, done),
                    lambda p, c, o: (p, c, o),
                    *(params, structure, opt_state),
                )
            norm = optax.tree.norm(grads) if gradient_norms else None
            return (params, opt_state, edited, loss_sum + loss * jnp.sum(w), correct + hits), norm

        zero = jnp.zeros(())
        steps = jnp.arange(index.shape[0])
        carry = (state.params, state.opt_state, None if edit is None else start, zero, zero)
        (params, opt_state, edited, loss_sum, correct), norms = jax.lax.scan(
            step, carry, (index, weight, steps)
        )
        trained = state.replace(params=params, opt_state=opt_state, epoch=state.epoch + 1)
        new = where(state.stopped, state, trained)
        structure = start if edited is None else where(state.stopped, start, edited)
        return new, structure, EpochInfo(loss_sum / split.size, correct / split.size, norms)

    return epoch


def track_best(state: TrainState, accuracy: Scalar, patience: int | None = None) -> TrainState:
    """Notes the accuracy after an epoch and stops the network after ``patience`` epochs without a new best.

    A tie is not a new best. A stopped network keeps its state.
    """
    better = ~state.stopped & (accuracy > state.best_accuracy)
    best_epoch = jnp.where(better, state.epoch, state.best_epoch)
    stopped = state.stopped
    if patience is not None:
        stopped = stopped | (state.epoch - best_epoch >= patience)
    return state.replace(
        best_params=where(better, state.params, state.best_params),
        best_accuracy=jnp.where(better, accuracy, state.best_accuracy),
        best_epoch=best_epoch,
        stopped=stopped,
    )


def evaluate(
    task: Task, params: Params, structure: Structure, split: Split, *, key_forward: Key | None = None
) -> Evaluation:
    """Loss and accuracy of one network on a whole split."""

    def step(carry: tuple[Scalar, Scalar], batch: tuple[Array, Array, Array]) -> tuple[Any, None]:
        rows, w, number = batch
        x, y = split.batch(rows)
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        logits, _ = forward(task.spec, params, structure, x, product=task.product, key_forward=key)
        loss = losses.cross_entropy(logits, y, w) * jnp.sum(w)
        return (carry[0] + loss, carry[1] + losses.num_correct(logits, y, w)), None

    index, weight = epoch_batches(split.size, min(task.eval_batch_size, split.size), None)
    zero = jnp.zeros(())
    (loss, correct), _ = jax.lax.scan(step, (zero, zero), (index, weight, jnp.arange(index.shape[0])))
    return Evaluation(loss / split.size, correct / split.size)


def make_watched_epoch(
    task: Task,
    optimizer: optax.GradientTransformation,
    patience: int | None = None,
    edit: Edit | None = None,
    *,
    gradient_norms: bool = False,
) -> Callable[
    [TrainState, Structure, Split, Split, Key, Int[Array, ""]], tuple[TrainState, Structure, EpochResult]
]:
    """Builds an epoch that evaluates and notes the best, for one network.

    ``epoch(state, structure, train, watch, key_data, number) -> (state, structure, result)``:
    trains as :func:`make_edited_epoch`, evaluates on ``watch``, calls :func:`track_best`.
    The info of a stopped network is NaN: what it was trained was thrown away.
    """
    train_epoch = make_edited_epoch(task, optimizer, edit, gradient_norms=gradient_norms)

    def epoch(
        state: TrainState,
        structure: Structure,
        train: Split,
        watch: Split,
        key_data: Key,
        number: Int[Array, ""],
    ) -> tuple[TrainState, Structure, EpochResult]:
        stopped = state.stopped
        state, structure, info = train_epoch(state, structure, train, key_data, number)
        info = jax.tree.map(lambda value: jnp.where(stopped, jnp.nan, value), info)
        # not 0 or 1: those give the two keys that the training splits off
        key_eval = jax.random.fold_in(jax.random.fold_in(key_data, number), 2)
        result = evaluate(task, state.params, structure, watch, key_forward=key_eval)
        return track_best(state, result.accuracy, patience), structure, EpochResult(info, result)

    return epoch


def collect_stats(
    task: Task,
    params: Params,
    structure: Structure,
    split: Split,
    *,
    values: str = "pre",
    key_forward: Key | None = None,
) -> tuple[extrema.UnitStats, ...]:
    """Statistics of every hidden layer over a whole split, streamed batch by batch.

    Args:
      values: watch ``pre`` or ``post`` activations.
      key_forward: only for patches that draw their inputs in every forward pass.

    Raises:
      ValueError: ``values`` is neither.
    """
    if values not in ("pre", "post"):
        raise ValueError(f"values must be pre or post: {values!r}")
    hidden = task.spec.sizes[1:-1]

    def step(
        stats: tuple[extrema.UnitStats, ...], batch: tuple[Array, Array, Array]
    ) -> tuple[tuple[extrema.UnitStats, ...], None]:
        rows, w, number = batch
        x, _ = split.batch(rows)
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        _, acts = forward(task.spec, params, structure, x, product=task.product, key_forward=key)
        watched = acts.pre if values == "pre" else acts.post
        return tuple(
            extrema.update_stats(s, v, p, task.spec.activation, w)
            for s, v, p in zip(stats, watched, acts.post, strict=True)
        ), None

    index, weight = epoch_batches(split.size, min(task.eval_batch_size, split.size), None)
    start = tuple(extrema.init_stats(units) for units in hidden)
    return jax.lax.scan(step, start, (index, weight, jnp.arange(index.shape[0])))[0]
