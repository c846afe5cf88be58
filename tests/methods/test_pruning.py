"""Pruning from a dense beginning against plain NumPy: LAMP, GraNet, and who is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import methods
from jaxnet.methods.scopes import lamp
from jaxnet.topology import Mask
from jaxnet.train import Net, init_state
from tests.methods.test_by_hand import DENSE, SHAPES, crowded, dense_of, net_of, pruned, updated

KEY = jax.random.key(0)


def lamp_scores(values: np.ndarray) -> np.ndarray:
    """By a loop over the weights, the smaller ones first; NaN where there is none."""
    flat = values.ravel().astype(np.float64)
    there = np.flatnonzero(~np.isnan(flat))
    order = there[np.argsort(np.abs(flat[there]), kind="stable")]
    scores = np.full(flat.shape, np.nan)
    for place, at in enumerate(order):
        rest = np.sum(flat[order[place:]] ** 2)
        scores[at] = flat[at] ** 2 / rest if rest else 0.0
    return scores.reshape(values.shape)


def test_lamp_by_hand():
    # 1 / (1 + 4 + 9), 4 / (4 + 9), 9 / 9, in whatever order and with whatever sign
    values, there = jnp.asarray([[2.0, 0.0], [-3.0, 1.0]]), jnp.asarray([[True, False], [True, True]])
    np.testing.assert_allclose(lamp(values, Mask(there)), [[4 / 13, 0], [1, 1 / 14]], rtol=1e-6)
    # of a tie the earlier one is the smaller
    np.testing.assert_allclose(lamp(jnp.ones(2), Mask(jnp.ones(2, bool))), [1 / 2, 1])
    assert not lamp(jnp.zeros(3), Mask(jnp.ones(3, bool))).any()


def test_magnitude_by_lamp_equals_numpy():
    """All arrays together; a small array keeps its largest weight."""
    dense = crowded(7)
    dense["matrix"] = dense["matrix"] / 100  # by magnitude alone nothing would be left of it
    options: Any = {"density": 0.25, "schedule": "constant", "begin": 4, "scope": "lamp"}
    got = dense_of(updated("magnitude", **options)(net_of(dense), None, jnp.int32(4), KEY))
    want = pruned(dense, {name: lamp_scores(a) for name, a in dense.items()}, 8)
    for name, each in want.items():
        np.testing.assert_array_equal(got[name], each.astype(np.float32))
    assert (~np.isnan(want["matrix"])).sum() > 1
    sizes = [(int(np.sum(~np.isnan(a))), a.size) for a in dense.values()]
    assert methods.make("magnitude", **options).budget(4, sizes) == 8


def relative_scores(values: np.ndarray) -> np.ndarray:
    """A weight's share of its row plus its share of its column; NaN where there is none."""
    flat = np.abs(values.astype(np.float64).reshape(-1, values.shape[-1]))
    rows, columns = np.nansum(flat, 1, keepdims=True), np.nansum(flat, 0, keepdims=True)
    shares = [flat / np.where(total > 0, total, 1) for total in (rows, columns)]
    return (shares[0] + shares[1]).reshape(values.shape)


SCORES: Any = {"lamp": lamp_scores, "relative": relative_scores}


def test_chtss_prunes_by_relative_importance_and_draws_nothing():
    """All arrays together, to the density of the step; without an exchange nothing else happens."""
    options: Any = {"density": 0.25, "start": 0.8, "begin": 2, "end": 4, "every": 1, "fraction": 0.0}
    method, run, dense = methods.make("chtss", **options), updated("chtss", **options), crowded(3)
    net, sizes = net_of(dense), [(int(np.sum(~np.isnan(a))), a.size) for a in dense.values()]
    for step in (2, 3, 4):
        as_given = {name: np.zeros_like(a, np.float32) for name, a in {**dense, "bias": np.zeros(2)}.items()}
        net = run(net, as_given, jnp.int32(step), jax.random.fold_in(KEY, step))
        there = method.budget(step, sizes)
        dense = pruned(dense, {name: relative_scores(a) for name, a in dense.items()}, there)
        got = dense_of(net)
        for name, want in dense.items():
            np.testing.assert_array_equal(got[name], want.astype(np.float32), err_msg=f"{name} at {step}")
        assert there == sum(int(np.sum(~np.isnan(a))) for a in dense.values())


@pytest.mark.parametrize("scope", ["weight", "global", "lamp", "relative"])
def test_granet_equals_numpy(scope):
    """Pruned to the density of the step, then a fraction of what is left exchanged by the gradient."""
    options: Any = {"density": 0.25, "begin": 2, "end": 6, "every": 2, "fraction": 0.5, "scope": scope}
    method, run, dense = methods.make("granet", **options), updated("granet", **options), crowded(3)
    net, sizes = net_of(dense), [(int(np.sum(~np.isnan(a))), a.size) for a in dense.values()]
    rng = np.random.default_rng(8)
    for step, density in ((2, 1.0), (4, 0.25 + 0.75 / 8), (6, 0.25), (8, 0.25)):
        assert method.due(jnp.asarray(step)) and not method.due(jnp.asarray(step + 1))
        gradient = {name: rng.permutation(int(np.prod(s))).reshape(s) - 9.5 for name, s in SHAPES.items()}
        as_given = {"bias": np.zeros(2, np.float32)}
        as_given |= {name: g.astype(np.float32) for name, g in gradient.items()}
        net = run(net, as_given, jnp.int32(step), KEY)
        keep: Any = {name: int(density * a.size) for name, a in dense.items()}
        score = SCORES.get(scope, np.abs)
        before = dense
        dense = pruned(
            dense,
            {name: score(a) for name, a in dense.items()},
            keep if scope == "weight" else int(density * 32),
        )
        for name, values in dense.items():
            flat = values.ravel()
            there = np.flatnonzero(~np.isnan(flat))
            number = there.size // 2
            kept = there[np.argsort(np.abs(flat[there]), kind="stable")][number:]
            free = np.setdiff1d(np.arange(flat.size), kept)
            grown = free[np.argsort(-np.abs(gradient[name].ravel()[free]), kind="stable")][:number]
            new = np.full(flat.shape, np.nan)
            new[kept] = flat[kept]
            # cut or dropped in this very event: stays as it was; else zero
            new[grown] = np.nan_to_num(before[name].ravel()[grown])
            dense[name] = new.reshape(values.shape)
        got = dense_of(net)
        for name, want in dense.items():
            np.testing.assert_array_equal(got[name], want.astype(np.float32), err_msg=f"{name} at {step}")
        assert method.budget(step, sizes) == method.budget(step + 1, sizes)
        assert method.budget(step, sizes) == sum(int(np.sum(~np.isnan(a))) for a in dense.values())


def test_a_sparse_beginning_is_refused_where_there_is_nothing_to_prune():
    """Topologies say how much they hold at most: 5 weights and 3 free slots."""
    whole = net_of(DENSE)
    params, structure = {"matrix": whole.params["matrix"]}, {"matrix": whole.structure["matrix"]}
    net = Net.of(params, structure, whole.optimizer)
    for name in ("granet", "chtss"):
        with pytest.raises(ValueError, match="prunes to 8 weights, and the network starts with at most 8"):
            init_state(net, methods.make(name, density=0.4), key=KEY)
        init_state(net, methods.make(name, density=0.3), key=KEY)
