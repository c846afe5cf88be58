"""The PyTorch side of ``benchmarks.large_network``: one network, dense weights times a mask or sparse CSR.

PyTorch gives no layer that trains sparse weights, so the fastest found is built
from its parts: both products by ``torch.sparse`` on CSR matrices (the weights and
their transposition, whose structure is sorted once), the gradient for the values
either by ``torch.sparse.sampled_addmm`` or by gathering rows, whichever is faster
here. Activations run features first, as those products want them.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._report import clock
from benchmarks.torch_reference import ADAMS, MaskedLinear
from jaxnet.data import Dataset

LR = 1e-3
WAYS = ("sampled_addmm", "gather")
"""How the gradient for the values of a sparse layer is computed."""


class SparseProduct(torch.autograd.Function):
    """``W @ x`` for the CSR weights of a :class:`SparseLinear`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, layer: SparseLinear, way: str) -> Tensor:
        """``values (nnz,)`` and ``x (in, batch)`` to ``(out, batch)``."""
        ctx.save_for_backward(values, x)
        ctx.layer, ctx.way = layer, way
        return layer.matrix(values) @ x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Gradients for the existing values and, where it is asked for, for ``x``."""
        values, x = ctx.saved_tensors
        layer = ctx.layer
        dy = dy.contiguous()
        if ctx.way == "gather":
            d_values = (dy[layer.rows] * x[layer.cols]).sum(1)
        else:
            pattern = layer.matrix(values)
            d_values = torch.sparse.sampled_addmm(pattern, dy, x.t(), beta=0.0).values()
        d_x = layer.transposed(values) @ dy if ctx.needs_input_grad[1] else None
        return d_values, d_x, None, None


class SparseLinear(nn.Module):
    """``W x + b`` with ``nnz`` weights at random places, stored and trained as CSR values."""

    def __init__(self, num_in: int, num_out: int, nnz: int, way: str) -> None:
        super().__init__()
        flat = torch.randperm(num_in * num_out)[:nnz].sort()[0]
        self.shape, self.way = (num_out, num_in), way
        self.rows, self.cols = flat // num_in, flat % num_in
        self.row_ptr = torch.searchsorted(self.rows, torch.arange(num_out + 1)).int()
        self.slots = torch.sort(self.cols, stable=True)[1]
        self.col_ptr = torch.searchsorted(self.cols[self.slots], torch.arange(num_in + 1)).int()
        self.cols32, self.rows32 = self.cols.int(), self.rows[self.slots].int()  # MKL's type
        bound = math.sqrt(num_in * num_out / nnz / num_in)
        self.values = nn.Parameter(torch.empty(nnz).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_out, 1))

    def matrix(self, values: Tensor) -> Tensor:
        """The weights as a CSR matrix; nothing is copied."""
        return _csr(self.row_ptr, self.cols32, values, self.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """Their transposition as a CSR matrix."""
        return _csr(self.col_ptr, self.rows32, values[self.slots], self.shape[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(in, batch)`` to ``(out, batch)``."""
        y: Tensor = SparseProduct.apply(self.values, x, self, self.way)
        return y + self.bias


def sparseprop_layer(num_in: int, num_out: int, nnz: int) -> nn.Module:
    """A layer of the package SparseProp with ``nnz`` weights at random places; batch first."""
    from sparseprop.modules import SparseLinear as Theirs

    bound = math.sqrt(num_out / nnz)
    weight = torch.zeros(num_out * num_in)
    weight[torch.randperm(num_in * num_out)[:nnz]] = torch.empty(nnz).uniform_(0.01 * bound, bound)
    layer: nn.Module = Theirs(weight.view(num_out, num_in), bias=nn.Parameter(torch.zeros(num_out)))
    return layer


def _csr(ptr: Tensor, index: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # "CSR support is in beta state"
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(ptr, index, values, shape, check_invariants=False)


def changed(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Flat images ``(batch, feature)``, each cropped and flipped at random; no loop over images."""
    height, width, channels = shape
    number, pad = len(x), min(height, width) // 8
    images = functional.pad(x.view(number, height, width, channels), (0, 0, pad, pad, pad, pad))
    down, right = torch.randint(2 * pad + 1, (2, number, 1))
    columns = torch.arange(width).expand(number, width)
    columns = torch.where(torch.rand(number, 1) < 0.5, columns, width - 1 - columns) + right
    rows = torch.arange(height) + down
    return images[torch.arange(number)[:, None, None], rows[:, :, None], columns[:, None]].reshape(number, -1)


class Training:
    """Training steps of one network, timed.

    Args:
      loaded: the data set.
      sizes: units per layer.
      counts: weights per layer.
      batch: samples per step.
      steps: steps of one measurement.
      way: one of :data:`WAYS` for sparse layers, ``masked`` for dense ones, ``sparseprop`` for those of
        that package.
      augment: also crop (by an eighth, zeros outside) and flip every batch at random.
    """

    def __init__(
        self,
        loaded: Dataset,
        sizes: Sequence[int],
        counts: Sequence[int],
        batch: int,
        steps: int,
        way: str,
        augment: bool = False,
    ) -> None:
        self.image = loaded.image_shape if augment else None
        self.batch_first, self.batch, self.steps = way not in WAYS, batch, steps
        number = min(len(loaded.y_train), steps * batch)
        x = torch.tensor(np.asarray(loaded.x_train[:number])).float().div_(255)
        self.x = x.sub_(torch.tensor(loaded.mean)).div_(torch.tensor(loaded.std))
        self.y = torch.tensor(np.asarray(loaded.y_train[:number])).long()
        layers: list[nn.Module] = []
        for num_in, num_out, nnz in zip(sizes[:-1], sizes[1:], counts, strict=True):
            if way == "masked":
                layers.append(MaskedLinear(num_in, num_out, (nnz + 0.5) / (num_in * num_out)))
            elif way == "sparseprop":
                layers.append(sparseprop_layer(num_in, num_out, nnz))
            else:
                layers.append(SparseLinear(num_in, num_out, nnz, way))
            layers.append(nn.ReLU())
        self.network = nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LR, **ADAMS["fused"])

    def __call__(self, threads: int, steps: int | None = None) -> float:
        """Seconds of a step, the first two left out."""
        torch.set_num_threads(threads)
        order = torch.randint(len(self.y), ((steps or self.steps) + 2, self.batch))
        for k, index in enumerate(order):
            if k == 2:
                start = clock()
            self._step(index)
        return (clock() - start) / (len(order) - 2)

    def _step(self, index: Tensor) -> None:
        x = self.x[index] if self.image is None else changed(self.x[index], self.image)
        self.optimizer.zero_grad()
        logits = self.network(x) if self.batch_first else self.network(x.t().contiguous()).t()
        functional.cross_entropy(logits, self.y[index]).backward()
        self.optimizer.step()


def fastest(
    make: Callable[[str], Training], threads: Sequence[int]
) -> tuple[Training, int, dict[str, float]]:
    """The sparse training that is the fastest here, its threads, and the seconds of a step of each."""
    seconds: dict[str, float] = {}
    best: tuple[float, Training, int] | None = None
    for way in WAYS:
        training = make(way)
        for number in threads:
            took = statistics.median(training(number, 2) for _ in range(3))
            seconds[f"{way}, {number} threads"] = took
            if best is None or took < best[0]:
                best = took, training, number
    assert best is not None
    return best[1], best[2], seconds
