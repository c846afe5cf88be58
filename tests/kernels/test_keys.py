"""Keys against NumPy: compiled and by XLA, alone and for many seeds."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.kernels import csr_library
from jaxnet.kernels.keys import NEVER, places_of, smallest_keys, sorted_keys

WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not csr_library.available(), reason="no compiled library")),
    False,
]


@pytest.fixture(params=WAYS, ids=["compiled", "XLA"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(csr_library, "available", lambda: request.param)
    return bool(request.param)


def smallest(keys: np.ndarray, number: int, room: int) -> np.ndarray:
    order = np.argsort(keys, kind="stable")
    taken = np.sort([i for i in order[: min(number, room)] if keys[i] < NEVER])
    return np.concatenate([taken, np.full(min(room, keys.size) - taken.size, keys.size)]).astype(int)


@pytest.mark.usefixtures("way")
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=20)
@hypothesis.given(seed=st.integers(0, 2**31), spread=st.sampled_from([1, 50, 2**31]), share=st.floats(0, 1))
def test_the_smallest_of_many_seeds_with_ties_and_gaps(seed: int, spread: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.integers(-spread, spread, (3, 5000)).clip(-(2**31), NEVER - 1)
    keys[:, : int(share * 5000)] = NEVER  # the sample may see nothing else
    keys[1] = np.sort(keys[1])[::-1]
    numbers = np.array([0, rng.integers(5000), 4000])
    found = jax.vmap(lambda k, n: smallest_keys(k, n, 4000))(jnp.asarray(keys, jnp.int32), numbers)
    for row, number, places in zip(keys, numbers, found, strict=True):
        np.testing.assert_array_equal(places, smallest(row, min(number, 4000), 4000))


@pytest.mark.usefixtures("way")
def test_by_hand() -> None:
    keys = jnp.asarray([3, NEVER, 1, 3, 1, NEVER])
    assert smallest_keys(keys, 3, 4).tolist() == [0, 2, 4, 6]
    assert smallest_keys(keys, 99, 99).tolist() == [0, 2, 3, 4, 6, 6]
    assert smallest_keys(keys[:0], 1, 1).tolist() == []
    assert sorted_keys(jnp.asarray([2, NEVER, 7, 1, 5, NEVER, 9])).tolist() == [1, 2, 5, 7, 9, NEVER, NEVER]
    assert sorted_keys(jnp.asarray([5, 4, NEVER, 3, 2])).tolist() == [2, 3, 4, 5, NEVER]
    assert places_of(jnp.asarray([0, 2, 4, 9]), jnp.asarray([2, 3, 4])).tolist() == [3, 0, 2, 3]


@pytest.mark.usefixtures("way")
def test_sorting_and_finding_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    keys = rng.permutation(1000)[:600].reshape(4, 150)
    two = np.concatenate([np.sort(keys[:, :90]), np.sort(keys[:, 90:])], 1)  # two ascending lists
    two[:, 5:20] = NEVER
    for rows in (keys, two):
        found = jax.vmap(sorted_keys)(jnp.asarray(rows, jnp.int32))
        np.testing.assert_array_equal(found, np.sort(rows))
    common = np.sort(keys[0])  # one list for all seeds
    wanted = np.sort(rng.integers(0, 1000, (4, 70)))
    places = jax.vmap(places_of, (0, None))(jnp.asarray(wanted, jnp.int32), jnp.asarray(common, jnp.int32))
    there = np.isin(wanted, common)
    np.testing.assert_array_equal(places, np.where(there, np.searchsorted(common, wanted), common.size))
