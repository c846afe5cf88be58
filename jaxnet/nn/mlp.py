"""The multi-layer perceptron: specification, initialisation, application.

Three kinds of things, never mixed: :class:`NetworkSpec` is static,
:class:`Params` is trained, :class:`Structure` says which weights and patches
exist. All functions treat one network; ``vmap`` over ``Params`` and
``Structure`` gives many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS
from jaxnet.allocation import allocate, check_allocation, check_density, check_sizes, dense_counts
from jaxnet.errors import check_choice
from jaxnet.kernels import Product, dense_product
from jaxnet.losses import ABSENT
from jaxnet.masks import draw_topologies
from jaxnet.nn.layers import INITS, init_layer, linear_activated, weighted
from jaxnet.nn.params import Params, Structure
from jaxnet.patches import apply_patches
from jaxnet.topology import Entry, Topology
from jaxnet.types import Array, Features, Float, Key, Logits


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What a network is made from (static).

    Attributes:
      sizes: units per layer, input and output included.
      density: fraction of the weights that exist, in (0, 1].
      activation: of the hidden layers; one of ``relu, tanh, sigmoid, gelu, identity``.
      allocation: how the density is shared out; see :func:`jaxnet.allocation.allocate`.
      init: initial values; see :func:`jaxnet.nn.layers.init_layer`.
    """

    sizes: tuple[int, ...]
    density: float = 0.02
    activation: str = "relu"
    allocation: str = "uniform"
    init: str = "sparse-fan-in"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range; makes whole sizes of any type a tuple of integers."""
        check_sizes(self.sizes)
        object.__setattr__(self, "sizes", tuple(int(size) for size in self.sizes))
        check_density(self.density)
        check_allocation(self.allocation)
        for value, allowed, what in (
            (self.activation, tuple(ACTIVATIONS), "activation"),
            (self.init, INITS, "init"),
        ):
            check_choice(what, value, allowed)
        allocate(self.sizes, self.density, self.allocation)

    @property
    def dense_weights(self) -> int:
        """Number of weights of the dense network of the same sizes."""
        return sum(dense_counts(self.sizes))


class Activations(flax.struct.PyTreeNode):
    """What the hidden layers did.

    Attributes:
      pre: for each hidden layer its pre-activations ``(unit, batch)``, patches included.
      post: its post-activations ``(unit, batch)``.
    """

    pre: tuple[Features, ...]
    post: tuple[Features, ...]


def init(
    spec: NetworkSpec,
    *,
    key_mask: Key,
    key_init: Key,
    inputs: Float[Array, "sample in"] | None = None,
    wiring: str = "correlated",
) -> tuple[Params, Structure]:
    """Draws a scaffold: its topology from ``key_mask``, its values from ``key_init``.

    Given training samples, the first layer (``wiring`` ``local``: all but the last) is wired by the
    correlation of their features (:func:`jaxnet.masks.draw_topologies`).
    """
    shared = spec.sizes, spec.density, spec.allocation
    topologies = draw_topologies(*shared, key_mask=key_mask, inputs=inputs, wiring=wiring)
    return init_params(spec, topologies, key_init=key_init), Structure.of(topologies)


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
    if bank is not None and key_forward is not None:
        sizes = [x.shape[0], *(layer.bias.shape[0] for layer in params.scaffold)]
        bank = bank.kind.for_pass(bank, sizes, key_forward=key_forward)
    for t, (layer, entry) in enumerate(zip(params.scaffold, structure.weights, strict=True)):
        name = "identity" if t == last else spec.activation
        pre, post = linear_activated(layer, entry, posts[-1], product, name)
        if bank is not None:
            added = apply_patches(params.patches, bank, t, pres, posts, pre.shape[0], product)
            if added is not None:
                pre = pre + added
                post = ACTIVATIONS[name](pre)
        if structure.skips:
            skips, values = structure.skips[t], params.skips[t]
            if skips is not None and values is not None:
                # posts begins with the network's input
                sources = jnp.concatenate([posts[s + 1] for s in skip_sources(t)])
                pre = pre + weighted(values, skips, sources, product)  # masked in dense gradients
                post = ACTIVATIONS[name](pre)
        pres.append(pre)
        posts.append(post)
    logits = posts[-1]
    if structure.outputs is not None:
        logits = jnp.where(structure.outputs[:, None], logits, ABSENT)
    return logits, Activations(tuple(pres[1:-1]), tuple(posts[1:-1]))


@dataclasses.dataclass(frozen=True)
class MLP:
    """The network as a model for training (static); see :class:`jaxnet.train.Model`.

    Attributes:
      spec: its activation is read.
      product: the sparse product.
    """

    spec: NetworkSpec
    product: Product = dense_product

    class_axis: ClassVar[int] = 0
    """Logits are ``(classes, batch)``."""

    @property
    def activation(self) -> str:
        """Of the hidden layers, by name."""
        return self.spec.activation

    def incoming(self, params: Params, structure: Structure) -> list[tuple[Array, Entry]]:
        """The weights into every hidden layer, with what says which exist."""
        layers = zip(params.scaffold, structure.weights, strict=True)
        return [(layer.weight, entry) for layer, entry in layers][:-1]

    def __call__(
        self, params: Params, structure: Structure, x: Float[Array, "batch in"], *, key_forward: Key | None
    ) -> tuple[Features, Activations]:
        """:func:`forward` on samples ``(batch, in)``."""
        return forward(self.spec, params, structure, x.T, product=self.product, key_forward=key_forward)


def apply(
    spec: NetworkSpec,
    params: Params,
    structure: Structure,
    x: Float[Array, "batch in"],
    *,
    product: Product = dense_product,
    key_forward: Key | None = None,
) -> tuple[Logits, Activations]:
    """As :func:`forward`, for inputs ``(batch, in)`` and logits ``(batch, classes)``.

    Raises:
      ValueError: ``x`` is not ``(batch, in)``.
    """
    num_in = structure.weights[0].shape[-1]
    if jnp.ndim(x) != 2 or jnp.shape(x)[1] != num_in:
        raise ValueError(f"x must be samples of shape (batch, {num_in}): {jnp.shape(x)}; one is x[None]")
    logits, activations = forward(spec, params, structure, x.T, product=product, key_forward=key_forward)
    return logits.T, activations
