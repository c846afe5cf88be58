"""One iteration's training of networks of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.steps import Network
from jaxnet.network import Structure
from jaxnet.rewire import Exchange
from jaxnet.train import EpochResult, Split, Task, TrainState, init_state, make_watched_epoch
from jaxnet.types import Array, Int, Key, PyTree, Scalar

_EXCHANGE = 2**31  # beyond the epochs that the key of the order is folded with


class GroupState(flax.struct.PyTreeNode):
    """What a network carries from epoch to epoch.

    Attributes:
      train: values, optimiser state, best epoch.
      structure: which weights exist; changes where weights are exchanged.
      accuracy: after the last epoch.
    """

    train: TrainState
    structure: Structure
    accuracy: Scalar


class Judged(flax.struct.PyTreeNode):
    """How an iteration ended: its accuracy, the epoch that belongs to it, epochs trained."""

    accuracy: Scalar
    best_epoch: Int[Array, ""]
    epochs: Int[Array, ""]


def start_state(network: Network, stopped: Any) -> GroupState:
    """The state before the first epoch; ``stopped`` for a network that only fills up a stack."""
    state = init_state(network.params, network.opt_state)
    return GroupState(state.replace(stopped=stopped), network.structure, jnp.zeros(()))


def make_group_epoch(
    plan: GrowthPlan, task: Task, optimizer: optax.GradientTransformation
) -> Callable[[GroupState, Split, Split, Key, Int[Array, ""]], tuple[GroupState, EpochResult]]:
    """Builds ``epoch(state, train, watch, key_data, number) -> (state, result)`` for one network."""

    def epoch(
        state: GroupState, train: Split, watch: Split, key_data: Key, number: Int[Array, ""]
    ) -> tuple[GroupState, EpochResult]:
        edit = None
        if plan.exchange is not None:
            edit = Exchange(task, plan.exchange, jax.random.fold_in(key_data, _EXCHANGE))
        watched = make_watched_epoch(task, optimizer, plan.patience, edit)
        after, structure, result = watched(state.train, state.structure, train, watch, key_data, number)
        accuracy = jnp.where(state.train.stopped, state.accuracy, result.evaluation.accuracy)
        return GroupState(after, structure, accuracy), result

    return epoch


def outcome(plan: GrowthPlan, state: GroupState) -> tuple[Judged, Network]:
    """How the iteration ended, and the network that goes on; of one network or a stack."""
    train, best = state.train, plan.select == "best"
    judge_best = best or plan.judge_best
    judged = Judged(
        train.best_accuracy if judge_best else state.accuracy,
        train.best_epoch if judge_best else train.epoch,
        train.epoch,
    )
    return judged, Network(train.best_params if best else train.params, state.structure, train.opt_state)


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
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def take_host(tree: PyTree, index: Any) -> PyTree:
    """Members of a stacked tree, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
