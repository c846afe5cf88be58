"""Ranks of wide layers, by counting signs instead of finding singular values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxnet.errors import InputError
from jaxnet.reach.ranks import LEAST_GAP, check_tolerance

LEAST_TOL = 1e-6
"""Smallest tolerance of :func:`wide_rank`: squares of smaller values drown in rounding."""


def wide_rank(matrix: Any, tol: float) -> int:
    """The number of singular values above ``tol`` times the largest, of a matrix of thousands of rows.

    By Sylvester's law of inertia ``A A^T - c^2 1`` has as many pivots above 0 as A has singular values above
    c: one symmetric factorisation, many times faster than a decomposition. It is made at both ends of a
    band around the cut, :data:`LEAST_GAP` wide: where the counts agree, no value lies in the band.

    Args:
      matrix: ``(out, in)`` of NumPy, JAX or SciPy (sparse); computed in float64.
      tol: from :data:`LEAST_TOL`, below 1.

    Raises:
      InputError: values that are not finite, a tolerance out of range, or singular values within the band.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    check_tolerance(tol)
    if tol < LEAST_TOL:
        raise InputError(f"the tolerance of a wide rank is at least {LEAST_TOL:g}: {tol}")
    a = csr_array(matrix, dtype=np.float64)
    if not np.isfinite(a.data).all():
        raise InputError("the matrix holds values that are not finite")
    if not a.nnz:
        return 0
    a = a if a.shape[0] <= a.shape[1] else csr_array(a.T)
    gram = (a @ a.T).toarray()
    scale = math.sqrt(gram[0, 0])
    if len(gram) > 1:
        start = np.ones(len(gram))  # the same start, the same answer
        scale = svds(a, k=1, return_singular_vectors=False, v0=start)[0]
    side = math.sqrt(LEAST_GAP)
    least, most = (_above(gram, tol * scale * end) for end in (side, 1 / side))
    if least != most:
        raise InputError(
            f"the rank is ambiguous: {most - least} singular values lie within a factor of "
            f"{side:.2g} of the cut {tol * scale:.3g}: choose another tolerance"
        )
    return least


def _above(gram: np.ndarray, cut: float) -> int:
    """How many eigenvalues are above the square of the cut (Bunch and Kaufman's factorisation)."""
    from scipy.linalg import lapack

    moved = gram.copy(order="F")
    moved[np.diag_indices(len(moved))] -= cut * cut
    work, _ = lapack.dsytrf_lwork(len(moved), lower=1)
    factors, pivots, info = lapack.dsytrf(moved, lower=1, lwork=int(work), overwrite_a=1)
    if info < 0:
        raise ValueError(f"LAPACK refuses argument {-info} of dsytrf")
    single = pivots > 0  # a block of two has one sign of each
    return int(np.sum(np.diag(factors)[single] > 0) + np.sum(~single) // 2)
