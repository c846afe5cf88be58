"""A complex with levels, or with a part: pages, the long exact sequence; monitors of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.errors import InputError
from jaxnet.homology.complexes import (
    TOL,
    Maps,
    Spectrum,
    certain,
    check,
    defect,
    spectrum,
    split,
)
from jaxnet.homology.project import nearest
from jaxnet.linalg import frame, times
from jaxnet.reach.ranks import known
from jaxnet.types import Array, Bool, Float, Int


class Pages(NamedTuple):
    """Pages E^0 to E^L of L levels, the last being E-infinity.

    ``rank`` is that of the differential out of there, which leads r levels down. ``pairs`` counts what the
    maps send from level to level. ``collapse`` is the first page that equals all later ones.
    """

    dims: Int[Array, "page space level"]
    rank: Int[Array, "page space level"]
    pairs: Int[Array, "map source target"]
    collapse: Int[Array, ""]
    spectrum: Spectrum


def _levels(d: Maps, level: Sequence[Any], count: int | None, tol: float) -> int:
    """The number of levels; InputError where they do not fit, or a map raises one."""
    sizes = [(d[0].shape[1],), *((len(m),) for m in d)]
    if [jnp.shape(one) for one in level] != sizes or (count is None and not known(level)):
        raise InputError(f"levels have shapes {sizes}, and where they are traced their number is given")
    host = [np.asarray(one) for one in level] if known(level) else []
    count = max(int(one.max()) for one in host) + 1 if count is None else count
    if any(one.dtype.kind not in "iu" or one.min() < 0 or one.max() >= count for one in host):
        raise InputError(f"levels must be whole numbers from 0 to {count - 1}")
    top = max(float(jnp.max(jnp.abs(m))) for m in d) if host and known(d) else np.inf
    for k, m in enumerate(map(np.asarray, d) if host and known(d) else ()):
        for i, j in np.argwhere((abs(m) > tol * top) & (host[k + 1][:, None] > host[k]))[:1]:
            rise = f"from {host[k][j]} to {host[k + 1][i]}"
            raise InputError(f"map {k} raises the level {rise}: entry ({i}, {j}) is {m[i, j]:.3g}")
    return count


def pages(d: Maps, level: Sequence[Int[Array, "n"]], tol: float = TOL, levels: int | None = None) -> Pages:
    """Pages of a complex whose basis vectors have levels from 0 to ``levels`` - 1, which no map raises.

    ``E^r_p = Z^r_p / (Z^{r-1}_{p-1} + d Z^{r-1}_{p+r-1})``, ``Z^r_p = {x in F_p : dx in F_{p-r}}``. The rank
    of the rows above level q and the columns up to p counts the pairs from at most p to above q: all follows.
    """
    check(d, tol, zero=True)
    count = _levels(d, level, levels, tol)
    steps = np.array([(p, q) for p in range(count) for q in range(-1, p)])
    p, q = steps.T[:, :, None, None]
    blocks = [
        jnp.where((b[:, None] > q) & (a <= p), m, 0) for m, a, b in zip(d, level, level[1:], strict=False)
    ]
    found = certain(spectrum(blocks, tol))
    edge = (
        jnp.zeros((len(d), count + 1, count + 1), int).at[:, steps[:, 0] + 1, steps[:, 1] + 1].set(found.rank)
    )
    pairs = edge[:, 1:, :-1] - edge[:, :-1, :-1] - edge[:, 1:, 1:] + edge[:, :-1, 1:]
    dims, rank = [jnp.stack([jnp.sum(one == np.arange(count)[:, None], -1) for one in level])], []
    for r in range(count + 1):
        apart = jnp.where(np.subtract.outer(np.arange(count), np.arange(count)) == r, pairs, 0)
        rank.append(jnp.pad(apart.sum(2), ((0, 1), (0, 0))))
        dims.append(dims[-1] - rank[-1] - jnp.pad(apart.sum(1), ((1, 0), (0, 0))))
    moving = jnp.where(jnp.any(jnp.stack(rank) > 0, (1, 2)), jnp.arange(1, count + 2), 0)
    return Pages(jnp.stack(dims[:-1]), jnp.stack(rank), pairs, jnp.max(moving), found)


class Les(NamedTuple):
    """``H_k(A) -> H_k(B) -> H_k(C) -> H_{k+1}(A)``: Betti numbers of A (``sub``), B, C; ranks of the maps."""

    sub: Int[Array, "space"]
    whole: Int[Array, "space"]
    quotient: Int[Array, "space"]
    into: Int[Array, "space"]
    onto: Int[Array, "space"]
    rank: Int[Array, "map"]
    connecting: Maps
    spectrum: Spectrum


def les(d: Maps, sub: Sequence[Float[Array, "n a"]], tol: float = TOL) -> Les:
    """The long exact sequence of the subcomplex A that the columns of ``sub[k]``, ``(n_k, a_k)``, span.

    ``h_k(B) = h_k(A) + h_k(C) - rank delta[k-1] - rank delta[k]``. InputError also for dependent columns.
    """
    check(d, tol, zero=True)
    cut, spaces = spectrum(d, tol).cut, range(len(d) + 1)
    frames = []
    for k, (s, n) in enumerate(zip(sub, [d[0].shape[1], *map(len, d)], strict=True)):
        if s.shape[0] != n or (known(s) and s.size and spectrum([s], tol).rank[0] < s.shape[1]):
            raise InputError(f"the subspace of space {k} needs {n} rows and independent columns: {s.shape}")
        q = frame(s) if s.size else jnp.eye(n, dtype=d[0].dtype)
        frames.append((q[:, : s.shape[1]], q[:, s.shape[1] :]))

    def block(row: int, col: int) -> Maps:
        return tuple(times(b[row].T, m, a[col]) for m, a, b in zip(d, frames, frames[1:], strict=False))

    if known(d, sub) and (out := max(float(jnp.max(jnp.abs(m), initial=0)) for m in block(1, 0))) > cut:
        raise InputError(f"a map leads out of the subspaces: by {out:.3g}")
    a, b, c = ([split(maps, k, cut)[2] for k in spaces] for maps in (block(0, 0), d, block(1, 1)))
    delta = tuple(times(x, m, y) for x, m, y in zip(a[1:], block(0, 1), c, strict=False))
    into = certain(spectrum([times(b[k], frames[k][0], a[k]) for k in spaces], tol, 1.0)).rank
    onto = certain(spectrum([times(c[k], frames[k][1].T, b[k]) for k in spaces], tol, 1.0)).rank
    found = certain(spectrum(delta, tol, cut / tol))
    sub_b, whole, quotient = (jnp.stack([jnp.rint(jnp.trace(h)).astype(int) for h in hs]) for hs in (a, b, c))
    return Les(sub_b, whole, quotient, into, onto, found.rank, delta, found)


class Watch(NamedTuple):
    """Relative defects and dimensions of pages as seen last; for how many looks in a row they were still."""

    defect: Float[Array, "pair"]
    dims: Int[Array, "page space level"]
    still: Int[Array, ""]


def watch(d: Maps, level: Sequence[Any] | None = None, tol: float = TOL, levels: int = 1) -> Watch:
    """The first look at maps that chain, such as the layers of a network.

    Pages are those of the nearest complex with one level (page 1 are Betti numbers), given levels those of d.
    """
    plain = [jnp.zeros(n, int) for n in (d[0].shape[1], *map(len, d))]
    found = pages(nearest(d)[0], plain, tol, 1) if level is None else pages(d, level, tol, levels)
    return Watch(defect(d, relative=True), found.dims, jnp.zeros((), int))


def observe(before: Watch, d: Maps, drift: float = 0.05, tol: float = TOL, **levels: Any) -> Watch:
    """A further look: still while no dimension changes, and no defect by more than ``drift`` of itself."""
    now = watch(d, tol=tol, **levels)
    near = jnp.abs(now.defect - before.defect) <= jnp.maximum(drift * before.defect, tol)
    return now._replace(
        still=jnp.where(jnp.all(now.dims == before.dims) & jnp.all(near), before.still + 1, 0)
    )


def settled(seen: Watch, patience: int = 3) -> Bool[Array, ""]:
    """The convergence rule: so many looks in a row were still."""
    return seen.still >= patience
