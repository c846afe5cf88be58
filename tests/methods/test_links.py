"""Link scores and soft draws: by hand, and against loops over paths in plain Python."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnet import methods, trees
from jaxnet.kernels import csr_library
from jaxnet.methods import links
from jaxnet.methods.links import link_scores
from jaxnet.methods.scopes import importance
from jaxnet.methods.soft import softly, softly_largest
from jaxnet.topology import Mask, topology_from_mask
from tests import networks
from tests.changes.nets import host_topology

SHAPE = (6, 5)


def scores_by_paths(there: np.ndarray, rule: str) -> np.ndarray:
    """Every path of three steps around every missing connection, walked one by one; NaN where one exists."""
    outputs, inputs = there.shape
    nodes = [("out", u) for u in range(outputs)] + [("in", v) for v in range(inputs)]
    near = {node: set[tuple[str, int]]() for node in nodes}
    for u, v in zip(*np.nonzero(there), strict=True):
        near["out", int(u)].add(("in", int(v)))
        near["in", int(v)].add(("out", int(u)))
    scores = np.full(there.shape, np.nan)
    for u, v in itertools.product(range(outputs), range(inputs)):
        start, goal = ("out", u), ("in", v)
        if goal in near[start]:
            continue
        community = set[tuple[str, int]]()
        for first in near[start]:
            for second in near[first] - {start}:
                if goal in near[second]:
                    community |= {first, second}
        total = 0.0
        for node in community:
            inside = len(near[node] & community)
            outside = len(near[node] - community - {start, goal})
            total += (1 + inside if rule == "ch2" else 1) / (1 + outside)
        scores[u, v] = total
    return scores


def test_link_scores_by_hand():
    """Two full squares, of inputs 0, 1 and outputs 0, 1, and a bridge: the corner that is missing."""
    there = np.array([[1, 1, 0], [1, 0, 1]], bool)
    got = np.asarray(link_scores(jnp.asarray(there)))
    # (1, 1): 1 - 0 - 0 - 1, the community is input 0 (one link inside, to output 0, none outside)
    # and output 0 (one inside, to input 0, none outside): 2 / 1 + 2 / 1
    assert got[1, 1] == 4
    # (0, 2): 0 - 0 - 1 - 2: input 0 has one inside; output 1 has one inside and none outside
    assert got[0, 2] == 4
    assert np.asarray(link_scores(jnp.asarray(there), "ch3"))[1, 1] == 2
    # a third output on input 0 only is a link outside for the community of (1, 1)
    more = np.concatenate([there, [[1, 0, 0]]]).astype(bool)
    assert np.asarray(link_scores(jnp.asarray(more)))[1, 1] == 2 / 2 + 2 / 1


@pytest.mark.parametrize("rule", ["ch2", "ch3"])
def test_link_scores_equal_loops_over_paths(rule):
    score = networks.quick(link_scores, static_argnums=1)

    @given(st.lists(st.booleans(), min_size=30, max_size=30))
    def check(bits):
        there = np.array(bits).reshape(SHAPE)
        want = scores_by_paths(there, rule)
        got = np.where(there, np.nan, np.asarray(score(jnp.asarray(there), rule)))
        np.testing.assert_allclose(got, want, rtol=1e-5)
        # a layer is the same graph read from the other side
        np.testing.assert_allclose(
            np.asarray(score(jnp.asarray(there.T), rule)).T[~there], want[~there], 1e-5
        )

    check()


@pytest.mark.skipif(not csr_library.available(), reason="needs the compiled kernel")
@pytest.mark.cpu
def test_sparse_products_give_the_same_scores(monkeypatch):
    """Free slots included; several networks at once."""
    rng = np.random.default_rng(1)
    masks = rng.random((3, 40, 30)) < 0.04
    flat = [np.flatnonzero(m) for m in masks]
    slots = max(f.size for f in flat) + 2
    many = trees.stack([host_topology(f, (40, 30), slots) for f in flat])
    monkeypatch.setattr(links, "_SPARSE", 1.0)
    got = networks.quick(jax.vmap(links.link_scores_of))(many)
    for mask, scores in zip(masks, got, strict=True):
        np.testing.assert_allclose(scores[~mask], scores_by_paths(mask, "ch2")[~mask], rtol=1e-5)


@pytest.mark.parametrize("delta", [0.0, 0.5, 0.75])
def test_soft_draws_follow_the_power_of_the_score(delta):
    """The first of the drawn; and only what has a score, as long as there is some."""
    score = jnp.asarray([1.0, 2.0, 3.0, 0.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    ranked = jax.vmap(lambda key: softly_largest(score, delta, key=key))(keys)
    assert (np.asarray(ranked) >= 0).all()
    first = np.bincount(np.argmax(np.asarray(ranked), 1), minlength=4) / 4000
    want = np.array([1.0, 2.0, 3.0, 0.0]) ** (delta / (1 - delta))  # 0 ** 0 is 1: uniform
    np.testing.assert_allclose(first, want / want.sum(), atol=0.04)
    if delta:
        assert (np.argmin(np.asarray(ranked), 1) == 3).all()


def test_the_ends_of_softness():
    score = jnp.asarray([3.0, 1.0, 2.0])
    assert np.argsort(np.asarray(softly(score, 1.0, key=jax.random.key(0)))).tolist() == [1, 2, 0]
    assert np.array_equal(softly_largest(score, 1.0, key=jax.random.key(0)), score)


@pytest.mark.parametrize("relative", [0.0, 0.5, 1.0])
def test_importance_equals_numpy_in_both_representations(relative):
    rng = np.random.default_rng(3)
    there = rng.random((4, 6)) < 0.5
    there[2] = False
    dense = np.where(there, rng.normal(size=there.shape), 0).astype(np.float32)
    want = np.zeros(there.shape)
    for u, v in zip(*np.nonzero(there), strict=True):
        row, column = np.abs(dense[u]).sum(), np.abs(dense[:, v]).sum()
        shares = [abs(dense[u, v]) / (1 - relative + relative * total) for total in (row, column)]
        want[u, v] = sum(shares) if relative else shares[0]
    masked = importance(jnp.asarray(dense), Mask(jnp.asarray(there)), relative)
    np.testing.assert_allclose(masked, want, rtol=1e-5)
    topology = topology_from_mask(there)
    sparse = importance(jnp.asarray(dense[there]), topology, relative)
    np.testing.assert_allclose(sparse, want[there], rtol=1e-5)


def test_without_softness_a_layer_grows_the_best_links_of_what_is_left():
    """Deterministic CHTs on a masked matrix: drop and growth against NumPy."""
    rng = np.random.default_rng(5)
    there = rng.random(SHAPE) < 0.5
    values = np.where(there, rng.permutation(30).reshape(SHAPE) + 1.0, 0).astype(np.float32)
    rules: Any = methods.make("chts", delta=1.0, delta_grow=1.0, fraction=0.4)
    number = int(0.4 * there.sum())
    keep = there & ~np.isin(values, np.sort(values[there])[:number])
    score = scores_by_paths(keep, "ch2")
    order = sorted(np.flatnonzero(~keep), key=lambda p: (-np.float32(score.flat[p]), p))
    want = keep.copy()
    want.flat[order[:number]] = True
    got = rules.rewired(
        jnp.asarray(values),
        Mask(jnp.asarray(there)),
        jnp.asarray(1.0),
        jnp.int32(number),
        number,
        None,
        key=jax.random.key(0),
    )
    assert np.array_equal(got.mask, want)


def test_the_sigmoid_meets_both_ends_and_is_even():
    rules: Any = methods.make("chtss", density=0.1, begin=10, end=110, every=10)
    densities = rules._densities()
    assert densities[0] == 0.5 and densities[-1] == pytest.approx(0.1) and len(densities) == 11
    assert densities[5] == pytest.approx(0.3) and all(np.diff(densities) < 0)
    assert densities[1] + densities[9] == pytest.approx(0.6)
    assert rules.budget(9, [(60, 100)]) == 60 and rules.budget(10, [(60, 100)]) == 50
    assert rules.budget(60, [(60, 100)]) == 30 and rules.budget(999, [(60, 100)]) == 10
