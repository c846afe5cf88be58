"""A bench: trains networks of grids by their numbers, in programs that are planned once and kept.

A plan says with which kernel, in calls of how many networks and on how many devices networks
are trained. Trained once more by the same plans, a network has the same bits, whatever else
is in its call.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.allocation import drawable_density
from jaxnet.data.batches import Split
from jaxnet.kernels.choice import choose
from jaxnet.nn.params import Params, Structure
from jaxnet.sweep.family import draw_network
from jaxnet.sweep.grid import Grid
from jaxnet.sweep.persistent import PERSISTENT, TOLERANCE, on_trial, refusal, with_kernel
from jaxnet.sweep.program import Program
from jaxnet.sweep.rows import SweepConfig, Trained
from jaxnet.sweep.winner import trim
from jaxnet.types import Key

PAYS = 1.05
"""A larger batch is taken where it trains at least so many times as many networks per second."""

TRIAL_STEPS = 4  # of a batch size

Entry = Mapping[str, Any]
"""A plan, JSON-like: ``kernel``, ``chunk``, ``devices``, and the epochs from ``start`` to ``epochs``."""


class Bench:
    """Compiled programs of one kind of sweep."""

    def __init__(
        self,
        config: SweepConfig,
        splits: tuple[Split, Split, Split],
        *,
        key_data: Key,
        memory_budget: int | None = None,
        precision: str = "f32",
        rungs: bool = False,
    ) -> None:
        """Compiles nothing yet.

        Args:
          config: epochs and product are those of the plans.
          splits: samples to train on, to validate on, to watch for extrema.
          key_data: order of the samples.
          memory_budget: bytes of a call; half of what the devices have by default.
          precision: of the dense product.
          rungs: networks may be trained in several steps.
        """
        self.config, self.splits, self.precision, self.rungs = config, splits, precision, rungs
        self.key_data = key_data
        self._options: dict[str, Any] = {"key_data": key_data, "memory_budget": memory_budget, "rungs": rungs}
        self._programs: dict[Any, Program] = {}
        self._trials: dict[Any, tuple[float, float]] = {}

    def plan(self, grid: Grid, epochs: int, networks: int, kernel: str, chunk: int) -> dict[str, Any]:
        """Compiles a program for so many networks of a grid, in calls of at most ``chunk``; its plan.

        The kernel ``auto`` is the faster one at the mean density; only dense has another precision than f32.

        Raises:
          ValueError: not even one network fits the memory, or the kernel asked for is not right here.
        """
        kernel = self._kernel(grid, networks, kernel)
        program = self._compile(grid, epochs, networks, kernel, chunk, None)
        plan, devices = program.plan, program.num_devices
        self._programs[grid, epochs, kernel, plan.chunk, devices] = program
        facts = {"bytes_per_call": plan.bytes_per_call, "bytes_allowed": plan.budget}
        return {"kernel": kernel, "chunk": plan.chunk, "devices": devices, "calls": plan.chunks, **facts}

    def program(self, grid: Grid, entry: Entry) -> Program:
        """The program of a plan, compiled where it is asked for for the first time.

        Raises:
          ValueError: a call as planned does not fit the memory here.
        """
        kernel, chunk, devices = entry["kernel"], entry["chunk"], entry["devices"]
        name = grid, entry["epochs"], kernel, chunk, devices
        if name not in self._programs:
            program = self._compile(grid, entry["epochs"], chunk, kernel, chunk, devices)
            if program.plan.chunk != chunk:
                raise ValueError(
                    f"{chunk} networks per call are planned, but here and now {program.plan.chunk} fit: free "
                    "memory, raise the budget, or use the devices of the plan"
                )
            self._programs[name] = program
        return self._programs[name]

    def forget(self) -> None:
        """Drops all programs."""
        self._programs = {}

    def train(
        self, grid: Grid, numbers: Sequence[int], entries: Sequence[Entry], carried: Any = None
    ) -> Trained:
        """Trains networks by one plan after the other; more than a call holds, call by call.

        Args:
          grid: of the networks.
          numbers: in the grid.
          entries: plans, each of which goes on where the one before ends.
          carried: what they go on from by number, leaves of :attr:`Trained.carried`; where the
            first plan does not start with epoch 0.

        Returns:
          Leaves ``(network, ...)`` on the host.
        """
        parts: list[Trained] = []
        chunk = min(entry["chunk"] for entry in entries)
        for first in range(0, len(numbers), chunk):
            some, trained = numbers[first : first + chunk], None
            for entry in entries:
                program, given = self.program(grid, entry), grid.inputs(some)
                before = None if trained is None else trained.carried
                if trained is None and entry["start"]:
                    leaves = [np.stack(leaf) for leaf in zip(*(carried[n] for n in some), strict=True)]
                    before = jax.tree.unflatten(program.carried_structure, leaves)
                epochs = (before, range(entry["start"], entry["epochs"])) if self.rungs else ()
                trained = jax.tree.map(np.asarray, program(*given, *epochs))
            assert trained is not None
            parts.append(trained)
        if len(parts) == 1:
            return parts[0]
        joined: Trained = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return joined

    def restored(self, grid: Grid, number: int, leaves: Sequence[np.ndarray]) -> tuple[Params, Structure]:
        """A network without padding from the leaves of its ``(params, structure)``."""
        family, (keys, variants) = grid.family(), grid.inputs([number])

        def drawn(key: Key, variant: Any) -> tuple[Params, Structure]:
            return draw_network(family, variant, self.config.draw, key_mask=key, key_init=key)

        like = jax.tree.structure(jax.eval_shape(jax.vmap(drawn), keys, variants))
        params, structure = jax.tree.unflatten(like, leaves)
        return trim(params, structure, grid.network(number)[0])

    def batch_size(self, grid: Grid, networks: int, kernel: str, sizes: Sequence[int]) -> int:
        """The largest of some batch sizes that fits the memory and pays: see :data:`PAYS`.

        Measured are steps of compiled programs, one batch size after the other, until one does not fit, does
        not pay, or there are fewer samples.

        Raises:
          ValueError: not even the smallest fits.
        """
        chosen, fastest = 0, math.inf  # seconds a network and sample
        kernel = "dense" if kernel in ("auto", PERSISTENT) else kernel
        for size in sizes:
            config = with_kernel(dataclasses.replace(self.config, batch_size=size), kernel, self.precision)
            if chosen and size > self.splits[0].size:
                break
            try:
                seconds, _ = self._trial(grid, config, networks, TRIAL_STEPS)
            except ValueError as error:
                if not chosen:
                    raise ValueError(f"not even batches of {size} fit: {error}") from None
                break
            if seconds / size > fastest / PAYS:
                break
            chosen, fastest = size, seconds / size
        return chosen

    def _compile(
        self, grid: Grid, epochs: int, networks: int, kernel: str, chunk: int, devices: int | None
    ) -> Program:
        how = with_kernel(dataclasses.replace(self.config, epochs=epochs), kernel, self.precision)
        options: Any = {**self._options, "chunk": chunk, "devices": devices}
        return Program(grid.family(), how, networks, self.splits, **options)

    def _kernel(self, grid: Grid, networks: int, kernel: str) -> str:
        """The kernel that is asked for; for ``auto`` the faster one of those that are right here."""
        if not self.config.draw.enforced:
            return "dense"  # so are the networks
        if kernel not in ("auto", PERSISTENT):
            return kernel
        family = grid.family()
        reason, relative_time = refusal(self.config, family.sizes[-1], self.precision), 1.0
        if reason is None:
            error, relative_time = self._tried(grid)
            reason = None if error <= TOLERANCE else f"its losses are {error:.2g} nats off on this device"
        if kernel == PERSISTENT and reason is not None:
            raise ValueError(f"the {PERSISTENT} kernel cannot train this: {reason}")
        if kernel == PERSISTENT or (reason is None and relative_time < 1):
            return PERSISTENT
        if self.precision != "f32":
            return "dense"
        densities = [density for _, density in grid.members]
        mean = drawable_density(family.sizes, sum(densities) / len(densities))
        return choose(family.sizes, mean, self.config.batch_size, networks)

    def _tried(self, grid: Grid) -> tuple[float, float]:
        """:func:`~jaxnet.sweep.persistent.on_trial` for the members of a grid, once."""
        if grid.members not in self._trials:
            self._trials[grid.members] = on_trial(functools.partial(self._trial, grid), self.config)
        return self._trials[grid.members]

    def _trial(self, grid: Grid, config: SweepConfig, networks: int, steps: int) -> tuple[float, jax.Array]:
        """Trains networks of a grid for so many steps: seconds a network, compiled before, and losses."""
        train, _, _ = self.splits
        few = train.replace(x=train.x[: steps * config.batch_size], y=train.y[: steps * config.batch_size])
        judged = few.replace(x=few.x[: config.batch_size], y=few.y[: config.batch_size])
        program = Program(
            grid.family(),
            dataclasses.replace(config, epochs=1),
            networks,
            (few, judged, judged),
            key_data=self.key_data,
            chunk=networks,
            memory_budget=self._options["memory_budget"],
        )
        given = grid.inputs([n % len(grid) for n in range(program.plan.chunk)])
        jax.block_until_ready(program(*given))
        before = time.perf_counter()
        trained = jax.block_until_ready(program(*given))
        return (time.perf_counter() - before) / program.plan.chunk, trained.row.loss
