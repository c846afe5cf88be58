"""Searches by hand; masks, refit and bottlenecks against NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import transformer
from jaxnet.levels import NEAR, compression, search
from jaxnet.transformer import Decoder, Spec

SPEC = Spec(vocab=7, length=16, width=8, heads=2, layers=2, hidden=12)
MODULE = Decoder(SPEC)
TOKENS = jax.random.randint(jax.random.key(0), (24, 16), 0, 7)
PARAMS = MODULE.init(jax.random.key(1), TOKENS)["params"]
SEEN = compression.grams(MODULE, PARAMS, TOKENS)


def test_halving_follows_the_curves_and_counts_what_it_trains():
    curves = np.array([[4.0, 1, 1, 1], [3, 3, 3, 0], [2, 2, 2, 2], [1, 1.5, 2.5, 2.5]])
    # after 1 look 2 and 3 are left, after 2 only 3, which is taken though 1 would be best
    assert search.halving(curves) == (3, 4 + 2)
    assert search.halving(np.where(curves == 1, np.inf, curves)).chosen == 2
    assert search.halving(curves[:1]) == (0, 0)


def test_the_expected_best_is_the_mean_over_all_draws():
    losses = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    for k in range(1, 6):
        every = [min(losses[list(some)]) for some in itertools.combinations(range(5), k)]
        assert search.expected_best(losses, k) == pytest.approx(np.mean(every))
    assert search.expected_best(losses, 99) == 1.0


def test_kendall_ranks_and_says_how_surely():
    losses = np.arange(10.0)
    found = search.kendall(-losses, losses)
    assert found["tau"] == pytest.approx(1) and found["ci95"] == pytest.approx([1, 1])
    low, high = search.kendall(np.random.default_rng(0).normal(size=10), losses)["ci95"]
    assert low < 0 < high
    assert search.kendall(np.ones(10), losses)["tau"] is None


def test_candidates_have_equal_parameters_and_a_score():
    spec = Spec(vocab=308, length=32, width=16, heads=4, layers=2)
    target = transformer.num_params(spec)
    found = search.candidates(spec, target)
    assert len(found) == 12 and {one.layers for one in found.values()} == {1, 2, 3}
    assert all(abs(transformer.num_params(one) / target - 1) <= NEAR for one in found.values())
    score = jax.jit(search.structure_score)(PARAMS)
    assert -1 < float(score) < 1


def test_moments_are_those_of_the_inputs():
    assert len(SEEN) == 12 and all(path[-1] == "kernel" for path in SEEN)
    hidden = compression.replaced(PARAMS, {})["block_0"]
    scale = hidden["norm_attention"]["scale"]
    x = np.asarray(PARAMS["embed"]["embedding"])[np.asarray(TOKENS)].reshape(-1, 8)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)
    np.testing.assert_allclose(SEEN["block_0", "query", "kernel"], x.T @ x / len(x), rtol=1e-4, atol=1e-5)


def test_refit_is_least_squares_on_what_stays():
    path = ("block_1", "up", "kernel")
    masks = compression.by_magnitude(PARAMS, SEEN, 0.5)
    assert int(masks[path].sum()) == 48
    new = np.asarray(compression.refitted(PARAMS, masks, SEEN, ridge=1e-7)["block_1"]["up"]["kernel"])
    w, gram, keep = (
        np.asarray(v, float) for v in (PARAMS["block_1"]["up"]["kernel"], SEEN[path], masks[path])
    )
    root = np.linalg.cholesky(gram + 1e-7 * np.trace(gram) / 8 * np.eye(8)).T
    for out in range(12):
        there = keep[:, out] > 0
        wanted = np.linalg.lstsq(root[:, there], root @ w[:, out], rcond=None)[0]
        np.testing.assert_allclose(new[there, out], wanted, rtol=2e-2, atol=2e-3)
    assert not new[keep == 0].any()


def test_bottleneck_is_the_nearest_map_of_its_rank():
    path = ("block_0", "down", "kernel")
    made = np.asarray(compression.bottleneck(PARAMS, SEEN, 0.5)["block_0"]["down"]["kernel"], float)
    w, gram = np.asarray(PARAMS["block_0"]["down"]["kernel"], float), np.asarray(SEEN[path], float)
    rank = 48 // 20
    assert np.linalg.matrix_rank(made, tol=1e-4) == rank
    values = np.linalg.eigvalsh(w.T @ gram @ w)
    error = np.trace((made - w).T @ gram @ (made - w))
    np.testing.assert_allclose(error, values[:-rank].sum(), rtol=1e-2)


def loss(params, batch):
    logits: Any = MODULE.apply({"params": params}, batch)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), batch[:, 1:, None], -1))


def test_learned_masks_begin_as_the_product_of_weight_and_input():
    batches = TOKENS.reshape(2, 12, 16)
    learn = jax.jit(
        lambda: compression.learned_masks(loss, PARAMS, SEEN, 0.5, batches, jax.random.key(2), 0.0)
    )
    same = learn()
    for path, w in compression.kernels(PARAMS, SEEN).items():
        wanda = jnp.abs(w) * jnp.sqrt(jnp.diag(SEEN[path]))[:, None]
        np.testing.assert_array_equal(same[path], compression.largest(wanda, 0.5))


@pytest.mark.slow
def test_masks_learn_to_leave_out_what_harms():
    # the largest weights of one layer are noise: by size they stay, by what they do to the loss they go
    batch = jnp.tile(jnp.arange(7, dtype=jnp.int32), 3)[None, :16].repeat(8, 0)
    noisy = jax.tree.map(lambda leaf: leaf, PARAMS)
    kernel = noisy["block_1"]["down"]["kernel"]
    noisy["block_1"]["down"]["kernel"] = kernel.at[::2].multiply(6.0)
    seen = compression.grams(MODULE, noisy, batch)
    batches = jnp.stack([batch] * 60)
    learned = jax.jit(
        lambda: compression.learned_masks(loss, noisy, seen, 0.5, batches, jax.random.key(2), 0.05)
    )()
    assert all(int(m.sum()) == m.size // 2 for m in learned.values())
    by_size = compression.masked(noisy, compression.by_magnitude(noisy, seen, 0.5))
    assert float(loss(compression.masked(noisy, learned), batch)) < float(loss(by_size, batch))
