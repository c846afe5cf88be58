"""Small networks for the tests: scaffolds with padding slots, extrema made up, patches of both kinds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.changes import with_patches
from jaxnet.data.batches import Split
from jaxnet.nn import mlp
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.original import OriginalRules
from jaxnet.patches import KINDS, PatchRules
from jaxnet.topology import Topology
from jaxnet.units import Extrema

SIZES = (10, 8, 6, 4)


def made_up_extrema(sizes: tuple[int, ...], key: jax.Array, share: float = 0.5) -> tuple[Extrema, ...]:
    """Random scores of the hidden layers; about ``share`` of the units are high, as many low."""
    found = []
    for i, units in enumerate(sizes[1:-1]):
        mean = jax.random.normal(jax.random.fold_in(key, i), (units,))
        split = jax.scipy.stats.norm.ppf(share)
        high, low = mean + split, split - mean
        found.append(Extrema(high > 0, low > 0, high, low, jnp.abs(mean), jnp.zeros(units, bool)))
    return tuple(found)


def padded(params: Params, structure: Structure, slots: int) -> tuple[Params, Structure]:
    """The same network with ``slots`` padding slots at the end of every layer."""
    layers, topologies = [], []
    for layer, t in zip(params.scaffold, structure.weights, strict=True):
        assert isinstance(t, Topology)
        rows = jnp.concatenate([t.rows, t.shape[0] + jnp.arange(slots, dtype=jnp.int32)])
        cols = jnp.concatenate([t.cols, jnp.zeros(slots, jnp.int32)])
        topologies.append(Topology(rows, cols, t.row_ptr, t.shape))
        layers.append(layer.replace(weight=jnp.concatenate([layer.weight, jnp.zeros(slots)])))
    return params.replace(scaffold=tuple(layers)), structure.with_weights(topologies)


def make(
    spec: NetworkSpec, rules: PatchRules | None, key: jax.Array, padding: int = 0, share: float = 0.5
) -> tuple[Any, Any]:
    """A network, patched if there are rules; every value that exists differs from zero."""
    keys = [jax.random.fold_in(key, i) for i in range(5)]
    params: Any
    structure: Any
    params, structure = mlp.init(spec, key_mask=keys[0], key_init=keys[1])
    if padding:
        params, structure = padded(params, structure, padding)
    if rules is not None:
        found = made_up_extrema(spec.sizes, keys[2], share)
        params, structure = with_patches(params, structure, found, rules, key_patch=keys[3])
        if rules.kind == "dense":  # new high patches are zero: give them a value
            assert structure.bank is not None
            awake = []
            for values, placed in zip(params.patches, structure.bank.layers, strict=True):
                if values is not None and placed is not None:
                    noise = jnp.cos(jnp.arange(values.weight.shape[0], dtype=jnp.float32))
                    values = values.replace(weight=jnp.where(placed.topology.exists, noise, 0.0))
                awake.append(values)
            params = params.replace(patches=tuple(awake))
    bias = [layer.replace(bias=layer.bias + 0.05) for layer in params.scaffold]
    return params.replace(scaffold=tuple(bias)), structure


@contextlib.contextmanager
def as_users_compile() -> Iterator[None]:
    """Programs compiled ahead of time meanwhile get XLA's newer generator of code; ``conftest`` turns it off.

    Equality to the last bit of networks trained in programs of different shapes rests on it.
    """
    compile_ = jax.stages.Lowered.compile

    def compiled(self: Any, compiler_options: dict[str, Any] | None = None, **more: Any) -> Any:
        options = {"xla_cpu_use_fusion_emitters": True, **(compiler_options or {})}
        return compile_(self, compiler_options=options, **more)

    if "xla_cpu_use_fusion_emitters=false" in os.environ.get("XLA_FLAGS", ""):
        with mock.patch.object(jax.stages.Lowered, "compile", compiled):
            yield
    else:
        yield


def quick(function: Callable[..., Any], **options: Any) -> Any:
    """``jax.jit`` without the optimisations: what runs once compiles in half the time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@functools.cache
def _small(kind: str | None, padding: int) -> tuple[Params, Structure]:
    rules = None if kind is None else KINDS[kind].rules(kind, 5, hidden=3, max_targets=2, max_inputs=4)
    # as one program: eager, every little operation would be compiled by itself
    return quick(lambda k: make(NetworkSpec(SIZES, 0.4), rules, k, padding))(jax.random.key(3))


def small(
    kind: str | None, activation: str = "relu", detach: bool = False, padding: int = 3
) -> tuple[NetworkSpec, Any, Any]:
    """One small network with padding slots, patched or not, some slots active and some not.

    Returns:
      Specification, ``Params`` and ``Structure``; typed as ``Any``, for what is
      optional in them (patches, topologies) is there.
    """
    params, structure = _small(kind, padding)
    bank = structure.bank
    if bank is not None and detach:
        structure = structure.replace(bank=bank.replace(rules=with_faults(bank.rules, detach_source=True)))
    return NetworkSpec(SIZES, 0.4, activation), params, structure


def with_faults(rules: PatchRules, **faults: bool) -> OriginalRules:
    """The rules of ``mlp`` patches with these faults of the original alone."""
    clean = {**dataclasses.asdict(rules), "kind": "original"}
    own = {f.name: False for f in dataclasses.fields(OriginalRules) if f.name not in clean}
    return OriginalRules(**{**clean, **own, **faults})


def samples(size: int = 12, features: int = SIZES[0], classes: int = SIZES[-1]) -> Split:
    """Random samples."""
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.normal(size=(size, features)), jnp.float32)
    y = jnp.asarray(rng.integers(0, classes, size), jnp.int32)
    return Split(x, y, jnp.zeros(()), jnp.ones(()))


def leaves_named(tree: Any) -> list[tuple[str, np.ndarray]]:
    """Paths and NumPy values of all leaves."""
    return [(jax.tree_util.keystr(p), np.asarray(leaf)) for p, leaf in jax.tree.leaves_with_path(tree)]


def absent(params: Any, structure: Any) -> Any:
    """For every value of ``params`` whether it stands for nothing: padding, masked, an inactive patch."""
    scaffold = []
    for layer, c in zip(params.scaffold, structure.weights, strict=True):
        gone = ~np.asarray(c.exists if isinstance(c, Topology) else c.mask)
        scaffold.append(layer.replace(weight=gone, bias=np.zeros(layer.bias.shape, bool)))
    patches: list[Any] = []
    for values, placed in zip(params.patches, structure.bank.layers if structure.bank else (), strict=True):
        if values is None or placed is None:
            patches.append(None)
        elif hasattr(placed, "owner"):  # dense patches
            alive = placed.topology.exists & placed.active[placed.owner]
            patches.append(values.replace(weight=~np.asarray(alive)))
        else:
            idle, n = ~np.asarray(placed.active), placed.num_high

            def spread(part: Any, idle: np.ndarray) -> Any:
                return jax.tree.map(
                    lambda a: np.broadcast_to(idle.reshape(-1, *(1,) * (a.ndim - 1)), a.shape), part
                )

            patches.append(
                values.replace(high=spread(values.high, idle[:n]), low=spread(values.low, idle[n:]))
            )
    return params.replace(scaffold=tuple(scaffold), patches=tuple(patches))
