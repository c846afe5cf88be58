"""Complexes as a constraint: the nearest one, and optimisers that stay on complexes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.homology.complexes import TOL, Maps, check, image, spectrum
from jaxnet.linalg import eigh, times
from jaxnet.types import Array, PyTree, Scalar

Access = Callable[..., Any]


def _same(_: PyTree, d: Maps) -> Maps:
    return d


def nearest(d: Maps, sweeps: int = 20) -> tuple[Maps, Scalar]:
    """The nearest complex, and its distance (Frobenius, of all maps together).

    Every complex is ``P[k+1] d[k] (1 - P[k])`` for projectors P of the inner spaces. For two maps the best
    projects on the positive eigenvectors of ``d0 d0^T - d1^T d1``: no complex is nearer. For more, each in
    turn is made best for its neighbours, ``sweeps`` times: the distance falls, perhaps to a local minimum.
    """
    check(d)

    def best(a: Array, b: Array) -> Array:
        values, vectors = eigh(times(a, a.T) - times(b.T, b))
        return times(jnp.where(values > 0, vectors, 0), vectors.T)

    def less(m: Array, p: Array | None) -> Array:
        return m if p is None else m - times(m, p)

    def cleaned(m: Array, whole: Array) -> Array:  # rounding has a direction, and a relative defect by it
        return jnp.where(jnp.linalg.norm(m) > 100 * jnp.finfo(m.dtype).eps * jnp.linalg.norm(whole), m, 0)

    def sweep(_: Any, ps: tuple[Any, ...]) -> tuple[Any, ...]:
        for k in range(1, len(d)):
            p = best(less(d[k - 1], ps[k - 1]), times(ps[k + 1], d[k]))
            ps = (*ps[:k], p, *ps[k + 1 :])
        return ps

    ps = (None, *(best(a, b) for a, b in zip(d, d[1:], strict=False)), None)
    ps = jax.lax.fori_loop(0, sweeps, sweep, ps) if len(d) > 2 else ps
    made = tuple(cleaned(less(times(p, m), q), m) for m, p, q in zip(d, ps[1:], ps, strict=False))
    return made, jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(d, made, strict=True)))


def tangent(tol: float = 1e-3, read: Access = tuple, write: Access = _same) -> optax.GradientTransformation:
    """Projects updates onto the tangent space, ``d[k+1] u[k] + u[k+1] d[k] = 0``; last in a chain.

    A step of length h leaves a complex by O(h^2); over many steps that adds up, and ranks rise. At a complex
    the projections of neighbouring pairs commute: one after the other is the projection. Singular values
    below ``tol`` are no directions: it must be above the defect, or what drifted counts as one. ``read``
    finds the maps in the parameters, ``write(tree, maps)`` puts them there.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        d, u = read(params), list(read(updates))
        check(d, tol)
        into, out = ([eigh(times(m, m.T)) for m in ms] for ms in (d, [m.T for m in d]))
        cut = jnp.max(jnp.stack([jnp.max(values) for values, _ in into])) * tol**2
        for k in range(len(d) - 1):
            (a, left), (b, right) = into[k + 1], out[k]
            size = a[:, None] + b
            rest = times(left.T, times(d[k + 1], u[k]) + times(u[k + 1], d[k]), right)
            shadow = times(left, jnp.where(size > cut, rest / jnp.maximum(size, cut), 0), right.T)
            u[k], u[k + 1] = u[k] - times(d[k + 1].T, shadow), u[k + 1] - times(shadow, d[k].T)
        return write(updates, tuple(u)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Factors(NamedTuple):
    """Projectors of inner spaces: onto the image of the map into each, off the kernel of that out of it."""

    into: tuple[Array | None, ...]
    out: tuple[Array | None, ...]


def factored(tol: float = TOL, read: Access = tuple, write: Access = _same) -> optax.GradientTransformation:
    """Steps in the factors ``d[k] = Q_im S[k] Q_coim^T`` of a complex; last in a chain.

    S takes its part of the update, the inner spaces turn along the rest; the first and the last, data and
    answer, are not split. ``d d = 0`` holds to rounding after any number of steps, the cohomology stays while
    every S is invertible. Arguments as of :func:`tangent`.
    """

    def init(params: PyTree) -> Factors:
        d = read(params)
        check(d, tol, zero=True)
        cut = spectrum(d, tol).cut
        into, out = (image(m, cut) for m in d[:-1]), (image(m.T, cut) for m in d[1:])
        return Factors((None, *into, None), (None, *out, None))

    def update(updates: PyTree, state: Factors, params: PyTree = None) -> tuple[PyTree, Factors]:
        d, u = read(params), read(updates)
        turns: list[Array | None] = [None]
        for da, db, ua, ub in zip(d, d[1:], u, u[1:], strict=False):
            pull = times(ua, da.T) - times(db.T, ub)
            pull, one = pull - pull.T, jnp.eye(len(pull), dtype=pull.dtype)
            bound = jnp.linalg.norm(times(da, da.T) + times(db.T, db))  # of squared singular values
            half = pull / (4 * jnp.maximum(jnp.maximum(bound, jnp.linalg.norm(pull)), 1e-30))
            q = one + 2 * half + 2 * times(half, half)  # q^T q = 1 + 4 half^4, at most 1/64 from 1
            for _ in range(3):  # Newton-Schulz: 2e-4, 2e-8, 5e-16
                q = times(q, 1.5 * one - 0.5 * times(q.T, q))
            turns.append(q)
        turns.append(None)
        backs = [q if q is None else q.T for q in turns]
        triples = (zip(turns, ps, backs, strict=True) for ps in state)
        new = Factors(*(tuple(p if p is None else times(q, p, b) for q, p, b in three) for three in triples))
        moves = []
        for k, m in enumerate(d):
            made = times(turns[k + 1], m + times(state.into[k + 1], u[k], state.out[k]), backs[k])
            moves.append(times(new.into[k + 1], made, new.out[k]) - m)  # rounding does not add up
        return write(updates, tuple(moves)), new

    return optax.GradientTransformation(init, update)
