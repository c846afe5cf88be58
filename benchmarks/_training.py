"""Epochs of jaxnet's own training loop for one network or many: timed, and measured for memory.

Run as a program it trains one epoch in a process of its own and prints the
process's peak memory, which no later measurement in the same process could tell.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._report import ROOT, clock
from jaxnet.data import Dataset
from jaxnet.data.augment import Augmentation
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.kernels import product
from jaxnet.nn.mlp import MLP, NetworkSpec, init
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.provenance import peak_memory
from jaxnet.sweep.memory import program_bytes
from jaxnet.train import Net, Task, init_state, make_epoch
from jaxnet.types import Array

LR = 1e-3


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
      sizes: units per layer.
      density: fraction of weights that exist.
      batch: samples per step.
      steps: steps of one call.
      kernel: ``csr``, ``dense`` (jaxnet's dense product of the existing weights) or
        ``masked`` (all weights under a mask, Adam over all of them).
      seeds: networks trained at once on the same batches; 0 for one without a seed axis.
      allocation: how the density is shared out over the layers.
      transform: of the batches that are learned (augmentation), or None.
    """

    sizes: tuple[int, ...]
    density: float
    batch: int
    steps: int
    kernel: str
    seeds: int = 0
    allocation: str = "uniform"
    transform: Augmentation | None = None


def first_samples(loaded: Dataset, number: int) -> Split:
    """The first training samples on the device, again from the start where there are too few."""
    rows = np.arange(number) % len(loaded.y_train)
    x, y = np.asarray(loaded.x_train)[rows], np.asarray(loaded.y_train)[rows]
    mean, std = jnp.asarray(loaded.mean), jnp.asarray(loaded.std)
    return Split(jnp.asarray(x), jnp.asarray(y), mean, std)


class Training:
    """A compiled training loop; each call trains on for ``work.steps`` steps.

    Attributes:
      bytes: device memory of the compiled program: arguments, results, temporaries.
    """

    def __init__(self, work: Work, split: Split) -> None:
        """Draws the networks and compiles."""
        self.work, self._split = work, split
        spec = NetworkSpec(work.sizes, work.density, allocation=work.allocation)
        masked = work.kernel == "masked"
        optimizer = optax.adam(LR)
        task = Task(
            MLP(spec, product("dense" if masked else work.kernel)), work.batch, transform=work.transform
        )
        epoch = make_epoch(task)

        def draw(key: Array) -> Net:
            params, structure = init(spec, key_mask=key, key_init=jax.random.fold_in(key, 1))
            if masked:
                params, structure = to_masked_network(params, structure)
            return Net.of(params, structure, optimizer)

        def run(params: Params, opt_state: Any, structure: Structure, split: Split, number: Array) -> Any:
            start = init_state(Net(params, structure, opt_state, optimizer=optimizer))
            state, info = epoch(start, split, jax.random.key(2), number)
            return state.net.params, state.net.opt_state, info.loss

        key = jax.random.key(0)
        if work.seeds:
            key = jax.random.split(key, work.seeds)
            draw, run = jax.vmap(draw), jax.vmap(run, in_axes=(0, 0, 0, None, None))
        net = jax.jit(draw)(key)
        self._structure = net.structure
        self._carry = jax.block_until_ready((net.params, net.opt_state))
        del net
        arguments = (*self._carry, self._structure, split, jnp.asarray(0))
        self._run = jax.jit(run, donate_argnums=(0, 1)).lower(*arguments).compile()
        self.bytes = program_bytes(self._run)
        self._calls = 0

    def __call__(self) -> float:
        """Seconds of a step of all networks together."""
        start = clock()
        *carry, self.loss = jax.block_until_ready(
            self._run(*self._carry, self._structure, self._split, jnp.asarray(self._calls))
        )
        self._carry = tuple(carry)
        self._calls += 1
        return (clock() - start) / self.work.steps


def peak_bytes(work: Work) -> int:
    """Peak memory of a process that trains on made-up pixels, in bytes.

    Raises:
      InputError: the process did not end well (out of memory, mostly).
    """
    command = [sys.executable, "-m", "benchmarks._training", json.dumps(dataclasses.asdict(work))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"the process for {work} ended with code {done.returncode}: {last}")
    return int(done.stdout)


def _main(text: str) -> None:
    given = json.loads(text)
    work = Work(**{**given, "sizes": tuple(given["sizes"])})
    number = work.batch * work.steps
    x = np.random.default_rng(0).integers(256, size=(number, work.sizes[0]), dtype=np.uint8)
    y = np.arange(number, dtype=np.int32) % work.sizes[-1]
    split = Split(jnp.asarray(x), jnp.asarray(y), jnp.asarray(0.5), jnp.asarray(0.25))
    Training(work, split)()
    print(peak_memory())


if __name__ == "__main__":
    _main(sys.argv[1])
