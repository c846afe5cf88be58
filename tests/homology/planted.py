"""Integer complexes of known homology, and arithmetic modulo 46337 to compute all of it another way."""

from __future__ import annotations

import numpy as np

P = 46337
"""A prime: GUDHI's largest field."""


def rank(m: np.ndarray) -> int:
    """Rank modulo P, by elimination."""
    return len(pivots(m)[1])


def pivots(m: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Reduced row echelon form modulo P, and its pivot columns."""
    m = np.array(m, np.int64) % P
    found: list[int] = []
    for col in range(m.shape[1]):
        row = len(found)
        below = np.flatnonzero(m[row:, col])
        if not below.size:
            continue
        m[[row, row + below[0]]] = m[[row + below[0], row]]
        m[row] = m[row] * pow(int(m[row, col]), -1, P) % P
        others = np.flatnonzero(m[:, col])
        others = others[others != row]
        m[others] = (m[others] - m[others, col, None] * m[row]) % P
        found.append(col)
    return m, found


def kernel(m: np.ndarray) -> np.ndarray:
    """A basis of the kernel modulo P, as columns."""
    reduced, at = pivots(m)
    free = [c for c in range(m.shape[1]) if c not in at]
    basis = np.zeros((m.shape[1], len(free)), np.int64)
    for i, c in enumerate(free):
        basis[c, i] = 1
        basis[at, i] = -reduced[: len(at), c] % P
    return basis


def times(*factors: np.ndarray) -> np.ndarray:
    """A product modulo P."""
    made = factors[0] % P
    for factor in factors[1:]:
        made = made @ (factor % P) % P
    return made


def unimodular(level: np.ndarray, draw: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """An integer matrix that raises no level, and its inverse."""
    n = len(level)
    g, inverse = np.eye(n, dtype=np.int64), np.eye(n, dtype=np.int64)
    for _ in range(steps if n > 1 else 0):
        i, j = draw.choice(n, 2, replace=False)
        if level[i] > level[j]:
            i, j = j, i
        c = draw.choice([-1, 1])
        g[i] += c * g[j]  # column j gets a part at i, of a level not above its own
        inverse[:, j] -= c * inverse[:, i]
    return g, inverse


def shape(draw: np.random.Generator, maps: int = 3, size: int = 6, levels: int = 3) -> list[np.ndarray]:
    """Levels of the basis vectors of every space; a space has one to ``size`` of them."""
    return [draw.integers(0, levels, n) for n in draw.integers(1, size + 1, maps + 1)]


def planted(level: list[np.ndarray], draw: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """An integer complex that raises no level, and its pairs ``(space, source level, target level)``."""
    sizes, levels = [len(one) for one in level], max(one.max() for one in level) + 1
    free = [list(range(n)) for n in sizes]
    pairs = np.zeros((len(sizes) - 1, levels, levels), int)
    normal = []
    for k in range(len(sizes) - 1):
        m = np.zeros((sizes[k + 1], sizes[k]), np.int64)
        for j in draw.permutation(free[k])[: draw.integers(0, sizes[k] + 1)]:
            fit = [i for i in free[k + 1] if level[k + 1][i] <= level[k][j]]
            if fit:
                i = int(draw.choice(fit))
                m[i, j] = 1
                free[k + 1].remove(i)
                pairs[k, level[k][j], level[k + 1][i]] += 1
        normal.append(m)
    bases = [unimodular(one, draw, int(n)) for one, n in zip(level, sizes, strict=True)]
    return [bases[k + 1][0] @ m @ bases[k][1] for k, m in enumerate(normal)], pairs


def betti(d: list[np.ndarray]) -> list[int]:
    """Kernel modulo image, in every space, by rank modulo P."""
    kernels = [kernel(m).shape[1] for m in d] + [d[-1].shape[0]]
    return [n - (rank(d[k - 1]) if k else 0) for k, n in enumerate(kernels)]


def page(d: list[np.ndarray], level: list[np.ndarray], r: int, k: int, p: int) -> int:
    """``dim E^r_p`` in space k, from its definition."""

    def cycles(r: int, p: int, k: int) -> np.ndarray:  # Z^r_p as columns
        n = len(level[k])
        inside = np.eye(n, dtype=np.int64)[:, level[k] <= p]
        if k == len(d):
            return inside
        return times(inside, kernel(times(d[k][level[k + 1] > p - r], inside)))

    above = cycles(r, p, k)
    below = cycles(r - 1, p - 1, k) if r else np.eye(len(level[k]), dtype=np.int64)[:, level[k] <= p - 1]
    if k and r:
        below = np.hstack([below, times(d[k - 1], cycles(r - 1, p + r - 1, k - 1))])
    return rank(above) - rank(below)
