"""Components of a decoder: every weight of a block is of one group, and ablating a group is zeros by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet import circuits, suites, transformer
from jaxnet.structure import entries
from jaxnet.transformer import Spec, components

SPEC = Spec(suites.VOCAB, 30, 8, 2, 2)


def network_keys(key: jax.Array) -> Any:
    return jaxnet.keys.network_keys(key)


@pytest.mark.slow
def test_a_head_and_a_share_taken_out_are_zeros_by_hand(key):
    drawn = suites.suite("agreement", key, 3)
    task = jaxnet.Task(transformer.model(SPEC))
    suite = circuits.of_tasks([(drawn.x, drawn.data.labels)], (drawn.control.x, drawn.control.labels))
    params, structure = transformer.init(SPEC, density=1.0, **network_keys(key))
    parts = components(params, SPEC, parts=4)
    counts = np.zeros(parts.size.size + 1, int)
    for leaf in jax.tree.leaves(parts.groups):
        counts += np.bincount(np.asarray(leaf).ravel(), minlength=counts.size)
    assert counts[:-1].tolist() == parts.size.tolist()
    masks: Any = entries(structure).values()
    sizes = sum(entry.mask.size for entry in masks)
    assert counts[:-1].sum() == sizes and parts.head.sum() == 4

    def without(layer: int, cut: dict[str, Any]) -> Any:
        block = dict(params[f"block_{layer}"])
        for name, place in cut.items():
            block[name] = {"kernel": block[name]["kernel"].at[place].set(0)}
        return {**params, f"block_{layer}": block}

    columns, rows = np.s_[:, 4:], np.s_[4:]
    head = without(1, {"query": columns, "key": columns, "value": columns, "out": rows})
    share = without(0, {"up": np.s_[:, 8:16], "down": np.s_[8:16]})

    @jax.jit
    def look(params: Any, by_hand: Any) -> Any:
        found = circuits.ablate_each(task, params, structure, suite, wrt=parts.groups, at_once=4)
        return found, jnp.stack([circuits.losses(task, one, structure, suite) for one in by_hand])

    found, wanted = look(params, [head, share])
    np.testing.assert_allclose(found[np.array([3, 5])], wanted, rtol=1e-5)
    assert np.abs(np.asarray(wanted) - np.asarray(found[-1])).min() > 0


def test_wrong_input_is_one_line(key):
    params, _ = transformer.init(SPEC, density=0.5, stored="topology", **network_keys(key))
    with pytest.raises(ValueError, match="parts must divide the 32 hidden units of a perceptron: 5"):
        components(params, SPEC, parts=5)
    with pytest.raises(ValueError, match="dense or masked kernels"):
        components(params, SPEC)


def test_fisher_information_of_places_is_that_of_the_mean_of_those_that_count(key):
    drawn = suites.suite("copy", key, 3).data
    task = jaxnet.Task(transformer.model(SPEC))
    params, structure = transformer.init(SPEC, **network_keys(key))

    def said(values: Any, row: int) -> jax.Array:
        logits, _ = task.model(values, structure, drawn.x[row : row + 1], key_forward=None)
        place = jnp.arange(9, 17)  # the eight answers
        return jnp.mean(jax.nn.log_softmax(logits[0])[place, drawn.y[row][place]])

    @jax.jit
    def look(params: Any) -> Any:
        found = jaxnet.protect.fisher(task, params, structure, drawn, jnp.arange(3), labels="data")
        squares = [jax.tree.map(jnp.square, jax.grad(said)(params, row)) for row in range(3)]
        return found, jax.tree.map(lambda *of: sum(of) / 3, *squares)

    for found, wanted in zip(*map(jax.tree.leaves, look(params)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="for samples without places"):
        jaxnet.protect.fisher(task, params, structure, drawn, jnp.arange(3))
