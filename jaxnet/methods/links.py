"""Which missing connection a layer's own shape asks for: link prediction on its bipartite graph."""

from __future__ import annotations

import jax.numpy as jnp

from jaxnet.types import Array, Bool, Float

RULES = ("ch2", "ch3")
"""Rules of :func:`link_scores`."""


def link_scores(there: Bool[Array, "out in"], rule: str = "ch2") -> Float[Array, "out in"]:
    """Scores of every missing connection by the paths of three steps that lead around it.

    A layer is a bipartite graph of its inputs and outputs. The local community of a
    missing connection ``(u, v)`` are the nodes ``a`` and ``b`` of its paths ``u - a - b - v``.
    Of a node ``z`` of it, ``i`` connections lead to others of the community, and
    ``e`` neither there nor to ``u`` and ``v``. The score is the sum over the community,
    every node once, of

    ========= ======================
    ``ch2``   ``(1 + i) / (1 + e)``
    ``ch3``   ``1 / (1 + e)``
    ========= ======================

    For ``a``, a neighbour of ``u``, ``i`` is the number of neighbours that it shares with
    ``v``, whatever ``u`` is; the sums over communities are therefore four products of
    matrices. Where a connection exists, the score has no meaning.

    Source: the Cannistraci-Hebb rules CH2 and CH3 on paths of length three (Muscoloni,
    Michieli and Cannistraci 2020), summed over nodes as in Zhang et al. 2025 (CH2-L3n).
    CH3-L3 proper sums ``1 / sqrt((1 + e_a) (1 + e_b))`` over paths, which is no product of matrices.
    """
    matrix = there.astype(jnp.float32)

    def worth(shared: Float[Array, "a v"]) -> Float[Array, "a v"]:
        """What ``a`` adds to a connection to ``v``."""
        degree = jnp.diagonal(shared)[:, None]
        # a node without any connection outside the community leads to no missing one
        outside = jnp.maximum(degree - shared, 1.0)
        inside = 1.0 + shared if rule == "ch2" else jnp.ones_like(shared)
        return jnp.where(shared > 0, inside / outside, 0.0)

    # counts up to 2**24 are exact in float32, at the highest precision of a product
    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    inputs = worth(product(matrix.T, matrix))
    outputs = worth(product(matrix, matrix.T))
    return product(matrix, inputs) + product(outputs.T, matrix)
