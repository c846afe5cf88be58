"""The programs of a growing population, compiled beside the rest as soon as their shapes are known."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.growth.member import GrowthData, shape_of
from jaxnet.growth.plan import GrowthPlan
from jaxnet.growth.steps import measure
from jaxnet.growth.training import make_group_epoch, padded_size, start_state
from jaxnet.keys import key_of
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.programs import ONCE, Clock, Programs
from jaxnet.sharding import NetworkSharding
from jaxnet.train import Net, epoch_order
from jaxnet.types import Key, PyTree


class GroupPrograms(Programs):
    """What trains and measures the networks of a group."""

    def __init__(self, plan: GrowthPlan, data: GrowthData, clock: Clock) -> None:
        super().__init__(clock)
        self._plan, self._data = plan, data
        self._samples: dict[NetworkSharding, tuple[PyTree, ...]] = {}
        self._order = functools.partial(epoch_order, data.train.size, plan.batch_size)

    def order(self, key: Key) -> Any:
        """``(key, number) -> batches``: the order of the samples in an epoch."""
        return self.get("order", lambda: self._order, key, jnp.int32(0), options=ONCE)

    def epoch(self, spec: NetworkSpec, state: PyTree, key: Key) -> Any:
        """Takes what :meth:`place` gives, returns ``(state, result)``; the state is donated."""
        return self.get(*self._epoch(spec, state, key), donate=(0,))

    def measure(self, spec: NetworkSpec, *args: Any) -> Any:
        """``(nets, samples, keys, number) -> measured`` of a stack."""
        return self.get(*self._measure(spec), *args)

    def begin_iteration(self, spec: NetworkSpec, net: Net, number: int) -> None:
        """Begins to compile an iteration of so many networks of the shape of ``net``."""

        def many(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((padded_size(number), *jnp.shape(leaf)), leaf.dtype)

        nets, keys, stopped = jax.tree.map(many, (net, key_of(0), np.zeros((), bool)))
        state = jax.eval_shape(jax.vmap(functools.partial(start_state, self._plan)), nets, stopped, keys)
        self.begin(*self._epoch(spec, state, key_of(0)), donate=(0,))
        self.begin(*self._measure(spec), nets, self._data.extrema, keys, jnp.int32(0))

    def begin_iterations(self, networks: Sequence[tuple[tuple[NetworkSpec, Net], int]]) -> None:
        """The same for networks of several shapes, each with how many there are; of two at most."""
        numbers: dict[Any, int] = {}
        like: dict[Any, tuple[NetworkSpec, Net]] = {}
        for (spec, net), number in networks:
            shape = spec.sizes, shape_of(net)
            numbers[shape] = numbers.get(shape, 0) + number
            like[shape] = spec, net
        for shape, number in list(numbers.items())[:2]:
            self.begin_iteration(*like[shape], number)

    def place(self, state: PyTree, draws: Key, number: PyTree, batches: PyTree) -> tuple[PyTree, ...]:
        """All arguments of :meth:`epoch`, laid over the devices; :meth:`sharding` gathers."""
        sharding, both = self.sharding(state), (self._data.train, self._data.watch)
        if sharding not in self._samples:
            self._samples[sharding] = sharding.place(both, (False, False))
        return sharding.place((state, *self._samples[sharding], draws, number, batches), self._each)

    def sharding(self, state: PyTree) -> NetworkSharding:
        """Of the networks of a group."""
        return NetworkSharding.of(state.train.stopped.shape[0])

    @property
    def _each(self) -> tuple[bool, ...]:
        return True, False, False, self._plan.own_draws, False, False

    def _epoch(self, spec: NetworkSpec, state: PyTree, key: Key) -> tuple[Any, ...]:
        """Name, maker and arguments; of the order of the samples the shapes are enough."""

        def make() -> Any:
            epoch = make_group_epoch(self._plan, self._plan.task(spec))
            return self.sharding(state).over(epoch, self._each)

        number = jnp.int32(0)
        draws: Any = key
        if self._plan.own_draws:
            draws = jax.ShapeDtypeStruct(state.accuracy.shape, key.dtype)
        batches = jax.eval_shape(self._order, key, number)
        return ("epoch", spec), make, *self.place(state, draws, number, batches)

    def _measure(self, spec: NetworkSpec) -> tuple[Any, ...]:
        one = functools.partial(measure, self._plan, spec)
        return ("measure", spec), lambda: jax.vmap(one, in_axes=(0, None, 0, None))


def one_of(stack: PyTree) -> PyTree:
    """The shapes of one network, from those of a stack."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
