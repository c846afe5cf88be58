"""A training loop that watches itself: checks, snapshots, alarms and revert in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.data.batches import Data
from jaxnet.errors import InputError, check_choice
from jaxnet.guard.blame import attribute_change, leave_one_out
from jaxnet.guard.canaries import Canaries, Watch, margins, observe, quantile, watch
from jaxnet.guard.revert import blend, fit_blend, fit_plain, revert_worst
from jaxnet.snapshots import Snapshots, init_snapshots, restore_snapshot, take_snapshot
from jaxnet.train import Batches, Net, Task, train_batches
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree, Scalar

T = TypeVar("T")

ACTIONS = ("none", "rollback", "interpolate", "blend", "leave-one-out", "path-integral")
"""What is done at an alarm."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a run is guarded (static).

    Attributes:
      every: steps between two checks.
      noise_checks: the first checks, in which the run's noise is measured.
      false_alarm: probability of any alarm in ``checks`` healthy checks.
      checks: that are to come.
      window: checks in a row that must be bad; damage that heals sooner is allowed.
      capacity: snapshots that are kept; they are taken at checks without a bad margin.
      action: one of :data:`ACTIONS`.
      groups: of weights, for blame and blends.
    """

    every: int = 100
    noise_checks: int = 20
    false_alarm: float = 0.05
    checks: int = 60
    window: int = 2
    capacity: int = 2
    action: str = "blend"
    groups: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        check_choice("action", self.action, ACTIONS)
        if self.capacity < 1:
            raise InputError(f"the ring of snapshots needs a capacity of 1 or more: {self.capacity}")
        for name in ("every", "window", "checks", "groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1: {getattr(self, name)}")
        quantile(self.false_alarm, self.checks, 1, self.noise_checks)


class Guarded(flax.struct.PyTreeNode):
    """A run that is watched.

    Attributes:
      net: in training.
      seen: what is known of its margins.
      ring: its parameters at the last sound checks.
      alarms: so far.
      first_alarm: the check of the first one, counted from 1; 0 for none.
    """

    net: Net
    seen: Watch
    ring: Snapshots[Any]
    alarms: Int[Array, ""]
    first_alarm: Int[Array, ""]


def guard(rules: Rules, task: Task, net: Net, canaries: Canaries) -> Guarded:
    """Begins to watch a network; its state now is the first snapshot."""
    ring = take_snapshot(init_snapshots(net.params, rules.capacity), net.params, 0)
    zero = jnp.zeros((), jnp.int32)
    return Guarded(net, watch(margins_of(task, net, canaries)(net.params)), ring, zero, jnp.copy(zero))


def margins_of(task: Task, net: Net, canaries: Canaries) -> Callable[[Any], Float[Array, "capability"]]:
    """Margins of parameters of this network."""

    def of(params: Any) -> Array:
        model = task.model
        return margins(
            lambda x: model(params, net.structure, x, key_forward=None)[0], canaries, axis=model.class_axis
        )

    return of


def train_guarded(
    rules: Rules,
    task: Task,
    state: Guarded,
    data: Data,
    batches: Batches,
    canaries: Canaries,
    fresh: Canaries,
    labels: PyTree,
    *,
    key_forward: Key | None = None,
) -> tuple[Guarded, Float[Array, "capability"], Bool[Array, ""]]:
    """Trains on the batches given, of any model, checks, and acts where there is an alarm.

    Args:
      rules: how it is guarded.
      task: how it is trained.
      state: so far.
      data: what the indices point into.
      batches: ``rules.every`` steps.
      canaries: what is to be kept.
      fresh: held samples of what is being learned, for fits.
      labels: the group of every weight.
      key_forward: as of :func:`jaxnet.train.train_batches`.

    Returns:
      The run, its margins at this check (before anything was done), and whether there was an alarm.
    """
    net, _, _ = train_batches(task, state.net, data, batches, key_forward=key_forward)
    of = margins_of(task, net, canaries)
    now = of(net.params)
    factor = quantile(rules.false_alarm, rules.checks, canaries.number, rules.noise_checks)
    seen, sound, alarm = observe(
        state.seen, now, noise_checks=rules.noise_checks, factor=factor, window=rules.window
    )
    ring = take_snapshot(state.ring, net.params, seen.checks, when=sound)
    if rules.action != "none":

        def act(params: Any, seen: Watch, old: Any, structure: Any, *held: Any) -> tuple[Any, Watch]:
            here = Net(params, structure, None, optimizer=net.optimizer)
            made = revert(rules, task, here, old, *held)
            after = margins_of(task, here, held[0])(made)
            # the level is what it is now: what could not be brought back is no alarm again
            again = Watch(
                after, seen.squares, seen.checks, jnp.zeros_like(seen.below), jnp.stack([after, after])
            )
            return made, again

        given = restore_snapshot(ring), net.structure, canaries, fresh, labels
        params, seen = rarely(alarm, act, (net.params, seen), given)
        net = net.replace(params=params)
    alarms = state.alarms + alarm.astype(jnp.int32)
    first = jnp.where((state.first_alarm == 0) & alarm, seen.checks, state.first_alarm)
    return Guarded(net, seen, ring, alarms, first), now, alarm


def held_loss(task: Task, net: Net, parts: tuple[Canaries, ...]) -> Callable[[Any], Array]:
    """Mean losses of the parts, ``(part,)``, of parameters."""

    def of(params: Any) -> Array:
        found = []
        for part in parts:
            x, y = part.x.reshape(-1, *part.x.shape[2:]), part.y.ravel()
            logits, _ = task.model(params, net.structure, x, key_forward=None)
            found.append(task.loss(logits, y, jnp.ones(y.shape), axis=task.model.class_axis))
        return jnp.stack(found)

    return of


def revert(
    rules: Rules, task: Task, net: Net, old: Any, canaries: Canaries, fresh: Canaries, labels: PyTree
) -> Any:
    """Parameters between ``old`` and those of the net, as the rules' action has it."""
    new, losses = net.params, held_loss(task, net, (canaries, fresh))

    def loss(params: Any) -> Scalar:
        return jnp.mean(losses(params))

    if rules.action == "none":
        return new
    if rules.action == "rollback":
        return old
    if rules.action == "interpolate":
        return blend(old, new, fit_plain(old, new, loss, labels), labels)
    if rules.action == "blend":
        return blend(old, new, fit_blend(old, new, loss, labels, rules.groups), labels)
    share = leave_one_out if rules.action == "leave-one-out" else attribute_change
    kept = lambda params: losses(params)[:1]  # noqa: E731  (blame is for what is to be kept)
    blame = share(old, new, kept, labels, rules.groups)[:, 0]
    return revert_worst(old, new, blame, loss, labels)


def rarely(when: Bool[Array, ""], function: Callable[..., T], args: T, given: tuple[Any, ...] = ()) -> T:
    """``function(*args, *given)`` where ``when`` holds, else ``args``, computed only where it holds anywhere.

    Under ``vmap`` a plain ``cond`` would become a choice between two computed sides. The function must not
    close over arrays: they are ``given``.
    """
    tree: Any
    given_tree: Any
    leaves, tree = jax.tree.flatten(args)
    beside, given_tree = jax.tree.flatten(given)
    number = len(leaves)

    def made(*flat: Array) -> list[Array]:
        found = function(*tree.unflatten(flat[:number]), *given_tree.unflatten(flat[number:]))
        return list(jax.tree.leaves(found))

    @jax.custom_batching.custom_vmap
    def apply(when: Array, *flat: Array) -> list[Array]:
        return jax.lax.cond(when, made, lambda *same: list(same[:number]), *flat)

    @apply.def_vmap
    def _(size: int, batched: Any, when: Array, *flat: Array) -> Any:
        spread = [
            a if b else jnp.broadcast_to(a, (size, *jnp.shape(a)))
            for a, b in zip((when, *flat), batched, strict=True)
        ]
        chosen, *values = spread

        def some(*values: Array) -> list[Array]:
            new = jax.vmap(made)(*values)
            return [where(chosen, a, b) for a, b in zip(new, values, strict=False)]

        found = jax.lax.cond(jnp.any(chosen), some, lambda *same: list(same[:number]), *values)
        return found, [True] * number

    return tree.unflatten(apply(when, *leaves, *beside))
