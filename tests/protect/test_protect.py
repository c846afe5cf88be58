"""Factors, zones, importance, penalties, batches skipped: by hand, and what the field says of Adam."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import methods, optim, protect, trees
from jaxnet.nn.params import to_masked_network
from jaxnet.train import Net, Task
from tests.networks import samples, small

SGD = optax.sgd(1.0)


def make(spec: Any, key: jax.Array, masked: bool) -> tuple[Any, Any]:
    """A network in one of the representations."""
    key_mask, key_init = jax.random.split(key)
    params, structure = jaxnet.init(spec, key_mask=key_mask, key_init=key_init)
    return to_masked_network(params, structure) if masked else (params, structure)


def test_a_factor_of_zero_passes_nothing_and_comes_last(standard_promotion):
    params = {"w": jnp.ones(3)}
    scales = {"w": jnp.asarray([0.0, 0.5, 1.0])}
    optimizer = optax.chain(optax.adamw(0.1, weight_decay=0.5), optim.scale_updates(scales))
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.asarray([jnp.nan, 1.0, 1.0])}, state, params)
    assert float(updates["w"][0]) == 0
    np.testing.assert_allclose(updates["w"][1] * 2, updates["w"][2])
    updates, _ = optimizer.update({"w": jnp.ones(3)}, optim.with_scales(state, {"w": jnp.zeros(3)}), params)
    assert updates["w"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="a factor for every weight"):
        optim.scale_updates({"w": jnp.ones(2)}).init(params)
    with pytest.raises(ValueError, match="no ScaleState"):
        optim.with_scales(SGD.init(params), scales)


@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_protected_weights_survive_rigl(masked, key, standard_promotion):
    params, structure = make(jaxnet.NetworkSpec((12, 16, 4), 0.4), key, masked)
    # the smallest weights are protected: RigL alone would drop them first
    there = {path: jnp.abs(v) for path, (v, _) in jaxnet.structure.weights(params, structure).items()}
    limit = {path: jnp.quantile(v[v > 0], 0.3) for path, v in there.items()}

    def label(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.where((leaf != 0) & (jnp.abs(leaf) < limit.get(jax.tree_util.keystr(path), 0)), 0, 2)

    labels = jax.tree.map_with_path(label, params)
    net = Net.of(params, structure, protect.zoned(optax.adamw(1e-2, weight_decay=0.1), labels))
    before, held = (
        jaxnet.structure.to_dense(t, structure) for t in (params, jax.tree.map(lambda n: 1 - n / 2, labels))
    )

    @functools.partial(jax.jit, static_argnums=1)
    def step(net: Net, method: Any, i: jax.Array) -> Net:
        grads = jax.tree.map(lambda p: jnp.cos(100 * p + i), net.params)
        grads = jaxnet.structure.clear(grads, net.structure)
        updates, state = net.optimizer.update(grads, net.opt_state, net.params)
        net = net.replace(params=optax.apply_updates(net.params, updates), opt_state=state)
        dense = jax.tree.map(lambda p: jnp.sin(9 * p + jnp.arange(p.size).reshape(p.shape)), before)
        return method.update(net, (), lambda: dense, i, key=key)[0]

    def run(net: Net, method: Any) -> Net:
        for i in (3, 6):
            net = step(net, method, jnp.asarray(i))
        return net

    rigl = methods.make("rigl", every=3, fraction=0.3)
    kept, alone = run(net, protect.Keep(rigl)), run(net, rigl)
    after, other = (jaxnet.structure.to_dense(n.params, n.structure) for n in (kept, alone))
    scales = jaxnet.structure.to_dense(protect.scales_of(kept), kept.structure)
    for old, new, lost, scale, h in zip(
        *map(jax.tree.leaves, (before, after, other, scales, held)), strict=True
    ):
        h = np.asarray(h) > 0
        assert np.array_equal(np.asarray(old)[h], np.asarray(new)[h])
        assert np.all((np.asarray(scale) == 0)[h])  # the factors went with their weights
        if old.ndim > 1:
            assert np.any(np.asarray(lost)[h] == 0) and np.any(
                (np.asarray(old) != 0) & (np.asarray(new) == 0)
            )
    counts = [int(jaxnet.structure.count(n.params, n.structure)["weights"]) for n in (net, kept)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_zones_are_found_anew(key, standard_promotion):
    _, params, structure = small(None)
    net = Net.of(params, structure, protect.zoned(optax.sgd(0.1)))
    method = protect.Refresh(lambda net, view: protect.by_importance(view(), net.structure, 0.25), every=2)
    weights = {p for p, _ in jaxnet.structure.weights(params, structure).items()}
    changed = method.update(net, (), lambda: jax.tree.map(jnp.abs, params), jnp.asarray(2), key=key)[0]
    for path, leaf in jax.tree.leaves_with_path(protect.scales_of(changed)):
        if jax.tree_util.keystr(path) in weights:
            there = np.asarray(jax.tree.leaves(leaf)[0])
            assert 0 < np.sum(there == 0) <= np.ceil(0.25 * there.size) + 1
    assert method.due(jnp.asarray(2)) and not method.due(jnp.asarray(3))
    with pytest.raises(ValueError, match="no factors"):
        protect.Refresh().check(Net.of(params, structure, SGD))


def movement(optimizer: Any, key: jax.Array, warm: int, steps: int) -> Any:
    """How far a network moves on turned digits, after ``warm`` steps on straight ones without scaling."""
    digits = jaxnet.data.load("digits")
    x = jnp.asarray(digits.x_train / 255 - 0.5, jnp.float32)
    y = jnp.asarray(digits.y_train)
    spec = jaxnet.NetworkSpec((64, 64, 10), 1.0)
    params, structure = make(spec, key, True)
    task = Task(jaxnet.MLP(spec))

    def run(params: Any, state: Any, inputs: jax.Array, number: int, scale: float, where: str) -> Any:
        def step(carry: Any, index: jax.Array) -> Any:
            params, state = carry

            def loss(p: Any) -> jax.Array:
                return task.loss(
                    task.model(p, structure, inputs[index], key_forward=None)[0],
                    y[index],
                    jnp.ones(32),
                    axis=0,
                )

            grads = jax.grad(loss)(params)
            if where == "gradient":
                grads = jax.tree.map(lambda g: g * scale, grads)
            updates, state = optimizer.update(grads, state, params)
            if where == "update":
                updates = jax.tree.map(lambda u: u * scale, updates)
            return (optax.apply_updates(params, updates), state), None

        index = jax.random.randint(key, (number, 32), 0, len(y))
        return jax.lax.scan(step, (params, state), index)[0]

    @jax.jit
    def all_of() -> Any:
        start, state = run(params, optimizer.init(params), x, warm, 1.0, "")
        turned = x[:, ::-1]
        fresh = optimizer.init(start)
        arms = {
            "plain": run(start, state, turned, steps, 1.0, ""),
            "gradient": run(start, state, turned, steps, 0.1, "gradient"),
            "update": run(start, state, turned, steps, 0.1, "update"),
            "fresh": run(start, fresh, turned, steps, 1.0, ""),
            "fresh gradient": run(start, fresh, turned, steps, 0.1, "gradient"),
        }
        return {
            name: optax.tree.norm(jax.tree.map(jnp.subtract, end, start)) for name, (end, _) in arms.items()
        }

    return {name: float(value) for name, value in all_of().items()}


def test_what_a_tenth_of_the_gradient_and_of_the_update_do_under_adam(key, standard_promotion):
    found = movement(optax.adam(1e-3), key, 600, 150)
    assert 0.9 <= found["fresh gradient"] / found["fresh"] <= 1.1  # with fresh state it protects nothing
    assert found["gradient"] / found["plain"] <= 0.5
    assert found["update"] / found["plain"] <= 0.3


def test_the_fisher_information_is_that_of_brute_force():
    with jax.enable_x64(True):
        spec, params, structure = small(None, "tanh")
        params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        data = samples(7)
        data = data.replace(x=data.x.astype(jnp.float64))
        task, index = Task(jaxnet.MLP(spec)), jnp.asarray([0, 2, 5, 6, 6])

        class Plain:
            """The samples as they are: normalising makes float32 of them."""

            x, y, size = data.x, data.y, data.size

            def batch(self, index: Any) -> Any:
                return self.x[index], self.y[index]

        for labels in ("expected", "data"):
            found = protect.fisher(task, params, structure, Plain(), index, labels=labels, chunk=2)
            wanted = jax.tree.map(lambda a: np.zeros(a.shape), params)
            for i in index.tolist():
                logs = lambda p, i=i: jax.nn.log_softmax(  # noqa: E731
                    task.model(p, structure, data.x[i][None], key_forward=None)[0][:, 0]
                )
                share = np.exp(logs(params))
                for c in range(4):
                    weight = share[c] if labels == "expected" else float(c == int(data.y[i]))
                    g = jax.grad(lambda p, c=c: logs(p)[c])(params)  # noqa: B023
                    wanted = jax.tree.map(lambda w, g, k=weight: w + k * np.asarray(g) ** 2 / 5, wanted, g)
            assert trees.allclose(found, wanted, rtol=1e-6, atol=1e-14)
            assert max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(found)) > 1e-4
    with pytest.raises(ValueError, match="give key"):
        protect.fisher(task, params, structure, Plain(), index, labels="drawn")


def test_memory_and_path_by_hand(standard_promotion):
    params = {"w": jnp.asarray([1.0, 2.0])}
    optimizer = protect.track_path(optax.sgd(0.1))
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update({"w": jnp.asarray([1.0, -2.0])}, state, params)
        params = optax.apply_updates(params, updates)
    path, state = protect.path_of(state)
    np.testing.assert_allclose(path["w"], [0.2, 0.8], rtol=1e-6)
    assert protect.path_of(state)[0]["w"].tolist() == [0, 0]
    importance = protect.path_importance(path, params, {"w": jnp.asarray([1.0, 2.0])}, damping=0.1)
    np.testing.assert_allclose(importance["w"], [0.2 / 0.14, 0.8 / 0.26], rtol=1e-5)
    memory = protect.remember(protect.no_memory(params, 3.0), params, importance)
    moved = {"w": params["w"] + jnp.asarray([1.0, 0.0])}
    assert float(protect.penalty(moved, memory)) == pytest.approx(1.5 * 0.2 / 0.14, rel=1e-5)
    assert float(protect.penalty(params, memory)) == 0


def test_outlying_and_non_finite_batches_are_skipped_and_a_new_level_is_learned(standard_promotion):
    params = {"w": jnp.zeros(2)}
    optimizer = protect.skip_outlying(optax.adam(0.1), memory=20, patience=3)
    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for _ in range(30):
        updates, state = optimizer.update(
            {"w": jnp.asarray(rng.uniform(1, 2, 2), jnp.float32)}, state, params
        )
        assert float(jnp.abs(updates["w"]).min()) > 0
    assert int(state.skipped) == 0
    inner = state.inner
    for bad in (jnp.nan, 1000.0, jnp.inf):
        updates, state = optimizer.update({"w": jnp.full(2, bad)}, state, params)
        assert updates["w"].tolist() == [0, 0] and trees.equal(state.inner, inner)
    assert int(state.skipped) == 3
    updates, state = optimizer.update({"w": jnp.full(2, 1000.0)}, state, params)  # patience is over
    assert float(jnp.abs(updates["w"]).min()) > 0
    with pytest.raises(ValueError, match="must be positive"):
        protect.skip_outlying(SGD, memory=1)
