"""GraNet: pruned little by little, and what was cut too early grows back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxnet.changes import edit
from jaxnet.methods.base import DenseGradient, dense_by_path, exchanged
from jaxnet.methods.gradual import Gradual
from jaxnet.structure import with_entries
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key, PyTree


@dataclasses.dataclass(frozen=True)
class GraNet(Gradual):
    """Prunes by magnitude along a cubic schedule, and exchanges a fraction of what is left by the gradient.

    At every change, first the weights of the smallest score go until the density of
    this step (:class:`~jaxnet.methods.gradual.Gradual`); then, in every array, ``fraction`` of
    the rest give way, the smallest first, to as many where the gradient is largest.
    With ``start`` 1 it begins dense, with less it is the authors' sparse-to-sparse variant.
    After ``end`` it is RigL.

    Source: Liu et al. 2021 (zero-cost neuroregeneration). There the fraction of the exchange
    decays over the whole training: here up to ``until``.
    """

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Prunes, then exchanges in every weight; nothing is drawn."""
        del key
        gradient = dense_by_path(dense_gradient(), net.structure)
        # one edit from what was to what will be: a weight that is cut and grows again stays as it was
        pruned = self.pruned(net, step)
        sizes = {path: jnp.abs(leaf) for path, leaf in gradient.items()}
        new = exchanged(pruned, sizes, self.fraction_at(step), self.fraction)
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info
