"""Many runs of ``experiments.guarded_training``: false alarms, planted damage, and who is blamed for it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._guard_drift import Drifted
from jaxnet import guard
from jaxnet.guard import Canaries, Rules
from jaxnet.train import Batches, Net, Task, train_batches
from jaxnet.types import Array, Key

PLANTED = 32
"""Groups, one of which is damaged."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Of the damage: noise of so many times the root mean square of the weights, the first that is felt."""

FELT = 0.3
"""By how much the loss on held samples rises where damage is felt, nats."""


def random_batches(number: int, steps: int, size: int, *, key: Key) -> Batches:
    """Samples at random."""
    return Batches(jax.random.randint(key, (steps, size), 0, number), jnp.ones((steps, size)))


def watched(
    rules: Rules,
    task: Task,
    net: Net,
    data: tuple[Drifted, ...],
    canaries: Canaries,
    labels: Any,
    checks: int,
    *,
    key: Key,
) -> dict[str, Array]:
    """One healthy run, then the same run under every drift for two more checks; everything is watched."""
    number = data[0].stream.per_task
    state = guard.guard(rules, task, net, canaries)
    flat = canaries.x.reshape(canaries.y.size, -1)

    def right(params: Any) -> Array:
        logits, _ = task.model(params, net.structure, flat, key_forward=None)
        return jnp.argmax(jnp.moveaxis(logits, task.model.class_axis, -1), -1) == canaries.y.ravel()

    def check(data: Drifted, carry: Any, step: tuple[Array, Array]) -> Any:
        state, first = carry
        shift, key = step
        batches = random_batches(number, rules.every, task.batch_size, key=key)
        batches = batches._replace(indices=batches.indices + shift * number)
        state, now, alarm = guard.train_guarded(rules, task, state, data, batches, canaries, canaries, labels)
        ok = right(state.net.params)
        # canaries of the rival rule are those that were right when the noise was known
        first = jnp.where(state.seen.checks == rules.noise_checks, ok, first)
        return (state, first), (alarm, jnp.any(first & ~ok), now)

    keys = jax.random.split(key, checks)
    start = (state, jnp.zeros(canaries.y.size, bool))
    steps = jnp.zeros(checks, jnp.int32), keys
    end, (alarms, wrong, margins) = jax.lax.scan(partial(check, data[0]), start, steps)
    more = jnp.ones(2, jnp.int32), jax.random.split(jax.random.fold_in(key, 1), 2)
    damaged = [jnp.any(jax.lax.scan(partial(check, part), end, more)[1][0]) for part in data]
    healthy = slice(rules.noise_checks, None)
    return {
        "false_alarm": jnp.any(alarms[healthy]),
        "one_wrong": jnp.mean(wrong[healthy].astype(jnp.float32)),
        "detected": jnp.stack(damaged),
        "margin": jnp.mean(margins[-1]),
    }


def planted(
    task: Task, net: Net, data: Any, canaries: Canaries, labels: Any, steps: int, *, key: Key
) -> dict[str, Array]:
    """Whether the damage of one group, hidden in healthy training, is found first."""
    key_group, key_noise, key_data = jax.random.split(key, 3)
    batches = random_batches(data.stream.per_task, steps, task.batch_size, key=key_data)
    trained, _, _ = train_batches(task, net, data, batches)
    group = jax.random.randint(key_group, (), 0, PLANTED)
    keys = iter(jax.random.split(key_noise, len(jax.tree.leaves(net.params))))

    def damage(p: Array, g: Array) -> Array:
        noise = jax.random.normal(next(keys), p.shape) * jnp.sqrt(jnp.mean(p**2))
        return jnp.where(g == group, noise, 0)

    losses = guard.held_loss(task, net, (canaries,))
    noise = jax.tree.map(damage, trained.params, labels)

    def damaged(size: Array) -> Any:
        return jax.tree.map(lambda p, n: p + size * n, trained.params, noise)

    sizes = jnp.asarray(SIZES)
    rises = jax.lax.map(lambda size: losses(damaged(size))[0], sizes) - losses(trained.params)[0]
    felt = rises >= FELT
    size = jnp.where(jnp.any(felt), sizes[jnp.argmax(felt)], sizes[-1])
    new = damaged(size)
    shares = guard.attribute_change(net.params, new, losses, labels, PLANTED, nodes=64)[:, 0]
    alone = guard.leave_one_out(net.params, new, losses, labels, PLANTED)[:, 0]
    norms = guard.update_norms(net.params, new, labels, PLANTED)
    change = (losses(new) - losses(net.params))[0]
    return {
        "path": jnp.argmax(shares) == group,
        "alone": jnp.argmax(alone) == group,
        "norm": jnp.argmax(norms) == group,
        "error": jnp.abs(jnp.sum(shares) - change) / jnp.maximum(jnp.abs(change), 1e-9),
        "change": change,
        "size": size,
        "felt": jnp.any(felt),
    }


def folded(labels: Any) -> Any:
    """Units in 32 groups."""
    return jax.tree.map(lambda label: label % PLANTED, labels)


def rate(values: Any) -> float:
    """How often something holds."""
    return float(np.mean(np.asarray(values)))
