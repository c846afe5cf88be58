"""State across growth: moments and anchors stay with their weights, new ones are zero, training goes on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import changes, losses, optim, trees
from jaxnet.data.batches import Split
from jaxnet.nn import mlp
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Mask
from jaxnet.train import Batches, Net, Task, train_batches
from tests import networks, reference
from tests.changes import chains

pytestmark = pytest.mark.usefixtures("standard_promotion")

GROUPS = {"scaffold": "scaffold", "patch": "patches"}


def adam(state: Any, group: str) -> Any:
    return state.inner_states[group].inner_state[0]


def whole(net: Net, name: str) -> Any:
    """First or second moments of both groups as one tree, or the anchor."""
    if name == "anchor":
        return net.carried["anchor"]
    parts = {field: getattr(getattr(adam(net.opt_state, g), name), field) for g, field in GROUPS.items()}
    return net.params.replace(**parts)


def matrices(moments: Any, structure: Any) -> list[np.ndarray]:
    return [
        reference.matrix(np.asarray(m.weight), c)
        for m, c in zip(moments.scaffold, structure.weights, strict=True)
    ]


def flat_patches(moments: Any, structure: Any) -> Any:
    """For each fed layer, counted from the output, the moments of its patches by what they belong to."""
    found = []
    for t, (m, placed) in enumerate(zip(moments.patches, structure.bank.layers, strict=True)):
        if m is None:
            continue
        if hasattr(placed, "owner"):
            exists = np.asarray(placed.topology.exists)
            rows, cols = np.asarray(placed.topology.rows)[exists], np.asarray(placed.topology.cols)[exists]
            weight = np.asarray(m.weight)[exists]
            items: Any = {(int(r), int(c)): w for r, c, w in zip(rows, cols, weight, strict=True)}
        else:
            items = {
                (sort, i): np.concatenate([np.ravel(np.asarray(a)[i]) for a in jax.tree.leaves(part)])
                for sort, part in (("high", m.high), ("low", m.low))
                if part is not None
                for i in range(part.b1.shape[0])
            }
        found.append((t - len(moments.patches), items))
    return found


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("mlp", "redraw"), *(pytest.param(*c, marks=pytest.mark.slow) for c in chains.OTHERS)],
)
def test_moments_stay_with_their_weights_and_new_ones_are_zero(kind, rule):
    stages = chains.example(kind, rule)
    for step, before, after in zip(chains.CHAIN, stages[:-1], stages[1:], strict=True):
        old, new = before[1], after[1]
        a, b = old.structure, new.structure
        assert [int(adam(new.opt_state, g).count) for g in GROUPS] == [7, 7]
        fresh = chains.OPTIMIZER.init(new.params)
        assert str(jax.tree.structure(new.opt_state)) == str(jax.tree.structure(fresh))
        assert str(jax.tree.structure(new.carried["anchor"])) == str(jax.tree.structure(new.params))
        assert new.carried["scale"] == 7
        for name in ("mu", "nu", "anchor"):
            was, now = whole(old, name), whole(new, name)
            was_of, now_of = matrices(was, a), matrices(now, b)
            what, *where = step.split()
            at: Any = int(where[0]) if where else None
            if what == "insert":
                assert not now_of.pop(at + 1).any() and not np.any(now.scaffold[at + 1].bias)
                kept_bias = [m.bias for i, m in enumerate(now.scaffold) if i != at + 1]
            else:
                kept_bias = [m.bias for m in now.scaffold]
            for t, (x, y, bias) in enumerate(zip(was_of, now_of, kept_bias, strict=True)):
                inner = y[: x.shape[0], : x.shape[1]]
                redrawn = rule == "redraw" and at is not None and t == at + 1
                expected = np.zeros_like(x) if redrawn else x
                assert np.array_equal(inner, expected), (step, name, t)
                assert np.count_nonzero(y) == np.count_nonzero(expected), "new ones are zero"
                old_bias = np.asarray(was.scaffold[t].bias)
                padded = np.zeros(len(bias))
                if not redrawn:
                    padded[: len(old_bias)] = old_bias
                assert np.array_equal(bias, padded)
            # patches: sorted by position or slot; insertion and widening move nothing but the layer
            olds, nows = dict(flat_patches(was, a)), dict(flat_patches(now, b))
            if what == "patch":
                for t, items in olds.items():
                    first = next(p for p in a.bank.layers if p is not None)
                    for k, v in items.items():
                        assert np.array_equal(nows[t][k], v), (step, t, k, first.reads)
                assert sum(map(np.count_nonzero, (v for i in nows.values() for v in i.values()))) == sum(
                    map(np.count_nonzero, (v for i in olds.values() for v in i.values()))
                )
            else:
                values = [[np.ravel(v).tolist() for v in i.values()] for i in olds.values()]
                assert values == [[np.ravel(v).tolist() for v in i.values()] for i in nows.values()]


@pytest.mark.parametrize("kind", ["dense", pytest.param("mlp", marks=pytest.mark.slow)])
def test_the_next_adam_step_is_what_numpy_says(kind):
    spec, net = chains.example(kind, "preserve")[-1]
    params, structure = net.params, net.structure
    split = networks.samples()

    def loss_fn(p):
        logits, _ = mlp.forward(spec, p, structure, split.x.T)
        return losses.cross_entropy(logits, split.y, jnp.ones(split.size), axis=0)

    def step(p, s):
        grads = jax.grad(loss_fn)(p)
        updates, s = chains.OPTIMIZER.update(grads, s, p)
        return optax.apply_updates(p, updates), grads

    after, grads = networks.quick(step)(params, net.opt_state)
    wide, plan = reference.to_numpy(params), reference.to_numpy(structure)
    _, want = reference.gradient("relu", wide, plan, np.asarray(split.x, np.float64).T, np.asarray(split.y))
    for (path, got), (_, expected) in zip(
        networks.leaves_named(grads), networks.leaves_named(want), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6, err_msg=path)
    adam_by_hand = reference.Adam(wide, *chains.RATES)
    adam_by_hand.t = 7
    adam_by_hand.m = reference.to_numpy(whole(net, "mu"))
    adam_by_hand.v = reference.to_numpy(whole(net, "nu"))
    expected = adam_by_hand.step(wide, reference.to_numpy(grads))
    for (path, got), (_, number) in zip(
        networks.leaves_named(after), networks.leaves_named(expected), strict=True
    ):
        np.testing.assert_allclose(got, number, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_first_bank_counts_from_zero_and_the_scaffold_goes_on():
    def run(key):
        spec, params, structure = chains.start(key, None)

        def step(_, state):
            return chains.OPTIMIZER.update(params, state, params)[1]

        state = jax.lax.fori_loop(0, 7, step, chains.OPTIMIZER.init(params))
        net = Net(params, structure, state, optimizer=chains.OPTIMIZER)
        new = changes.grown(net, spec, chains.operator("patch", "mlp", key))[0]
        return state, new.opt_state, chains.OPTIMIZER.update(new.params, new.opt_state, new.params)[1]

    state, new, later = networks.quick(run)(jax.random.key(0))
    assert [[int(adam(s, g).count) for g in GROUPS] for s in (state, new, later)] == [[7, 0], [7, 0], [8, 1]]
    assert trees.equal(adam(new, "scaffold").mu.scaffold, adam(state, "scaffold").mu.scaffold)
    assert any(np.any(m) for m in jax.tree.leaves(adam(state, "scaffold").mu))
    assert not any(np.any(m) for m in jax.tree.leaves(adam(new, "patch").nu.patches))


def test_any_optimiser_with_a_value_for_every_weight_follows():
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    optimizer = optim.grouped(
        {
            "scaffold": optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(schedule, mu_dtype=jnp.bfloat16)
            ),
            "patch": optax.sgd(0.1, momentum=0.9),
        }
    )

    def run(key):
        spec, params, structure = chains.start(key, "dense")
        state = jax.tree.map(lambda a: jnp.full_like(a, 3), optimizer.init(params))
        net = Net(params, structure, state, optimizer=optimizer)

        def change(p):
            net = chains.grow("widen 0", (spec, p, structure), "dense", key)
            return chains.grow("patch", net, "dense", key)[1:]

        net = changes.reshape(net, change)
        return net.opt_state, optimizer.init(net.params), net.structure.weights[2].exists

    new, want, exists = networks.quick(run)(jax.random.key(0))
    assert str(jax.tree.structure(new)) == str(jax.tree.structure(want))
    for (path, a), (_, b) in zip(
        jax.tree.leaves_with_path(new), jax.tree.leaves_with_path(want), strict=True
    ):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
    # the layer that neither step touches; the made-up moments of padding slots become zero
    moment = new.inner_states["scaffold"].inner_state[1][0].nu.scaffold[2].weight
    assert np.array_equal(moment, np.where(exists, 3, 0)) and np.all(exists[:9]) and len(exists) == 11


def test_another_optimiser_with_the_same_parts_goes_on():
    """Moments and counts stay where a rate changes or a group is frozen; anchors are not touched."""
    other = optim.dual_rate_adam(0.5, 0.0)
    _, net = chains.example("mlp", "redraw")[-1]
    new = changes.with_optimizer(net, other)
    assert new.optimizer is other and trees.equal(new.params, net.params)
    assert trees.equal(new.carried, net.carried) and trees.equal(new.structure, net.structure)
    assert str(jax.tree.structure(new.opt_state)) == str(jax.tree.structure(other.init(net.params)))
    assert [int(adam(new.opt_state, g).count) for g in GROUPS] == [7, 7]
    for name in ("mu", "nu"):
        assert trees.equal(whole(new, name), whole(net, name))


def test_a_pruned_network_is_made_sparse_with_its_moments_and_made_smaller_again() -> None:
    """Two weights of six are left; Adam's moments and the rate go with them, and training goes on equally."""
    spec = mlp.NetworkSpec((2, 3), 1.0)
    mask = jnp.asarray([[True, False], [False, False], [False, True]])
    params = Params((LayerParams(jnp.asarray([[2.0, 0.0], [0.0, 0.0], [0.0, -3.0]]), jnp.arange(3.0)),))
    optimizer = optax.chain(optax.scale_by_adam(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.5))
    net = Net.of(params, Structure.of([Mask(mask)]), optimizer)
    x, y = jnp.asarray([[1.0, 2.0], [3.0, 1.0]]), jnp.asarray([0, 2])
    data = Split(x, y, jnp.zeros(2), jnp.ones(2))
    order = Batches(jnp.asarray([[0, 1]] * 3), jnp.ones((3, 2)))
    train = networks.quick(lambda net: train_batches(Task(mlp.MLP(spec), 2), net, data, order)[0])
    net = train(net)
    made = networks.quick(changes.to_sparse, static_argnums=1)(net, (5,))
    smaller = networks.quick(changes.to_sparse, static_argnums=1)(made, (2,))
    for sparse, slots in ((made, 5), (smaller, 2)):
        (entry,) = sparse.structure.weights
        assert (entry.capacity, int(entry.num_nonzeros)) == (slots, 2)
        assert np.asarray(entry.rows[:2]).tolist() == [0, 2] and np.asarray(entry.cols[:2]).tolist() == [0, 1]
        for part in ("mu", "nu"):
            dense, few = (np.asarray(getattr(n.opt_state[0], part).scaffold[0].weight) for n in (net, sparse))
            assert few.tolist() == [dense[0, 0], dense[2, 1], *[0] * (slots - 2)] and dense[0, 0] != 0
        assert int(sparse.opt_state[0].count) == 3
        assert float(optax.tree.get(sparse.opt_state, "learning_rate")) == 0.5
        after, expected = train(sparse), train(net)
        weight = reference.matrix(np.asarray(after.params.scaffold[0].weight), after.structure.weights[0])
        np.testing.assert_allclose(weight, expected.params.scaffold[0].weight, rtol=1e-6)
