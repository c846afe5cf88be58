"""jaxnet against an independent implementation of the original protocol in PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, optim, train, trees
from jaxnet.changes import with_patches
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.nn import mlp
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.original import OriginalRules
from jaxnet.patches import SlotParams
from jaxnet.signals import detect as detect_extrema
from jaxnet.structure import LayerParams
from jaxnet.topology import Entry, Mask
from jaxnet.types import PyTree
from jaxnet.units import Extrema, init_stats, update_stats

if TYPE_CHECKING:
    import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what PyTorch warns of while it loads is not ours
    if not TYPE_CHECKING:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[bench]'")
    from benchmarks import torch_reference as reference

SPEC = NetworkSpec((40, 32, 24, 10), density=0.2, init="dense-fan-in")
RULES = OriginalRules(redraw_inputs=False)
LR_SCAFFOLD, LR_PATCH = 1e-4, 5e-4
OPTIMIZER = optim.dual_rate_adam(LR_SCAFFOLD, LR_PATCH)
apply = jax.jit(lambda params, structure, x: mlp.apply(SPEC, params, structure, x))


def copy(value: jax.Array | np.ndarray) -> torch.Tensor:
    """A JAX array as a PyTorch tensor of its own."""
    return torch.from_numpy(np.array(value))


def inputs(key: jax.Array, samples: int = 96) -> tuple[jax.Array, jax.Array]:
    """``(batch, in)`` normal inputs and ``(batch,)`` labels."""
    key_x, key_y = jax.random.split(key)
    return jax.random.normal(key_x, (samples, SPEC.sizes[0])), jax.random.randint(key_y, (samples,), 0, 10)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """PyTorch's threads would wait for one another on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@jax.jit
def build(key: jax.Array) -> tuple[Params, Structure, tuple[Extrema, ...]]:
    """A patched network and the extrema its patches sit at."""
    key_mask, key_init, key_patch, key_x = jax.random.split(key, 4)
    params, structure = mlp.init(SPEC, key_mask=key_mask, key_init=key_init)
    first, second, last = params.scaffold
    # A few units are made high extrema: fewer than there are slots, so that some slots stay empty.
    first = first.replace(bias=first.bias.at[1::8].add(4.0))
    second = second.replace(bias=second.bias.at[1::16].add(8.0))
    params = params.replace(scaffold=(first, second, last))
    found = detect(params, structure, inputs(key_x)[0])
    params, structure = with_patches(params, structure, found, RULES, key_patch=key_patch)
    return params, structure, found


def pairs(key: jax.Array) -> tuple[Params, Structure, reference.PatchedNetwork]:
    """The same patched network in jaxnet and in PyTorch, with 4 + 2 high and 5 low patches."""
    params, structure, found = build(key)
    assert [int(e.high.sum()) for e in found] == [4, 2]
    assert int(found[1].low.sum()) > 5, "the first five of more than five"
    return params, structure, copied(params, structure)


@jax.jit
def detect(params: Params, structure: Structure, x: jax.Array) -> tuple[Extrema, ...]:
    """jaxnet's extrema of all hidden layers on ``(batch, in)`` inputs."""
    hidden = SPEC.sizes[1:-1]
    activations = mlp.apply(SPEC, params, structure, x)[1]
    return tuple(
        detect_extrema(update_stats(init_stats(units), pre, post, "relu"))
        for units, pre, post in zip(hidden, activations.pre, activations.post, strict=True)
    )


@jax.jit
def masked(params: Params, structure: Structure) -> tuple[tuple[LayerParams, ...], tuple[Entry, ...]]:
    """The scaffold as dense matrices and masks."""
    params, structure = to_masked_network(params, structure)
    return params.scaffold, structure.weights


def flat(params: Params, structure: Structure) -> dict[str, np.ndarray]:
    """Values (or gradients) under the names that PyTorch gives them, active slots only."""
    named: dict[str, np.ndarray] = {}
    for t, layer in enumerate(masked(params, structure)[0]):
        named[f"scaffold.{t}.weight"] = np.asarray(layer.weight)
        named[f"scaffold.{t}.bias"] = np.asarray(layer.bias)
    if structure.bank is None:
        return named
    for t, (placed, values) in enumerate(zip(structure.bank.layers, params.patches, strict=True)):
        if placed is None:
            continue
        assert isinstance(values, SlotParams)
        active = np.asarray(placed.active)
        for kind, part, kept in (
            ("high", values.high, active[: placed.num_high]),
            ("low", values.low, active[placed.num_high :]),
        ):
            if part is not None:
                w1, b1, w2, b2 = (np.asarray(v)[kept] for v in (part.w1, part.b1, part.w2, part.b2))
                # PyTorch's patches have no axis for the one input (high) or the one output (low)
                shaped = (w1[:, :, 0], b1, w2, b2) if kind == "high" else (w1, b1, w2[:, 0], b2[:, 0])
                named |= {f"{kind}.{t}.{n}": v for n, v in zip(("w1", "b1", "w2", "b2"), shaped, strict=True)}
    return named


def copied(params: Params, structure: Structure) -> reference.PatchedNetwork:
    """A PyTorch network with jaxnet's masks, values and patches (the inactive slots left out)."""
    net = reference.PatchedNetwork(SPEC.sizes, SPEC.density)
    for layer, mask in zip(net.scaffold, masked(params, structure)[1], strict=True):
        assert isinstance(layer, reference.MaskedLinear) and isinstance(mask, Mask)
        layer.mask.copy_(copy(mask.mask))
    for t, placed in enumerate(structure.bank.layers if structure.bank else ()):
        if placed is None:
            continue
        unit, active, n = copy(placed.unit).long(), copy(placed.active), placed.num_high
        if active[:n].any():
            net.high[str(t)] = reference.HighPatches(unit[:n][active[:n]], SPEC.sizes[t + 1])
        if active[n:].any():
            assert placed.sources is not None
            low = net.low[str(t)] = reference.LowPatches(unit[n:][active[n:]], SPEC.sizes[t])
            low.sources = copy(placed.sources).long()[active[n:]]
    with torch.no_grad():
        named = dict(net.named_parameters())
        for name, value in flat(params, structure).items():
            named.pop(name).copy_(copy(value))
    assert not named, "every value has a counterpart"
    return net


def assert_same_values(
    net: reference.PatchedNetwork, params: Params, structure: Structure, atol: float
) -> None:
    """All values of both sides agree."""
    named = {name: value.detach().numpy() for name, value in net.named_parameters()}
    for name, value in flat(params, structure).items():
        np.testing.assert_allclose(value, named.pop(name), rtol=1e-5, atol=atol, err_msg=name)
    assert not named


@jax.jit
def loss_and_gradients(
    params: Params, structure: Structure, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, Params]:
    """jaxnet's loss and its gradients for ``(batch, in)`` inputs."""

    def loss(p: Params) -> jax.Array:
        logits = mlp.forward(SPEC, p, structure, x.T)[0]
        return losses.cross_entropy(logits, y, jnp.ones(y.shape), axis=0)

    return jax.value_and_grad(loss)(params)


@jax.jit
def adam_step(
    params: Params, state: PyTree, structure: Structure, x: jax.Array, y: jax.Array
) -> tuple[Params, PyTree]:
    """One step of jaxnet's Adam with two rates."""
    grads = loss_and_gradients(params, structure, x, y)[1]
    updates, state = OPTIMIZER.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state


def test_outputs_and_stored_activations_agree(key):
    params, structure, net = pairs(key)
    x = inputs(jax.random.fold_in(key, 1))[0]
    logits, activations = apply(params, structure, x)
    with torch.no_grad():
        expected, stored = net(copy(x))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for pre, other in zip(activations.pre, stored, strict=True):
        np.testing.assert_allclose(pre.T, other, atol=1e-5)


def test_patches_matter_in_both(key):
    # else the agreement above would say nothing of them
    params, structure, net = pairs(key)
    x = inputs(jax.random.fold_in(key, 1))[0]
    bare = apply(params, structure.replace(bank=None), x)[0]
    with torch.no_grad():
        assert np.abs(np.asarray(bare) - net(copy(x))[0].numpy()).max() > 1e-2


def test_gradients_agree(key):
    params, structure, net = pairs(key)
    x, y = inputs(jax.random.fold_in(key, 1))
    value, grads = loss_and_gradients(params, structure, x, y)
    loss = torch.nn.functional.cross_entropy(net(copy(x))[0], copy(y).long())
    loss.backward()
    assert abs(float(value) - loss.item()) < 1e-5
    expected = {name: np.asarray(value.grad) for name, value in net.named_parameters()}
    for name, grad in flat(grads, structure).items():
        np.testing.assert_allclose(grad, expected.pop(name), atol=1e-6, err_msg=name)
    assert not expected


@pytest.mark.parametrize("variant", reference.ADAMS)
def test_dual_rate_adam_steps_agree(key, standard_promotion, variant):
    params, structure, net = pairs(key)
    state = OPTIMIZER.init(params)
    other = reference.dual_rate_adam(net, variant, LR_SCAFFOLD, LR_PATCH)
    before = flat(params, structure)
    for step in range(3):
        x, y = inputs(jax.random.fold_in(key, step))
        params, state = adam_step(params, state, structure, x, y)
        other.zero_grad()
        torch.nn.functional.cross_entropy(net(copy(x))[0], copy(y).long()).backward()
        other.step()
        # a hundredth of the smaller rate, so that a wrong rate or epsilon is seen
        assert_same_values(net, params, structure, atol=LR_SCAFFOLD / 100)
    after = flat(params, structure)
    moved = {name: np.abs(after[name] - before[name]).max() for name in after}
    # three Adam steps move a value by about its rate each
    assert 2 * LR_SCAFFOLD < max(v for n, v in moved.items() if n.startswith("scaffold")) < 3.1 * LR_SCAFFOLD
    assert 2 * LR_PATCH < max(v for n, v in moved.items() if not n.startswith("scaffold")) < 3.1 * LR_PATCH


def test_an_epoch_agrees_last_small_batch_included(key):
    params, structure, net = pairs(key)
    x, y = inputs(jax.random.fold_in(key, 1), samples=150)
    split = Split(x, y.astype(jnp.int32), jnp.zeros(()), jnp.ones(()))
    task = train.Task(MLP(SPEC), batch_size=64)
    optimizer = optim.dual_rate_adam(1e-3, 5e-3)
    key_data, number = jax.random.key(7), jnp.asarray(3, jnp.int32)
    state = train.init_state(train.Net.of(params, structure, optimizer))
    state, _ = jax.jit(train.make_epoch(task))(state, split, key_data, number)

    key_order = jax.random.split(jax.random.fold_in(key_data, number))[0]
    index, weight = epoch_batches(150, 64, key_order)
    order = index.ravel()[weight.ravel() > 0]
    assert sorted(order.tolist()) == list(range(150))
    other = reference.dual_rate_adam(net, "foreach", 1e-3, 5e-3)
    reference.train_epoch(net, other, copy(x), copy(y).long(), copy(order).long(), 64)
    assert trees.equal(state.net.structure, structure)
    assert_same_values(net, state.net.params, structure, atol=1e-5)
    expected = reference.accuracy(net, copy(x), copy(y).long())
    assert float(train.evaluate(task, state.net.params, structure, split).accuracy) == pytest.approx(expected)


def test_extrema_agree(key):
    params, structure, net = pairs(key)
    x = inputs(jax.random.fold_in(key, 1))[0]
    with torch.no_grad():
        high, low = reference.detect_extrema(net(copy(x))[1])
    for found, units_high, units_low in zip(detect(params, structure, x), high, low, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(found.high), units_high)
        np.testing.assert_array_equal(np.flatnonzero(found.low), units_low)
        assert len(units_high) and len(units_low)


@pytest.mark.parametrize(
    "means, expected",
    [
        # layer mean 1/3, std 0.3266 over 6 - 1 units: threshold 0.9865
        ([0.2, 0.2, 1.0, 0.2, 0.2, 0.2], [2]),
        # layer mean 0.2083, std 0.4005 over 6 - 1 units: threshold 1.0094 (over 6: 0.9395, which 1 exceeds)
        ([0.0, 0.0, 0.0, 0.0, 0.25, 1.0], []),
    ],
)
def test_extrema_threshold_uses_the_unbiased_deviation(means, expected):
    values = jnp.broadcast_to(jnp.asarray(means)[:, None], (6, 8))
    found = detect_extrema(update_stats(init_stats(6), values, values, "relu"))
    high, low = reference.detect_extrema([copy(values.T)])
    assert high[0].tolist() == np.flatnonzero(found.high).tolist() == expected
    assert low[0].tolist() == np.flatnonzero(found.low).tolist()


def test_patches_sit_at_the_same_units(key):
    _, structure, found = build(key)
    net = reference.PatchedNetwork(SPEC.sizes, SPEC.density)
    high = [torch.from_numpy(np.flatnonzero(e.high)) for e in found]
    low = [torch.from_numpy(np.flatnonzero(e.low)) for e in found]
    assert net.add_patches(high, low) == 4 + 2 + 5
    units = {name: value.tolist() for name, value in net.named_buffers() if name.endswith("unit")}
    assert structure.bank is not None
    for t, placed in enumerate(structure.bank.layers):
        if placed is not None:
            n = placed.num_high
            unit, active = np.asarray(placed.unit), np.asarray(placed.active)
            for kind, part in (("high", slice(None, n)), ("low", slice(n, None))):
                assert units.pop(f"{kind}.{t}.unit", []) == unit[part][active[part]].tolist()
    assert not units


def test_patches_of_full_layers_have_the_parameters_of_the_original():
    net = reference.PatchedNetwork((784, 256, 128, 10), 0.02)
    units = [torch.arange(7), torch.arange(6)]
    assert net.add_patches(units, units) == 15
    assert sum(p.numel() for p in net.patch_parameters()) == 1405
    masks = [value for name, value in net.named_buffers() if name.endswith("mask")]
    assert [int(mask.sum()) for mask in masks] == [4014, 655, 25]


def test_initial_values_have_the_same_bounds(key):
    torch.manual_seed(0)
    net = reference.PatchedNetwork(SPEC.sizes, SPEC.density)
    key_mask, key_init = jax.random.split(key)
    params, structure = jax.jit(partial(mlp.init, SPEC))(key_mask=key_mask, key_init=key_init)
    ours = flat(params, structure)
    for name, value in net.named_parameters():
        bound = SPEC.sizes[int(name.split(".")[1])] ** -0.5
        for values in (value.detach().numpy(), ours[name]):
            assert 0.8 * bound < np.abs(values).max() <= bound, name
        assert np.count_nonzero(ours[name]) == np.count_nonzero(value.detach().numpy()), name


def test_low_patches_draw_distinct_inputs_anew_in_every_forward_pass():
    torch.manual_seed(0)
    patch = reference.LowPatches(torch.tensor([1, 4]), 30).double()
    with torch.no_grad():
        patch.w1.fill_(1.0)
        patch.b1.fill_(0.0)
        patch.w2.fill_(1 / 8)
        patch.b2.fill_(0.0)
        below = 2.0 ** torch.arange(30, dtype=torch.float64)[None]  # a sum of powers of two names its terms
        zero = torch.zeros(1, 6, dtype=torch.float64)
        seen = {tuple(int(v) for v in patch(below, zero)[0, [1, 4]] * 2) for _ in range(4)}
        assert len(seen) == 4
        assert all(sources.bit_count() == 20 for pair in seen for sources in pair)
        assert patch(below, zero)[0, [0, 2, 3, 5]].eq(0).all()
