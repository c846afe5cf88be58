"""Complexes by hand, and what holds of all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import homology
from jaxnet.errors import InputError

TRIANGLE = (jnp.asarray([[-1.0, 1, 0], [0, -1, 1], [-1, 0, 1]]),)
"""Differences along the sides of a hollow triangle: one piece, one hole."""
FILLED = (*TRIANGLE, jnp.asarray([[1.0, 1, -1]]))


@pytest.fixture
def double() -> None:
    """Computes in float64; conftest.py sets it back."""
    jax.config.update("jax_enable_x64", True)


def test_a_triangle_has_a_hole_until_it_is_filled() -> None:
    assert homology.betti(TRIANGLE)[0].tolist() == [1, 1]
    assert homology.betti(FILLED)[0].tolist() == [1, 0, 0]
    assert homology.ranks(FILLED).rank.tolist() == [2, 1]
    # filled at level 1: the hole of level 0 is killed on page 1, from one level up (maps turned round)
    turned = tuple(m.T for m in FILLED[::-1])
    level = [jnp.ones(1, int), jnp.zeros(3, int), jnp.zeros(3, int)]
    found = jax.jit(partial(homology.pages, levels=2))(turned, level)
    assert found.dims[1].tolist() == [[0, 1], [1, 0], [1, 0]]
    assert found.rank[1].tolist() == [[0, 1], [0, 0], [0, 0]]
    assert found.dims[2].tolist() == [[0, 0], [0, 0], [1, 0]]
    assert int(found.collapse) == 2


def test_hodge_on_the_sides_of_a_triangle() -> None:
    exact, coexact, harmonic, _ = homology.hodge(FILLED, 1, jnp.asarray([1.0, 1, 1]))
    assert np.allclose(coexact, np.array([1, 1, -1]) / 3, atol=1e-6)  # its circulation is 1
    assert np.allclose(harmonic, 0, atol=1e-6)
    assert np.allclose(exact, np.array([2, 2, 4]) / 3, atol=1e-6)
    around = jnp.asarray([1.0, 1, -1])
    assert np.allclose(homology.hodge(TRIANGLE, 1, around)[2], around, atol=1e-6)


def test_the_ends_of_a_segment_and_the_segment() -> None:
    # A: functions on the segment that are zero at both ends; the quotient are functions on the ends
    d = (jnp.asarray([[-1.0, 1]]),)
    found = jax.jit(homology.les)(d, [jnp.zeros((2, 0)), jnp.eye(1)])
    assert (found.sub.tolist(), found.whole.tolist(), found.quotient.tolist()) == ([0, 1], [1, 0], [2, 0])
    assert found.rank.tolist() == [1]


def random(key: jax.Array, *sizes: int) -> tuple[jax.Array, ...]:
    """Maps between spaces of these sizes."""
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(jax.random.normal(k, (b, a), float) for k, a, b in zip(keys, sizes, sizes[1:], strict=False))


def distance(a: Any, b: Any) -> float:
    """Frobenius, of all maps."""
    return float(jnp.sqrt(sum(jnp.sum((x - y) ** 2) for x, y in zip(a, b, strict=True))))


@hypothesis.example(11136429, True)  # nothing of the last map is left but rounding
@hypothesis.given(st.integers(0, 2**31 - 1), st.booleans())
@hypothesis.settings(max_examples=15)
def test_nothing_is_nearer_than_the_nearest(seed: int, longer: bool) -> None:
    key = jax.random.key(seed)
    d = random(key, 5, 7, 4, *([5] if longer else []))
    found, far = jax.jit(homology.nearest)(d)
    assert float(jnp.max(homology.defect(found, relative=True))) < 1e-6
    assert np.isclose(far, distance(d, found), rtol=1e-5)
    draw = np.random.default_rng(seed)
    for _ in range(20):
        ps = [np.zeros((5, 5))]
        for n in [m.shape[0] for m in d[:-1]]:
            q = np.linalg.qr(draw.normal(size=(n, n)))[0][:, : draw.integers(0, n + 1)]
            ps.append(q @ q.T)
        ps.append(np.eye(len(d[-1])))
        other = [p @ m @ (np.eye(len(q)) - q) for m, q, p in zip(d, ps, ps[1:], strict=False)]
        assert far <= distance(d, other) + 1e-5


def drift(chain: Any, d: Any, state: Any, rate: Any, steps: int, key: jax.Array) -> tuple[Any, jax.Array]:
    """The complex after so many steps in random directions, and its defect."""

    def step(carry: Any, key: jax.Array) -> Any:
        d, state = carry
        keys = jax.random.split(key, len(d))
        updates = tuple(rate * jax.random.normal(k, m.shape, m.dtype) for k, m in zip(keys, d, strict=True))
        updates, state = chain.update(updates, state, d)
        return (optax.apply_updates(d, updates), state), None

    (d, _), _ = jax.lax.scan(step, (d, state), jax.random.split(key, steps))
    return d, jnp.linalg.norm(homology.defect(d))


@pytest.mark.parametrize("sizes", [pytest.param((6, 9, 5), marks=pytest.mark.slow), (5, 8, 7, 4)])
def test_a_complex_is_left_by_the_first_power_of_the_step_or_by_the_second(
    double: None, standard_promotion: None, sizes: tuple[int, ...], key: jax.Array
) -> None:
    d = jax.jit(homology.nearest)(random(key, *sizes))[0]
    rates = jnp.geomspace(1e-5, 1e-3, 4)
    for chain, slope, near in ((optax.identity(), 1, 0.05), (homology.tangent(), 2, 0.1)):
        steps = partial(drift, chain, d, chain.init(d), steps=10, key=key)
        found = jax.jit(jax.vmap(lambda rate, steps=steps: steps(rate)[1]))(rates)
        assert abs(np.polyfit(np.log(rates), np.log(found), 1)[0] - slope) < near


@pytest.mark.slow
def test_factored_steps_stay_on_the_complexes(double: None, standard_promotion: None, key: jax.Array) -> None:
    d = jax.jit(homology.nearest)(random(key, 6, 9, 8, 5))[0]
    chain = homology.factored(1e-9)
    after, left = jax.jit(partial(drift, chain, steps=1000))(d, chain.init(d), 1e-3, key=key)
    assert left < 1e-12
    assert distance(d, after) > 0.1
    assert homology.betti(after, 1e-6)[0].tolist() == homology.betti(d, 1e-6)[0].tolist()


def test_factored_steps_go_down(double: None, standard_promotion: None, key: jax.Array) -> None:
    target = homology.nearest(random(jax.random.fold_in(key, 1), 6, 9, 5))[0]
    d = homology.nearest(random(key, 6, 9, 5))[0]
    optimizer = optax.chain(optax.sgd(0.02), homology.factored(1e-9))
    state, far = optimizer.init(d), distance(d, target)
    step = jax.jit(optimizer.update)
    for _ in range(20):
        updates, state = step(tuple(a - b for a, b in zip(d, target, strict=True)), state, d)
        d = optax.apply_updates(d, updates)
        assert distance(d, target) < far
        far = distance(d, target)


@pytest.mark.parametrize(("windows", "width", "stride"), [(5, 4, 2), (5, 4, 1), (6, 5, 2)])
def test_pairs_alone_have_spurious_classes(windows: int, width: int, stride: int) -> None:
    over = np.bincount((np.arange(windows)[:, None] * stride + np.arange(width)).ravel())
    s = jnp.zeros((1, windows, width, 2))
    pairs, triples = homology.gluing(s, stride), homology.gluing(s, stride, triples=True)
    assert pairs.h0 == triples.h0 == 2 * len(over)
    assert pairs.h1 == 2 * int(sum((over - 1) * (over - 2) // 2))
    assert triples.h1 == 0
    assert (pairs.h1 == 0) == (2 * stride >= width)


def test_windows_of_one_thing_glue_to_it(key: jax.Array) -> None:
    whole = jax.random.normal(key, (3, 10, 2))
    s = jnp.stack([whole[:, u * 2 : u * 2 + 4] for u in range(4)], 1)
    found = homology.gluing(s, 2)
    assert np.allclose(found.glued, whole) and np.allclose(found.loss, 0)
    apart = homology.gluing(s.at[0, 0, 3, 0].add(2.0), 2)  # two windows differ by 2: each is 1 from the mean
    assert np.allclose(apart.loss, [2 / 32, 0, 0])


@pytest.mark.slow
def test_a_run_is_settled_after_three_looks_without_change(key: jax.Array) -> None:
    d = random(key, 6, 9, 5)
    seen, observe = jax.jit(homology.watch)(d), jax.jit(partial(homology.observe, drift=1e-3))
    numbers = jax.jit(lambda d: homology.betti(homology.nearest(d)[0])[0])(d)
    assert seen.dims[1].sum(1).tolist() == numbers.tolist()
    history = []
    for scale in (1.0, 1.0, 0.5, 1.0, 1.0, 1.0):
        other = (d[0].at[0].mul(scale), d[1])
        seen = observe(seen, other)
        history.append((int(seen.still), bool(homology.settled(seen))))
    assert history == [(1, False), (2, False), (0, False), (0, False), (1, False), (2, False)]
    assert bool(homology.settled(homology.observe(seen, d)))


def test_everything_lowers_for_cuda() -> None:
    d = (jnp.zeros((2, 6, 4)), jnp.zeros((2, 5, 6)))
    level = [jnp.zeros(4, int), jnp.zeros(6, int), jnp.zeros(5, int)]

    def everything(d: Any) -> Any:
        chain = optax.chain(homology.tangent(), homology.factored())
        sub = [jnp.eye(n)[:, :2] for n in (4, 6, 5)]
        moved = chain.update(d, chain.init(d), d)[0]
        glued = homology.gluing(jnp.zeros((1, 3, 4, 2)), 2)
        found = (
            homology.pages(d, level, levels=2),
            homology.les(d, sub),
            homology.nearest((*d, d[0].T @ d[1].T)),
        )
        return found, homology.betti(d), homology.hodge(d, 1, jnp.ones(6)), homology.watch(d), moved, glued

    jax.export.export(jax.jit(jax.vmap(everything)), platforms=["cuda"])(d)


NAN = (TRIANGLE[0].at[0, 0].set(jnp.nan),)
CLOSE = (jnp.diag(jnp.asarray([1.0, 3e-5, 0.5e-5])),)
LEVELS = [jnp.zeros(3, int), jnp.asarray([0, 2, 0])]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (partial(homology.betti, NAN), "map 0 holds values that are not finite"),
        (partial(homology.betti, (*TRIANGLE, TRIANGLE[0][:, :2])), "maps 0 and 1 do not chain"),
        (partial(homology.betti, (*TRIANGLE, TRIANGLE[0])), "no complex: the relative defect 0."),
        (partial(homology.ranks, TRIANGLE, 0.0), "tolerance must be above 0 and below 1: 0.0"),
        (partial(homology.ranks, TRIANGLE, float("nan")), "tolerance"),
        (
            partial(homology.ranks, CLOSE),
            "the singular values 1, 3e-05, 5e-06, a gap of 6 where 10 decides",
        ),
        (partial(homology.pages, TRIANGLE, LEVELS), "map 0 raises the level from 0 to 2: entry (1, 1) is -1"),
        (partial(homology.pages, TRIANGLE, LEVELS[:1]), "levels have shapes [(3,), (3,)]"),
        (partial(homology.pages, TRIANGLE, [LEVELS[0] - 1, LEVELS[0]]), "whole numbers from 0"),
        (partial(homology.les, TRIANGLE, [jnp.ones((3, 2)), jnp.eye(3)]), "independent columns"),
        (
            partial(homology.les, TRIANGLE, [jnp.eye(3)[:, :1], jnp.eye(3)[:, :1]]),
            "leads out of the subspaces",
        ),
        (partial(homology.factored().init, random(jax.random.key(0), 3, 4, 3)), "no complex"),
        (partial(homology.gluing, jnp.zeros((1, 3, 2, 1)), 3), "1 <= stride <= width"),
        (partial(homology.gluing, jnp.zeros((3, 2, 1)), 1), "sections are"),
    ],
)
def test_wrong_input_is_said_in_one_line(wrong: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        wrong()
    assert said in str(error.value) and "\n" not in str(error.value)
