"""Complexes of matrices: ranks, homology, the nearest one, pages, gluing (``docs/complexes.md``).

A complex is a tuple ``d`` of matrices, ``d[k]`` of shape ``(n_{k+1}, n_k)``, with ``d[k+1] @ d[k] = 0``.
Functions treat one; ``jit`` and ``vmap`` go around them. Values are checked where they are not traced.
"""

from jaxnet.homology.complexes import betti, certain, defect, hodge, penalty, ranks
from jaxnet.homology.filtered import les, observe, pages, settled, watch
from jaxnet.homology.glue import gluing
from jaxnet.homology.project import factored, nearest, tangent

__all__ = [
    "betti",
    "certain",
    "defect",
    "factored",
    "gluing",
    "hodge",
    "les",
    "nearest",
    "observe",
    "pages",
    "penalty",
    "ranks",
    "settled",
    "tangent",
    "watch",
]
