"""The JAX side of ``benchmarks.seed_sweep``: jaxnet's sweep, and training steps of stacked networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._report import clock
from jaxnet import losses, methods
from jaxnet.data import Dataset
from jaxnet.data.batches import Split
from jaxnet.kernels import product
from jaxnet.nn.mlp import NetworkSpec, forward, init
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.sweep import (
    Family,
    LiveShapes,
    Program,
    SweepConfig,
    make_family,
    make_variant,
    take_live,
    with_kernel,
)
from jaxnet.types import Array, Scalar

LR = 1e-2
WATCHED = 1000  # samples on which a sweep looks for extrema


@dataclasses.dataclass(frozen=True)
class Work:
    """What every way has to do: a network, its batches, and the steps that are timed."""

    sizes: tuple[int, ...]
    density: float
    batch: int
    steps: int
    allocation: str = "uniform"

    def family(self) -> Family:
        """The architecture as a family of one."""
        return make_family([self.sizes], [self.density], "uniform", allocation=self.allocation)


def training_split(loaded: Dataset) -> Split:
    """All training images on the device, as they are stored."""
    mean, std = jnp.asarray(loaded.mean), jnp.asarray(loaded.std)
    return Split(jnp.asarray(np.array(loaded.x_train)), jnp.asarray(np.array(loaded.y_train)), mean, std)


class Sweep:
    """Calls of the compiled sweep, each with a chunk of new seeds.

    Attributes:
      program: the compiled sweep.
      accuracy: median accuracy of the last chunk on the test images.
    """

    def __init__(
        self,
        work: Work,
        loaded: Dataset,
        chunk: int,
        epochs: int,
        kernel: str = "csr",
        precision: str = "f32",
        devices: Sequence[jax.Device] | None = None,
        *,
        live: bool = True,
        method: str | None = None,
    ) -> None:
        """Compiles and trains a first chunk, which is not timed; without ``live`` all weights are trained."""
        family = work.family()
        config = SweepConfig(
            epochs=epochs, batch_size=work.batch, lr=LR, method=methods.make(method) if method else None
        )
        train = training_split(loaded)
        test = train.replace(x=jnp.asarray(np.array(loaded.x_test)), y=jnp.asarray(np.array(loaded.y_test)))
        watched = train.replace(x=train.x[:WATCHED], y=train.y[:WATCHED])
        self.program = Program(
            family if live else dataclasses.replace(family, live=None),
            with_kernel(config, kernel, precision),
            chunk,
            (train, test, watched),
            key_data=jax.random.key(0),
            chunk=chunk,
            devices=devices,
        )
        variant = make_variant(work.sizes, work.density, allocation=work.allocation)
        number = self.program.plan.chunk
        self._variants = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), variant)
        self._calls = 0
        self.accuracy = float("nan")
        self()

    def __call__(self) -> float:
        """Trains a chunk from the drawing to the rows; seconds per seed."""
        number = self.program.plan.chunk
        seeds = jnp.arange(number, dtype=jnp.uint32) + jnp.uint32(number * self._calls)
        keys = jax.block_until_ready(jax.vmap(jax.random.key)(seeds))
        self._calls += 1
        start = clock()
        trained = jax.block_until_ready(self.program(keys, self._variants))
        seconds = clock() - start
        self.accuracy = float(jnp.median(trained.row.accuracy))
        return seconds / number


class Steps:
    """Training steps of stacked networks that see the same batches, as a sweep takes them."""

    def __init__(
        self, work: Work, split: Split, stack: int, *, masked: bool, live: LiveShapes | None = None
    ) -> None:
        """Draws and compiles.

        Args:
          work: what is done.
          split: samples to train on.
          stack: networks.
          masked: all weights as dense matrices with a mask over them, and Adam over
            all of them; otherwise jaxnet's dense product of the existing ones.
          live: room for the part that training can change, if only that is trained.
        """
        self._work, self._split, self._stack = work, split, stack
        spec = NetworkSpec(work.sizes, work.density, work.allocation)
        optimizer = optax.adam(LR)

        def draw(key: Array) -> tuple[Params, Structure, Any]:
            params, structure = init(spec, key_mask=key, key_init=jax.random.fold_in(key, 1))
            if live is not None:
                part = take_live(params, structure, live)
                params, structure = part.params, part.structure
            if masked:
                params, structure = to_masked_network(params, structure)
            return params, structure, optimizer.init(params)

        def step(
            params: Params, structure: Structure, opt_state: Any, x: Array, y: Array
        ) -> tuple[Params, Any]:
            def loss(p: Params) -> Scalar:
                logits = forward(spec, p, structure, x, product=product("dense"))[0]
                return losses.cross_entropy(logits, y, jnp.ones(y.shape), axis=0)

            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        def run(
            params: Params, structure: Structure, opt_state: Any, split: Split, order: Array
        ) -> tuple[Params, Any]:
            def body(carry: tuple[Params, Any], index: Array) -> tuple[tuple[Params, Any], None]:
                x, y = split.batch(index)  # gathered once for all networks
                x = x.T
                params, opt_state = carry
                return jax.vmap(step, (0, 0, 0, None, None))(params, structure, opt_state, x, y), None

            return jax.lax.scan(body, (params, opt_state), order)[0]

        keys = jax.random.split(jax.random.key(0), stack)
        self._params, self._structure, self._opt_state = jax.jit(jax.vmap(draw))(keys)
        self._run: Callable[..., Any] = jax.jit(run, donate_argnums=(0, 2))
        self._take()

    def __call__(self) -> float:
        """Seconds of a step, for one network."""
        return self._take() / (self._work.steps * self._stack)

    def _take(self) -> float:
        rows = np.random.default_rng(0).integers(self._split.size, size=(self._work.steps, self._work.batch))
        order = jnp.asarray(rows, jnp.int32)
        start = clock()
        self._params, self._opt_state = jax.block_until_ready(
            self._run(self._params, self._structure, self._opt_state, self._split, order)
        )
        return clock() - start
