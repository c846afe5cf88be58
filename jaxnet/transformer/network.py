"""The decoder as a Flax module, as a model for training, and its parameters."""

from __future__ import annotations

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS
from jaxnet.allocation import allocate_arrays
from jaxnet.errors import check_choice
from jaxnet.nn import Linen, sparse_dense
from jaxnet.sparsification import sparsify
from jaxnet.structure import map_weights
from jaxnet.topology import Mask, Topology, topology_from_flat
from jaxnet.transformer.attention import attend, rotate
from jaxnet.transformer.spec import Spec, Window
from jaxnet.types import Array, Float, Int, Key

WEIGHTS = ("block_*/kernel",)
"""The weights of attention and perceptrons, as :func:`jaxnet.sparsify` takes them (``include``)."""

ACTIVATION = "gelu"
STORED = ("mask", "topology")

Stream = Float[Array, "batch time unit"]
"""The residual stream, or a part of it."""

_FAN_IN = flax.linen.initializers.variance_scaling(1.0, "fan_in", "normal")


class Linear(flax.linen.Dense):
    """A linear layer without a bias, whose kernel may be sparse.

    Where the collection ``structure`` has a :class:`jaxnet.topology.Topology` at the kernel's path, of shape
    ``(out, in)``, the kernel is the vector of the weights that exist; else it is ``(in, out)``.
    """

    use_bias: bool = False
    kernel_init: Any = _FAN_IN

    @flax.linen.compact
    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """``(..., in) -> (..., out)``."""
        entry: Any = self.get_variable("structure", "kernel")
        if isinstance(entry, Topology):
            return sparse_dense(self.get_variable("params", "kernel"), entry, x)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)


class Block(flax.linen.Module):
    """Attention, then a perceptron, each of the normalised stream and added to it.

    The stream may be narrower than the width, that of the attention. Another layer takes the place of either
    where a subclass overrides ``mix`` or ``perceptron``.

    Attributes:
      spec: of the decoder.
      window: what its attention sees.
      hidden: units of its perceptron; None: as the spec says.
    """

    spec: Spec
    window: Window = None
    hidden: int | None = None

    @flax.linen.compact
    def __call__(self, x: Stream) -> Stream:
        """``(batch, time, unit)``, as what comes in."""
        x = x + self.mix(flax.linen.RMSNorm(name="norm_attention")(x))
        return x + self.perceptron(flax.linen.RMSNorm(name="norm_mlp")(x))

    def last(self) -> Any:
        """How the kernels that write to the stream begin: the sum of all blocks has the variance of one."""
        return flax.linen.initializers.variance_scaling(1 / (2 * self.spec.layers), "fan_in", "normal")

    def read(self, query: Stream, key: Stream, value: Stream) -> Stream:
        """What the attention reads, ``(batch, time, width)`` like its arguments."""
        heads = (*query.shape[:2], self.spec.heads, self.spec.head_width)
        query, key, value = (part.reshape(heads) for part in (query, key, value))
        return attend(rotate(query), rotate(key), value, self.window).reshape(*query.shape[:2], -1)

    def mix(self, seen: Stream) -> Stream:
        """What tokens read of each other, from the normalised stream, of its shape."""
        parts = (Linear(self.spec.width, name=name)(seen) for name in ("query", "key", "value"))
        return Linear(seen.shape[-1], kernel_init=self.last(), name="out")(self.read(*parts))

    def perceptron(self, seen: Stream) -> Stream:
        """What a token makes of itself, from the normalised stream, of its shape."""
        units = self.spec.hidden_width if self.hidden is None else self.hidden
        hidden = ACTIVATIONS[ACTIVATION](Linear(units, name="up")(seen))
        return Linear(seen.shape[-1], kernel_init=self.last(), name="down")(hidden)


class Decoder(flax.linen.Module):
    """Logits of the next token, from all tokens up to it.

    Pre-norm (RMS), rotary positions, GELU, no biases, a head of its own. A token outside the vocabulary makes
    the logits NaN from its place on, so that a loss tells of it. What stands between embedding and head is
    another where a subclass overrides ``block`` or ``blocks``.

    Attributes:
      spec: what it is made from.
    """

    spec: Spec

    @flax.linen.compact
    def __call__(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocab"]:
        """Logits ``(batch, time, vocab)``; those at a place are for the token after it.

        Raises:
          ValueError: tokens are no integers ``(batch, time)``, or more than the length.
        """
        spec = self.spec
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integers (batch, time): {tokens.dtype} {tokens.shape}")
        if tokens.shape[1] > spec.length:
            raise ValueError(f"a sequence has at most {spec.length} tokens: {tokens.shape[1]}")
        known = (tokens >= 0) & (tokens < spec.vocab)
        x = flax.linen.Embed(spec.vocab, spec.width, name="embed")(jnp.where(known, tokens, 0))
        logits = Linear(spec.vocab, name="head")(flax.linen.RMSNorm(name="norm")(self.blocks(x)))
        # not within the stream: a weight of zero times NaN would tell earlier places of it
        so_far = jnp.cumsum(~known, 1, dtype=jnp.int32) == 0
        return jnp.where(so_far[..., None], logits, jnp.nan)

    def blocks(self, x: Stream) -> Stream:
        """The stream behind the last block, from the embedded tokens, ``(batch, time, width)``."""
        for number in range(self.spec.layers):
            x = self.block(number)(x)
        return x

    @flax.linen.nowrap
    def block(self, number: int) -> Block:
        """A block of the decoder, called ``block_<number>``."""
        return Block(self.spec, self.spec.windows[number], name=f"block_{number}")


def model(spec: Spec) -> Linen:
    """The decoder as a model for :class:`jaxnet.train.Task`; the layers of its perceptrons are watched.

    >>> spec = Spec(vocab=10, length=8, width=4, heads=2, layers=1)
    >>> params, structure = init(spec, key_init=jax.random.key(0))
    >>> model(spec)(params, structure, jnp.zeros((3, 8), jnp.int32), key_forward=None)[0].shape
    (3, 8, 10)
    """
    watched = tuple(f"block_{number}/up" for number in range(spec.layers))
    return Linen(Decoder(spec), watch=watched, activation=ACTIVATION)


def init(
    spec: Spec,
    *,
    density: float | None = None,
    allocation: str = "uniform",
    stored: str = "mask",
    key_init: Key,
    key_mask: Key | None = None,
) -> tuple[Any, Any]:
    """Draws the parameters of a decoder, and which of its weights exist.

    With a density, weights of attention and perceptrons (:data:`WEIGHTS`) are thinned out and enlarged so
    that the variance of a unit does not depend on its number of inputs.

    Args:
      spec: what it is made from.
      density: fraction of the weights that exist, in (0, 1]; None: a dense decoder, without entries.
      allocation: how it is shared out; see :func:`jaxnet.allocation.allocate_arrays`.
      stored: as a ``mask`` over dense kernels ``(in, out)``, or as a ``topology``: vectors of the weights
        that exist, whose products are sparse on CPUs.
      key_init: decides the values.
      key_mask: decides which exist; needed with a density.

    Returns:
      Parameters and structure.

    Raises:
      ValueError: a density without a key, or one that cannot be drawn; an unknown way of storing.
    """
    check_choice("way of storing", stored, STORED)
    params, structure = model(spec).init(jnp.zeros((1, 1), jnp.int32), key=key_init)
    if density is None:
        return params, structure
    if key_mask is None:
        raise ValueError("a density draws which weights exist: give key_mask")
    params, structure = sparsify(
        params, density=density, allocation=allocation, include=WEIGHTS, key=key_mask
    )
    params = map_weights(_enlarged, params, structure)
    if stored == "mask":
        return params, structure
    return _listed(params, structure, density, allocation)


def _enlarged(kernel: Array, entry: Mask) -> Array:
    fan_in = jnp.maximum(jnp.sum(entry.mask, 0), 1).astype(kernel.dtype)
    return kernel * jnp.sqrt(kernel.shape[0] / fan_in)


def _listed(params: Any, structure: Any, density: float, allocation: str) -> tuple[Any, Any]:
    """Masked kernels ``(in, out)`` as vectors of the weights that exist, with topologies ``(out, in)``."""
    tree: Any = jax.tree.structure(params)
    leaves, entries = jax.tree.leaves(params), tree.flatten_up_to(structure)
    chosen = [place for place, entry in enumerate(entries) if isinstance(entry, Mask)]
    # how many there are is known without looking at the masks, which may be traced
    counts = allocate_arrays([entries[place].shape for place in chosen], density, allocation)
    for place, count in zip(chosen, counts, strict=True):
        num_in, num_out = entries[place].shape
        flat = jnp.nonzero(entries[place].mask.T.ravel(), size=count)[0]
        leaves[place] = leaves[place].T.ravel()[flat]
        entries[place] = topology_from_flat(flat, jnp.ones(count, bool), (num_out, num_in))
    return tree.unflatten(leaves), tree.unflatten(entries)
