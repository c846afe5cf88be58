"""One iteration's training of networks of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Split
from jaxnet.growth.plan import GrowthPlan
from jaxnet.train import Batches, EpochResult, Net, Task, TrainState, init_state, make_watched_epoch
from jaxnet.trees import is_key
from jaxnet.types import Array, Bool, Int, Key, PyTree, Scalar


class GroupState(flax.struct.PyTreeNode):
    """What a network carries from epoch to epoch.

    Attributes:
      train: the network, its method's state, the best epoch.
      accuracy: after the last epoch.
    """

    train: TrainState
    accuracy: Scalar


class Judged(flax.struct.PyTreeNode):
    """How an iteration ended: accuracy, the epoch it belongs to, epochs trained, whether it diverged."""

    accuracy: Scalar
    best_epoch: Int[Array, ""]
    epochs: Int[Array, ""]
    diverged: Bool[Array, ""]


def start_state(plan: GrowthPlan, net: Net, stopped: Any, key: Key) -> GroupState:
    """The state before the first epoch; ``stopped`` for a network that only fills up a stack."""
    state = init_state(net, plan.method, key=key)
    return GroupState(state.replace(stopped=stopped), jnp.zeros(()))


def make_group_epoch(plan: GrowthPlan, task: Task) -> Callable[..., tuple[GroupState, EpochResult]]:
    """Builds ``epoch(state, train, watch, key_data, number, batches) -> (state, result)`` of one network."""
    # what fills up a stack is stopped from the start
    watched = make_watched_epoch(task, plan.method, patience=plan.patience, can_stop=True)

    def epoch(
        state: GroupState,
        train: Split,
        watch: Split,
        key_data: Key,
        number: Int[Array, ""],
        batches: Batches,
    ) -> tuple[GroupState, EpochResult]:
        after, result = watched(state.train, train, watch, key_data, number, batches)
        accuracy = jnp.where(state.train.stopped, state.accuracy, result.evaluation.accuracy)
        return GroupState(after, accuracy), result

    return epoch


def outcome(plan: GrowthPlan, state: GroupState) -> tuple[Judged, Net]:
    """How the iteration ended, and the network that goes on; of one network or a stack."""
    train, best = state.train, plan.select == "best"
    judge_best = best or plan.judge_best
    judged = Judged(
        train.best_accuracy if judge_best else state.accuracy,
        train.best_epoch if judge_best else train.epoch,
        train.epoch,
        train.diverged,
    )
    return judged, train.net.replace(params=train.best_params) if best else train.net


def padded_size(number: int) -> int:
    """Networks in a stack: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ..., so that few programs are compiled.

    >>> [padded_size(n) for n in (1, 2, 3, 5, 7, 9, 13, 17, 32)]
    [1, 2, 3, 6, 8, 12, 16, 24, 32]
    """
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power


def padded(items: Sequence[Any]) -> list[Any]:
    """The items and the last of them again, as many as :func:`padded_size` says."""
    return [*items, *[items[-1]] * (padded_size(len(items)) - len(items))]


def stack_host(trees: Sequence[PyTree]) -> PyTree:
    """Stacks equal trees on the host, without a program for every shape of leaf."""
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if is_key(leaves[0]) else np.stack([np.asarray(a) for a in leaves]),
        *trees,
    )


def take_host(tree: PyTree, index: Any) -> PyTree:
    """Members of a stacked tree, on the host."""
    return jax.tree.map(lambda leaf: leaf[index] if is_key(leaf) else np.asarray(leaf)[index], tree)
