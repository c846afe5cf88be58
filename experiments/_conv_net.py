"""The networks of ``experiments.cifar10_conv``: an ordinary Flax base below a sparse head.

A base is given by its blocks, the channels of the convolutions of each, with a pooling at its end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as linen

import jaxnet
from jaxnet.allocation import allocate_arrays
from jaxnet.masks import uniform_topology
from jaxnet.nn.mlp import init_params
from jaxnet.topology import topology_mask

if TYPE_CHECKING:
    import jax


Base = tuple[tuple[int, ...], ...]
"""Channels of the convolutions of every block."""


class Blocks(linen.Module):
    """Blocks of convolutions, each with a normalisation and ReLU, the last of a block pooled; plain Flax."""

    blocks: Base

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``(batch, height, width, in) -> (batch, h, w, channels)``."""
        for block in self.blocks:
            for place, width in enumerate(block, start=1):
                x = linen.Conv(width, (3, 3), use_bias=False)(x)
                if place == len(block):  # before the normalisation: a quarter of the pixels
                    x = linen.max_pool(x, (2, 2), (2, 2))
                x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.95)(x))
        return x


def model_of(
    base: Base, image: tuple[int, int, int], hidden: tuple[int, ...], classes: int, **how: Any
) -> jaxnet.nn.Head:
    """The base with a perceptron on top; ``how`` are further fields of the head."""
    below = jaxnet.nn.Linen(
        Blocks(base),
        (("train", True),),
        watch=tuple(f"BatchNorm_{k}" for k in range(sum(map(len, base)))),
        remembers=True,
        shape=image,
    )
    spec = jaxnet.NetworkSpec((features(base, image), *hidden, classes), 1.0)
    return jaxnet.nn.Head(below, jaxnet.MLP(spec), **how)


def features(base: Base, image: Sequence[int]) -> int:
    """What the base gives for an image."""
    height, width = (n >> len(base) for n in image[:2])
    return height * width * base[-1][-1]


def kernels(base: Base, inputs: int) -> list[tuple[int, int, int, int]]:
    """Shapes of the base's kernels, for so many channels of an image."""
    channels = [inputs, *(width for block in base for width in block)]
    return [(3, 3, i, o) for i, o in itertools.pairwise(channels)]


def multiply_adds(base: Base, image: Sequence[int]) -> int:
    """Of the base's convolutions as they are computed, for one image."""
    pixels = [(image[0] >> k) * (image[1] >> k) for k, block in enumerate(base) for _ in block]
    shapes = kernels(base, image[2])
    return sum(n * math.prod(shape) for n, shape in zip(pixels, shapes, strict=True))


def layers(base: Base, image: Sequence[int], hidden: Sequence[int], classes: int) -> list[tuple[int, ...]]:
    """Shapes ``(..., in, out)`` of all arrays of weights, the base's first."""
    sizes = (features(base, image), *hidden, classes)
    return [*kernels(base, image[2]), *zip(sizes[:-1], sizes[1:], strict=True)]


def counts_of(shapes: Sequence[tuple[int, ...]], weights: int, base_share: float) -> list[int]:
    """So many weights in all, a share of them in the base, within both by Erdős–Rényi(-kernel).

    A share of 1 means every weight of the base; the head has what is left.

    Raises:
      ValueError: that many have no room, or an array would be left without any.
    """
    found: list[int] = []
    base, head = ([s for s in shapes if len(s) == rank] for rank in (4, 2))
    below = sum(map(math.prod, base)) if base_share == 1 else round(base_share * weights)
    for part, wanted in ((base, below), (head, weights - below)):
        room = sum(map(math.prod, part))
        if not 0 < wanted <= room:
            name = "convolutions" if len(part[0]) == 4 else "head"
            raise ValueError(f"{wanted} weights for the {name}, which have room for 1 to {room}")
        # the half keeps a rounding error from taking a weight away
        found += allocate_arrays(part, min(1.0, (wanted + 0.5) / room), "erdos-renyi")
    return found


def small_like(
    base: Base, image: Sequence[int], hidden: tuple[int, ...], classes: int, weights: int
) -> tuple[Base, tuple[int, ...]]:
    """Blocks and hidden layers in the same proportions, of a dense network of at most so many weights.

    What the whole numbers leave goes to the first hidden layer, as far as it reaches.

    Raises:
      ValueError: not even one channel each is possible.
    """

    def count(base: Base, units: tuple[int, ...]) -> int:
        return sum(map(math.prod, layers(base, image, units, classes)))

    for percent in range(100, 0, -1):
        smaller, units = (
            tuple(tuple(max(1, n * percent // 100) for n in sizes) for sizes in all_of_them)
            for all_of_them in (base, (hidden,))
        )
        least, more = units[0][0], units[0][1:]
        fits = [n for n in range(least, hidden[0] + 1) if count(smaller, (n, *more)) <= weights]
        if fits:
            return smaller, (fits[-1], *more)
    raise ValueError(f"{weights} weights are too few for any dense network of these layers")


def draw(
    model: jaxnet.nn.Head, counts: Sequence[int], image: tuple[int, int, int], *, dense: bool, key: jax.Array
) -> tuple[Any, Any]:
    """Parameters and structure of a network; ``dense`` ones have masks everywhere, too."""
    import jax
    import jax.numpy as jnp

    keys = jaxnet.keys.network_keys(key)
    below: Any = model.base
    base, remembered = below.init(jnp.zeros((1, math.prod(image))), key=keys["key_init"])
    number = sum(name.startswith("Conv_") for name in base)
    masks = jax.tree.map(lambda leaf: None, base)
    for k in range(number):
        kernel = base[f"Conv_{k}"]["kernel"]
        drawn = uniform_topology(
            math.prod(kernel.shape[:3]),
            kernel.shape[3],
            counts[k],
            key_mask=jax.random.fold_in(keys["key_mask"], 100 + k),
        )
        masks[f"Conv_{k}"]["kernel"] = jaxnet.Mask(topology_mask(drawn).reshape(kernel.shape))
    spec = model.mlp.spec
    pairs = zip(spec.sizes[:-1], spec.sizes[1:], counts[number:], strict=True)
    drawn_head = [
        uniform_topology(o, i, n, key_mask=jax.random.fold_in(keys["key_mask"], k))
        for k, (i, o, n) in enumerate(pairs)
    ]
    head, wired = init_params(spec, drawn_head, key_init=keys["key_init"]), jaxnet.Structure.of(drawn_head)
    if dense:
        head, wired = jaxnet.to_masked_network(head, wired)
    structure = {"base": {**masks, **remembered}, "head": wired}
    return jaxnet.structure.clear({"base": base, "head": head}, structure), structure
