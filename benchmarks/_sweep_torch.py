"""The PyTorch side of ``benchmarks.seed_sweep``: one masked network, or many stacked by ``torch.func``.

Images lie normalised in memory. Masks multiply dense weights in every forward
pass and Adam updates all of them, as in the original. Nothing waits for a loss.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, stack_module_state, vmap
from torch.nn import functional

from benchmarks._report import clock
from benchmarks.torch_reference import ADAMS, MaskedLinear
from jaxnet.data import Dataset

LR = 1e-2
PROBE_ROUNDS = 3


DEFAULT_THREADS = torch.get_num_threads()
"""Threads PyTorch takes unless told otherwise."""


def make_network(sizes: Sequence[int], density: float) -> nn.Sequential:
    """Masked linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for num_in, num_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [MaskedLinear(num_in, num_out, density), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Work:
    """The same training as in JAX: a network, its batches, and the steps that are timed."""

    def __init__(
        self, loaded: Dataset, sizes: tuple[int, ...], density: float, batch: int, steps: int
    ) -> None:
        self.sizes, self.density, self.batch, self.steps = sizes, density, batch, steps
        x = torch.tensor(loaded.x_train).float().div_(255)
        self.x = x.sub_(torch.tensor(loaded.mean)).div_(torch.tensor(loaded.std))
        self.y = torch.tensor(loaded.y_train).long()

    def probe(self, stack: int) -> dict[str, list[dict[str, Any]]]:
        """The fastest variant of Adam for every number of threads, for one network and for stacked ones."""
        few = max(2, self.steps // 8)
        return {
            "loop": self._fastest(lambda choice: self.single(choice, 2 * self.steps)),
            "vmap": self._fastest(lambda choice: self.stacked(stack, choice, few)),
            "default": [{"threads": DEFAULT_THREADS, "adam": "default"}],
        }

    def single(self, choice: dict[str, Any], steps: int) -> float:
        """Seconds of a step of one network, after a warm-up."""
        torch.set_num_threads(choice["threads"])
        network = make_network(self.sizes, self.density)
        optimizer = torch.optim.Adam(network.parameters(), lr=LR, **ADAMS.get(choice["adam"], {}))

        def step(index: Tensor) -> None:
            optimizer.zero_grad()
            functional.cross_entropy(network(self.x[index]), self.y[index]).backward()
            optimizer.step()

        return self._timed(step, steps)

    def stacked(self, stack: int, choice: dict[str, Any], steps: int) -> float:
        """Seconds of a step of stacked networks, for one of them, after a warm-up."""
        torch.set_num_threads(choice["threads"])
        networks = [make_network(self.sizes, self.density) for _ in range(stack)]
        params, buffers = stack_module_state(networks)
        bare = networks[0].to("meta")
        optimizer = torch.optim.Adam(params.values(), lr=LR, **ADAMS[choice["adam"]])

        def loss(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(torch.func.functional_call(bare, (p, b), (x,)), y)

        gradients = vmap(grad(loss), in_dims=(0, 0, None, None))

        def step(index: Tensor) -> None:
            detached = {name: p.detach() for name, p in params.items()}
            found = gradients(detached, buffers, self.x[index], self.y[index])
            for name, p in params.items():
                p.grad = found[name]
            optimizer.step()

        return self._timed(step, steps) / stack

    def _timed(self, step: Callable[[Tensor], None], steps: int) -> float:
        order = torch.randint(len(self.y), (steps + 3, self.batch))
        for index in order[:3]:  # the first steps allocate
            step(index)
        start = clock()
        for index in order[3:]:
            step(index)
        return (clock() - start) / steps

    def _fastest(self, run: Callable[[dict[str, Any]], float]) -> list[dict[str, Any]]:
        """Every choice in turn, a few rounds; for each number of threads the smallest median wins.

        What takes twice as long as the best one has no further rounds: with more
        threads than free cores a step can take a hundred times as long.
        """
        cores = len(os.sched_getaffinity(0))
        choices = [(threads, adam) for threads in sorted({1, cores}) for adam in ADAMS]
        times: dict[tuple[int, str], list[float]] = {choice: [] for choice in choices}
        for _ in range(PROBE_ROUNDS):
            best = min((statistics.median(t) for t in times.values() if t), default=float("inf"))
            for (threads, adam), found in times.items():
                if not found or statistics.median(found) <= 2 * best:
                    found.append(run({"threads": threads, "adam": adam}))
        medians = {choice: statistics.median(found) for choice, found in times.items()}
        winners = []
        for threads in sorted({1, cores}):
            adam = min(ADAMS, key=lambda name: medians[threads, name])
            table = {name: 1e6 * medians[threads, name] for name in ADAMS}
            winners.append({"threads": threads, "adam": adam, "microseconds_per_step": table})
        return winners
