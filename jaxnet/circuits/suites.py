"""Suites: what a network can do, as samples with weights per capability and matched controls.

The loss of one class alone says nothing of its circuit: a network that always answers that class has none.
So a class is a question of two sides: its samples against as much weight of others (``odds``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError, check_choice
from jaxnet.losses import TokenLabels, labels_of, over_places
from jaxnet.train import Task
from jaxnet.types import Array, Float, Int, Key

KINDS = ("odds", "logit", "answers")
"""What of the logits a capability reads: the odds of one class against all others, one logit by itself, or
(``answers``) the task's own loss."""

METRICS = ("loss", "margin")
"""Losses in nats; margins are the log-odds (or logits) for what is right: more is better."""


class Suite(flax.struct.PyTreeNode):
    """Capabilities, and the samples that show them.

    Attributes:
      x: ``(sample, ...)``, as the model takes them.
      y: ``(sample,)`` int; of samples with places ``(sample, time)``, or with their weights
        (:class:`jaxnet.losses.TokenLabels`): what is read of a sample is then its mean over these.
      weight: ``(capability, sample)``, sums to 1 over the samples of a capability.
      control: ``(capability, sample)``, sums to 1 over its matched controls.
      asked: ``(capability,)`` int, the class or logit that ``odds`` and ``logit`` ask for.
      kind: static, one of :data:`KINDS`.
    """

    x: Array
    y: Int[Array, "sample ..."] | TokenLabels
    weight: Float[Array, "capability sample"]
    control: Float[Array, "capability sample"]
    asked: Int[Array, "capability"]
    kind: str = flax.struct.field(pytree_node=False, default="odds")

    @property
    def number(self) -> int:
        """Of capabilities (static)."""
        return self.weight.shape[-2]


def only(suite: Suite, capability: int | Array) -> Suite:
    """The suite of one capability alone: its loss costs a fraction of that of many."""
    rows = jnp.asarray(capability)[None]
    return suite.replace(weight=suite.weight[rows], control=suite.control[rows], asked=suite.asked[rows])


def of_classes(
    x: Array, y: Int[Array, "sample"], classes: int, *, names: Sequence[str] | None = None
) -> Suite:
    """A capability per class: to tell its samples from those of all other classes.

    Raises:
      InputError: a class has no samples (labels that are traced are not looked at).
    """
    y = jnp.asarray(y, jnp.int32)
    mine = y[None] == jnp.arange(classes)[:, None]
    if not isinstance(y, jax.core.Tracer):
        there = np.asarray(mine).sum(1)
        for number in np.flatnonzero((there == 0) | (there == y.size)):
            what = "no samples" if there[number] == 0 else "all samples: there is nothing to tell it from"
            raise InputError(f"class {names[int(number)] if names else number} has {what}")
    return Suite(x, y, _shares(mine), _shares(~mine), jnp.arange(classes, dtype=jnp.int32))


def of_transformations(
    x: Array, y: Int[Array, "sample"], transformations: Sequence[Callable[[Array], Array]]
) -> Suite:
    """A capability per transformation: to answer its images; the controls are the images as they were."""
    if not transformations:
        raise InputError("a suite of transformations needs one or more")
    return of_tasks([(change(x), y) for change in transformations], (x, y))


def of_tasks(tasks: Sequence[tuple[Array, Any]], controls: tuple[Array, Any] | None = None) -> Suite:
    """A capability per task, its samples and labels; the controls are given, or those of all other tasks.

    Labels may be of places (``y`` of :class:`Suite`), of all tasks alike.

    Raises:
      InputError: a task has no samples, or there is one alone and no controls.
    """
    parts = [*tasks] if controls is None else [*tasks, controls]
    if any(len(x) == 0 for x, _ in parts):
        raise InputError(f"task {[len(x) for x, _ in parts].index(0)} has no samples")
    if len(parts) < 2:
        raise InputError("one task alone has no controls: give some")
    place = jnp.concatenate([jnp.full(len(x), i) for i, (x, _) in enumerate(parts)])
    mine = place[None] == jnp.arange(len(tasks))[:, None]
    others = ~mine if controls is None else jnp.broadcast_to(place == len(tasks), mine.shape)
    x, y = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *(tuple(part) for part in parts))
    y = y if isinstance(y, TokenLabels) else jnp.asarray(y, jnp.int32)
    asked = jnp.full(len(tasks), -1, jnp.int32)
    return Suite(x, y, _shares(mine), _shares(others), asked, "answers")


def _shares(there: Array) -> Array:
    share = there.astype(jnp.float32)
    return share / jnp.maximum(jnp.sum(share, -1, keepdims=True), 1)


def redraw(suite: Suite, *, key: Key) -> Suite:
    """The suite with samples drawn again, with replacement: other weights, the same arrays."""
    key_weight, key_control = jax.random.split(key)
    size = suite.weight.shape[-1]

    def again(weight: Array, key: Key) -> Array:
        def one(row: Array, key: Key) -> Array:
            drawn = jax.random.categorical(key, jnp.log(row), shape=(size,))
            count = jnp.zeros(size).at[drawn].add(1.0)
            return count / size

        return jax.vmap(one)(weight, jax.random.split(key, weight.shape[0]))

    return suite.replace(weight=again(suite.weight, key_weight), control=again(suite.control, key_control))


def partners(suite: Suite, *, key: Key) -> Int[Array, "sample"]:
    """Of every sample another one, at random, whose activations it gets when they are resampled: a control of
    its capability; for what is nothing but a control, a sample of the capability that it is one for."""
    shown = jnp.any(suite.weight > 0, 0)
    mine = jnp.where(shown, jnp.argmax(suite.weight, 0), jnp.argmax(suite.control, 0))
    shape = (suite.x.shape[0], suite.number)
    controls, samples = (
        jax.random.categorical(key, jnp.log(of), axis=-1, shape=shape) for of in (suite.control, suite.weight)
    )
    place = jnp.arange(suite.x.shape[0])
    return jnp.where(shown, controls[place, mine], samples[place, mine])


def by_sample(
    task: Task, logits: Array, suite: Suite, metric: str = "loss"
) -> Float[Array, "capability sample"]:
    """What every sample adds to the metric of every capability, from logits of the model.

    Raises:
      ValueError: an unknown metric.
    """
    check_choice("metric", metric, METRICS)
    shown = jnp.moveaxis(logits, task.model.class_axis, 0)  # (class, sample, ...)
    if suite.kind == "answers":
        if metric == "loss":
            one = jnp.ones(1, shown.dtype)

            def loss(z: Array, y: Any) -> Array:
                return task.loss(z[:, None], jax.tree.map(lambda a: a[None], y), one, axis=0)

            return suite.weight * jax.vmap(loss, in_axes=(1, 0))(shown, suite.y)
        right = jax.nn.one_hot(labels_of(suite.y), shown.shape[0], axis=0, dtype=bool)
        return suite.weight * over_places(_odds(shown, right), suite.y)
    if suite.kind == "logit":
        z = shown[suite.asked]
    else:
        classes = jnp.arange(shown.shape[0]).reshape(-1, *[1] * (shown.ndim - 1))
        z = jax.vmap(lambda c: _odds(shown, classes == c))(suite.asked)
    of_samples = jax.vmap(lambda values: over_places(values, suite.y))
    if metric == "margin":
        z = of_samples(z)
        return (suite.weight * z - suite.control * z) / 2
    right, wrong = of_samples(jax.nn.softplus(-z)), of_samples(jax.nn.softplus(z))
    return (suite.weight * right + suite.control * wrong) / 2


def _odds(shown: Array, right: Array) -> Array:
    """Log-odds of the class that is right against all others, ``(sample,)``."""
    mine = jnp.sum(jnp.where(right, shown, 0), 0)
    return mine - jax.nn.logsumexp(jnp.where(right, -jnp.inf, shown), axis=0)


def question(logits: Array, y: Array, weight: Array, *, axis: int = -1) -> Any:
    """A loss for independent logits: label ``2 k + b`` asks for the truth value of logit ``k``."""
    shown = jnp.moveaxis(logits, axis, 0)
    z = shown[y // 2, jnp.arange(y.shape[0])]
    losses = jax.nn.softplus(jnp.where(y % 2 == 1, -z, z))
    return jnp.sum(jnp.where(weight > 0, losses * weight, 0)) / jnp.sum(weight)
