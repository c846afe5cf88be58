"""Circuits: ablation by hand, attribution against ablation, planted circuits, relations, wrong input."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jaxnet
from jaxnet import circuits
from jaxnet.circuits import Suite
from jaxnet.errors import InputError
from jaxnet.nn.mlp import MLP
from jaxnet.nn.params import Params, Structure, to_masked_network
from jaxnet.structure import LayerParams
from jaxnet.topology import topology_from_mask
from jaxnet.train import Task
from tests.networks import quick

F = 3
"""Functions of the planted networks."""


def drawn(key: jax.Array, sizes=(6, 8, 5, 4), density=0.6, activation="relu", scale=1.5, samples=40):
    spec = jaxnet.NetworkSpec(sizes, density, activation)
    params, structure = jaxnet.init(spec, key_mask=key, key_init=jax.random.fold_in(key, 1))
    params = jax.tree.map(lambda w: scale * w, params)
    x = jax.random.normal(jax.random.fold_in(key, 2), (samples, sizes[0]))
    y = jnp.arange(samples) % sizes[-1]
    return Task(MLP(spec)), params, structure, circuits.of_classes(x, y, sizes[-1])


def by_hand() -> tuple[Task, Params, Structure, Suite]:
    """h = relu(x0 - x1), relu(x1); z = 2 h0 + h1 - 1; positives (3, 1), controls (1, 1)."""
    entries = [topology_from_mask(np.array([[1, 1], [0, 1]])), topology_from_mask(np.array([[1, 1]]))]
    values = [jnp.asarray([1.0, -1.0, 1.0]), jnp.asarray([2.0, 1.0])]
    layers = (LayerParams(values[0], jnp.zeros(2)), LayerParams(values[1], -jnp.ones(1)))
    weight, control = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    x = jnp.asarray([[3.0, 1.0], [1.0, 1.0]])
    suite = Suite(x, jnp.asarray([1, 0]), weight, control, jnp.zeros(1, jnp.int32), "logit")
    task = Task(MLP(jaxnet.NetworkSpec((2, 2, 1), 1.0)), loss=circuits.question)
    return task, Params(layers), Structure.of(entries), suite


def test_ablation_by_hand(key):
    task, params, structure, suite = by_hand()
    of = functools.partial(circuits.ablate, task, params, structure, suite, metric="margin")
    masks = jnp.asarray([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
    # logits (4, 0); without w0: h0 = 0: (0, 0); without v0 the same; nothing: (-1, -1)
    np.testing.assert_allclose(of(masks)[:, 0], [2, 0, 0, 0], atol=1e-6)
    # the mean of x0 is 2: h0 = relu(2 - 1) on both; the mean of h0 is 1: z = 2 + 1 - 1 on both
    np.testing.assert_allclose(of(masks, "mean")[:, 0], [2, 0, 0, 0], atol=1e-6)
    # the partner of each sample is the other: x0 is (1, 3): h0 = (0, 2), z = (0, 4)
    np.testing.assert_allclose(of(masks, "resample", key=key)[:, 0], [2, -2, -2, -2], atol=1e-6)
    units = of(jnp.asarray([[0, 1], [1, 0]]), "resample", key=key, wrt="unit")
    np.testing.assert_allclose(units[:, 0], [-2, 2], atol=1e-6)
    loss = circuits.losses(task, params, structure, suite)
    np.testing.assert_allclose(loss, (np.log1p(np.exp(-4)) + np.log(2)) / 2, rtol=1e-6)
    each = circuits.ablate_each(task, params, structure, suite, metric="margin")
    np.testing.assert_allclose(each[:, 0], [0, 2, 2, 0, 2], atol=1e-6)


@pytest.mark.slow
def test_masks_act_alike_on_both_representations_and_on_units(key):
    task, params, structure, suite = drawn(key)
    labels = jaxnet.guard.groups(params, structure)

    @quick
    def all_of_it(params: Any, structure: Any, suite: Suite) -> Any:
        there = circuits.existing(params, structure)
        keep = jax.random.bernoulli(key, 0.5, there.shape)
        alone = circuits.extract(params, structure, keep)
        into, out = circuits.unit_groups(params, structure)[0]
        masks = jnp.stack([keep, into != 9, out != 9])
        apart = functools.partial(circuits.ablate, task, params, structure, suite)
        alike = [circuits.losses(task, net[0], net[1], suite) for net in (alone, to_masked_network(*alone))]
        count = sum(entry.num_nonzeros for entry in alone[1].weights), jnp.sum(keep & there)
        units = apart((jnp.arange(13) != 9)[None], wrt="unit")
        return apart(masks), alike, count, units, apart((jnp.arange(17) != 9)[None], wrt=labels)

    weights, alike, (count, kept), units, rows = all_of_it(params, structure, suite)
    for expected in alike:
        np.testing.assert_allclose(weights[0], expected, rtol=1e-5)
    assert int(count) == int(kept)
    np.testing.assert_allclose(rows[0], weights[1], rtol=1e-5)
    # a hidden unit without its outputs is a unit that is gone
    np.testing.assert_allclose(weights[2], units[0], rtol=1e-5)


def test_a_single_weight_of_a_linear_network_is_attributed_exactly(key):
    task, params, structure, suite = drawn(key, activation="identity")
    suite = suite.replace(kind="logit")
    found = circuits.attribute(task, params, structure, suite, "margin", nodes=0).scores
    each = circuits.ablate_each(task, params, structure, suite, metric="margin")
    whole = circuits.losses(task, params, structure, suite, "margin")
    np.testing.assert_allclose(found, (whole - each).T, atol=1e-5)


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_parts_add_up(key, mode):
    task, params, structure, suite = drawn(key, (20, 30, 20, 4), 0.3, scale=1.0, samples=400)

    @quick
    def all_of_it(params: Any, suite: Suite) -> Any:
        found = circuits.attribute(task, params, structure, suite, "loss", nodes=16, mode=mode)
        nothing = jnp.zeros((1, found.scores.shape[1]))
        change = circuits.losses(task, params, structure, suite)
        change -= circuits.ablate(task, params, structure, suite, nothing, mode)[0]
        units = circuits.attribute(task, params, structure, suite, "margin", wrt="unit", mode=mode)
        return found, change, units

    found, change, units = all_of_it(params, suite)
    np.testing.assert_allclose(found.difference, change, atol=1e-5)
    # means: what single losses gain and lose on the way is much more than the difference
    assert float(jnp.max(found.error)) < (2e-3 if mode == "zero" else 2e-2)
    assert units.scores.shape == (4, 50) and float(jnp.max(units.error)) < 2e-2


def test_per_sample_is_what_single_samples_say(key):
    task, params, structure, suite = drawn(key)

    def one(n: jax.Array) -> jax.Array:
        sides = {side: jnp.take(getattr(suite, side), n[None], axis=1) for side in ("weight", "control")}
        alone = suite.replace(x=suite.x[n][None], y=suite.y[n][None], **sides)
        return jnp.abs(circuits.attribute(task, params, structure, alone, "margin", nodes=0).scores)

    expected = quick(lambda: jnp.sum(jax.lax.map(one, jnp.arange(suite.y.size)), 0))()
    found = quick(lambda: circuits.per_sample(task, params, structure, suite))()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def planted_scores(params: Any, structure: Any, edges: Any) -> dict[str, jax.Array]:
    """Of one planted network: AUROC of scores, and whether the circuit is found exactly."""
    task, suite = circuits.planted_task(F), circuits.planted_suite(F)
    there = circuits.existing(params, structure)
    scores = circuits.attribute(task, params, structure, suite, "margin", nodes=0, mode="mean").scores
    alone = circuits.losses(task, params, structure, suite, "margin")[:, None]
    alone -= circuits.ablate_each(task, params, structure, suite, metric="margin").T
    size = jnp.broadcast_to(circuits.magnitude(params, structure), edges.shape)
    found = {"gradient": scores, "ablation": alone, "magnitude": size}
    made = {n: jax.vmap(circuits.auroc, (0, 0, None))(s, edges, there) for n, s in found.items()}
    of = circuits.measured(task, params, structure, suite, "zero")
    target = circuits.target_loss(of(jnp.ones(there.shape)), of(jnp.zeros(there.shape)), 0.98)

    def one(k: jax.Array) -> jax.Array:
        own = circuits.measured(task, params, structure, circuits.only(suite, k), "zero")
        kept = circuits.smallest_of(own, there, scores[k], target[k], chunks=16).keep
        return jnp.all(kept == edges[k])

    return {**made, "exact": jax.lax.map(one, jnp.arange(F))}


@functools.cache
def planted_networks() -> dict[str, np.ndarray]:
    found = []
    for copies in (1, 2):
        made = [
            circuits.planted(jax.random.key(i), F, 8, copies) for i in range(16 * copies - 16, 16 * copies)
        ]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        found.append(jax.jit(jax.vmap(planted_scores))(*stacked))
    return {name: np.concatenate([np.asarray(f[name]).ravel() for f in found]) for name in found[0]}


def test_planted_circuits_are_found():
    found = planted_networks()
    assert found["gradient"].size == 32 * F
    assert found["gradient"].mean() >= 0.9 and found["ablation"].mean() >= 0.9
    assert found["magnitude"].mean() < 0.6
    assert found["exact"].mean() >= 0.9


def test_a_learned_mask_drops_what_cancels():
    task, suite = circuits.planted_task(F), circuits.planted_suite(F)
    params, structure, edges = circuits.planted(jax.random.key(5), F, 8)
    there = circuits.existing(params, structure)
    of = circuits.measured(task, params, structure, suite)
    target = circuits.losses(task, params, structure, suite)[0] * 1.05
    scores = jax.jit(lambda: circuits.learned_mask(of, there, target, 0))()
    assert float(circuits.auroc(scores, edges[0], there)) > 0.95


def test_faithfulness_of_a_planted_ranking():
    task, suite = circuits.planted_task(F), circuits.planted_suite(F)
    params, structure, edges = circuits.planted(jax.random.key(2), F, 3)
    number = edges.shape[1]
    share = 6 / number
    curve = circuits.faithfulness(
        task, params, structure, suite, edges.astype(jnp.float32), (share / 3, share, 1.0), mode="zero"
    )
    assert curve.sizes.tolist() == [2, 6, number]
    np.testing.assert_allclose(curve.recovered[:, 1:], 1.0, atol=1e-5)
    np.testing.assert_allclose(
        curve.cpr, (curve.recovered[:, 0] + 1) / 2 * (2 / 3 * share) + (1 - share), rtol=1e-4
    )
    np.testing.assert_allclose(curve.cmd, jnp.abs(1 - curve.recovered[:, 0]) / 3 * share, rtol=1e-4)


def test_relations_of_planted_circuits(key):
    task, suite = circuits.planted_task(2), circuits.planted_suite(2)
    params, structure, edges = circuits.planted(jax.random.key(3), 2, 0, copies=2)
    of = circuits.measured(task, params, structure, suite)
    np.testing.assert_allclose(quick(lambda: circuits.dependencies(of, edges))(), np.eye(2), atol=1e-5)
    np.testing.assert_allclose(circuits.overlap(edges), np.eye(2))
    into, out = circuits.unit_groups(params, structure)[0]
    assert sorted(np.bincount(np.asarray(into)).tolist()) == [2] * 8 + [8]
    assert np.bincount(np.asarray(out)).tolist() == [1] * 8 + [16]
    # an output weight of each copy, of the same unit sign: together they cost more than apart
    mine = jnp.flatnonzero(edges[0] & (out < 8))
    found = quick(lambda mine: circuits.backups(of, mine, edges.shape[1]))(mine)[..., 0]
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert float(jnp.max(found)) > 0.05 and float(jnp.max(jnp.abs(jnp.diagonal(found)))) == 0
    assert float(circuits.stability(edges)) == 0 and float(circuits.stability(edges[:1].repeat(3, 0))) == 1
    drawn_again = circuits.random_like(params, structure, edges[0], key=key)
    assert int(jnp.sum(drawn_again)) == 12 and not bool(jnp.all(drawn_again == edges[0]))
    image = circuits.path_image(params, structure, edges[0])
    np.testing.assert_allclose(image, 0, atol=1e-5)  # as if linear, |a - b| is nothing
    same = circuits.transplant(params, structure, edges[0], params, structure)
    np.testing.assert_allclose(
        circuits.losses(task, *same, suite), circuits.losses(task, params, structure, suite), rtol=1e-6
    )
    stranger = circuits.planted(jax.random.key(4), 2, 0, copies=2)[:2]
    broken = circuits.transplant(params, structure, edges[0], *stranger)
    assert float(circuits.losses(task, *broken, suite)[0]) > float(circuits.losses(task, *stranger, suite)[0])


def test_cka_is_that_of_the_features_and_forgets_rotations(key):
    a, b = jax.random.normal(key, (5, 30)), jax.random.normal(jax.random.fold_in(key, 1), (7, 30))
    x, y = (np.asarray(h, np.float64) - np.asarray(h, np.float64).mean(1, keepdims=True) for h in (a, b))
    expected = np.linalg.norm(x @ y.T) ** 2 / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T)
    np.testing.assert_allclose(circuits.cka(a, b), expected, rtol=1e-5)
    turned = jnp.linalg.qr(jax.random.normal(key, (5, 5)))[0] @ a
    np.testing.assert_allclose(circuits.cka(a, 3 * turned + 1), 1, rtol=1e-5)
    assert float(circuits.cka(a, jnp.ones((2, 30)))) == 0
    over_time = circuits.lock_in([jnp.stack([a, 2 * a]), jnp.stack([b[:5], a])])
    assert over_time.shape == (2, 2) and float(over_time[0, 0]) == pytest.approx(1)


@pytest.mark.slow
def test_suites_of_transformations_and_bootstraps(key):
    x, y = jax.random.normal(key, (30, 4)), jnp.arange(30) % 3
    suite = circuits.of_transformations(x, y, [lambda x: x[:, ::-1], jnp.negative])
    assert suite.number == 2 and suite.x.shape == (90, 4) and suite.kind == "answers"
    assert float(suite.weight[1, 30:60].sum()) == pytest.approx(1)
    assert float(suite.control[0, 60:].sum()) == pytest.approx(1)
    spec = jaxnet.NetworkSpec((4, 6, 3), 1.0)
    task = Task(MLP(spec))
    params, structure = jaxnet.init(spec, key_mask=key, key_init=key)
    logits = jaxnet.apply(spec, params, structure, -x)[0]
    expected = jaxnet.losses.cross_entropy(logits, y, jnp.ones(30))
    np.testing.assert_allclose(circuits.losses(task, params, structure, suite)[1], expected, rtol=1e-5)
    again = circuits.redraw(suite, key=key)
    np.testing.assert_allclose(again.weight.sum(1), 1, rtol=1e-5)
    assert not bool(jnp.any((again.weight > 0) & (suite.weight == 0)))
    other = circuits.partners(circuits.of_classes(x, y, 3), key=key)
    assert not bool(jnp.any(y[other] == y))


def test_wrong_input_is_said(key):
    x, y = jnp.zeros((6, 4)), jnp.asarray([0, 0, 1, 1, 3, 3])
    with pytest.raises(InputError, match="class 2 has no samples"):
        circuits.of_classes(x, y, 4)
    with pytest.raises(InputError, match="one task alone has no controls"):
        circuits.of_tasks([(x, y)])
    task, params, structure, suite = drawn(key)
    scores = circuits.magnitude(params, structure)
    with pytest.raises(InputError, match="is below the network's own loss"):
        circuits.smallest(task, params, structure, suite, scores, -1.0)
    with pytest.raises(InputError, match="weights that are not finite at"):
        circuits.check_network({"kernel": scores * jnp.nan})
    with pytest.raises(ValueError, match="ascend"):
        circuits.faithfulness(task, params, structure, suite, scores[None], (0.5, 0.1))
    with pytest.raises(ValueError, match="give key"):
        circuits.references_of(task, params, structure, suite, "resample")


def test_it_lowers_for_cuda(key):
    task, params, structure, suite = drawn(key)

    def all_of_it(params: Any, structure: Any, suite: Suite) -> Any:
        scores = circuits.attribute(task, params, structure, suite, nodes=2, mode="mean").scores
        found = circuits.smallest(task, params, structure, suite, -scores[0], 1.0, chunks=8)
        masks = jnp.stack([found.keep, ~found.keep])
        return found, circuits.ablate(task, params, structure, suite, masks, "resample", key=key)

    exported = export.export(jax.jit(all_of_it), platforms=["cuda"])(params, structure, suite)
    assert "stablehlo" in exported.mlir_module()
