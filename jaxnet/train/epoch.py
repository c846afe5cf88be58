"""The training step, and epochs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet import environment
from jaxnet.data.batches import Data, check_data, epoch_batches
from jaxnet.structure import clear
from jaxnet.train.batch import BatchView, batch_loss, remembers
from jaxnet.train.evaluate import evaluate
from jaxnet.train.net import EpochInfo, EpochResult, Method, Net, Task, TrainState
from jaxnet.trees import where, zero_of
from jaxnet.types import Array, Float, Int, Key, PyTree, Scalar


class Batches(NamedTuple):
    """Which samples a network learns from, in which order.

    Attributes:
      indices: ``(step, batch)``, of samples.
      weight: ``(step, batch)``, of every sample; 0 for padding.
    """

    indices: Int[Array, "step batch"]
    weight: Float[Array, "step batch"]


def train_batches(
    task: Task,
    net: Net,
    data: Data,
    batches: Batches,
    *,
    key_forward: Key | None = None,
    method: Method | None = None,
    method_state: PyTree = None,
    key_method: Key | None = None,
    steps_before: Int[Array, ""] | int = 0,
    samples: int | None = None,
    gradient_norms: bool = False,
) -> tuple[Net, PyTree, EpochInfo]:
    """Trains on the batches given, one step each.

    Args:
      task: the model, the loss and its hooks.
      net: the network.
      data: what the indices point into.
      batches: which samples, in which order.
      key_forward: for models, transforms and patches that draw in every pass; folded with the step.
      method: what changes the structure after a step of its choice, or None.
      method_state: its state.
      key_method: what it draws from; folded with the step.
      steps_before: steps trained before; a method counts from 1 and on.
      samples: whose mean is given; the sum of the weights by default.
      gradient_norms: the info shall hold the norm of every gradient.

    Returns:
      The network, the method's state, and the mean loss and accuracy.
    """
    start = net
    number_of_samples = jnp.sum(batches.weight) if samples is None else samples

    def step(carry: tuple[Any, ...], batch: tuple[Array, Array, Array]) -> tuple[tuple[Any, ...], Any]:
        params, opt_state, changed, total, correct = carry
        state: PyTree = None
        net = start.replace(params=params, opt_state=opt_state)
        if changed is not None:
            (structure, carried), state = changed
            net = net.replace(structure=structure, carried=carried)
        rows, weight, number = batch
        x, y = data.batch(rows)
        key = None if key_forward is None else jax.random.fold_in(key_forward, number)
        if task.transform is not None:
            assert key is not None
            x, y = task.transform(x, y, key=jax.random.fold_in(key, 1))

        def loss_fn(values: Any) -> tuple[Scalar, tuple[Scalar, Scalar, Any]]:
            return batch_loss(task, values, net.structure, net.carried, x, y, weight, key)

        (_, (loss, hits, after)), grads = jax.value_and_grad(loss_fn, has_aux=True)(net.params)
        # no gradient, moment or update for what does not exist, whatever the model or a penalty makes of it
        grads = clear(grads, net.structure, masks_only=task.penalty is None and task.activity is None)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float (Adam's step count)
            updates, opt_state = net.optimizer.update(grads, net.opt_state, net.params)
            updates = clear(updates, net.structure, masks_only=method is None)
            net = net.replace(params=optax.apply_updates(net.params, updates), opt_state=opt_state)
        if after is not None:
            net = net.replace(structure=after)
        if method is not None:
            state = method.observe(net, state, grads)
            done = steps_before + number + 1

            def change(net: Net, state: PyTree) -> tuple[Net, PyTree]:
                assert key_method is not None
                key_now = jax.random.fold_in(key_method, done)
                view = BatchView(task, net, x, y, weight, key)
                return method.update(net, state, view, done, key=key_now)[:2]

            net, state = jax.lax.cond(method.due(done), change, lambda *same: same, net, state)
        if changed is not None:
            changed = (net.structure, net.carried), state
        norm = optax.tree.norm(grads) if gradient_norms else None
        total = total + loss * jnp.sum(weight)
        return (net.params, net.opt_state, changed, total, correct + hits), norm

    changes = method is not None or remembers(task)
    changed = ((net.structure, net.carried), method_state) if changes else None
    zero = zero_of(net.params)
    steps = jnp.arange(batches.indices.shape[0])
    (params, opt_state, changed, total, correct), norms = jax.lax.scan(
        step, (net.params, net.opt_state, changed, zero, zero), (batches.indices, batches.weight, steps)
    )
    net = net.replace(params=params, opt_state=opt_state)
    if changed is not None:
        (structure, carried), method_state = changed
        net = net.replace(structure=structure, carried=carried)
    return net, method_state, EpochInfo(total / number_of_samples, correct / number_of_samples, norms)


Epoch = Callable[..., tuple[TrainState, EpochInfo]]
WatchedEpoch = Callable[..., tuple[TrainState, EpochResult]]


def epoch_order(size: int, batch_size: int, key_data: Key, number: Int[Array, ""]) -> Batches:
    """The order in which :func:`make_epoch` shows ``size`` samples in epoch ``number``."""
    key_order, _ = jax.random.split(jax.random.fold_in(key_data, number))
    return Batches(*epoch_batches(size, batch_size, key_order))


def make_epoch(
    task: Task, method: Method | None = None, *, gradient_norms: bool = False, can_stop: bool = True
) -> Epoch:
    """Builds ``epoch(state, data, key_data, number, batches=None) -> (state, info)`` for one network.

    The order of the samples depends on ``fold_in(key_data, number)`` only, with
    ``number`` that of the epoch: where both are unbatched under vmap, all
    networks see the same batches, which are then gathered once for all, and a
    method that is not due is not computed. Given as ``batches``, the order
    (:func:`epoch_order`, from a program of its own) need not be compiled with every
    epoch. Where no network ever stops (``can_stop=False``) nothing is compiled for that.
    """

    environment.check()

    def epoch(
        state: TrainState,
        data: Data,
        key_data: Key,
        number: Int[Array, ""],
        batches: Batches | None = None,
    ) -> tuple[TrainState, EpochInfo]:
        check_data(data)
        _, key_forward = jax.random.split(jax.random.fold_in(key_data, number))
        if batches is None:
            batches = epoch_order(data.size, task.batch_size, key_data, number)
        net, method_state, info = train_batches(
            task,
            state.net,
            data,
            batches,
            key_forward=key_forward,
            method=method,
            method_state=state.method,
            key_method=state.key,
            steps_before=number * batches.indices.shape[0],
            samples=data.size,
            gradient_norms=gradient_norms,
        )
        diverged = state.diverged | ~jnp.isfinite(info.loss)
        trained = state.replace(net=net, method=method_state, epoch=state.epoch + 1, diverged=diverged)
        return where(state.stopped, state, trained) if can_stop else trained, info

    return epoch


def track_best(state: TrainState, accuracy: Scalar, patience: int | None = None) -> TrainState:
    """Notes the accuracy after an epoch and stops the network after ``patience`` epochs without a new best.

    A tie is not a new best, and neither is anything of a diverged network. A
    stopped network keeps its state.
    """
    diverged = state.diverged | ~jnp.isfinite(accuracy)
    better = ~state.stopped & ~diverged & (accuracy > state.best_accuracy)
    best_epoch = jnp.where(better, state.epoch, state.best_epoch)
    stopped = state.stopped
    if patience is not None:
        stopped = stopped | (state.epoch - best_epoch >= patience)
    structure = state.best_structure
    return state.replace(
        best_params=where(better, state.net.params, state.best_params),
        best_structure=None if structure is None else where(better, state.net.structure, structure),
        best_accuracy=jnp.where(better, accuracy, state.best_accuracy),
        best_epoch=best_epoch,
        stopped=stopped,
        diverged=jnp.where(state.stopped, state.diverged, diverged),
    )


def make_watched_epoch(
    task: Task,
    method: Method | None = None,
    *,
    patience: int | None = None,
    gradient_norms: bool = False,
    can_stop: bool | None = None,
) -> WatchedEpoch:
    """Builds an epoch that evaluates and notes the best, for one network.

    ``epoch(state, data, watch, key_data, number, batches=None) -> (state, result)``: trains as
    :func:`make_epoch`, evaluates on ``watch``, calls :func:`track_best`. The info
    of a stopped network is NaN: what it was trained was thrown away. Unless said
    otherwise networks stop by ``patience`` only.
    """
    stops = patience is not None if can_stop is None else can_stop
    train_epoch = make_epoch(task, method, gradient_norms=gradient_norms, can_stop=stops)

    def epoch(
        state: TrainState,
        data: Data,
        watch: Data,
        key_data: Key,
        number: Int[Array, ""],
        batches: Batches | None = None,
    ) -> tuple[TrainState, EpochResult]:
        stopped = state.stopped
        state, info = train_epoch(state, data, key_data, number, batches)
        if stops:
            info = jax.tree.map(lambda value: jnp.where(stopped, jnp.nan, value), info)
        # not 0 or 1: those give the two keys that the training splits off
        key_eval = jax.random.fold_in(jax.random.fold_in(key_data, number), 2)
        result = evaluate(task, state.net.params, state.net.structure, watch, key_forward=key_eval)
        return track_best(state, result.accuracy, patience), EpochResult(info, result)

    return epoch
