"""SNIP: prunes once, before training, by how much each weight matters to the loss."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxnet.allocation import check_density
from jaxnet.methods.base import BaseMethod, DenseGradient, Sizes, at_weights, dense_by_path, keep_best
from jaxnet.structure import weights
from jaxnet.train import Net
from jaxnet.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class SNIP(BaseMethod):
    """Keeps the weights of the largest ``|gradient * weight|`` of all arrays together; then nothing changes.

    Source: Lee, Ajanthan and Torr 2019.

    Attributes:
      density: weights over positions that are kept, in (0, 1]; the count is rounded down.
    """

    density: float = 0.1

    def __post_init__(self) -> None:
        """Raises ValueError for a density out of range."""
        check_density(self.density)

    def init(self, net: Net, dense_gradient: DenseGradient, *, key: Key) -> tuple[Net, PyTree]:
        """Prunes by the gradient on the samples that ``dense_gradient`` was made for."""
        del key
        self.check(net)
        gradient = dense_by_path(dense_gradient(), net.structure)
        there = weights(net.params, net.structure)
        scores = {
            path: jnp.abs(at_weights(gradient[path], entry) * values)
            for path, (values, entry) in there.items()
        }
        positions = sum(int(np.prod(entry.shape)) for _, entry in there.values())
        number = sum((entry.num_nonzeros for _, entry in there.values()), jnp.zeros((), jnp.int32))
        return keep_best(net, scores, jnp.minimum(int(self.density * positions), number))[0], ()

    def budget(self, step: int, sizes: Sizes) -> int:
        """The same from before the first step on."""
        return min(int(self.density * sum(full for _, full in sizes)), super().budget(step, sizes))
