"""Which missing connection a layer's own shape asks for: link prediction on its bipartite graph."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.kernels import csr_library, csr_product
from jaxnet.structure import present
from jaxnet.topology import Entry, Topology, topology_from_flat
from jaxnet.types import Array, Bool, Float

RULES = ("ch2", "ch3")
"""Rules of :func:`link_scores`."""

_SPARSE = 0.05  # up to this density the csr product has less to do than a dense one


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

    # counts up to 2**24 are exact in float32, at the highest precision of a product
    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision="highest")

    return _scores(matrix, lambda x: product(matrix, x), lambda x: product(matrix.T, x), rule)


def link_scores_of(entry: Entry, rule: str = "ch2") -> Array:
    """As :func:`link_scores`, of the dense array's shape; one of more axes leads from all others to the last.

    A topology with few slots is multiplied sparsely where the compiled kernel is there.
    """
    if not isinstance(entry, Topology) or not _sparsely(entry):
        there = present(entry)
        return link_scores(there.reshape(-1, there.shape[-1]), rule).reshape(there.shape)
    ones, (num_out, num_in) = entry.exists.astype(jnp.float32), entry.shape
    turned = topology_from_flat(entry.cols * num_out + entry.rows, entry.exists, (num_in, num_out))
    return _scores(
        present(entry).astype(jnp.float32),
        lambda x: csr_product(ones, entry, x),
        lambda x: csr_product(ones, turned, x),
        rule,
    )


def _sparsely(topology: Topology) -> bool:
    few = topology.capacity <= _SPARSE * topology.shape[0] * topology.shape[1]
    return few and csr_library.available() and jax.default_backend() == "cpu"


def _scores(
    matrix: Float[Array, "out in"],
    out_of: Callable[[Array], Array],
    into: Callable[[Array], Array],
    rule: str,
) -> Float[Array, "out in"]:
    """By the products of the matrix, and of its transpose, with dense ones."""

    def worth(shared: Float[Array, "a v"]) -> Float[Array, "a v"]:
        """What ``a`` adds to a connection to ``v``, with so many neighbours in common."""
        degree = jnp.diagonal(shared)[:, None]
        # a node without any connection outside the community leads to no missing one
        outside = jnp.maximum(degree - shared, 1.0)
        inside = 1.0 + shared if rule == "ch2" else jnp.ones_like(shared)
        return jnp.where(shared > 0, inside / outside, 0.0)

    return out_of(worth(into(matrix))) + into(worth(out_of(matrix.T))).T
