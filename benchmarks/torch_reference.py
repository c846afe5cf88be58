"""The patched-density experiment of the original for one seed, written in PyTorch.

The reference of ``benchmarks.patched_density`` and of the tests; it shares no
code with jaxnet and does not import it. The protocol is the original's, faults
included: dense weights times a mask in every forward pass, Adam over all of
them, extrema on test images, patches at the first units by index, the best test
epoch. What takes time without being part of the protocol is written as fast as
it goes: images lie normalised in memory, the patches of a layer are computed
together instead of one by one, nothing waits for a loss, and thread number and
variant of Adam are those that ``--probe`` finds the fastest.

    python -m benchmarks.torch_reference --data mnist.npz --json result.json

reads ``x_train``, ``y_train``, ``x_test``, ``y_test`` (uint8 images, flat) and
``mean``, ``std`` (of grey levels in [0, 1]) from an .npz file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ADAMS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
"""PyTorch's implementations of the same Adam."""

HIDDEN, MAX_PATCHES, MAX_TARGETS, MAX_INPUTS = 8, 5, 4, 20
SCALE_HIGH, SCALE_LOW = 0.3, 0.5
EXTREMA_SAMPLES = 1000
EVAL_BATCH = 1000


def uniform(shape: Sequence[int], fan_in: int) -> nn.Parameter:
    """A parameter as ``nn.Linear`` draws its weights and biases: uniform in ``±1/sqrt(fan_in)``."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class MaskedLinear(nn.Module):
    """A linear layer whose weight is multiplied by a fixed mask in every forward pass.

    ``int(density * in * out)`` positions exist, drawn without replacement.
    """

    mask: Tensor

    def __init__(self, num_in: int, num_out: int, density: float) -> None:
        super().__init__()
        mask = torch.zeros(num_out * num_in)
        mask[torch.randperm(mask.numel())[: int(density * num_in * num_out)]] = 1.0
        self.register_buffer("mask", mask.view(num_out, num_in))
        self.weight = uniform((num_out, num_in), num_in)
        self.bias = uniform((num_out,), num_in)
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in)`` to ``(batch, out)``."""
        return functional.linear(x, self.weight * self.mask, self.bias)


class HighPatches(nn.Module):
    """All high patches of one layer: each reads one unit of the layer below, all feed units 0 to 3."""

    unit: Tensor

    def __init__(self, unit: Tensor, num_out: int) -> None:
        super().__init__()
        slots, targets = len(unit), min(MAX_TARGETS, num_out)
        self.num_out = num_out
        self.register_buffer("unit", unit)
        self.w1 = uniform((slots, HIDDEN), 1)
        self.b1 = uniform((slots, HIDDEN), 1)
        self.w2 = uniform((slots, targets, HIDDEN), HIDDEN)
        self.b2 = uniform((slots, targets), HIDDEN)

    def forward(self, stored: Tensor) -> Tensor:
        """Adds up what the patches say: pre-activations below ``(batch, in)`` to ``(batch, out)``."""
        hidden = functional.relu(stored[:, self.unit, None] * self.w1 + self.b1)  # (batch, slot, hidden)
        # They share their targets, so the sum over patches is one product.
        out = functional.linear(hidden.flatten(1), self.w2.transpose(0, 1).flatten(1), self.b2.sum(0))
        return functional.pad(SCALE_HIGH * out, (0, self.num_out - out.shape[1]))


class LowPatches(nn.Module):
    """All low patches of one layer: each reads 20 units of the layer below and feeds one unit.

    The 20 are drawn anew in every forward pass unless ``sources`` ``(slot, input)``
    is set.
    """

    unit: Tensor

    def __init__(self, unit: Tensor, num_in: int) -> None:
        super().__init__()
        slots, inputs = len(unit), min(MAX_INPUTS, num_in)
        self.inputs = inputs
        self.sources: Tensor | None = None
        self.register_buffer("unit", unit)
        self.w1 = uniform((slots, HIDDEN, inputs), inputs)
        self.b1 = uniform((slots, HIDDEN), inputs)
        self.w2 = uniform((slots, HIDDEN), HIDDEN)
        self.b2 = uniform((slots,), HIDDEN)

    def forward(self, below: Tensor, pre: Tensor) -> Tensor:
        """Adds the patches' outputs on ``below`` ``(batch, in)`` to ``pre`` ``(batch, out)``."""
        sources = self.sources
        if sources is None:  # the indices of the largest of random numbers: a draw without replacement
            sources = torch.rand(len(self.unit), below.shape[1]).topk(self.inputs, dim=1, sorted=False)[1]
        hidden = functional.relu(torch.einsum("bsi,shi->bsh", below[:, sources], self.w1) + self.b1)
        out = (hidden * self.w2).sum(2) + self.b2  # (batch, slot)
        return pre.index_add(1, self.unit, SCALE_LOW * out)


class PatchedNetwork(nn.Module):
    """A sparse scaffold with patches around its extrema; see :meth:`add_patches`."""

    def __init__(self, sizes: Sequence[int], density: float) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.scaffold = nn.ModuleList(
            MaskedLinear(i, o, density) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.high = nn.ModuleDict()
        self.low = nn.ModuleDict()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits ``(batch, classes)`` and the stored pre-activations ``(batch, unit)`` of the hidden layers.

        What is stored is detached: no gradient flows through a high patch into its extremum.
        """
        stored: list[Tensor] = []
        h = x
        for t, layer in enumerate(self.scaffold):
            pre = layer(h)
            if str(t) in self.high:
                pre = pre + self.high[str(t)](stored[-1])
            if str(t) in self.low:
                pre = self.low[str(t)](h, pre)
            if t < len(self.scaffold) - 1:
                stored.append(pre.detach())
                h = functional.relu(pre)
        return pre, stored

    def add_patches(self, high: Sequence[Tensor], low: Sequence[Tensor]) -> int:
        """Puts patches around the first five extrema of each hidden layer and kind.

        Args:
          high: for each hidden layer the units of its high extrema, ascending.
          low: likewise; those of the first hidden layer get no patch.

        Returns:
          Number of patches.
        """
        number = 0
        for layer, units in enumerate(high):
            if len(units):
                below = HighPatches(units[:MAX_PATCHES], self.sizes[layer + 2])
                self.high[str(layer + 1)] = below
                number += len(below.unit)
        for layer, units in enumerate(low):
            if layer > 0 and len(units):
                dead = LowPatches(units[:MAX_PATCHES], self.sizes[layer])
                self.low[str(layer)] = dead
                number += len(dead.unit)
        return number

    def patch_parameters(self) -> list[nn.Parameter]:
        """The values of all patches."""
        return [*self.high.parameters(), *self.low.parameters()]


def detect_extrema(stored: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """High and low extrema of every hidden layer, as ascending unit indices.

    High: mean over the samples above the layer's mean + 2 standard deviations
    (unbiased, over units); low: mean below 0.1.
    """
    high, low = [], []
    for pre in stored:
        mean = pre.mean(0)
        high.append(torch.where(mean > mean.mean() + 2 * mean.std())[0])
        low.append(torch.where(mean < 0.1)[0])
    return high, low


def scaffold_adam(network: PatchedNetwork, variant: str, lr: float = 1e-3) -> torch.optim.Adam:
    """Adam over the scaffold, before there are patches."""
    return torch.optim.Adam(network.scaffold.parameters(), lr=lr, **ADAMS[variant])


def dual_rate_adam(
    network: PatchedNetwork, variant: str, lr_scaffold: float = 1e-4, lr_patch: float = 5e-4
) -> torch.optim.Adam:
    """A fresh Adam with a rate for the scaffold and one for the patches."""
    groups: list[dict[str, Any]] = [{"params": list(network.scaffold.parameters()), "lr": lr_scaffold}]
    if network.patch_parameters():
        groups.append({"params": network.patch_parameters(), "lr": lr_patch})
    return torch.optim.Adam(groups, **ADAMS[variant])


def train_epoch(
    network: PatchedNetwork,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    batch_size: int,
) -> None:
    """One step per batch of ``order``; the last batch may be smaller."""
    for index in order.split(batch_size):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(x[index])[0], y[index])
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def accuracy(network: PatchedNetwork, x: Tensor, y: Tensor) -> float:
    """Fraction of samples classified as labelled."""
    correct = sum(
        int((network(part)[0].argmax(1) == labels).sum())
        for part, labels in zip(x.split(EVAL_BATCH), y.split(EVAL_BATCH), strict=True)
    )
    return correct / len(y)


def load_data(path: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images, normalised float32, with their labels."""
    with np.load(path) as data:
        mean, std = (torch.from_numpy(data[name]) for name in ("mean", "std"))
        x_train, x_test = (
            torch.from_numpy(data[name]).float().div_(255).sub_(mean).div_(std)
            for name in ("x_train", "x_test")
        )
        y_train, y_test = (torch.from_numpy(data[name]).long() for name in ("y_train", "y_test"))
    return x_train, y_train, x_test, y_test


def run(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    seed: int = 0,
    scaffold_epochs: int = 20,
    patch_epochs: int = 30,
    density: float = 0.02,
    batch_size: int = 64,
    adam: str = "foreach",
) -> dict[str, Any]:
    """The whole experiment for one seed: scaffold, extrema, patches, dual rates.

    Returns:
      Accuracies (fractions) of every epoch of both phases, ``scaffold_accuracy``
      (the last), ``patched_accuracy`` (the best), extrema per hidden layer,
      patches, their parameters, and seconds per phase.
    """
    torch.manual_seed(seed)
    x, y, x_test, y_test = data
    network = PatchedNetwork((x.shape[1], 256, 128, int(y.max()) + 1), density)

    def train(optimizer: torch.optim.Optimizer, epochs: int) -> tuple[list[float], float]:
        start, curve = time.perf_counter(), []
        for _ in range(epochs):
            train_epoch(network, optimizer, x, y, torch.randperm(len(y)), batch_size)
            curve.append(accuracy(network, x_test, y_test))
        return curve, time.perf_counter() - start

    scaffold, scaffold_seconds = train(scaffold_adam(network, adam), scaffold_epochs)
    with torch.inference_mode():
        stored = network(x_test[:EXTREMA_SAMPLES])[1]
    high, low = ([units.clone() for units in kind] for kind in detect_extrema(stored))
    number = network.add_patches(high, low)
    patched, patch_seconds = train(dual_rate_adam(network, adam), patch_epochs)
    return {
        "seed": seed,
        "scaffold_curve": scaffold,
        "patch_curve": patched,
        "scaffold_accuracy": scaffold[-1],
        "patched_accuracy": max(patched, default=scaffold[-1]),
        "extrema_high": [len(units) for units in high],
        "extrema_low": [len(units) for units in low],
        "num_patches": number,
        "patch_parameters": sum(p.numel() for p in network.patch_parameters()),
        "scaffold_seconds": scaffold_seconds,
        "patch_seconds": patch_seconds,
    }


def probe(data: tuple[Tensor, Tensor, Tensor, Tensor], steps: int = 100, rounds: int = 3) -> dict[str, Any]:
    """Finds the fastest number of threads and variant of Adam here.

    Times ``steps`` training steps with each, ``rounds`` times in turn, so that
    a disturbance does not hit one of them alone; the smallest median wins.
    """
    x, y = data[:2]
    sizes = (x.shape[1], 256, 128, int(y.max()) + 1)
    cores = len(os.sched_getaffinity(0))
    choices = [(threads, adam) for threads in sorted({1, min(2, cores), cores}) for adam in ADAMS]
    seconds: dict[tuple[int, str], list[float]] = {choice: [] for choice in choices}
    order = torch.randint(len(y), (64 * steps,))
    for _ in range(rounds):
        for threads, adam in choices:
            torch.set_num_threads(threads)
            network = PatchedNetwork(sizes, 0.02)
            optimizer = scaffold_adam(network, adam)
            train_epoch(network, optimizer, x, y, order[:640], 64)  # the first steps allocate
            start = time.perf_counter()
            train_epoch(network, optimizer, x, y, order, 64)
            seconds[threads, adam].append(time.perf_counter() - start)
    medians = {choice: statistics.median(times) for choice, times in seconds.items()}
    threads, adam = min(medians, key=medians.__getitem__)
    table = {f"{t} threads, {a}": 1e6 * medians[t, a] / steps for t, a in choices}
    return {"threads": threads, "adam": adam, "microseconds_per_step": table}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one seed, or the probe, and writes what it found as JSON."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_reference", allow_abbrev=False)
    parser.add_argument("--data", required=True, help="the .npz file with images and labels")
    parser.add_argument("--json", required=True, help="file for the result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scaffold-epochs", type=int, default=20)
    parser.add_argument("--patch-epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--adam", choices=list(ADAMS), default="foreach")
    parser.add_argument("--probe", action="store_true", help="only find the fastest settings")
    options = parser.parse_args(argv)
    if options.scaffold_epochs < 1 or options.patch_epochs < 0 or options.threads < 1:
        parser.error("--scaffold-epochs and --threads must be at least 1, --patch-epochs at least 0")
    try:
        data = load_data(options.data)
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"--data {options.data}: not an .npz file as described: {error}")
    if options.probe:
        result = probe(data)
    else:
        torch.set_num_threads(options.threads)
        result = run(
            data,
            seed=options.seed,
            scaffold_epochs=options.scaffold_epochs,
            patch_epochs=options.patch_epochs,
            adam=options.adam,
        )
        result |= {"threads": options.threads, "adam": options.adam}
    result |= {"torch": torch.__version__, "seconds_in_main": time.perf_counter() - start}
    if not all(math.isfinite(v) for v in result.values() if isinstance(v, float)):
        raise RuntimeError("a result is not finite")
    with open(options.json, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(sys.argv[1:])
