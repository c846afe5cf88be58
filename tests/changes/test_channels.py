"""Weights grown around channels: a case by hand, equal numbers whatever the place, what follows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet.changes import grow_around
from jaxnet.units import Extrema

FIRST, SECOND = "['a']", "['b']"


def extrema(high: list[bool], low: list[bool]) -> Extrema:
    """Extreme are those named; the others lie nearer to the mean, in order."""
    there = np.array(high) | np.array(low)
    score_high, score_low = (jnp.where(jnp.asarray(kind), 1.0, -1.0) for kind in (high, low))
    distance = jnp.where(jnp.asarray(there), 9.0, jnp.arange(0.0, len(high)) / 10)
    nothing = jnp.zeros(len(high), bool)
    return Extrema(jnp.asarray(high), jnp.asarray(low), score_high, score_low, distance, nothing)


def net(key: jax.Array) -> jaxnet.Net:
    params = {"a": jnp.ones((3, 3, 2, 4)), "b": jnp.ones((1, 1, 4, 3))}
    params, structure = jaxnet.sparsify(params, density=0.25, key=key)
    return jaxnet.Net.of(params, structure, optax.adam(1e-3))


def touched(before: jaxnet.Net, after: jaxnet.Net, name: str) -> np.ndarray:
    """``(in, out)``: how many new weights."""
    new = after.structure[name].mask & ~before.structure[name].mask
    return np.asarray(new).sum((0, 1))


def test_new_weights_lead_into_low_channels_and_out_of_high_ones(key):
    first = net(key)
    found = {FIRST: extrema([True, False, False, False], [False, False, True, False])}
    after, info = grow_around(first, found, {FIRST: 5, SECOND: 2}, units=1, chain=(FIRST, SECOND), key=key)
    into = touched(first, after, "a")
    assert into.sum() == 5 and into[:, 2].sum() == 5  # channel 2 is low
    out_of = touched(first, after, "b")
    assert out_of.sum() == 2 and out_of[0].sum() == min(2, int((~first.structure["b"].mask[0, 0, 0]).sum()))
    assert int(info.grown[FIRST]) == 5 and not any(int(n) for n in info.dropped.values())
    # zero: the function is the same
    assert jnp.array_equal(after.params["a"], first.params["a"])


@pytest.mark.parametrize("placement", ["random", "least"])
def test_other_places_get_as_many(key, placement):
    first = net(key)
    found = {FIRST: extrema([True, False, False, False], [False, False, True, False])}
    how = {"units": 1, "chain": (FIRST, SECOND), "placement": placement, "scale": 0.1, "key": key}
    after, info = jax.jit(lambda: grow_around(first, found, {FIRST: 5}, **how))()
    into = touched(first, after, "a")
    assert into.sum() == 5
    (channel,) = np.flatnonzero(into.sum(0))
    assert (
        placement == "random" or channel == 1
    )  # 0 is high, but only low counts here: 1 is the nearest of all
    assert int(info.grown[FIRST]) == 5
    grown = after.structure["a"].mask & ~first.structure["a"].mask
    assert jnp.all(after.params["a"][grown] != 0)


def test_a_chain_that_does_not_fit_is_refused(key):
    first = net(key)
    found = {SECOND: extrema([True] + [False] * 2, [False] * 3)}
    with pytest.raises(ValueError, match="reads 2 units and the layer before has 3"):
        grow_around(first, found, {FIRST: 1}, units=1, chain=(SECOND, FIRST), key=key)
    with pytest.raises(ValueError, match=r"no weight has an entry at \"\['c'\]\""):
        grow_around(first, found, {"['c']": 1}, units=1, chain=(FIRST,), key=key)
