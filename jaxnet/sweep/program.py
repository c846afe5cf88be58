"""The compiled sweep: planned by its memory, chunk by chunk, over all local devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import environment
from jaxnet.data.batches import Split
from jaxnet.keys import keys_of
from jaxnet.sharding import NetworkSharding
from jaxnet.sweep.family import Family, Variant
from jaxnet.sweep.memory import default_budget, program_bytes
from jaxnet.sweep.rows import Carried, SweepConfig, Trained, blank_carried, blank_variant
from jaxnet.sweep.run import make_run, make_rung
from jaxnet.types import Key

CACHE = 16 * 2**20
"""Bytes that a core keeps near while it trains, about (measured with 32 MiB of shared L3)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many seeds are trained at once, and what that takes.

    Attributes:
      chunk: seeds per call of the compiled program.
      chunks: calls.
      bytes_per_call: device memory of a call, all devices together, from the
        compiled program's own analysis: arguments, results and temporaries.
      budget: bytes allowed.
    """

    chunk: int
    chunks: int
    bytes_per_call: int
    budget: int

    def __str__(self) -> str:
        mib = 2**20
        return (
            f"{self.chunks} call{'s' if self.chunks > 1 else ''} of {self.chunk} seeds, "
            f"{self.bytes_per_call / mib:.0f} MiB each (budget {self.budget / mib:.0f} MiB)"
        )


class Program:
    """A compiled sweep: one chunk of seeds per call, the seed axis spread over the devices.

    Attributes:
      plan: chunk size and memory.
    """

    def __init__(
        self,
        family: Family,
        config: SweepConfig,
        num_seeds: int,
        splits: tuple[Split, Split, Split],
        *,
        key_data: Key,
        chunk: int = 128,
        memory_budget: int | None = None,
        devices: Sequence[jax.Device] | int | None = None,
        rungs: bool = False,
    ) -> None:
        """Plans and compiles.

        Args:
          family: shapes.
          config: how to train and measure.
          num_seeds: seeds in all, for the plan.
          splits: samples to train on, to validate on, to watch for extrema.
          key_data: order of the samples.
          chunk: largest number of seeds per call.
          memory_budget: bytes; half of what the devices have by default.
          devices: all local ones by default; a number: at most so many of these, as many as
            share a chunk evenly.
          rungs: calls train some of the epochs and can go on from where others ended
            (:func:`~jaxnet.sweep.make_rung`).

        Raises:
          ValueError: not even one seed per device fits the budget, or ``num_seeds`` or
            ``chunk`` is below 1.
        """
        environment.check()
        if num_seeds < 1 or chunk < 1:
            raise ValueError(f"num_seeds and chunk must be at least 1: {num_seeds}, {chunk}")
        local = jax.local_devices()
        if isinstance(devices, int):
            devices = local[: max(n for n in range(1, min(devices, len(local)) + 1) if chunk % n == 0)]
        assert not isinstance(devices, int)
        devices = list(local if devices is None else devices)[:num_seeds]
        self._sharding = NetworkSharding(tuple(devices))
        self._over_seeds, self._everywhere = self._sharding.each, self._sharding.shared
        self._splits = jax.device_put(splits, self._everywhere)
        self._key_data = jax.device_put(key_data, self._everywhere)
        self._family, self._config, self._rungs = family, config, rungs
        self._whole: Any = None  # compiled where it is needed, which is next to never
        budget = memory_budget if memory_budget is not None else default_budget(devices)
        largest = _round_up(min(chunk, num_seeds), len(devices))
        self._program, chunk, needed = self._fit(largest, len(devices), budget)
        self.plan = Plan(chunk, -(-num_seeds // chunk), needed, budget)

    def __call__(
        self, keys: Key, variants: Variant, carried: Carried | None = None, epochs: range | None = None
    ) -> Trained:
        """Trains up to a chunk of seeds.

        Args:
          keys: ``(seed,)``, at most ``plan.chunk``; fewer are filled up and cut off again.
          variants: leaves ``(seed, ...)``.
          carried: with ``rungs``: ``Trained.carried`` of a call that trained these seeds up
            to ``epochs.start``; none where that is 0.
          epochs: with ``rungs``: the epochs to train, all of them by default.

        Returns:
          The trained networks, leaves ``(seed, ...)``.

        Raises:
          ValueError: there is no seed, or there are more than a chunk holds; ``carried`` or
            ``epochs`` do not fit together or to a program without ``rungs``.
        """
        number = keys.shape[0]
        if not 1 <= number <= self.plan.chunk:
            raise ValueError(f"a call trains 1 to {self.plan.chunk} seeds, not {number}: see run_chunks")
        if not self._rungs and (carried is not None or epochs is not None):
            raise ValueError("only a program with rungs goes on from where another call ended")
        epochs = range(self._config.epochs) if epochs is None else epochs
        if not epochs or (carried is None) != (epochs.start == 0):
            raise ValueError(f"epochs from 0 on begin anew, later ones go on from what is carried: {epochs}")
        fill = np.minimum(np.arange(self.plan.chunk), number - 1)
        seeds: tuple[Any, ...] = (keys, variants)
        if self._rungs:
            blank = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), self._blank)
            seeds = (*seeds, blank if carried is None else carried)
        seeds = jax.device_put(jax.tree.map(lambda leaf: jnp.asarray(leaf)[fill], seeds), self._over_seeds)
        trained = self._call(self._program, seeds, epochs)
        if not np.all(np.asarray(trained.fits)):
            trained = self._train_whole(trained, seeds, epochs)
        return jax.tree.map(lambda leaf: leaf[:number], trained) if number < self.plan.chunk else trained

    @property
    def num_devices(self) -> int:
        """Devices in use, at most one per seed."""
        return len(self._sharding.devices)

    @property
    def carried_structure(self) -> Any:
        """Tree structure of what a call with ``rungs`` goes on from."""
        return jax.tree.structure(self._blank)

    @property
    def _blank(self) -> Carried:
        return blank_carried(self._family, self._config)

    def _call(self, program: Any, seeds: tuple[Any, ...], epochs: range) -> Trained:
        keys, variants, *carried = seeds
        bounds = jax.device_put((np.int32(epochs.start), np.int32(epochs.stop)), self._everywhere)
        trained: Trained = program(
            keys, self._key_data, variants, *self._splits, *carried, *(bounds if self._rungs else ())
        )
        return trained

    def _train_whole(self, trained: Trained, seeds: tuple[Any, ...], epochs: range) -> Trained:
        """Trains the seeds whose live part did not fit again, in a program with room for everything."""
        step = self.num_devices
        if self._whole is None:
            everything = dataclasses.replace(self._family, live=None)
            without = dataclasses.replace(self._config, persistent=False)
            self._whole = self._compile(step, everything, without)
        missing = np.flatnonzero(~np.asarray(trained.fits))
        for begin in range(0, len(missing), step):
            here = missing[begin : begin + step]
            chosen = np.resize(here, step)
            some = jax.device_put(jax.tree.map(lambda leaf: leaf[chosen], seeds), self._over_seeds)  # noqa: B023
            whole = self._call(self._whole, some, epochs)
            trained = jax.tree.map(
                lambda leaf, new: leaf.at[here].set(new[: len(here)]),  # noqa: B023
                trained,
                whole,
            )
        return trained

    def _fit(self, chunk: int, step: int, budget: int) -> tuple[Any, int, int]:
        """Compiles the largest chunk within the budget, in few attempts: program, seeds, bytes."""

        def attempt(seeds: int) -> tuple[Any, int, int]:
            program = self._compile(seeds, self._family)
            return program, seeds, program_bytes(program) * step

        found = attempt(chunk)
        if found[2] <= budget:
            return found
        smallest = found if chunk == step else attempt(step)
        least = smallest[2]
        if least > budget:
            raise ValueError(
                f"{step} seed{'s' if step > 1 else ''} at once need{'' if step > 1 else 's'} {least} "
                f"bytes, more than the budget of {budget}: raise the budget or take a smaller network"
            )
        while True:
            # Memory grows in about a straight line: what a seed takes, beyond the samples that all share.
            _, chunk, needed = found
            fitting = step + (chunk - step) * (budget - least) // max(needed - least, 1)
            chunk = min(fitting, chunk - 1) // step * step
            if chunk <= step:
                return smallest
            found = attempt(chunk)
            if found[2] <= budget:
                return found

    def _compile(self, chunk: int, family: Family, config: SweepConfig | None = None) -> Any:
        config = config or self._config
        keys = jax.eval_shape(lambda: keys_of(range(chunk)))
        one = blank_variant(self._family, self._config)
        variants = jax.tree.map(lambda leaf: jnp.zeros((chunk, *leaf.shape), leaf.dtype), one)
        seeds: tuple[Any, ...] = (keys, variants)
        if self._rungs:
            seeds = (*seeds, jax.tree.map(lambda b: jnp.zeros((chunk, *b.shape), b.dtype), self._blank))
        keys, variants, *carried = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self._over_seeds), seeds
        )
        each = [True, False, True, False, False, False]
        bounds: tuple[Any, ...] = ()
        run: Any = make_run(family, config)
        if self._rungs:
            number = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._everywhere)
            run, each, bounds = make_rung(family, config), [*each, True, False, False], (number, number)
        jitted = jax.jit(self._sharding.over(run, each), out_shardings=self._over_seeds)
        return jitted.lower(keys, self._key_data, variants, *self._splits, *carried, *bounds).compile()


def run_chunks(
    program: Program, keys: Key, variants: Variant, *, start: int = 0
) -> Iterator[tuple[int, Trained]]:
    """Trains seeds chunk by chunk and hands every chunk out as soon as it is done.

    Args:
      program: compiled for these shapes.
      keys: ``(seed,)``.
      variants: leaves ``(seed, ...)``.
      start: first seed to train (of a continued sweep).

    Yields:
      Index of the chunk's first seed, and its networks.
    """
    for first in range(start, keys.shape[0], program.plan.chunk):
        part = slice(first, first + program.plan.chunk)
        yield first, program(keys[part], jax.tree.map(lambda leaf: leaf[part], variants))  # noqa: B023


def default_chunk(devices: Sequence[jax.Device], family: Family, batch_size: int) -> int:
    """Seeds of a call that keep the devices busy: beyond, seeds per second hardly grow.

    On a core of a CPU they fall again where a training step touches more than its caches
    hold: 32 networks of 784-256-128-10 are trained 1.6 times as fast as 128.
    """
    if devices[0].platform != "cpu":
        return 2048 * len(devices)
    shapes = family.live or family
    # of a weight value, gradient, two moments, three indices; of a unit three numbers a sample
    touched = 4 * (7 * sum(shapes.capacities) + 3 * batch_size * sum(shapes.sizes[1:]))
    return (64 if 64 * touched <= CACHE else 32) * len(devices)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
