"""RigL: the weakest weights give way to those by which the loss would fall fastest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxnet.changes import edit, exchange
from jaxnet.methods.base import DenseGradient, Periodic, dense_by_path
from jaxnet.structure import reserved, weights, with_entries
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
        fraction, taken = self.fraction_at(step), reserved(net.structure)
        new = {
            path: exchange(
                entry, values, jnp.abs(gradient[path]), fraction, self.fraction, taken=taken.get(path)
            )
            for path, (values, entry) in weights(net.params, net.structure).items()
        }
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info
