"""Each method by hand and against plain NumPy, without a model: a sparse matrix and a masked kernel."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import methods
from jaxnet.topology import Mask
from jaxnet.train import Net
from tests import networks
from tests.changes import nets

N = np.nan
SHAPES = {"kernel": (2, 2, 3, 1), "matrix": (4, 5)}
"""A masked kernel and a sparse matrix; the structure has them in this order."""

DENSE = {
    "kernel": np.array([3, N, -2, 0.1, N, 0.2, N, N, N, -0.3, 4, N]).reshape(SHAPES["kernel"]),
    "matrix": np.array([[5, N, -1, N, N], [N, 2, N, N, N], [-3, N, N, 0.5, N], [N] * 5]),
}
"""Values, NaN where there is no weight: 6 and 5 of them."""


def net_of(dense: dict[str, np.ndarray]) -> Net:
    """The net with these weights; the matrix has three free slots."""
    flat = np.flatnonzero(~np.isnan(dense["matrix"]))
    topology = nets.host_topology(flat, (4, 5), flat.size + 3)
    there = ~np.isnan(dense["kernel"])
    params = {
        "bias": jnp.ones(2),
        "kernel": jnp.asarray(np.where(there, dense["kernel"], 0), jnp.float32),
        "matrix": jnp.asarray(np.pad(dense["matrix"].ravel()[flat], (0, 3)), jnp.float32),
    }
    structure = {"bias": None, "kernel": Mask(jnp.asarray(there)), "matrix": topology}
    return Net.of(params, structure, optax.sgd(0.1))


def dense_of(net: Any) -> dict[str, np.ndarray]:
    """The weights by position, NaN where there is none."""
    topology, mask = net.structure["matrix"], np.asarray(net.structure["kernel"].mask)
    matrix = np.full(SHAPES["matrix"], np.nan, np.float32)
    matrix.flat[nets.flat(topology)] = np.asarray(net.params["matrix"])[np.asarray(topology.exists)]
    return {"kernel": np.where(mask, net.params["kernel"], np.nan), "matrix": matrix}


@functools.cache
def updated(name: str, many: bool = False, **options: Any) -> Any:
    """``run(net, gradient, step, key) -> net``, compiled."""
    method = methods.make(name, **options)

    def run(net: Net, gradient: Any, step: Any, key: Any) -> Net:
        return method.update(net, (), lambda: gradient, step, key=key)[0]

    return networks.quick(jax.vmap(run, in_axes=(None, None, None, 0)) if many else run)


def test_rigl_by_hand():
    gradient = {
        "bias": np.full(2, 99.0),
        "kernel": np.array([9, 1, 9, 5, -6, 9, N, 7, 0, 4, 9, 0]).reshape(SHAPES["kernel"]),
        "matrix": np.array([[9, 1, 0, -2, N], [0, 9, -7, 0, 0], [9, 0, 3, -8, 0], [0] * 5]),
    }
    gradient = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), gradient)
    new = updated("rigl", fraction=0.4)(net_of(DENSE), gradient, jnp.int32(100), jax.random.key(0))
    # the kernel gives 2 of 6, 0.1 and 0.2; where they were the gradient is 5 and 9, elsewhere 7 and -6:
    # 9 and 7 are the largest, so that 0.2 stays and a zero comes
    want = [3, N, -2, N, N, 0.2, N, 0, N, -0.3, 4, N]
    got = dense_of(new)
    np.testing.assert_array_equal(got["kernel"].ravel(), np.asarray(want, np.float32))
    # the matrix gives 2 of 5, 0.5 and -1; -8 (just dropped: it stays) and -7 are the largest
    matrix = [[5, N, N, N, N], [N, 2, 0, N, N], [-3, N, N, 0.5, N], [N] * 5]
    np.testing.assert_array_equal(got["matrix"], matrix)
    assert np.array_equal(new.params["bias"], [1, 1])


def test_set_drops_the_weakest_and_draws_evenly_among_all_that_is_free():
    """Two of six and two of five are exchanged; those just dropped can be drawn like any other."""
    runs = 400
    keys = jax.random.split(jax.random.key(0), runs)
    many = updated("set", many=True, fraction=0.4)(net_of(DENSE), None, jnp.int32(100), keys)
    many = jax.tree.map(np.asarray, many)
    weakest = {"kernel": [0.1, 0.2], "matrix": [0.5, -1]}
    found = [dense_of(jax.tree.map(lambda a, i=i: a[i], many)) for i in range(runs)]
    for name, dense in DENSE.items():
        there = np.stack([~np.isnan(each[name]) for each in found])
        strong = ~np.isnan(dense) & ~np.isin(dense, weakest[name])
        assert there[:, strong].all(), "only the weakest are dropped"
        assert (there.reshape(runs, -1).sum(1) == np.sum(~np.isnan(dense))).all()
        drawn, share = there[:, ~strong].sum(0), 2 / np.sum(~strong)
        assert np.abs(drawn - runs * share).max() < 4 * np.sqrt(runs * share * (1 - share))
        for each in found:
            stays, comes = ~np.isnan(dense) & ~np.isnan(each[name]), np.isnan(dense) & ~np.isnan(each[name])
            assert np.array_equal(each[name][stays], dense[stays].astype(np.float32))
            assert not each[name][comes].any(), "a new weight is zero"


def pruned(
    dense: dict[str, np.ndarray], score: dict[str, np.ndarray], keep: dict[str, int] | int
) -> dict[str, np.ndarray]:
    """All but the weights of the largest score; of those that tie the later ones stay."""
    flat = {
        name: np.where(np.isnan(a), np.nan, s).ravel()
        for (name, a), s in zip(dense.items(), score.values(), strict=True)
    }
    if isinstance(keep, int):
        everything = np.concatenate(list(flat.values()))
        there = np.flatnonzero(~np.isnan(everything))
        order = there[np.argsort(everything[there], kind="stable")]
        everything[order[: max(0, order.size - keep)]] = np.nan
        flat = dict(zip(flat, np.split(everything, [flat["kernel"].size]), strict=True))
    else:
        for name, values in flat.items():
            there = np.flatnonzero(~np.isnan(values))
            order = there[np.argsort(values[there], kind="stable")]
            values[order[: max(0, order.size - keep[name])]] = np.nan
    return {name: np.where(np.isnan(flat[name]).reshape(a.shape), np.nan, a) for name, a in dense.items()}


def crowded(seed: int) -> dict[str, np.ndarray]:
    """Weights at most positions, many of them of equal magnitude."""
    rng = np.random.default_rng(seed)
    dense = {name: rng.integers(-4, 5, shape) / 4 for name, shape in SHAPES.items()}
    return {name: np.where(rng.random(a.shape) < 0.9, a, np.nan) for name, a in dense.items()}


def magnitude(dense: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.abs(a) for name, a in dense.items()}


@pytest.mark.parametrize("scope", ["weight", "global"])
@pytest.mark.parametrize("schedule", ["constant", "cubic"])
def test_magnitude_equals_numpy(schedule, scope):
    """Weights and number, from a dense beginning on; a network of fewer weights keeps these."""
    options: Any = {"density": 0.25, "schedule": schedule, "scope": scope}
    options |= {"begin": 2, "end": 6, "every": 1} if schedule == "cubic" else {"begin": 4}
    method, run = methods.make("magnitude", **options), updated("magnitude", **options)
    for dense in (crowded(1), DENSE):
        start, net = dict(dense), net_of(dense)
        sizes = [(int(np.sum(~np.isnan(a))), a.size) for a in dense.values()]
        due = []
        for step in range(9):
            if method.due(jnp.asarray(step)):
                due.append(step)
                net = run(net, None, jnp.int32(step), jax.random.key(0))
                # exact: every share of the way is a multiple of a quarter
                left = Fraction(6 - step, 4) if schedule == "cubic" else Fraction(0)
                density = Fraction(1, 4) + Fraction(3, 4) * left**3
                keep: Any = {name: int(density * a.size) for name, a in dense.items()}
                dense = pruned(
                    dense, magnitude(dense), keep if scope == "weight" else int(density * (12 + 20))
                )
            got = dense_of(net)
            for name, want in dense.items():
                np.testing.assert_array_equal(got[name], want.astype(np.float32), err_msg=f"step {step}")
            assert method.budget(step, sizes) == sum(int(np.sum(~np.isnan(a))) for a in dense.values())
        assert due == ([2, 3, 4, 5, 6] if schedule == "cubic" else [4])
        assert any(not np.array_equal(a, start[name], equal_nan=True) for name, a in dense.items())


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_snip_equals_numpy(density):
    """``|gradient * weight|`` of all arrays together, at once; then nothing is due."""
    method, dense = methods.make("snip", density=density), crowded(2)
    rng = np.random.default_rng(4)
    gradient = {name: rng.integers(-3, 4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    start = net_of(dense)
    with_bias = {"bias": np.full(2, 99, np.float32), **gradient}
    net, state = networks.quick(lambda n, g: method.init(n, lambda: g, key=jax.random.key(0)))(
        start, with_bias
    )
    keep = int(density * 32)
    want = pruned(dense, {name: np.abs(gradient[name] * a) for name, a in dense.items()}, keep)
    got = dense_of(net)
    for name, each in want.items():
        np.testing.assert_array_equal(got[name], each.astype(np.float32))
    sizes = [(int(np.sum(~np.isnan(a))), a.size) for a in dense.values()]
    left = sum(int(np.sum(~np.isnan(a))) for a in want.values())
    assert (
        left
        == min(keep, sum(there for there, _ in sizes))
        == method.budget(0, sizes)
        == method.budget(9, sizes)
    )
    assert state == () and not any(bool(method.due(jnp.asarray(step))) for step in range(9))


def test_a_diverged_network_keeps_its_numbers():
    """A magnitude that is not a number counts as the largest; of a tie the later ones stay."""
    lost = {name: np.where(np.isnan(a), a, np.inf) for name, a in crowded(1).items()}
    start = net_of(lost)
    start = start.replace(params=jax.tree.map(lambda a: a * jnp.nan, start.params))
    options: Any = {"density": 0.25, "schedule": "constant", "scope": "weight", "begin": 4}
    net = updated("magnitude", **options)(start, None, jnp.int32(4), jax.random.key(0))
    assert int(net.structure["kernel"].num_nonzeros) == 3 and int(net.structure["matrix"].num_nonzeros) == 5
    assert set(nets.flat(net.structure["matrix"])) == set(nets.flat(start.structure["matrix"])[-5:])


def test_the_schedule():
    rules = methods.SET(fraction=0.4, every=10, until=100)
    steps = (0, 10, 15, 90, 100)
    assert [bool(rules.due(jnp.asarray(s))) for s in steps] == [False, True, False, True, False]
    shares = [float(rules.fraction_at(jnp.asarray(s))) for s in (0, 50, 100)]
    np.testing.assert_allclose(shares, [0.4, 0.2, 0], atol=1e-7)
    endless = methods.RigL(fraction=0.4)
    assert float(endless.fraction_at(jnp.asarray(9999))) == pytest.approx(0.4)
