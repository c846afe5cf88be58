"""The decoder: attention against NumPy, no later token matters, counts, masked and sparse training."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import circuits, protect, suites, transformer
from jaxnet.data import Sequences, Windows
from jaxnet.structure import count, entries, exists, weights
from jaxnet.transformer import Spec, TopK
from tests.networks import quick

SPEC = Spec(vocab=suites.VOCAB, length=24, width=8, heads=2, layers=1, windows=(5,))


def by_hand(query: np.ndarray, key: np.ndarray, value: np.ndarray, window: Any) -> np.ndarray:
    """Attention, token by token."""
    found = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        scores = key[b, : t + 1, h] @ query[b, t, h] / np.sqrt(query.shape[-1])
        seen = np.arange(t + 1)
        if isinstance(window, TopK):
            seen = np.argsort(-scores, kind="stable")[: window.k]  # of equal ones the first
        elif window is not None:
            seen = seen[-window:]
        weight = np.exp(scores[seen] - scores[seen].max())
        found[b, t, h] = weight @ value[b, seen, h] / weight.sum()
    return found


@pytest.mark.parametrize("window", [None, 1, 4, 5, TopK(1), TopK(3)], ids=str)
def test_attention_equals_numpy(window):
    draw = np.random.default_rng(0)
    # whole numbers: many scores are equal; 11 tokens: no number of blocks
    query, key, value = (draw.integers(-2, 3, (2, 11, 2, 4)).astype(np.float32) for _ in range(3))
    got = quick(transformer.attend, static_argnums=3)(query, key, value, window)
    np.testing.assert_allclose(got, by_hand(query, key, value, window), atol=1e-5)


def test_scores_depend_on_distances_alone():
    from jaxnet.transformer.attention import rotate

    unit = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 6)), (2, 1, 7, 1, 6))
    query, key = quick(jax.vmap(rotate))(unit)
    scores = np.asarray(jnp.einsum("bthf,bshf->ts", query, key))
    for distance in range(7):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    np.testing.assert_allclose(scores[0, 0], float(jnp.sum(unit[0, 0, 0] * unit[1, 0, 0])), rtol=1e-5)


@functools.cache
def mixed() -> Any:
    """Logits of a decoder with all kinds of attention, of tokens ``(2, 12)``, as one program."""
    spec = Spec(vocab=9, length=12, width=8, heads=2, layers=3, windows=(TopK(2), 3, None))
    model = transformer.model(spec)
    params, structure = quick(lambda key: transformer.init(spec, key_init=key))(jax.random.key(0))
    return quick(lambda tokens: model(params, structure, tokens, key_forward=None)[0])


@hypothesis.given(st.integers(0, 10), st.integers(0, 2**31 - 1))
def test_no_logit_depends_on_a_later_token(last, seed):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 9, (1, 12)).astype(np.int32)
    other = np.where(np.arange(12) > last, (tokens + draw.integers(1, 9, tokens.shape)) % 9, tokens)
    one, two = np.asarray(mixed()(np.concatenate([tokens, other]).astype(np.int32)))
    assert np.array_equal(one[: last + 1], two[: last + 1])  # to the bit
    assert not np.array_equal(one[last + 1 :], two[last + 1 :])


def test_parameters_are_counted_and_tokens_outside_the_vocabulary_show():
    # embedding and head 2 * 57 * 8; in the block 12 * 64 and two scales; the last scale
    assert transformer.num_params(SPEC) == 912 + 768 + 16 + 8
    shapes = jax.eval_shape(lambda key: transformer.init(SPEC, key_init=key), jax.random.key(0))[0]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == transformer.num_params(SPEC)
    logits = mixed()(jnp.asarray([[0] * 12, [0] * 5 + [9] + [-1] * 6], jnp.int32))
    assert jnp.isfinite(logits[0]).all() and jnp.isfinite(logits[1, :5]).all()
    assert jnp.isnan(logits[1, 5:]).all()


def drawn_from(key: jax.Array) -> Any:
    """``key_mask`` and ``key_init``."""
    return jaxnet.keys.network_keys(key)


def trained(stored: str, keys: Any, data: Sequences) -> tuple[Any, Any, Any]:
    """Nets before and after eight epochs with RigL, and how these went, of all keys in one program."""
    method = jaxnet.methods.make("rigl", every=2)
    epoch = jaxnet.make_epoch(jaxnet.Task(transformer.model(SPEC), batch_size=4), method)

    def run(key: Any) -> Any:
        how: Any = {"density": 0.3, "stored": stored, **drawn_from(key)}
        net = jaxnet.Net.of(*transformer.init(SPEC, **how), optax.adam(1e-2))
        state = jaxnet.init_state(net, method, key=key)
        state, info = jax.lax.scan(lambda s, n: epoch(s, data, key, n), state, jnp.arange(8))
        return net, state.net, info

    return quick(jax.vmap(run))(keys)


@pytest.mark.slow
def test_a_masked_decoder_is_rewired_for_two_seeds_at_once(key):
    data = suites.suite("copy", key, 12).data
    before, after, info = trained("mask", jax.random.split(key, 2), data)
    assert np.isfinite(info.loss).all() and (info.loss[:, -1] < info.loss[:, 0]).all()
    there: Any = weights(after.params, after.structure)
    started: Any = entries(before.structure)
    assert len(there) == 6 and all(path.startswith("['block_") for path in there)
    for path, (values, entry) in there.items():
        assert not np.any(np.where(entry.mask, 0, values)), path
        assert np.array_equal(entry.mask.sum((1, 2)), [int(0.3 * entry.mask[0].size)] * 2)
        assert not np.array_equal(entry.mask, started[path].mask)
    moments: Any = weights(after.opt_state[0].mu, after.structure)
    for values, entry in moments.values():
        assert not np.any(np.where(entry.mask, 0, values))
    assert not np.array_equal(*there["['block_0']['up']['kernel']"][1].mask)  # seeds of their own


def test_the_sparse_decoder_is_the_masked_one(key):
    """The same weights as vectors: equal logits and gradients, at all positions too."""
    drawn = suites.suite("tense", key, 3)
    model = transformer.model(SPEC)
    task = jaxnet.Task(model)

    @functools.partial(quick, static_argnums=1)
    def look(key: Any, stored: str) -> Any:
        how: Any = {"density": 0.4, "allocation": "erdos-renyi", "stored": stored}
        net = jaxnet.Net.of(*transformer.init(SPEC, **how, **drawn_from(key)), optax.identity())
        x, y = drawn.data.batch(jnp.arange(3))
        gradient = jaxnet.train.dense_gradient(task, net, x, y, jnp.ones(3))
        return net, model(net.params, net.structure, x, key_forward=None)[0], gradient

    (masked, *wanted), (sparse, *got) = look(key, "mask"), look(key, "topology")
    assert count(masked.params, masked.structure) == count(sparse.params, sparse.structure)
    np.testing.assert_allclose(got[0], wanted[0], atol=1e-5)
    for path, entry in entries(sparse.structure).items():
        assert np.asarray(exists(entry)).all(), path
    for name in ("query", "up"):
        one, other = (gradient["block_0"][name]["kernel"] for gradient in (got[1], wanted[1]))
        np.testing.assert_allclose(one, other.T, atol=1e-5)


def test_signals_circuits_and_protection_take_it(key):
    drawn = suites.suite("agreement", key, 6)
    model = transformer.model(SPEC)
    task = jaxnet.Task(model)
    suite = circuits.of_tasks([(drawn.x, drawn.data.labels)], (drawn.control.x, drawn.control.labels))

    @quick
    def look(key: Any) -> Any:
        params, structure = transformer.init(SPEC, density=0.5, **drawn_from(key))
        keep = jnp.stack([circuits.existing(params, structure), jnp.zeros(768, bool)])
        stats = jaxnet.collect_stats(task, params, structure, drawn.data)
        whole = jaxnet.evaluate(task, params, structure, drawn.data)
        margin = circuits.losses(task, params, structure, suite, "margin")
        scores = circuits.attribute(task, params, structure, suite, nodes=0)[0]
        return whole, circuits.ablate(task, params, structure, suite, keep), margin, scores, stats, params

    whole, ablated, margin, scores, stats, params = look(key)
    np.testing.assert_allclose(ablated[0], whole.loss, rtol=1e-5)
    assert abs(float(ablated[1, 0] - whole.loss)) > 1e-3
    assert np.isfinite(margin).all() and scores.shape == (1, 768)
    assert [s.mean.shape for s in stats] == [(32,)] and float(stats[0].count) == 6 * drawn.x.shape[1]
    found = jax.eval_shape(
        lambda p: {k: v[0] for k, v in protect.layer_inputs(model.module, p, drawn.x).items()}, params
    )
    assert found["['block_0']['down']['kernel']"].shape == (drawn.x.size, 32)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"heads": 3}, "heads must divide the width: 3 heads, width 8"),
        ({"heads": 8}, "even number"),
        ({"width": 0}, "width must be at least 1: 0"),
        ({"layers": 1.5}, "layers must be a whole number"),
        ({"windows": (2,)}, "as many as layers"),
        ({"windows": (2, 0)}, "window of layer 1 must be at least 1: 0"),
        ({"windows": (19, None)}, "window of layer 0 must be at most the length 18: 19"),
        ({"windows": (None, TopK(20))}, "window of layer 1 must be at most the length 18: 20"),
    ],
)
def test_a_wrong_specification_is_one_line(change, what):
    given = {"vocab": 57, "length": 18, "width": 8, "heads": 2, "layers": 2, **change}
    with pytest.raises(ValueError, match=what) as error:
        Spec(**given)
    assert "\n" not in str(error.value)


def test_other_wrong_input_is_one_line(key):
    with pytest.raises(ValueError, match="k of top-k attention must be at least 1: 0"):
        TopK(0)
    with pytest.raises(ValueError, match="at most 24 tokens: 25"):
        jax.eval_shape(transformer.Decoder(SPEC).init, key, jnp.zeros((1, 25), jnp.int32))
    with pytest.raises(ValueError, match="must be integers"):
        jax.eval_shape(transformer.Decoder(SPEC).init, key, jnp.zeros((1, 8)))
    with pytest.raises(ValueError, match="give key_mask"):
        jax.eval_shape(lambda k: transformer.init(SPEC, density=0.5, key_init=k), key)
    with pytest.raises(ValueError, match=r"shorter than one batch: 16 tokens, and 2 x 8 need 17"):
        Windows.of(np.zeros(16, np.uint8), 8, batch_size=2)
    with pytest.raises(ValueError, match="tokens must be 0 to 56: they are 0 to 57"):
        jaxnet.data.check_tokens(np.asarray([0, 57]), SPEC.vocab)
