"""The network: specification, initialisation, application.

Three kinds of things, never mixed: :class:`NetworkSpec` is static,
:class:`Params` is trained, :class:`Structure` says which weights and patches
exist. All functions treat one network; ``vmap`` over ``Params`` and
``Structure`` gives many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS
from jaxnet.extrema import Extrema
from jaxnet.kernels import Product, dense_product
from jaxnet.layers import INITS, LayerParams, init_layer, linear_activated, to_masked
from jaxnet.masks import (
    ALLOCATIONS,
    Connectivity,
    DenseMask,
    Topology,
    allocate,
    check_density,
    check_sizes,
    draw_topologies,
)
from jaxnet.patches import (
    PatchBank,
    PatchParams,
    PatchRules,
    add_patches,
    apply_patches,
    redraw_inputs,
    slot_sizes,
)
from jaxnet.types import Array, Features, Float, Int, Key, Logits, Values


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What a network is made from (static).

    Attributes:
      sizes: units per layer, input and output included.
      density: fraction of the weights that exist, in (0, 1].
      activation: of the hidden layers; one of ``relu, tanh, sigmoid, gelu, identity``.
      allocation: how the density is shared out; see :func:`jaxnet.masks.allocate`.
      init: initial values; see :func:`jaxnet.layers.init_layer`.
    """

    sizes: tuple[int, ...]
    density: float = 0.02
    activation: str = "relu"
    allocation: str = "uniform"
    init: str = "sparse-fan-in"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_sizes(self.sizes)
        check_density(self.density)
        for value, allowed, what in (
            (self.activation, tuple(ACTIVATIONS), "activation"),
            (self.allocation, ALLOCATIONS, "allocation"),
            (self.init, INITS, "init"),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(allowed)}")
        allocate(self.sizes, self.density, self.allocation)

    @property
    def dense_weights(self) -> int:
        """Number of weights of the dense network of the same sizes."""
        return sum(i * o for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True))


class Params(flax.struct.PyTreeNode):
    """Everything that is trained.

    Attributes:
      scaffold: one entry per layer.
      patches: values of the patches; an empty tuple before patches are added.
      skips: values of the skip connections into each layer, or None; an empty
        tuple before a bank of them is added.
    """

    scaffold: tuple[LayerParams, ...]
    patches: PatchParams = ()
    skips: tuple[Values | None, ...] = ()


class Structure(flax.struct.PyTreeNode):
    """Which weights and patches exist; integers and booleans, not trained.

    Attributes:
      connectivity: one entry per layer; its type decides the representation.
      bank: the patches, or None.
      skips: for each layer the weights it has from the hidden layers of
        :func:`skip_sources`, one after the other, or None; an empty tuple
        before a bank of them is added.
    """

    connectivity: tuple[Connectivity, ...]
    bank: PatchBank | None = None
    skips: tuple[Topology | None, ...] = ()


class Activations(flax.struct.PyTreeNode):
    """What the hidden layers did.

    Attributes:
      pre: for each hidden layer its pre-activations ``(unit, batch)``, patches included.
      post: its post-activations ``(unit, batch)``.
    """

    pre: tuple[Features, ...]
    post: tuple[Features, ...]


def init(spec: NetworkSpec, *, key_mask: Key, key_init: Key) -> tuple[Params, Structure]:
    """Draws a scaffold: its topology from ``key_mask``, its values from ``key_init``."""
    topologies = draw_topologies(spec.sizes, spec.density, spec.allocation, key_mask=key_mask)
    return init_params(spec, topologies, key_init=key_init), Structure(topologies)


def init_params(spec: NetworkSpec, topologies: Sequence[Topology], *, key_init: Key) -> Params:
    """Draws the values of a scaffold of given topology."""
    keys = jax.random.split(key_init, len(topologies))
    return Params(
        tuple(
            init_layer(t, spec.init, spec.activation, key_init=k)
            for t, k in zip(topologies, keys, strict=True)
        )
    )


SKIP_REACH = 3
"""How many layers ahead a skip connection leads at most; the next layer is no skip."""


def skip_sources(layer: int) -> range:
    """The hidden layers that skip connections into ``layer`` come from, counted from 0.

    Layer ``t`` reads hidden layer ``t - 1``; a skip comes from one or two before it.

    >>> list(skip_sources(3)), list(skip_sources(1))
    ([0, 1], [])
    """
    return range(max(0, layer - SKIP_REACH), max(0, layer - 1))


def forward(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    x: Features,
    *,
    product: Product = dense_product,
    key_forward: Key | None = None,
) -> tuple[Features, Activations]:
    """Applies the network to features-first inputs.

    Args:
      spec: the activation is read from it.
      params: the values.
      structure: which weights and patches exist.
      x: ``(in, batch)``.
      product: the sparse product of the scaffold and of ``dense`` patches.
      key_forward: only for patches that draw their inputs in every forward pass.

    Returns:
      Logits ``(classes, batch)`` and the activations of the hidden layers.
    """
    last = len(params.scaffold) - 1
    pres, posts = [x], [x]  # of all layers so far, the input first
    bank = structure.bank
    inputs: Sequence[Array | None] = [None] * (last + 1)
    if bank is not None and bank.rules.redraw_inputs and key_forward is not None:
        sizes = [x.shape[0], *(layer.bias.shape[0] for layer in params.scaffold)]
        inputs = redraw_inputs(bank, sizes, key_forward=key_forward)
    for t, (layer, connectivity) in enumerate(zip(params.scaffold, structure.connectivity, strict=True)):
        name = "identity" if t == last else spec.activation
        pre, post = linear_activated(layer, connectivity, posts[-1], product, name)
        if bank is not None:
            added = apply_patches(params.patches, bank, t, pres, posts, product, inputs=inputs[t])
            if added is not None:
                pre = pre + added
                post = ACTIVATIONS[name](pre)
        if structure.skips:
            skips, values = structure.skips[t], params.skips[t]
            if skips is not None and values is not None:
                # posts begins with the network's input
                sources = jnp.concatenate([posts[s + 1] for s in skip_sources(t)])
                pre = pre + product(values, skips, sources)
                post = ACTIVATIONS[name](pre)
        pres.append(pre)
        posts.append(post)
    return posts[-1], Activations(tuple(pres[1:-1]), tuple(posts[1:-1]))


def apply(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    x: Float[Array, "batch in"],
    *,
    product: Product = dense_product,
    key_forward: Key | None = None,
) -> tuple[Logits, Activations]:
    """As :func:`forward`, for inputs ``(batch, in)`` and logits ``(batch, classes)``."""
    logits, activations = forward(spec, params, structure, x.T, product=product, key_forward=key_forward)
    return logits.T, activations


def sparse(structure: Structure) -> list[Topology]:
    """The topology of every layer.

    Raises:
      TypeError: a layer is in the masked-dense representation.
    """
    topologies = [c for c in structure.connectivity if isinstance(c, Topology)]
    if len(topologies) < len(structure.connectivity):
        raise TypeError("only a network in the sparse representation can grow or get patches")
    return topologies


def with_patches(
    params: Params,
    structure: Structure,
    extrema: Sequence[Extrema],
    rules: PatchRules,
    *,
    key_patch: Key,
    silent: bool = False,
) -> tuple[Params, Structure]:
    """Adds patches to a scaffold in the sparse representation, beside those that it may have.

    ``silent`` patches start with outgoing values of zero; see :func:`jaxnet.patches.add_patches`.

    Raises:
      TypeError: the scaffold is in the masked-dense representation.
      ValueError: the patches that are there are of another kind or are applied in another way.
    """
    onto = None if structure.bank is None else (structure.bank, params.patches)
    bank, patches = add_patches(
        extrema, sparse(structure), rules, key_patch=key_patch, onto=onto, silent=silent
    )
    return params.replace(patches=patches), structure.replace(bank=bank)


def to_masked_network(params: Params, structure: Structure) -> tuple[Params, Structure]:
    """Converts the scaffold to the masked-dense representation; the function is unchanged."""
    pairs = [
        to_masked(layer, c) if isinstance(c, Topology) else (layer, c)
        for layer, c in zip(params.scaffold, structure.connectivity, strict=True)
    ]
    layers, masks = zip(*pairs, strict=True)
    return params.replace(scaffold=layers), structure.replace(connectivity=masks)


def release_masks(structure: Structure) -> Structure:
    """Lets every weight of a masked-dense network exist (what the original's first version did)."""
    masks = tuple(
        DenseMask(jnp.ones_like(c.mask)) if isinstance(c, DenseMask) else c for c in structure.connectivity
    )
    return structure.replace(connectivity=masks)


def count_nonzeros(params: Params, structure: Structure) -> dict[str, Int[Array, ""]]:
    """Counts what exists: ``scaffold``, ``bias``, ``patch``, ``skip`` (if it has a bank), and ``total``.

    A sparse layer counts its topology. A masked-dense layer counts the weights
    that are not exactly zero, so that weights which came to life where there
    was no mask are seen. Patches count all their values, biases included.
    """
    scaffold = jnp.zeros((), jnp.int32)
    for layer, c in zip(params.scaffold, structure.connectivity, strict=True):
        if isinstance(c, Topology):
            scaffold += c.num_nonzeros
        else:
            scaffold += jnp.sum((layer.weight != 0) & c.mask, dtype=jnp.int32)
    bias = jnp.asarray(sum(layer.bias.shape[-1] for layer in params.scaffold), jnp.int32)
    patch = jnp.zeros((), jnp.int32)
    if structure.bank is not None:
        patch += jnp.sum(slot_sizes(structure.bank, params.patches), dtype=jnp.int32)
    counts = {"scaffold": scaffold, "bias": bias, "patch": patch}
    if structure.skips:
        skip = [t.num_nonzeros for t in structure.skips if t is not None]
        counts["skip"] = sum(skip, jnp.zeros((), jnp.int32))
    return counts | {"total": sum(counts.values(), jnp.zeros((), jnp.int32))}
