"""The dense product: existing weights are scattered into a matrix, then one GEMM.

The way to go on accelerators with matrix units, and the reference for every
other product. Only the existing weights are parameters: the gradient of the
scatter is a gather, so the optimiser never sees a weight that does not exist.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxnet.masks import Topology
from jaxnet.types import Features, Values, Weight


def densify(values: Values, topology: Topology) -> Weight:
    """Writes ``values: (nnz,)`` into a ``(out, in)`` matrix of zeros.

    Padding slots (``rows >= out``) are dropped.
    """
    matrix = jnp.zeros(topology.shape, values.dtype)
    return matrix.at[topology.rows, topology.cols].set(
        values, mode="drop", indices_are_sorted=True, unique_indices=True
    )


def dense_product(values: Values, topology: Topology, x: Features) -> Features:
    """``W @ x`` with ``W`` the dense matrix of the sparse layer.

    Args:
      values: ``(nnz,)``, the weights that exist.
      topology: where they are; shape ``(out, in)``.
      x: ``(in, batch)``.

    Returns:
      ``(out, batch)``.
    """
    return densify(values, topology) @ x
