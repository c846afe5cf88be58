"""Winners: trimmed, permuted, exported, saved and loaded without a change of function."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet
from jaxnet import trees
from jaxnet.errors import InputError
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.sweep import (
    DrawRules,
    Variant,
    draw_variant,
    load_winner,
    make_family,
    make_variant,
    save_winner,
    sort_units,
    to_scipy,
    trim,
)
from jaxnet.topology import Topology, validate_topology

ARCHITECTURES = [(9, 7, 5, 3), (9, 12, 4, 6)]
FAMILY = make_family(ARCHITECTURES, [0.3], "uniform")


@functools.partial(jax.jit, static_argnums=2)
def _draw(key: jax.Array, member: Variant, mask: str) -> tuple[Params, Structure]:
    family = make_family(ARCHITECTURES, [0.3], mask)
    return draw_variant(
        family, member, DrawRules(mask, "dense-fan-in"), key_mask=key, key_init=jax.random.fold_in(key, 1)
    )


def draw(key: jax.Array, sizes: tuple[int, ...], mask: str = "uniform") -> tuple[Params, Structure]:
    """A padded network with biases."""
    return _draw(key, make_variant(sizes, 0.3, mask), mask)


def save(folder: Path, name: str, network: tuple[Params, Structure], density: float = 0.3) -> Path:
    """Saves a network with what it was made from."""
    return save_winner(folder, name, *network, density=density, init="dense-fan-in", activation="relu")


def dense(params: Params, structure: Structure) -> list[np.ndarray]:
    """Weights as matrices, slot by slot."""
    found = []
    for layer, t in zip(params.scaffold, structure.weights, strict=True):
        assert isinstance(t, Topology)
        matrix = np.zeros(t.shape)
        for r, c, w in zip(np.asarray(t.rows), np.asarray(t.cols), np.asarray(layer.weight), strict=True):
            if r < t.shape[0]:
                matrix[r, c] += w
        found.append(matrix)
    return found


@pytest.mark.parametrize("sizes", ARCHITECTURES)
@pytest.mark.parametrize("mask", ["uniform", pytest.param("bernoulli", marks=pytest.mark.slow)])
def test_trim_keeps_what_exists(key: jax.Array, sizes: tuple[int, ...], mask: str) -> None:
    padded = draw(key, sizes, mask)
    params, structure = trim(*padded, sizes)
    assert [t.shape for t in structure.weights] == list(zip(sizes[1:], sizes[:-1], strict=True))
    for t in structure.weights:
        assert isinstance(t, Topology)
        validate_topology(t)
        assert t.capacity == t.num_nonzeros
    for small, large in zip(dense(params, structure), dense(*padded), strict=True):
        out, num_in = small.shape
        np.testing.assert_array_equal(small, large[:out, :num_in])
        assert np.abs(large).sum() == pytest.approx(np.abs(small).sum())
    x = jax.random.normal(jax.random.fold_in(key, 2), (8, 9))
    ours, _ = jaxnet.apply(NetworkSpec(sizes, 1.0), params, structure, x)
    theirs, _ = jaxnet.apply(NetworkSpec(FAMILY.sizes, 1.0), *padded, x)
    np.testing.assert_allclose(ours, theirs[:, : sizes[-1]], atol=1e-6)


def test_trim_refuses_other_sizes(key: jax.Array) -> None:
    padded = draw(key, (9, 12, 4, 6))
    with pytest.raises(ValueError, match="does not hold this network's weights"):
        trim(*padded, (9, 3, 4, 6))
    with pytest.raises(ValueError, match="need one more sizes"):
        trim(*padded, (9, 12, 6))


@pytest.mark.parametrize("sizes", ARCHITECTURES)
def test_sorting_units_changes_no_answer(key: jax.Array, sizes: tuple[int, ...]) -> None:
    network = trim(*draw(key, sizes), sizes)
    ordered = sort_units(*network)
    for matrix, t in zip(dense(*ordered)[:-1], ordered[1].weights, strict=False):
        assert isinstance(t, Topology)
        assert np.all(np.diff(np.linalg.norm(matrix, axis=1)) <= 0)
    for t in ordered[1].weights:
        assert isinstance(t, Topology)
        validate_topology(t)
    x = jax.random.normal(jax.random.fold_in(key, 2), (8, 9))
    spec = NetworkSpec(sizes, 1.0)
    before, _ = jaxnet.apply(spec, *network, x)
    after, _ = jaxnet.apply(spec, *ordered, x)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert trees.equal(sort_units(*ordered), ordered)


def test_scipy_export(key: jax.Array) -> None:
    network = trim(*draw(key, (9, 7, 5, 3)), (9, 7, 5, 3))
    for (matrix, bias), wanted, layer in zip(
        to_scipy(*network), dense(*network), network[0].scaffold, strict=True
    ):
        np.testing.assert_array_equal(matrix.toarray(), wanted)
        np.testing.assert_array_equal(bias, layer.bias)
        assert matrix.has_canonical_format


@pytest.mark.parametrize("mask", ["uniform", "bernoulli"])
def test_saved_and_loaded(key: jax.Array, tmp_path: Path, mask: str) -> None:
    sizes = (9, 7, 5, 3)
    network = trim(*draw(key, sizes, mask), sizes)
    paths = [save(tmp_path, f"net-{k}", network) for k in range(4)]
    assert all(path.is_dir() for path in paths), "none is dropped"
    spec, params, structure = load_winner(paths[0])
    assert spec == NetworkSpec(sizes, 0.3, "relu", init="dense-fan-in")
    assert trees.equal((params, structure), jax.tree.map(jnp.asarray, network))


def test_a_layer_without_weights_is_saved_and_loaded(tmp_path: Path) -> None:
    none = jnp.zeros(0, jnp.int32)
    empty = Topology(none, none, jnp.zeros(4, jnp.int32), (3, 5))
    layer = LayerParams(jnp.zeros(0), jnp.ones(3))
    path = save(tmp_path, "x", (Params((layer,)), Structure.of((empty,))), density=0.01)
    spec, params, structure = load_winner(path)
    logits, _ = jaxnet.apply(spec, params, structure, jnp.ones((2, 5)))
    np.testing.assert_array_equal(logits, np.ones((2, 3)))
    assert jaxnet.allocate(spec.sizes, spec.density) == (1,), "the lowest density that can be drawn"


def test_what_is_no_winner_is_refused(key: jax.Array, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        load_winner(tmp_path / "nothing")
    other = jaxnet.store.save(tmp_path, "state", {"x": np.zeros(3)})
    with pytest.raises(InputError, match="this is no winner of a hunt"):
        load_winner(other)
    sizes = (9, 7, 5, 3)
    network = trim(*draw(key, sizes), sizes)
    path = save(tmp_path, "w", network)
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["meta"]["sizes"] = [9, 7, 5, 2]
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"is damaged"):
        load_winner(path)
