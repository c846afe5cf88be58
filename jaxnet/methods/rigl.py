"""RigL: the weakest weights give way to those by which the loss would fall fastest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxnet.changes import edit
from jaxnet.methods.base import DenseGradient, Periodic, dense_by_path, exchanged
from jaxnet.structure import with_entries
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key, PyTree


@dataclasses.dataclass(frozen=True)
class RigL(Periodic):
    """Drops the weights of the smallest magnitude and grows as many where the gradient is largest.

    Source: Evci et al. 2020 (RigL).
    """

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Exchanges in every weight; nothing is drawn."""
        del key
        gradient = dense_by_path(dense_gradient(), net.structure)
        sizes = {path: jnp.abs(leaf) for path, leaf in gradient.items()}
        new = exchanged(net, sizes, self.fraction_at(step), self.fraction)
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info
