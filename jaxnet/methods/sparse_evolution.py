"""Sparse evolutionary training: the weakest weights give way to random ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxnet.changes import edit
from jaxnet.changes.weights import random_score
from jaxnet.methods.base import DenseGradient, Periodic, exchanged
from jaxnet.structure import entries, with_entries
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key, PyTree


@dataclasses.dataclass(frozen=True)
class SET(Periodic):
    """Drops the weights of the smallest magnitude and grows as many at random; every weight keeps its number.

    Source: Mocanu et al. 2018 (SET); positions are drawn with those just dropped among them.
    """

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Exchanges in every weight; the gradient is not asked for."""
        del dense_gradient
        scores = {
            path: random_score(entry.shape, key=jax.random.fold_in(key, number))
            for number, (path, entry) in enumerate(entries(net.structure).items())
        }
        new = exchanged(net, scores, self.fraction_at(step), self.fraction)
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info
