"""Networks: two representations and an independent reference agree, what is absent stays nothing, counts."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import allocation, losses, optim, trees
from jaxnet.activations import ACTIVATIONS
from jaxnet.changes import with_patches
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import (
    Params,
    count_nonzeros,
    release_masks,
    sparse,
    to_masked_network,
    to_sparse_network,
)
from jaxnet.patches import PatchRules
from tests import networks, reference

RATES = (0.01, 0.05)
CASES = [
    (None, "relu", False),
    *(pytest.param(None, name, False, marks=pytest.mark.slow) for name in ACTIVATIONS if name != "relu"),
    ("mlp", "relu", False),
    pytest.param("mlp", "sigmoid", False, marks=pytest.mark.slow),
    ("mlp", "tanh", True),
    ("dense", "relu", False),
    pytest.param("dense", "gelu", False, marks=pytest.mark.slow),
]
STEPS = 3


@functools.cache
def trained(kind: str | None, name: str, detach: bool, masked: bool) -> tuple[Any, ...]:
    """Values and structure before; loss, logits, gradient, values after and optimiser state of each step."""
    spec, params, structure = networks.small(kind, name, detach)
    if masked:
        params, structure = to_masked_network(params, structure)
    split = networks.samples()
    optimizer = optim.dual_rate_adam(*RATES)

    def loss_fn(p):
        logits, _ = mlp.forward(spec, p, structure, split.x.T)
        return losses.cross_entropy(logits, split.y, jnp.ones(split.size), axis=0), logits

    def step(carry, _):
        values, state = carry
        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(values)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, values)
            values = optax.apply_updates(values, updates)
        return (values, state), (loss, logits, grads, values, state)

    run = networks.quick(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, STEPS)[1])
    return params, structure, run(params)


def assert_close(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    for (path, a), (_, b) in zip(networks.leaves_named(got), networks.leaves_named(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(("kind", "name", "detach"), CASES)
def test_outputs_gradients_and_adam_in_both_representations_equal_numpy(kind, name, detach):
    split = networks.samples()
    x, y = np.asarray(split.x, np.float64).T, np.asarray(split.y)
    for masked in (False, True):
        params, structure, history = trained(kind, name, detach, masked)
        loss, logits, grads, after, _ = trees.take(history, 0)
        wide, plan = reference.to_numpy(params), reference.to_numpy(structure)
        assert_close(logits, reference.forward(name, wide, plan, x)[0])
        want_loss, want_grads = reference.gradient(name, wide, plan, x, y)
        assert float(loss) == pytest.approx(want_loss, rel=1e-5)
        assert_close(grads, want_grads)
        assert max(np.abs(g).max() for _, g in networks.leaves_named(want_grads)) > 1e-3
        # Adam divides by the gradient's size: feed it the float32 gradient, the same rounding on both sides
        assert_close(after, reference.Adam(wide, *RATES).step(wide, reference.to_numpy(grads)))

    # and both agree with one another after every step
    _, structure, sparse = trained(kind, name, detach, False)
    _, _, dense = trained(kind, name, detach, True)
    assert_close(sparse[1], dense[1], 1e-4)
    for number in range(STEPS):
        for part in (2, 3):
            mine = trees.take(sparse[part], number)
            turned, _ = to_masked_network(mine, structure)
            assert_close(turned, trees.take(dense[part], number), 1e-5 if number == 0 else 1e-4)


@pytest.mark.parametrize("masked", [False, True], ids=["sparse", "masked"])
@pytest.mark.parametrize("kind", [None, "mlp", "dense"])
def test_what_does_not_exist_stays_exactly_nothing(kind, masked):
    params, structure, (_, _, grads, after, state) = trained(kind, "relu", False, masked)
    gone = networks.leaves_named(networks.absent(params, structure))
    assert sum(mask.sum() for _, mask in gone) >= 9  # there is something to check
    groups = [state.inner_states[g].inner_state[0] for g in optim.GROUPS]
    moments = [
        params.replace(scaffold=m[0].scaffold, patches=m[1].patches)
        for m in ([g.mu for g in groups], [g.nu for g in groups])
    ]
    # all but the first have a leading axis: every step
    for what, tree in zip(
        ("values", "gradient", "values after", "first moment", "second moment"),
        (params, grads, after, *moments),
        strict=True,
    ):
        for (path, mask), (_, leaf) in zip(gone, networks.leaves_named(tree), strict=True):
            assert np.all(leaf[..., mask] == 0), (what, path)
    # and what exists has moved
    moved = sum(
        np.sum(a != b[-1])
        for (_, a), (_, b) in zip(networks.leaves_named(params), networks.leaves_named(after), strict=True)
    )
    assert moved > 30


# --- application --------------------------------------------------------------------------------------


def test_a_network_by_hand():
    spec = NetworkSpec((2, 2, 1), 1.0, "relu")
    params, structure = mlp.init(spec, key_mask=jax.random.key(0), key_init=jax.random.key(0))
    first, second = params.scaffold
    params = Params(
        (
            first.replace(weight=jnp.asarray([1.0, -1.0, 2.0, 0.0]), bias=jnp.asarray([0.0, -1.0])),
            second.replace(weight=jnp.asarray([10.0, 1.0]), bias=jnp.asarray([0.5])),
        )
    )
    logits, acts = mlp.apply(spec, params, structure, jnp.asarray([[3.0, 1.0], [0.0, 2.0]]))
    assert np.asarray(acts.pre[0]).tolist() == [[2.0, -2.0], [5.0, -1.0]]  # (unit, batch)
    assert np.asarray(acts.post[0]).tolist() == [[2.0, 0.0], [5.0, 0.0]]
    assert np.asarray(logits).tolist() == [[25.5], [0.5]]  # (batch, classes), no activation at the output


@pytest.mark.parametrize("kind", [None, "mlp", "dense"])
def test_apply_is_forward_turned(kind):
    spec, params, structure = networks.small(kind)
    x = networks.samples().x
    logits, acts = networks.quick(lambda x: mlp.apply(spec, params, structure, x))(x)
    turned, same = networks.quick(lambda x: mlp.forward(spec, params, structure, x))(x.T)
    assert logits.shape == (12, 4)
    assert_close(logits.T, turned, 1e-6)
    assert_close(acts, same, 1e-6)
    # hidden layers only, patches included in the pre-activations
    assert [a.shape for a in acts.pre] == [a.shape for a in acts.post] == [(8, 12), (6, 12)]
    for pre, post in zip(acts.pre, acts.post, strict=True):
        assert np.array_equal(np.maximum(np.asarray(pre), 0), post)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "dense"])
def test_many_networks_equal_one_by_one(kind, key):
    spec = NetworkSpec(networks.SIZES, 0.4)
    rules = PatchRules(kind, 2, hidden=3, max_targets=2, max_inputs=4)
    x = networks.samples().x.T

    def whole(k):
        params, structure = networks.make(spec, rules, k)
        logits, _ = mlp.forward(spec, params, structure, x)
        return logits, params, structure, count_nonzeros(params, structure)

    keys = jax.random.split(key, 3)
    together, one = networks.quick(jax.vmap(whole))(keys), networks.quick(whole)
    for member, k in zip(trees.unstack(together, 3), keys, strict=True):
        alone = one(k)
        assert trees.equal(member[2], alone[2])  # structures to the bit
        assert_close(member, alone, 1e-5)
    _, _, structure, counts = together
    assert not trees.equal(*trees.unstack(structure.weights, 3)[:2])
    assert counts["total"].shape == (3,)


@pytest.mark.parametrize("shape", [(10,), (12, 9), (3, 4, 10), ()])
def test_apply_takes_samples_with_a_batch_axis_only(shape):
    spec, params, structure = networks.small(None)
    with pytest.raises(ValueError, match=r"x must be samples of shape \(batch, 10\): .* one is x\[None\]"):
        mlp.apply(spec, params, structure, jnp.ones(shape))
    assert jax.eval_shape(lambda: mlp.apply(spec, params, structure, jnp.ones(10)[None])[0]).shape == (1, 4)


# --- counts -------------------------------------------------------------------------------------------


def all_extreme(sizes):
    found = networks.made_up_extrema(sizes, jax.random.key(0))
    return [
        e.replace(
            high=jnp.ones_like(e.high),
            low=jnp.ones_like(e.low),
            score_high=jnp.abs(e.score_high),
            score_low=jnp.abs(e.score_low),
        )
        for e in found
    ]


def test_the_originals_counts():
    spec = NetworkSpec((784, 256, 128, 10))
    assert spec.density == 0.02 and spec.dense_weights == 234_752

    @networks.quick
    def counts(key):
        params, structure = mlp.init(spec, key_mask=key, key_init=key)
        patched = with_patches(params, structure, all_extreme(spec.sizes), PatchRules(), key_patch=key)
        return count_nonzeros(params, structure), count_nonzeros(*patched)

    bare, patched = jax.tree.map(int, counts(jax.random.key(0)))
    assert bare == {"scaffold": 4014 + 655 + 25, "bias": 394, "patch": 0, "total": 4694 + 394}
    # 10 high ones of 8 + 8 + 32 + 4 and 5 low ones of 160 + 8 + 8 + 1 values
    assert patched == {"scaffold": 4694, "bias": 394, "patch": 10 * 52 + 5 * 177, "total": 4694 + 394 + 1405}


def convert(params, structure) -> tuple[Any, Any]:
    return to_masked_network(params, structure)


def test_a_released_network_is_counted_by_what_came_to_life():
    spec, params, structure = networks.small(None, padding=0)
    masked, held = convert(params, structure)
    exact = sum(allocation.allocate(spec.sizes, spec.density))
    assert int(count_nonzeros(masked, held)["scaffold"]) == exact
    free: Any = release_masks(held)
    assert int(count_nonzeros(masked, free)["scaffold"]) == exact
    assert all(np.asarray(c.mask).all() for c in free.weights)
    layer = masked.scaffold[0]
    zero = np.argwhere(np.asarray(layer.weight) == 0)[0]
    awake = layer.replace(weight=layer.weight.at[tuple(zero)].set(0.1))
    masked = masked.replace(scaffold=(awake, *masked.scaffold[1:]))
    assert int(count_nonzeros(masked, free)["scaffold"]) == exact + 1
    assert int(count_nonzeros(masked, held)["scaffold"]) == exact  # hidden by its mask
    # releasing leaves the sparse representation alone
    assert release_masks(structure).weights == structure.weights


def test_releasing_the_masks_trains_every_weight():
    spec, params, structure = networks.small(None)
    masked, held = convert(params, structure)
    x = networks.samples().x.T

    def total(p, s):
        return jnp.sum(jnp.square(mlp.forward(spec, p, s, x)[0]))

    free = release_masks(held)
    value = networks.quick(total)
    before, after = value(masked, held), value(masked, free)
    assert float(before) == pytest.approx(float(after), rel=1e-6)  # the function is unchanged
    grads = networks.quick(jax.grad(total))(masked, free)
    gone = ~np.asarray(held.weights[0].mask)
    assert np.mean(np.asarray(grads.scaffold[0].weight)[gone] != 0) > 0.5


# --- specification ------------------------------------------------------------------------------------


def test_initialisation_uses_its_two_keys_apart(key):
    spec = NetworkSpec(networks.SIZES, 0.4)
    other = jax.random.fold_in(key, 1)
    start = networks.quick(lambda m, i: mlp.init(spec, key_mask=m, key_init=i))
    (pa, sa), (pb, sb), (_, sc) = start(key, key), start(key, other), start(other, key)
    assert trees.equal(sa, sb) and not trees.equal(sa, sc)
    assert not trees.equal(pa, pb)
    # another program may round differently, so close and not equal
    again = networks.quick(lambda k: mlp.init_params(spec, sa.weights, key_init=k))(key)
    assert trees.allclose(again, pa, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (10,)}, "two or more positive"),
        ({"density": 0.0}, "above 0"),
        ({"density": 0.001}, "without any weight"),
        ({"activation": "swish"}, "relu, tanh, sigmoid, gelu, identity"),
        ({"allocation": "er"}, "uniform, erdos-renyi"),
        ({"init": "he"}, "dense-fan-in, sparse-fan-in"),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        NetworkSpec(**{"sizes": (10, 8, 4), "density": 0.5, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sizes", [[10, 8, 4], np.asarray([10, 8, 4]), tuple(np.asarray([10, 8, 4], np.int16))]
)
def test_whole_sizes_of_any_kind_are_one_specification(sizes):
    spec = NetworkSpec(sizes, 0.5)
    assert spec == NetworkSpec((10, 8, 4), 0.5) and hash(spec) == hash(NetworkSpec((10, 8, 4), 0.5))
    assert all(type(size) is int for size in spec.sizes)


@pytest.mark.parametrize("size", [8.5, np.float32(7.9), float("nan")])
def test_a_size_that_is_not_whole_is_refused(size):
    with pytest.raises(ValueError, match="integer"):
        NetworkSpec((10, size, 4), 0.5)


def test_patches_need_the_sparse_representation(key):
    spec, params, structure = networks.small(None)
    masked, held = to_masked_network(params, structure)
    with pytest.raises(TypeError, match="sparse representation"):
        with_patches(masked, held, all_extreme(spec.sizes), PatchRules(), key_patch=key)


def test_masks_become_slots_and_the_function_stays(key):
    spec, params, structure = networks.small(None)
    masked = to_masked_network(params, structure)
    counts = [int(entry.num_nonzeros) for entry in structure.weights]
    x = networks.samples().x.T
    values, slots = to_sparse_network(*masked, [count + 3 for count in counts])
    assert [int(entry.num_nonzeros) for entry in slots.weights] == counts
    assert [entry.capacity for entry in sparse(structure)] == [count + 3 for count in counts]
    assert trees.equal((values, slots), (params, structure))
    assert_close(mlp.forward(spec, values, slots, x)[0], mlp.forward(spec, params, structure, x)[0], 1e-6)
    with pytest.raises(TypeError, match="masked-dense"):
        to_sparse_network(params, structure, counts)
