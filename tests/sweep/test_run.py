"""One network of a sweep against a training in NumPy, and its row against the library's own measures."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import methods, signals, trees
from jaxnet.data.batches import Split, epoch_batches
from jaxnet.keys import ORDER
from jaxnet.losses import ABSENT
from jaxnet.nn.mlp import MLP, NetworkSpec, forward
from jaxnet.nn.params import Params, Structure
from jaxnet.reach import LiveCounts
from jaxnet.structure import LayerParams
from jaxnet.sweep import DrawRules, Row, SweepConfig, draw_variant, make_family, make_run, make_variant
from jaxnet.topology import Topology, topology_from_mask, topology_mask
from jaxnet.train import Task, collect_stats, evaluate
from tests.networks import quick
from tests.sweep import small

KERNELS = [
    "dense",
    pytest.param("csr", marks=pytest.mark.skipif("csr" not in small.PRODUCTS, reason="no csr kernel")),
]
SIZES = {0: small.SMALL, 1: small.LARGE}


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def train_in_numpy(
    layers: list[tuple[np.ndarray, ...]], x: np.ndarray, y: np.ndarray, orders: list[np.ndarray], lr: float
) -> tuple[list[list[np.ndarray]], float]:
    """Masked dense ReLU network, mean cross-entropy, Adam; float64.

    Args:
      layers: weights, masks and biases.
      orders: indices of the samples, one row per epoch.

    Returns:
      Weights and biases, and the mean loss of the last epoch.
    """
    masks = [mask for _, mask, _ in layers]
    values = [part.astype(np.float64) for weight, _, bias in layers for part in (weight, bias)]
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    step, loss = 0, 0.0
    for order in orders:
        loss = 0.0
        for begin in range(0, len(order), 16):
            batch = order[begin : begin + 16]
            posts = [x[batch].T.astype(np.float64)]
            for k in range(len(masks)):
                z = values[2 * k] @ posts[-1] + values[2 * k + 1][:, None]
                posts.append(z if k == len(masks) - 1 else np.maximum(z, 0))
            p = softmax(posts[-1])
            loss -= np.log(p[y[batch], np.arange(len(batch))]).sum()
            delta = (p - np.eye(len(p))[:, y[batch]]) / len(batch)
            grads: list[np.ndarray] = []
            for k in reversed(range(len(masks))):
                grads = [(delta @ posts[k].T) * masks[k], delta.sum(axis=1), *grads]
                delta = (values[2 * k].T @ delta) * (posts[k] > 0)
            step += 1
            for i, g in enumerate(grads):
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g * g
                mean, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
                values[i] = values[i] - lr * mean / (np.sqrt(square) + 1e-8)
    return [values[i : i + 2] for i in range(0, len(values), 2)], loss / len(x)


def orders(key: jax.Array, epochs: int) -> list[np.ndarray]:
    """The order of the samples in every epoch; the filled-up end of the last batch is cut off."""
    size = small.splits()[0].size
    return [
        np.asarray(epoch_batches(size, 16, jax.random.fold_in(key, number))[0]).ravel()[:size]
        for number in range(epochs)
    ]


def first_values(seed: int) -> list[tuple[np.ndarray, ...]]:
    """What a seed draws: weights, masks and biases of the units that exist."""
    key, member = small.keys()[seed], small.network(small.members(), seed)
    params, structure = draw_variant(
        small.FAMILY,
        member,
        DrawRules(),
        key_mask=jax.random.fold_in(key, 0),
        key_init=jax.random.fold_in(key, 1),
    )
    return small.matrices(params, structure, SIZES[seed % 2])


def unpadded(tree: Any, sizes: tuple[int, ...]) -> tuple[Params, Structure]:
    """The network of the same values without units or slots that do not exist."""
    layers, topologies = [], []
    for weight, mask, bias in small.matrices(tree.params, tree.structure, sizes):
        layers.append(LayerParams(jnp.asarray(weight[mask]), jnp.asarray(bias)))
        topologies.append(topology_from_mask(mask))
    return Params(tuple(layers)), Structure.of(topologies)


def narrowed(split: Split, features: int) -> Split:
    """The first features only."""
    return split.replace(x=split.x[:, :features], mean=jnp.zeros(()), std=jnp.ones(()))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_equals_a_loop_in_numpy(kernel, seed):
    trained = small.network(small.trained(kernel, small.NUM_SEEDS), seed)
    train = small.splits()[0]
    data = np.asarray(train.x)[:, : SIZES[seed][0]], np.asarray(train.y)
    expected, loss = train_in_numpy(
        first_values(seed), *data, orders(jax.random.key(small.KEY_DATA), 2), small.config(kernel).lr or 0.0
    )
    found = small.matrices(trained.params, trained.structure, SIZES[seed])
    for (weight, _, bias), (weight_expected, bias_expected) in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, weight_expected, atol=2e-5)
        np.testing.assert_allclose(bias, bias_expected, atol=2e-5)
    np.testing.assert_allclose(trained.row.loss, loss, atol=1e-5)


@pytest.fixture(scope="module")
def own_order():
    """Two seeds with orders of their own, trained under two keys of the common order."""
    config = small.config("dense", common_order=False)
    run = quick(jax.vmap(make_run(small.FAMILY, config), in_axes=(0, None, 0, None, None, None)))
    return [
        jax.tree.map(np.asarray, run(small.keys(2), jax.random.key(k), small.members(2), *small.splits()))
        for k in (5, 6)
    ]


def test_with_an_order_of_its_own_a_seed_ignores_the_common_key(own_order):
    small.assert_same(*own_order)


def test_own_order_is_drawn_from_the_seed(own_order):
    train = small.splits()[0]
    for seed, sizes in SIZES.items():
        key = jax.random.fold_in(small.keys()[seed], ORDER)
        data = np.asarray(train.x)[:, : sizes[0]], np.asarray(train.y)
        expected, loss = train_in_numpy(first_values(seed), *data, orders(key, 2), 1e-2)
        trained = small.network(own_order[0], seed)
        found = small.matrices(trained.params, trained.structure, sizes)
        for (weight, _, _), (weight_expected, _) in zip(found, expected, strict=True):
            np.testing.assert_allclose(weight, weight_expected, atol=2e-5)
        np.testing.assert_allclose(trained.row.loss, loss, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padded_network_equals_the_unpadded_network(kernel):
    """Logits and hidden activations of every trained network, and zeros where no unit is."""
    everyone = small.trained(kernel, small.NUM_SEEDS)
    x = small.splits()[1].x.T
    spec = NetworkSpec(small.FAMILY.sizes, 1.0)
    for seed in (0, 1):
        trained, sizes = jax.tree.map(jnp.asarray, small.network(everyone, seed)), SIZES[seed]
        product = small.PRODUCTS[kernel]
        logits, acts = forward(spec, trained.params, trained.structure, x, product=product)
        own = forward(NetworkSpec(sizes, 0.5), *unpadded(trained, sizes), x[: sizes[0]], product=product)
        np.testing.assert_allclose(logits[: sizes[-1]], own[0], atol=1e-5)
        np.testing.assert_allclose(acts.post[0][: sizes[1]], own[1].post[0], atol=1e-5)
        assert not np.asarray(acts.post[0][sizes[1] :]).any()
        assert np.all(np.asarray(logits[sizes[-1] :]) == ABSENT)  # no answer, no part in the softmax


@pytest.mark.parametrize("kernel", KERNELS)
def test_row_agrees_with_the_library_measured_separately(kernel):
    """Accuracy, extrema, dead units and counts of the unpadded networks."""
    everyone, (_, val, watched) = small.trained(kernel, small.NUM_SEEDS), small.splits()
    for seed, sizes in SIZES.items():
        trained = small.network(everyone, seed)
        params, structure = unpadded(trained, sizes)
        task = Task(MLP(NetworkSpec(sizes, 0.5)), eval_batch_size=8)
        narrow = [
            s.replace(x=s.x[:, : sizes[0]], mean=jnp.zeros(()), std=jnp.ones(())) for s in (val, watched)
        ]
        row = trained.row
        np.testing.assert_allclose(row.accuracy, evaluate(task, params, structure, narrow[0]).accuracy)
        (stats,) = collect_stats(task, params, structure, narrow[1], values="post")
        found = signals.detect(stats)
        assert row.high == found.high.sum() and row.low == found.low.sum()
        np.testing.assert_allclose(row.dead, np.mean(np.asarray(stats.active) == 0), rtol=1e-6)
        assert row.saturated == 0  # a ReLU never is
        assert row.hidden == sizes[1] and row.biases == sum(sizes[1:])
        assert row.nonzeros == sum(int(t.num_nonzeros) for t in structure.weights)
        assert 0 < row.accuracy < 1 and row.low + row.high > 0  # there is something to agree on


@pytest.mark.slow
def test_extrema_of_bounded_units_before_the_activation():
    """Two hidden layers, tanh, watched before the activation, the adaptive detector."""
    sizes = (small.FEATURES, 7, 6, 3)
    family = make_family([sizes, (small.FEATURES, 9, 8, 3)], [0.4], "uniform")
    config = SweepConfig(
        epochs=3, batch_size=30, lr=0.05, draw=DrawRules(activation="tanh"), detector="adaptive", watch="pre"
    )
    _, val, watched = small.splits()
    trained = quick(make_run(family, config))(
        jax.random.key(3), jax.random.key(4), make_variant(sizes, 0.4), *small.splits()
    )
    params, structure = unpadded(trained, sizes)
    task = Task(MLP(NetworkSpec(sizes, 0.5, "tanh")), eval_batch_size=8)
    every = collect_stats(task, params, structure, watched, values="pre")
    found = [signals.detect(stats, "adaptive") for stats in every]
    row = trained.row
    assert row.high == sum(f.high.sum() for f in found)
    assert row.low == sum(f.low.sum() for f in found)
    saturated = np.concatenate([np.asarray(stats.fraction_saturated) for stats in every])
    dead = np.concatenate([np.asarray(stats.active) == 0 for stats in every])
    assert row.hidden == 13 and saturated.shape == (13,)
    np.testing.assert_allclose(row.saturated, saturated.mean(), rtol=1e-5)
    np.testing.assert_allclose(row.dead, dead.mean(), rtol=1e-6)
    np.testing.assert_allclose(row.accuracy, evaluate(task, params, structure, val).accuracy, rtol=1e-6)
    assert row.saturated > 0


def test_a_class_that_does_not_exist_is_never_the_answer():
    """Every validation label is the class that the small architecture lacks: not one hit."""
    train, val, watched = small.splits()
    lacking = val.replace(y=jnp.full_like(val.y, small.CLASSES - 1))
    config = small.config("dense", epochs=1)
    run = quick(jax.vmap(make_run(small.FAMILY, config), in_axes=(0, None, None, None, None, None)))
    member = make_variant(small.SMALL, small.DENSITY)
    row = run(small.keys(8), jax.random.key(0), member, train, lacking, watched).row
    np.testing.assert_array_equal(row.accuracy, 0)
    assert np.all(np.asarray(row.loss) < 10)


def test_a_member_trained_among_larger_ones_equals_itself_in_its_own_family():
    """Draws agree exactly (see test_family), so training does, but for rounding."""
    own = make_family([small.SMALL], [small.DENSITY], "uniform")
    run = quick(make_run(own, small.config("dense")))
    member = make_variant(small.SMALL, small.DENSITY)
    narrow = [narrowed(split, small.SMALL[0]) for split in small.splits()]
    alone = run(small.keys()[0], jax.random.key(small.KEY_DATA), member, *narrow)
    among = small.network(small.trained("dense", small.NUM_SEEDS), 0)
    pairs = zip(
        small.matrices(alone.params, alone.structure, small.SMALL),
        small.matrices(among.params, among.structure, small.SMALL),
        strict=True,
    )
    for mine, theirs in pairs:
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    small.assert_close(alone.row, among.row, 1e-5)


def test_training_learns():
    """300 steps on a task that a quarter of the weights can do."""
    sizes = (small.FEATURES, 20, 3)
    family = make_family([sizes], [0.25], "uniform")
    splits = [small.as_split(*small.make_samples(n, n)) for n in (400, 200, 50)]
    run = quick(jax.vmap(make_run(family, SweepConfig(epochs=12, batch_size=16)), (0, *[None] * 5)))
    row = run(small.keys(8), jax.random.key(1), make_variant(sizes, 0.25), *splits).row
    assert np.median(row.accuracy) > 0.6  # a third by chance; what the network cannot see bounds it


def test_scores_of_a_row_by_hand():
    zero, nothing = jnp.zeros(()), jnp.zeros(0, jnp.int32)
    layers: Any = {"high_by_layer": nothing, "low_by_layer": nothing, "diverged": jnp.zeros((), bool)}
    layers |= {"live": LiveCounts(*[jnp.asarray(1)] * 4), "outside": zero}
    row: Any = functools.partial(Row, loss=zero, dead=zero, saturated=zero, biases=jnp.asarray(7), **layers)
    some = row(
        accuracy=jnp.asarray(0.75),
        high=jnp.asarray(2),
        low=jnp.asarray(3),
        hidden=jnp.asarray(20),
        nonzeros=jnp.asarray(500),
    )
    np.testing.assert_allclose(some.extrema_score, 0.25)
    np.testing.assert_allclose(some.patchability, 0.25 * 0.25)
    np.testing.assert_allclose(some.efficiency, 1.5)
    none = row(
        accuracy=jnp.asarray(0.75),
        high=jnp.asarray(0),
        low=jnp.asarray(0),
        hidden=jnp.asarray(0),
        nonzeros=jnp.asarray(0),
    )
    assert none.extrema_score == 0 and none.patchability == 0 and np.isfinite(none.efficiency)


@pytest.mark.slow
def test_rates_that_are_data_give_what_rates_in_the_program_give():
    """One program for seeds that differ in learning rate and weight decay."""
    rates = [(0.02, 0.0), (0.003, 0.1), (0.05, 0.01)]
    program = quick(
        jax.vmap(
            make_run(small.FAMILY, small.config("dense", lr=None, weight_decay=None)),
            in_axes=(0, None, 0, None, None, None),
        )
    )
    variants = [make_variant(small.SMALL, small.DENSITY, lr=lr, weight_decay=wd) for lr, wd in rates]
    together = program(small.keys(3), jax.random.key(7), trees.stack(variants), *small.splits())
    for seed, (lr, wd) in enumerate(rates):
        alone = quick(make_run(small.FAMILY, small.config("dense", lr=lr, weight_decay=wd)))(
            small.keys(3)[seed],
            jax.random.key(7),
            make_variant(small.SMALL, small.DENSITY),
            *small.splits(),
        )
        small.assert_close(alone.params, small.network(together, seed).params, 1e-5)


def test_a_diverged_network_is_marked_and_its_accuracy_is_none():
    variants = [make_variant(small.SMALL, small.DENSITY, lr=lr) for lr in (1e30, 0.02)]
    program = quick(
        jax.vmap(
            make_run(small.FAMILY, small.config("dense", lr=None)), in_axes=(0, None, 0, None, None, None)
        )
    )
    row = program(small.keys(2), jax.random.key(7), trees.stack(variants), *small.splits()).row
    assert row.diverged.tolist() == [True, False]
    assert np.isnan(row.accuracy[0]) and np.isnan(row.patchability[0]) and np.isnan(row.efficiency[0])
    assert 0 < row.accuracy[1] <= 1


@pytest.mark.slow
def test_a_method_rewires_the_networks_of_a_sweep():
    """SET moves weights and keeps their number; a seed alone equals its row."""
    config = small.config("dense", method=methods.make("set", every=2))
    run = make_run(small.FAMILY, config)
    variant = make_variant(small.SMALL, small.DENSITY)
    together = quick(jax.vmap(run, in_axes=(0, None, None, None, None, None)))(
        small.keys(2), jax.random.key(7), variant, *small.splits()
    )
    still = quick(make_run(small.FAMILY, small.config("dense")))(
        small.keys(2)[1], jax.random.key(7), variant, *small.splits()
    )
    alone = quick(run)(small.keys(2)[1], jax.random.key(7), variant, *small.splits())
    second = small.network(together, 1)
    small.assert_close(alone.params, second.params, 1e-5)
    assert int(alone.row.nonzeros) == int(still.row.nonzeros)
    masks = [
        [np.asarray(topology_mask(t)) for t in trained.structure.weights if isinstance(t, Topology)]
        for trained in (alone, still)
    ]
    assert any((a != b).any() for a, b in zip(*masks, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs and batch_size"),
        ({"batch_size": 0}, "epochs and batch_size"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"watch": "both"}, "pre or post"),
    ],
)
def test_wrong_values_are_rejected(changes, words):
    with pytest.raises(ValueError, match=words):
        SweepConfig(**changes)
