"""Bootstrap: a larger network built from the strongest features of a trained smaller one.

One rule takes a network ``[n0, n1, ..., nL]`` to ``[n0, m, n1, ..., nL]``: a new
hidden layer of ``m`` units goes below the first layer. With the defaults it is
the original's from ``[784, 10]`` to ``[784, 32, 10]``; applied once more, with
the 32 hidden units in the place of the 10 classes, it gives the third scale,
``[784, 128, 32, 10]``, for which the original has a placeholder.

All functions treat one network, under jit and vmap: shapes depend on the
specifications only. Where positions coincide, fewer weights exist than there
are slots; the slots left over are padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import keys
from jaxnet.allocation import allocate
from jaxnet.masks import draw_padded_topology, draw_topologies
from jaxnet.nn.mlp import NetworkSpec, init_params
from jaxnet.nn.params import Params, Structure
from jaxnet.structure import LayerParams
from jaxnet.topology import Topology, densify, topology_from_flat, topology_mask
from jaxnet.types import Array, Bool, Int, Key, Weight

__all__ = ["BootstrapRules", "bootstrap", "bootstrapped_arms", "random_like", "shuffle_values"]


@dataclasses.dataclass(frozen=True)
class BootstrapRules:
    """What a new unit takes over from its two parents, units of the smaller network's first layer (static).

    The parents of new unit ``h`` are ``h mod n1`` and ``(h + offset) mod n1``.

    Attributes:
      features: how many of the first and of the second parent's inputs a new
        unit reads: those of the largest (most positive) weights, among the
        weights that exist; ties go to the lower input.
      shares: which part of the parents' weights it gets.
      outgoing: its weights to the first and to the second parent.
      offset: from the first parent to the second.
    """

    features: tuple[int, int] = (20, 10)
    shares: tuple[float, float] = (0.7, 0.3)
    outgoing: tuple[float, float] = (0.5, 0.2)
    offset: int = 3

    def __post_init__(self) -> None:
        """Raises ValueError for a negative number of features."""
        if min(self.features) < 0:
            raise ValueError(f"features must be 0 or more: {self.features}")


def bootstrap(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    rules: BootstrapRules | None = None,
    *,
    key_mask: Key,
    key_init: Key,
) -> tuple[Params, Structure]:
    """Builds the larger network.

    The first two layers start as a random network of ``spec``: positions from
    ``key_mask``, values from ``key_init``, which also gives their biases. On top
    come the features of the parents (first layer) and the weights to them
    (second layer). A position that is named several times exists once: what
    both parents give adds up, and replaces a random value. The layers above are
    the small network's, positions, values and biases.

    With ``b`` weights in the random masks of the two layers and ``r`` repeated
    positions in each, exactly ``b[0] + sum over h of (min(features[0], fan-in of
    parent 1) + min(features[1], fan-in of parent 2)) - r[0]`` and
    ``b[1] + 2 m - r[1]`` weights exist.

    Args:
      spec: the larger network, sizes ``(n0, m, n1, ..., nL)``; its density and
        allocation decide the random masks, its init all random values.
      params: of the small network, sizes ``(n0, n1, ..., nL)``, without patches.
      structure: likewise, in the sparse representation.
      rules: the original's by default.
      key_mask: positions of the random masks.
      key_init: random values.

    Raises:
      ValueError: the small network's sizes are not those of ``spec`` without its
        first hidden layer, or it has patches or masks.

    Source: the original's experiment on optimal bootstraps, for ``n1`` classes.
    """
    rules = rules or BootstrapRules()
    small = _sparse(structure)
    _check_sizes(spec, small)
    num_in, width, num_parents = spec.sizes[:3]
    unit = jnp.arange(width)
    parents = unit % num_parents, (unit + rules.offset) % num_parents

    weight = jnp.where(topology_mask(small[0]), densify(params.scaffold[0].weight, small[0]), -jnp.inf)
    first = jnp.zeros((width, num_in)), jnp.zeros((width, num_in), bool)
    second = jnp.zeros((num_parents, width)), jnp.zeros((num_parents, width), bool)
    for parent, number, share, outgoing in zip(
        parents, rules.features, rules.shares, rules.outgoing, strict=True
    ):
        value, col = jax.lax.top_k(weight[parent], min(number, num_in))  # (unit, feature)
        exists = ~jnp.isneginf(value)
        first = _add(first, unit[:, None], jnp.where(exists, col, num_in), share * value)
        second = _add(second, parent, unit, jnp.full(width, outgoing))

    base = draw_topologies(spec.sizes, spec.density, spec.allocation, key_mask=key_mask)
    given = sum(min(number, num_in) for number in rules.features)
    grown = _merge(base[0], first[1], width * given), _merge(base[1], second[1], 2 * width)
    topologies = (*grown, *small[1:])
    fresh = init_params(spec, topologies, key_init=key_init).scaffold
    lower = (
        _overwrite(layer, topology, *inherited)
        for layer, topology, inherited in zip(fresh[:2], grown, (first, second), strict=True)
    )
    return Params((*lower, *params.scaffold[1:])), Structure.of(topologies)


def random_like(
    spec: NetworkSpec,
    structure: Structure,
    *,
    nonzeros: Sequence[int | Int[Array, ""]] | None = None,
    key_mask: Key,
    key_init: Key,
) -> tuple[Params, Structure]:
    """A random network in arrays of the same shapes: the control of equal size.

    Args:
      spec: its sizes, init and activation.
      structure: of the network to compare with; sets the slots of every layer.
      nonzeros: weights of each layer, at most its slots; as many as ``structure`` has by default.
      key_mask: positions; layer ``l`` uses ``fold_in(key_mask, l)``.
      key_init: values.

    Raises:
      ValueError: ``structure`` is not in the sparse representation or has patches.
    """
    topologies = []
    for number, topology in enumerate(_sparse(structure)):
        count = topology.num_nonzeros if nonzeros is None else jnp.asarray(nonzeros[number], jnp.int32)
        out, inputs = (jnp.asarray(n, jnp.int32) for n in topology.shape)
        density = topology.capacity / (topology.shape[0] * topology.shape[1])
        key = jax.random.fold_in(key_mask, number)
        topologies.append(
            draw_padded_topology(topology.shape, out, inputs, count, topology.capacity, density, key_mask=key)
        )
    return init_params(spec, topologies, key_init=key_init), Structure.of(topologies)


def shuffle_values(params: Params, structure: Structure, *, key_shuffle: Key) -> Params:
    """Permutes the weights within every layer: same positions, same values, another place for each.

    Biases stay.

    Raises:
      ValueError: ``structure`` is not in the sparse representation or has patches.
    """
    layers = []
    for number, (layer, topology) in enumerate(zip(params.scaffold, _sparse(structure), strict=True)):
        bits = jax.random.bits(jax.random.fold_in(key_shuffle, number), (topology.capacity,))
        padding = (~topology.exists).astype(jnp.int32)  # stays at the end
        weight = jax.lax.sort((padding, bits, layer.weight), num_keys=2)[2]
        layers.append(layer.replace(weight=weight))
    return params.replace(scaffold=tuple(layers))


def bootstrapped_arms(
    spec: NetworkSpec, params: Params, structure: Structure, key: Key
) -> tuple[tuple[Params, Structure], ...]:
    """The larger network and its controls.

    Returns:
      The bootstrapped network; a random one of as many weights in every layer; the bootstrapped positions
      with values permuted within layers; these positions with fresh values; a random network without the
      weights that the features add, as the original compared.
    """
    own = keys.network_keys(key)
    other: dict[str, Any] = {
        "key_mask": keys.purpose(key, keys.OTHER_MASK),
        "key_init": keys.purpose(key, keys.OTHER_INIT),
    }
    grown, connected = bootstrap(spec, params, structure, **own)
    plain = allocate(spec.sizes, spec.density)
    return (
        (grown, connected),
        random_like(spec, connected, **other),
        (shuffle_values(grown, connected, key_shuffle=keys.purpose(key, keys.SHUFFLE)), connected),
        (init_params(spec, _sparse(connected), key_init=own["key_init"]), connected),
        random_like(spec, connected, nonzeros=plain, **other),
    )


Inherited = tuple[Weight, Bool[Array, "out in"]]
"""Values and where there are any."""


def _add(inherited: Inherited, row: Array, col: Array, value: Array) -> Inherited:
    """Adds values; a column outside the matrix is no position."""
    weight, mask = inherited
    return weight.at[row, col].add(value, mode="drop"), mask.at[row, col].set(True, mode="drop")


def _merge(base: Topology, mask: Bool[Array, "out in"], most: int) -> Topology:
    """The union of a topology and a mask of at most ``most`` positions."""
    size = base.shape[0] * base.shape[1]
    capacity = min(size, base.capacity + most)
    flat = jnp.flatnonzero((topology_mask(base) | mask).ravel(), size=capacity, fill_value=size)
    return topology_from_flat(flat, flat < size, base.shape)


def _overwrite(
    layer: LayerParams, topology: Topology, weight: Weight, mask: Bool[Array, "out in"]
) -> LayerParams:
    """Puts the inherited values in the place of random ones."""
    place = topology.rows, topology.cols
    inherited = mask.at[place].get(mode="fill", fill_value=False)
    value = weight.at[place].get(mode="fill", fill_value=0.0)
    return layer.replace(weight=jnp.where(inherited, value, layer.weight))


def _sparse(structure: Structure) -> tuple[Topology, ...]:
    topologies = tuple(entry for entry in structure.weights if isinstance(entry, Topology))
    if structure.bank is not None or len(topologies) < len(structure.weights):
        raise ValueError("a network in the sparse representation and without patches is needed")
    return topologies


def _check_sizes(spec: NetworkSpec, small: Sequence[Topology]) -> None:
    sizes = (small[0].shape[1], *(t.shape[0] for t in small))
    if len(spec.sizes) < 3 or sizes != (spec.sizes[0], *spec.sizes[2:]):
        raise ValueError(
            f"a network of sizes {'-'.join(map(str, spec.sizes))} cannot be built from one of "
            f"{'-'.join(map(str, sizes))}: the sizes must agree but for the first hidden layer"
        )
