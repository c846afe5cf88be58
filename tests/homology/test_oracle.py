"""Betti numbers, pages and long exact sequences against arithmetic modulo 46337, and pages against GUDHI."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import homology
from tests.homology import planted

TOL = 1e-9


@pytest.fixture(autouse=True)
def _double() -> None:
    jax.config.update("jax_enable_x64", True)  # set back by conftest.py


def parts(d: list[np.ndarray], level: list[np.ndarray]) -> tuple[list[np.ndarray], ...]:
    """Of level 0: the maps inside, the maps between the others, and those from the others into it."""
    sides = list(zip(d, level, level[1:], strict=False))
    inner = [m[np.ix_(b == 0, a == 0)] for m, a, b in sides]
    return (
        inner,
        [m[np.ix_(b > 0, a > 0)] for m, a, b in sides],
        [m[np.ix_(b == 0, a > 0)] for m, a, b in sides],
    )


def compare(level: list[np.ndarray], complexes: list[tuple[list[np.ndarray], np.ndarray]]) -> None:
    """All three, of all complexes at once."""
    levels = max(one.max() for one in level) + 1
    # columns that are no unit vectors
    sub = [jnp.asarray(np.eye(len(one))[:, one == 0] * 2.0) for one in level]

    def everything(maps: Any) -> Any:
        pages = homology.pages(maps, [jnp.asarray(one) for one in level], TOL, levels)
        return homology.betti(maps, TOL), pages, homology.les(maps, sub, TOL), homology.ranks(maps, TOL)

    maps = tuple(jnp.asarray(np.stack(ms), float) for ms in zip(*(d for d, _ in complexes), strict=True))
    together = jax.device_get(jax.jit(jax.vmap(everything))(maps))
    for i, (d, pairs) in enumerate(complexes):
        (numbers, spectrum), pages, les, ranks = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert min(s.gap.min() for s in (spectrum, pages.spectrum, les.spectrum, ranks)) > 10
        assert ranks.rank.tolist() == [planted.rank(m) for m in d]
        assert numbers.tolist() == planted.betti(d) == pages.dims[-1].sum(1).tolist() == les.whole.tolist()
        expected = [
            [[planted.page(d, level, r, k, p) for p in range(levels)] for k in range(len(level))]
            for r in range(levels + 1)
        ]
        assert pages.dims.tolist() == expected
        assert pages.pairs.tolist() == pairs.tolist()
        assert int(pages.collapse) == expected.index(expected[-1])
        inner, outer, across = parts(d, level)
        assert (les.sub.tolist(), les.quotient.tolist()) == (planted.betti(inner), planted.betti(outer))
        for k, m in enumerate(across):
            images = planted.times(m, planted.kernel(outer[k]))
            assert les.rank[k] == planted.rank(np.hstack([images, inner[k]])) - planted.rank(inner[k])
        # exact at H(A), H(B), H(C)
        before, after = np.append(0, les.rank), np.append(les.rank, 0)
        found = before + les.into, les.into + les.onto, les.onto + after
        assert np.array_equal(found, (les.sub, les.whole, les.quotient))


@pytest.mark.parametrize(("shape", "number"), [(0, 20)])
def test_planted_complexes(shape: int, number: int) -> None:
    draw = np.random.default_rng(shape)
    level = planted.shape(draw)
    compare(level, [planted.planted(level, draw) for _ in range(number)])


@pytest.mark.slow
@pytest.mark.parametrize("shape", range(1, 21))
def test_a_thousand_planted_complexes(shape: int) -> None:
    test_planted_complexes(shape, 50)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 10))])
def test_pages_count_the_pairs_of_gudhi(seed: int) -> None:
    gudhi = pytest.importorskip("gudhi")
    draw, levels = np.random.default_rng(seed), 4
    tree = gudhi.SimplexTree()
    born: dict[tuple[int, ...], int] = {}
    for n in (1, 2, 3):
        for simplex in combinations(range(6), n):
            faces = [born.get(face) for face in combinations(simplex, n - 1)] if n > 1 else [0]
            if None not in faces and (n < 3 or draw.random() < 0.6):
                born[simplex] = (
                    max(*faces, int(draw.integers(0, levels))) if n > 1 else int(draw.integers(0, levels))
                )
                tree.insert(simplex, filtration=born[simplex])
    cells = [[s for s in born if len(s) == n] for n in (3, 2, 1)]  # maps lead to faces
    d = []
    for high, low in zip(cells, cells[1:], strict=False):
        m = np.zeros((len(low), len(high)))
        for j, s in enumerate(high):
            for i in range(len(s)):
                m[low.index(s[:i] + s[i + 1 :]), j] = (-1) ** i
        d.append(jnp.asarray(m))
    level = [jnp.asarray([born[s] for s in c]) for c in cells]
    found = jax.jit(lambda d: homology.pages(d, level, TOL, levels))(tuple(d))
    tree.compute_persistence(homology_coeff_field=planted.P, min_persistence=-1, persistence_dim_max=True)
    pairs, essential = np.zeros((2, levels, levels), int), np.zeros((3, levels), int)
    for birth, death in tree.persistence_pairs():
        if death:
            pairs[3 - len(death), int(tree.filtration(death)), int(tree.filtration(birth))] += 1
        else:
            essential[3 - len(birth), int(tree.filtration(birth))] += 1
    assert found.pairs.tolist() == pairs.tolist()
    assert found.dims[-1].tolist() == essential.tolist()
