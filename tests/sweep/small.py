"""A small family of networks, samples to learn from, and compiled sweeps shared by the tests."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.batches import Split
from jaxnet.kernels import csr_library, csr_product, dense_product
from jaxnet.nn.params import Params, Structure
from jaxnet.sweep import Program, SweepConfig, Variant, make_family, make_variant, run_chunks
from jaxnet.topology import Topology
from tests import networks

FEATURES, CLASSES = 20, 4
SMALL, LARGE = (16, 9, 3), (FEATURES, 14, CLASSES)
DENSITY = 0.15
FAMILY = make_family([SMALL, LARGE], [DENSITY], "uniform")
NUM_SEEDS = 6
KEY_DATA = 5  # seed of the common order

PRODUCTS = {"dense": dense_product} | ({"csr": csr_product} if csr_library.available() else {})


def keys(number: int = NUM_SEEDS) -> jax.Array:
    """``(seed,)``."""
    return jax.vmap(jax.random.key)(jnp.arange(number, dtype=jnp.uint32))


def stack(members: list[Variant]) -> Variant:
    """Leaves ``(seed, ...)``."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def members(number: int = NUM_SEEDS) -> Variant:
    """``(seed,)``, the small and the large architecture in turn."""
    return stack([make_variant((SMALL, LARGE)[k % 2], DENSITY) for k in range(number)])


def make_samples(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal features and the index of the largest of the first three: labels both architectures know."""
    x = np.random.default_rng(seed).standard_normal((number, FEATURES)).astype(np.float32)
    return x, x[:, :3].argmax(1).astype(np.int32)


def as_split(x: np.ndarray, y: np.ndarray) -> Split:
    """Features as they are."""
    return Split(jnp.asarray(x), jnp.asarray(y), jnp.zeros(FEATURES), jnp.ones(FEATURES))


@functools.cache
def splits() -> tuple[Split, Split, Split]:
    """To train on (the last batch of 16 is incomplete), to validate on, to watch."""
    train, val, watched = (as_split(*make_samples(n, n)) for n in (90, 41, 33))
    return train, val, watched


def config(kernel: str, **changes: Any) -> SweepConfig:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "product": PRODUCTS[kernel]}
    return SweepConfig(**(options | changes))


@functools.cache
def program(kernel: str, chunk: int, exact: bool = False) -> Program:
    """A compiled sweep of :data:`NUM_SEEDS` seeds of :data:`FAMILY`; ``exact`` as users compile."""
    with networks.as_users_compile() if exact else contextlib.nullcontext():
        return Program(
            FAMILY, config(kernel), NUM_SEEDS, splits(), key_data=jax.random.key(KEY_DATA), chunk=chunk
        )


def train_all(program: Program, number: int = NUM_SEEDS, start: int = 0) -> Any:
    """All networks as NumPy arrays, leaves ``(seed, ...)``."""
    parts = [trained for _, trained in run_chunks(program, keys(number), members(number), start=start)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)


@functools.cache
def trained(kernel: str, chunk: int, exact: bool = False) -> Any:
    """What :func:`program` trains."""
    return train_all(program(kernel, chunk, exact))


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by their path."""
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(a: Any, b: Any) -> None:
    """Equal to the last bit."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


def assert_close(a: Any, b: Any, atol: float) -> None:
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=0, atol=atol, err_msg=name)


def matrices(params: Params, structure: Structure, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Weights ``(out, in)``, masks and biases of the units that exist, written out slot by slot in NumPy.

    Asserts that the padding around them is empty.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for layer, topology, num_in, num_out in zip(
        params.scaffold, structure.weights, sizes[:-1], sizes[1:], strict=True
    ):
        assert isinstance(topology, Topology)
        exists = np.asarray(topology.rows) < topology.shape[0]
        weight, values = np.zeros(topology.shape, np.float32), np.asarray(layer.weight)
        mask = np.zeros(topology.shape, bool)
        rows, cols = np.asarray(topology.rows)[exists], np.asarray(topology.cols)[exists]
        weight[rows, cols], mask[rows, cols] = values[exists], True
        bias = np.asarray(layer.bias)
        assert not values[~exists].any()
        assert not mask[num_out:].any() and not mask[:, num_in:].any() and not bias[num_out:].any()
        found.append((weight[:num_out, :num_in], mask[:num_out, :num_in], bias[:num_out]))
    return found


def network(tree: Any, seed: int) -> Any:
    """One network of many."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)
