"""Networks with known circuits, to test what finds circuits: truth values of input bits, and distractors.

Function ``k`` is the exclusive or of bits ``2 k`` and ``2 k + 1``, by two units per copy. A distractor is a
pair of units with equal weights into them and opposite ones out of them: each alone does much, both
together nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.circuits.suites import Suite, question
from jaxnet.errors import InputError
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import topology_from_mask
from jaxnet.train import Task
from jaxnet.types import Array, Bool, Key

MARGIN = 4.0
"""Logits of planted functions: plus or minus half of it."""


def planted(
    key: Key, functions: int, distractors: int, copies: int = 1
) -> tuple[Params, Structure, Bool[Array, "capability element"]]:
    """A network that computes functions by known circuits, on the host.

    Args:
      key: decides weights, wiring of the distractors and the order of the units.
      functions: outputs, each the exclusive or of two bits of its own.
      distractors: pairs of units that cancel.
      copies: of every circuit, which share its output.

    Returns:
      Parameters, structure, and ``(K, E)`` which weights are each function's circuit.
    """
    if min(functions, copies) < 1 or distractors < 0:
        raise InputError(f"functions and copies must be positive: {functions}, {copies}, {distractors}")
    draw = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)).tolist())
    units = 2 * functions * copies + 2 * distractors
    into, out = np.zeros((units, 2 * functions)), np.zeros((functions, units))
    owner, order = np.full(units, -1), draw.permutation(units)
    for number, (k, _) in enumerate(itertools.product(range(functions), range(copies))):
        here, size = order[2 * number : 2 * number + 2], draw.uniform(0.7, 1.4)
        into[here, 2 * k], into[here, 2 * k + 1] = (size, -size), (-size, size)
        out[k, here] = MARGIN / (copies * size)
        owner[here] = k
    for number in range(distractors):
        here = order[units - 2 * number - 2 : units - 2 * number]
        bits = draw.choice(2 * functions, 2, replace=False)
        into[np.ix_(here, bits)] = draw.uniform(1, 2, 2) * draw.choice([-1, 1], 2)
        if into[here[0], bits].max() < 0:  # a unit that never acts distracts nobody
            into[np.ix_(here, bits)] *= -1
        out[draw.integers(functions), here] = draw.uniform(1, 3) * np.array([1, -1])
    bias = np.full(functions, -MARGIN / 2)
    layers, entries = [], []
    for weight, b in ((into, np.zeros(units)), (out, bias)):
        entry = topology_from_mask(weight != 0)
        values = weight[np.asarray(entry.rows), np.asarray(entry.cols)]
        layers.append(LayerParams(jnp.asarray(values, jnp.float32), jnp.asarray(b, jnp.float32)))
        entries.append(entry)
    owners = np.concatenate([owner[np.asarray(entries[0].rows)], owner[np.asarray(entries[1].cols)]])
    edges = owners[None] == np.arange(functions)[:, None]
    return Params(tuple(layers)), Structure.of(entries), jnp.asarray(edges)


def planted_task(functions: int) -> Task:
    """How such a network is asked: every output is a truth value by itself."""
    return Task(MLP(NetworkSpec((2 * functions, 1, functions), 1.0)), loss=question)


def planted_suite(functions: int, samples: int = 256, *, key: Key | None = None) -> Suite:
    """All values of the bits, or (with a key) so many at random; a capability per function.

    Raises:
      InputError: more than 2**16 values, and no key.
    """
    bits: Any
    if key is None:
        if functions > 8:
            raise InputError(f"{functions} functions have {4**functions} inputs: give a key to draw some")
        bits = np.array(list(itertools.product((0.0, 1.0), repeat=2 * functions)), np.float32)
    else:
        bits = np.asarray(jax.random.bernoulli(key, 0.5, (samples, 2 * functions)), np.float32)
    truth = jnp.asarray(bits[:, ::2] != bits[:, 1::2], jnp.float32).T  # (function, sample)
    weight, control = ((side / jnp.sum(side, 1, keepdims=True)) for side in (truth, 1 - truth))
    return Suite(
        jnp.asarray(bits),
        truth[0].astype(jnp.int32),
        weight,
        control,
        jnp.arange(functions, dtype=jnp.int32),
        "logit",
    )
