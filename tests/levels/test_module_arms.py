"""Arms that change the module: no later token matters, and each keeps what it says it keeps."""

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
from jax import export

import jaxnet
from jaxnet import levels
from jaxnet.levels import ARMS, cell, coupling, invariant, memory, router, windows
from jaxnet.levels.room import hidden_units
from jaxnet.transformer import Decoder, Spec, TopK, num_params
from tests.networks import quick

SPEC = Spec(vocab=9, length=12, width=8, heads=2, layers=3)
FULL = Spec(vocab=256, length=64, width=64, heads=4, layers=4)


def drawn(module: Any, seed: int = 0, tokens: int = 12) -> Any:
    """Variables of a module of tokens, drawn without compiling anything; kernels by their fan-in."""
    draw = np.random.default_rng(seed)

    def of(path: Any, leaf: Any) -> Any:
        values = draw.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values /= np.sqrt(leaf.shape[-2])
        return jnp.asarray(1 + 0.1 * values if path[-1].key == "scale" else values, jnp.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, tokens), jnp.int32))
    return jax.tree_util.tree_map_with_path(of, shapes)


@functools.cache
def logits(name: str) -> Any:
    """Logits of an arm, of tokens ``(2, 12)``, as one program."""
    model = ARMS[name].model(SPEC)
    params = drawn(model.module)["params"]
    return quick(lambda tokens: model(params, {}, tokens, key_forward=None)[0])


@pytest.mark.parametrize("name", ARMS)
@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(0, 10), st.integers(0, 2**31 - 1))
def test_no_logit_depends_on_a_later_token(name, last, seed):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 9, (1, 12)).astype(np.int32)
    other = np.where(np.arange(12) > last, (tokens + draw.integers(1, 9, tokens.shape)) % 9, tokens)
    one, two = np.asarray(logits(name)(np.concatenate([tokens, other]).astype(np.int32)))
    assert np.array_equal(one[: last + 1], two[: last + 1])  # to the bit
    assert not np.array_equal(one[last + 1 :], two[last + 1 :])


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_has_the_parameters_of_the_plain_decoder_and_lowers_for_cuda(name):
    model = ARMS[name].model(FULL)
    tokens = jnp.zeros((2, 64), jnp.int32)
    params, structure = jax.eval_shape(lambda key: model.init(tokens, key=key), jax.random.key(0))
    assert structure == {}
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert abs(number / num_params(FULL) - 1) < 0.01

    def loss(params: Any, tokens: Any) -> Any:
        return jnp.mean(model(params, {}, tokens, key_forward=None)[0] ** 2)

    made = export.export(jax.jit(jax.grad(loss)), platforms=["cuda"])(params, tokens)
    assert made.platforms == ("cuda",)


# windows


def test_levels_are_local_then_top_k_then_global():
    assert windows.level_windows(FULL) == (8, 8, TopK(8), None)
    assert windows.level_blocks(FULL) == [[0, 1], [2], [3]]
    assert windows.kept_units(FULL) == 16  # 64, 48, 32 units
    two, one = (Spec(9, 12, 8, 2, number) for number in (2, 1))
    assert windows.level_windows(two) == (1, None) and windows.level_blocks(one) == [[0]]
    given_ = Spec(9, 12, 8, 2, 3, windows=(3, 3, None))
    assert windows.level_windows(given_) == (3, 3, None) and windows.kept_units(given_) == 4


def test_splits_lose_nothing_and_what_is_kept_stays():
    """Blocks that add nothing leave the plain decoder's; what is kept has no part of the level behind it."""
    spec = Spec(vocab=8, length=12, width=8, heads=2, layers=2, windows=(3, None))
    module, plain = windows.LevelDecoder(spec), Decoder(spec)
    variables = drawn(module)
    turn = np.asarray(windows.orthonormal(variables["params"]["split_1"]["vectors"]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(8), atol=1e-5)
    vector = jax.random.normal(jax.random.key(1), (1, 8))
    hand = np.eye(8) - 2 * np.outer(vector, vector) / np.sum(vector**2)
    np.testing.assert_allclose(windows.orthonormal(vector), hand, atol=1e-5)

    tokens = jax.random.randint(jax.random.key(2), (2, 12), 0, 8)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if {"out", "down"} & {k.key for k in path} else leaf, variables
    )
    same = {name: silent["params"][name] for name in ("embed", "norm", "head")}
    blocks = jax.tree.map(jnp.zeros_like, drawn(plain)["params"])
    of_plain = quick(plain.apply)({"params": {**blocks, **same}}, tokens)
    of_levels = quick(module.apply)
    np.testing.assert_allclose(of_levels(silent, tokens), of_plain, atol=1e-5)

    # the head shows Q2' x, but for the norm's factor per token
    head = {"head": {"kernel": jnp.asarray(turn)}, "norm": {"scale": jnp.ones(8)}}
    params = {**variables["params"], **head}
    loud = {**params, "block_1": jax.tree.map(lambda leaf: 3 * leaf, params["block_1"])}
    one, two = (np.asarray(of_levels({"params": p}, tokens)) for p in (params, loud))
    kept = [shown[..., :4] / np.linalg.norm(shown[..., :4], axis=-1, keepdims=True) for shown in (one, two)]
    passed = [shown[..., 4:] / np.linalg.norm(shown[..., :4], axis=-1, keepdims=True) for shown in (one, two)]
    np.testing.assert_allclose(kept[0], kept[1], atol=1e-5)
    assert np.abs(passed[0] - passed[1]).max() > 0.1


# coupling


def test_coupling_is_inverted_and_its_gradient_needs_no_stored_activations():
    spec = Spec(vocab=9, length=12, width=8, heads=2, layers=3)
    short, stored = coupling.CoupledDecoder(spec), coupling.CoupledDecoder(spec, stored=True)
    variables = drawn(short)  # larger than at first: what a block adds is as large as the stream
    tokens = jax.random.randint(jax.random.key(1), (4, 12), 0, 9)

    def loss(module: Any, variables: Any) -> Any:
        made = module.apply(variables, tokens)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(made[:, :-1], tokens[:, 1:]))

    @quick
    def look(variables: Any, x: Any) -> Any:
        behind = [x]
        for number in range(3):
            own = {"params": variables["params"][f"block_{number}"]}
            behind.append(short.block(number).apply(own, behind[-1]))
        back = [behind[-1]]
        for number in (2, 1, 0):
            own = {"params": variables["params"][f"block_{number}"]}
            back.append(coupling.inverted(short.block(number), own, back[-1]))
        gradients = [jax.value_and_grad(functools.partial(loss, m))(variables) for m in (short, stored)]
        return behind[::-1], back, gradients

    behind, back, ((loss_short, of_short), (loss_stored, of_stored)) = look(
        variables, jax.random.normal(jax.random.key(2), (4, 12, 8))
    )
    assert np.abs(behind[0] - behind[-1]).max() > 0.5
    for wanted, got in zip(behind, back, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(loss_short, loss_stored, rtol=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_stored))
    for got, wanted in zip(jax.tree.leaves(of_short), jax.tree.leaves(of_stored), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * scale)


def test_memory_for_the_gradient_does_not_grow_with_coupled_blocks():
    tokens = jnp.zeros((16, 12), jnp.int32)

    def held(layers: int, stored: bool) -> int:
        """Numbers that a gradient keeps of the forward pass, but for parameters."""
        module = coupling.CoupledDecoder(Spec(9, 12, 8, 2, layers), stored=stored)
        params = jax.eval_shape(lambda key: module.init(key, tokens), jax.random.key(0))

        def total(params: Any) -> Any:
            made: Any = module.apply(params, tokens)
            return jnp.sum(made)

        kept = jax.eval_shape(lambda p: jax.vjp(total, p)[1], params)
        sizes = [leaf.size for leaf in jax.tree.leaves(kept) if jnp.ndim(leaf) > 2]
        return sum(sizes)

    assert held(4, stored=False) == held(2, stored=False)
    assert held(4, stored=True) > held(2, stored=True) + 16 * 12 * 8 * 10


# invariant attention


def leak(block: Any, variables: Any, inside: Any, basis: Any) -> float:
    """Largest part outside of the subspace of what attention makes of a stream within it, relative."""
    params = {**variables["params"], "down": jax.tree.map(jnp.zeros_like, variables["params"]["down"])}
    made = np.asarray(quick(block.apply)({"params": params}, inside), np.float64)
    frame = np.linalg.qr(np.asarray(basis).T)[0]
    outside = made - made @ frame @ frame.T
    return float(np.max(np.linalg.norm(outside, axis=-1) / np.linalg.norm(made, axis=-1)))


def test_attention_keeps_the_chosen_subspace_whatever_its_weights():
    spec = Spec(9, 12, 16, 2, 1)
    basis = tuple(map(tuple, np.random.default_rng(1).normal(size=(5, 16)).tolist()))
    inside = jax.random.normal(jax.random.key(0), (3, 12, 5)) @ jnp.asarray(basis, jnp.float32)
    block = invariant.InvariantDecoder(spec, basis=basis).block(0)
    variables = quick(block.init)(jax.random.key(0), inside)
    for size in (1.0, 5.0):
        assert (
            leak(block, jax.tree.map(functools.partial(jnp.multiply, size), variables), inside, basis) <= 1e-6
        )
    assert float(jnp.abs(quick(block.apply)(variables, inside) - inside).max()) > 0.1  # it does something
    plain = Decoder(spec).block(0)
    assert leak(plain, quick(plain.init)(jax.random.key(0), inside), inside, basis) > 0.05


# exact cell


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(0, 2**31 - 1))
def test_a_subspace_is_kept_to_the_bit_or_overwritten(seed):
    draw = np.random.default_rng(seed)
    scores, content = draw.normal(size=(2, 9, 3)), draw.normal(size=(2, 9, 3, 2)).astype(np.float32)
    scores = scores.astype(np.float32)
    got = np.asarray(latched()(scores, content))
    state = np.zeros((2, 3, 2), np.float32)
    for time in range(9):
        state = np.where((scores[:, time] > 0)[..., None], content[:, time], state)
        assert np.array_equal(got[:, time], state)


@functools.cache
def latched() -> Any:
    """The state of the cell, of scores and contents."""
    return quick(lambda scores, content: cell.latch(cell.hard_gate(scores), content))


def test_a_hard_gate_has_the_gradient_of_a_soft_one():
    scores = jnp.asarray([-3.0, -0.1, 0.0, 0.1, 3.0])
    assert np.array_equal(cell.hard_gate(scores), [0, 0, 0, 1, 1])
    slope = jax.vmap(jax.grad(cell.hard_gate))(scores)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(jax.nn.sigmoid))(scores), rtol=1e-6)


# memory


@functools.cache
def written() -> Any:
    """Everything stored after every write, what it recalls of all keys, and whether each was stored."""

    def run(keys: Any, values: Any) -> Any:
        def step(held: Any, pair: Any) -> Any:
            held, stored = memory.write(held, *pair, least=0.2)
            return held, (held, jax.vmap(memory.recall, (None, 0))(held, keys), stored)

        return jax.lax.scan(step, memory.empty_memory(8, 12, 3), (keys, values))[1]

    return quick(run)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(0, 2**31 - 1))
def test_writes_leave_stored_keys_as_they_were_up_to_the_capacity(seed):
    draw = np.random.default_rng(seed)
    keys, values = draw.normal(size=(12, 12)), draw.normal(size=(12, 3))
    keys[3] = 2 * keys[0] - keys[1]  # depends on stored ones
    # what is recalled is linear in the key, and so is its rounding
    longer = np.where(np.arange(12) == 5, 30, 1)[:, None]
    keys *= longer
    keys, values = keys.astype(np.float32), values.astype(np.float32)
    held, recalled, stored = (jax.tree.map(np.asarray, part) for part in written()(keys, values))
    assert not stored[3] and stored[:3].all() and stored.sum() == 8
    last = np.flatnonzero(stored)[-1]
    there = stored & (np.arange(12) <= last)
    for time in range(12):
        now = stored & (np.arange(12) <= time)
        off = np.abs(recalled[time, now] - values[now]) / longer[now]
        assert off.size == 0 or off.max() <= 1e-5 * max(1, np.abs(values).max())
        if time > last:  # full: nothing changes
            assert np.array_equal(held.amounts[time], held.amounts[last])
    # the least-squares memory of all pairs at once
    matrix = np.linalg.pinv(keys[there].astype(np.float64)) @ values[there]
    np.testing.assert_allclose(recalled[-1, 3], keys[3] @ matrix, atol=1e-3)


def test_a_closed_gate_stores_nothing():
    held = memory.empty_memory(2, 4, 3)
    after, stored = quick(memory.write)(held, jnp.ones(4), jnp.ones(3), 0.0)
    assert not stored and after.used == 0 and not np.any(after.amounts)


# router


def test_experts_serve_the_first_tokens_that_choose_them():
    """Token by token in NumPy, with a third expert that all want, so that some are late."""
    spec = Spec(9, 12, 8, 2, 1)
    block = router.RoutedDecoder(spec).block(0)
    x = jax.random.normal(jax.random.key(0), (2, 11, 8))  # shorter than may be: the room is the same
    x = x.at[..., 0].set(3.0)
    variables = quick(block.init)(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    params["out"] = jax.tree.map(jnp.zeros_like, params["out"])
    kernel = params["router"]["kernel"].at[0].set(jnp.asarray([0.0, 0, 8, 0]))
    params["router"] = {"kernel": kernel}
    got = np.asarray(quick(block.apply)({"params": params}, x)) - np.asarray(x)
    seen = np.asarray(x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6))
    up, down = (np.asarray(params[name]["kernel"]) for name in ("up", "down"))
    room, late = 9, 0  # 1.5 * 2 * 12 / 4
    for sample in range(2):
        served = np.zeros(4, int)
        for time in range(11):
            scores = seen[sample, time] @ np.asarray(kernel)
            best = np.argsort(-scores)[:2]
            share = np.exp(scores[best]) / np.exp(scores[best]).sum()
            wanted = np.zeros(8)
            for expert, part in zip(best, share, strict=True):
                late += served[expert] >= room
                if served[expert] < room:
                    hidden = np.asarray(jax.nn.gelu(seen[sample, time] @ up[expert]))
                    wanted += part * (hidden @ down[expert])
                served[expert] += 1
            np.testing.assert_allclose(got[sample, time], wanted, atol=1e-4)
    assert late >= 4


@pytest.mark.slow
def test_experts_have_an_even_load_after_training():
    arm, spec = ARMS["router"], Spec(vocab=256, length=16, width=16, heads=2, layers=2)
    model, activity = arm.model(spec), router.balance(spec)
    task = jaxnet.Task(model, batch_size=16, activity=activity)
    text = jaxnet.data.text("stdlib", limit=64_000)
    data, held = text.windows("train", 16), text.windows("test", 16).batch(jnp.arange(64))[0]

    @quick
    def look(key: Any) -> Any:
        net = jaxnet.Net.of(*model.init(jnp.zeros((1, 16), jnp.int32), key=key), optax.adam(3e-3))
        state, info = jaxnet.make_epoch(task)(jaxnet.init_state(net), data, key, jnp.asarray(0))
        seen = model(state.net.params, {}, held, key_forward=None)[1]
        loads = [router.expert_load(scores, jnp.ones(64)) for scores in seen.pre]
        return info, loads, router.extreme_loads(seen), activity(seen, {}, held, jnp.ones(64), None)

    info, loads, told, balance = look(jax.random.key(0))
    assert info.loss < 4.5  # of log(256) = 5.5
    for load in loads:
        np.testing.assert_allclose(np.sum(load), 1, rtol=1e-5)
        assert np.max(load) <= 2 / 4 and np.min(load) >= 0.5 / 4
    most, least = (told[f"load of the {which} expert"] for which in ("fullest", "emptiest"))
    np.testing.assert_allclose([most, least], [4 * np.max(loads), 4 * np.min(loads)], rtol=1e-5)
    assert 0.9 * router.BALANCE <= balance <= 1.3 * router.BALANCE  # even: once its weight


# all of them


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_masked_and_rewired_for_two_seeds_at_once(name):
    arm, spec = ARMS[name], Spec(vocab=256, length=16, width=16, heads=2, layers=3)
    model = arm.model(spec)
    activity = None if arm.activity is None else arm.activity(spec)
    task, method = jaxnet.Task(model, batch_size=8, activity=activity), jaxnet.methods.make("rigl", every=10)
    data = jaxnet.data.text("stdlib", limit=8_000).windows("train", 16)
    epoch = jaxnet.make_epoch(task, method)

    def run(key: Any) -> Any:
        params, _ = model.init(jnp.zeros((1, 16), jnp.int32), key=key)
        masked = jaxnet.sparsify(params, density=0.5, include=jaxnet.transformer.WEIGHTS, key=key)
        state = jaxnet.init_state(jaxnet.Net.of(*masked, optax.adam(3e-3)), method, key=key)
        state, info = jax.lax.scan(lambda s, n: epoch(s, data, key, n), state, jnp.arange(3))
        return state.net, info

    net, info = quick(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    assert np.isfinite(info.loss).all() and (info.loss[:, -1] < info.loss[:, 0] - 0.2).all()
    there: Any = jaxnet.structure.weights(net.params, net.structure)
    assert all(not np.any(np.where(entry.mask, 0, values)) for values, entry in there.values())
    assert not any(np.array_equal(*values) for values, _ in there.values())


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: windows.kept_units(Spec(9, 12, 2, 1, 3)), "2 splits need a width of at least 4: 2"),
        (lambda: hidden_units(SPEC, 800, 8), "800 parameters leave none of a block's 784 to a perceptron"),
        (lambda: memory.empty_memory(5, 4, 3), "the capacity must be 1 to 4, the length of a key: 5"),
        (lambda: memory.empty_memory(0, 4, 3), "the capacity must be 1 to 4, the length of a key: 0"),
        (
            lambda: memory.write(memory.empty_memory(2, 4, 3), jnp.ones(4), jnp.ones(3), least=0.0),
            "least must be between 0 and 1: 0.0",
        ),
        (lambda: invariant.subspace_frame(((1.0, 0.0), (0.0, 1.0)), 2), "needs 1 to 1 vectors of length 2"),
        (lambda: invariant.subspace_frame(((1.0, 0.0),), 3), "needs 1 to 2 vectors of length 3"),
        (lambda: invariant.subspace_frame(((1.0, 0.0, 0.0),) * 2, 3), "2 vectors of a subspace must be ind"),
        (lambda: invariant.subspace_frame(((0.0, 0.0),), 2), "must be independent"),
    ],
)
def test_wrong_input_is_one_line(call, what):
    with pytest.raises(ValueError, match=what) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_arms_are_named_and_described():
    assert next(iter(ARMS)) == "plain" and levels.Arm is type(ARMS["plain"])
    assert len({arm.what for arm in ARMS.values()}) == len(ARMS)
