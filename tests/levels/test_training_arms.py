"""Arms that change the training: their losses by hand, rates, phases; several in one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import flax.linen
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.levels import ARMS, Arm, curriculum, defect, gluing, ramp, rates, stability, together
from jaxnet.transformer import Decoder, Spec

SPEC = Spec(vocab=7, length=16, width=8, heads=2, layers=3)


class Bigram(flax.linen.Module):
    """Says of the next token what the last one tells it."""

    spec: Spec

    @flax.linen.compact
    def __call__(self, tokens):
        return flax.linen.Embed(self.spec.vocab, self.spec.vocab)(tokens)


def drawn(module, seed=0):
    tokens = jax.random.randint(jax.random.key(seed), (6, SPEC.length), 0, SPEC.vocab)
    return module.init(jax.random.key(seed + 1), tokens)["params"], tokens


def carried(strength=1.0, progress=1.0, **more):
    return {"strength": jnp.asarray(strength), "progress": jnp.asarray(progress), **more}


def test_losses_grow_over_the_first_half():
    found = [float(ramp(carried(2.0, p))) for p in (0, 0.25, 0.5, 1)]
    assert found == [0, 1, 2, 2]


def test_windows_that_know_only_the_last_token_agree():
    module = Bigram(SPEC)
    params, tokens = drawn(module)
    loss = gluing.activity_of(Bigram)(SPEC)(None, params, tokens, jnp.ones(6), carried())
    assert float(loss) < 1e-10 and float(jnp.max(gluing.disagreement(module, params, tokens))) < 1e-6


@pytest.mark.slow
def test_disagreement_is_the_total_variation_between_two_windows():
    module = Decoder(SPEC)
    params, tokens = drawn(module)
    number, width, stride = gluing.cover(SPEC.length)
    assert (number, width, stride) == (7, 4, 2)
    apart, apply = [], jax.jit(module.apply)
    for u in range(number - 1):
        first, second = (
            jax.nn.softmax(apply({"params": params}, tokens[:, v * stride : v * stride + width]))
            for v in (u, u + 1)
        )
        apart.append(np.abs(np.asarray(first[:, stride:] - second[:, : width - stride])).sum(-1) / 2)
    found = jax.jit(gluing.disagreement, static_argnums=0)(module, params, tokens)
    np.testing.assert_allclose(found, np.mean(apart, axis=(0, 2)), rtol=1e-4)
    activity = jax.jit(gluing.activity_of()(SPEC))
    whole, some = (activity(None, params, tokens[:n], jnp.ones(n), carried()) for n in (6, 4))
    assert float(whole) == float(some) > 0
    assert float(activity(None, params, tokens, jnp.ones(6), carried(progress=0.0))) == 0


def test_defect_is_the_relative_one_of_neighbouring_blocks():
    params, _ = drawn(Decoder(SPEC))
    d = [
        np.asarray(params[f"block_{k}"]["value"]["kernel"] @ params[f"block_{k}"]["out"]["kernel"]).T
        for k in range(3)
    ]
    norms = [np.linalg.norm(m) for m in d]
    wanted = sum(
        np.sum((b @ a) ** 2) / (m * n) ** 2
        for (a, b), (m, n) in zip(pairwise(d), pairwise(norms), strict=True)
    )
    found = defect.penalty(SPEC)(params, carried(3.0))
    np.testing.assert_allclose(found, 3 * wanted, rtol=1e-4)
    shrunk = jax.tree.map(lambda leaf: leaf / 10, params)
    np.testing.assert_allclose(defect.penalty(SPEC)(shrunk, carried(3.0)), 3 * wanted, rtol=1e-3)


def test_pages_are_soft_counts_whose_slope_is_right():
    d = tuple(jax.random.normal(key, (5, 5)) for key in jax.random.split(jax.random.key(3), 2))
    a, b = (np.asarray(m, float) for m in d)
    for laplacian, found in zip((a.T @ a, a @ a.T + b.T @ b, b @ b.T), stability.soft_betti(d), strict=True):
        values = np.linalg.eigvalsh(laplacian)
        cut = stability.CUT * values.mean()
        np.testing.assert_allclose(found, np.mean(cut / (values + cut)), rtol=1e-4)

    def first(a):
        return stability.soft_betti((a, d[1]))[0]

    # the cut counts as given: along a change that keeps the trace the slope is that of the value
    turn = jnp.asarray(np.linalg.svd(a)[0] @ np.diag([1.0, -1, 0.5, 0, 0]) @ np.linalg.svd(a)[2], jnp.float32)
    turn = turn - d[0] * jnp.sum(turn * d[0]) / jnp.sum(d[0] ** 2)
    step = 1e-2
    slope = (first(d[0] + step * turn) - first(d[0] - step * turn)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(jax.grad(first)(d[0]) * turn), slope, rtol=0.02)


def test_pages_that_stay_cost_nothing():
    params, _ = drawn(Decoder(SPEC))
    arm = ARMS["pages"]
    now = arm.carried(SPEC, params, 1.0, 1.0)
    other = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(9), leaf.shape), params)
    assert float(stability.penalty(SPEC)(params, now)) == 0 < float(stability.penalty(SPEC)(other, now))


def test_levels_whose_gradients_agree_move_more():
    params = {
        "embed": jnp.zeros(40),
        "block_0": {"kernel": jnp.zeros(40)},
        "block_1": {"kernel": jnp.zeros(40)},
    }
    optimizer = rates.with_level_rates(optax.sgd(1.0), 2)
    state, noise = optimizer.init(params), jax.random.normal(jax.random.key(0), (60, 40))
    for k in range(60):
        gradient = {
            "embed": jnp.ones(40),
            "block_0": {"kernel": jnp.ones(40)},
            "block_1": {"kernel": noise[k]},
        }
        updates, state = optimizer.update(gradient, state)
    steady, shaken = -updates["block_0"]["kernel"][0], (-updates["block_1"]["kernel"] / noise[-1])[0]
    assert 1 < steady < 2 and 0 < shaken < 0.5 and float(steady + shaken) == pytest.approx(2, rel=1e-4)
    assert float(updates["embed"][0]) == pytest.approx(-float(steady))
    assert float(jnp.mean(rates.factors(jnp.array([1e-9, 1e-3, 1.0])))) == pytest.approx(1)


def test_one_level_is_the_plain_optimizer():
    params, gradient = {"block_0": jnp.arange(3.0)}, {"block_0": jnp.array([1.0, -2, 0])}

    def made(optimizer):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes int and float
            return optimizer.update(gradient, optimizer.init(params), params)[0]["block_0"]

    plain, level = optax.adam(0.1), rates.with_level_rates(optax.adam(0.1), 1)
    np.testing.assert_array_equal(made(plain), made(level))


def test_curriculum_is_local_first_and_has_equal_parameters():
    (local, first), (whole, rest) = curriculum.phases(SPEC, 50)
    assert (first, rest) == (20, 30) and whole == SPEC and local.windows == (2, 2, 2)
    trees: list[Any] = [
        jax.eval_shape(Decoder(s).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
        for s in (local, whole)
    ]
    assert jax.tree.map(jnp.shape, trees[0]) == jax.tree.map(jnp.shape, trees[1])
    assert curriculum.phases(SPEC, 1) == ((SPEC, 1),)


def test_several_arms_do_what_each_does():
    both = together("both", ARMS["defect"], ARMS["level rates"], glued=False)
    params, _ = drawn(Decoder(SPEC))
    assert both.penalty and both.optimizer
    assert float(both.penalty(SPEC)(params, carried())) == float(defect.penalty(SPEC)(params, carried()))
    assert both.optimizer(SPEC, optax.sgd(1.0), 5).init(params)[0].keys() == params.keys()
    with pytest.raises(ValueError, match="two arms have module"):
        together("two", Arm("a", Bigram), Arm("b", lambda spec: Bigram(spec)))
    with pytest.raises(ValueError, match="activity of its own"):
        together("two", ARMS["gluing"])


def test_losses_lower_for_cuda():
    params, tokens = drawn(Decoder(SPEC))

    def loss(params, tokens):
        seen = ARMS["pages"].carried(SPEC, jax.tree.map(lambda p: p + 0.1, params), 1.0, 1.0)
        glued = gluing.activity_of()(SPEC)(None, params, tokens, jnp.ones(6), seen)
        return glued + stability.penalty(SPEC)(params, seen) + defect.penalty(SPEC)(params, seen)

    batched = jax.vmap(jax.grad(loss), (0, None))
    two = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    assert "stablehlo" in jax.export.export(jax.jit(batched), platforms=["cuda"])(two, tokens).mlir_module()
