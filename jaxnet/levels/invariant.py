"""Attention that keeps a chosen subspace: a stream that lies in it lies in it afterwards.

Let ``K``, the kernel of a map say, be spanned by the first columns of an orthonormal frame ``[B | C]``. Half
of every head's units read the whole stream and write to ``K`` alone, the others read what is outside of ``K``
alone and write anywhere: the products of value and output are block-triangular in the frame. The norm before
has no scales, for these would turn ``K``. It is no chain map, and the perceptron keeps nothing.
"""

from __future__ import annotations

import functools

import flax.linen
import jax.numpy as jnp
import numpy as np

from jaxnet.levels.room import hidden_units
from jaxnet.linalg import times
from jaxnet.transformer import Block, Decoder, Linear, Spec, Stream
from jaxnet.types import Float

Basis = tuple[tuple[float, ...], ...]
"""Vectors that span a subspace of the stream, hashable: ``(dimension, width)``."""

CERTAIN = 1e-6
"""Smallest singular value of a basis, relative to the largest, with which its vectors are independent."""


def drawn_basis(spec: Spec) -> Basis:
    """A subspace of a quarter of the width, the same for every network."""
    size = max(1, spec.width // 4)
    return tuple(map(tuple, np.random.default_rng(0).normal(size=(size, spec.width)).tolist()))


@functools.cache
def subspace_frame(basis: Basis, width: int) -> Float[np.ndarray, "width width"]:
    """An orthonormal frame that begins with one of the subspace.

    Raises:
      ValueError: the vectors are dependent, none, more than the width less one, or not of its length.
    """
    if not 0 < len(basis) < width or any(len(vector) != width for vector in basis):
        raise ValueError(f"a subspace needs 1 to {width - 1} vectors of length {width}")
    vectors = np.asarray(basis, np.float64)
    sizes = np.linalg.svd(vectors, compute_uv=False)
    if not sizes[-1] > CERTAIN * sizes[0]:  # nor where one is not finite
        raise ValueError(f"the {len(basis)} vectors of a subspace must be independent")
    return np.linalg.qr(vectors.T, mode="complete")[0].astype(np.float32)


class InvariantBlock(Block):
    """A block whose attention keeps a subspace.

    Attributes:
      basis: of the subspace.
    """

    basis: Basis = ()

    @flax.linen.compact
    def __call__(self, x: Stream) -> Stream:
        """``(batch, time, width)``, as what comes in."""
        x = x + self.mix(flax.linen.RMSNorm(use_scale=False, name="norm_attention")(x))
        return x + self.perceptron(flax.linen.RMSNorm(name="norm_mlp")(x))

    def mix(self, seen: Stream) -> Stream:
        """What tokens read of each other, from the normalised stream, of its shape."""
        spec, size = self.spec, len(self.basis)
        turn = jnp.asarray(subspace_frame(self.basis, spec.width), seen.dtype)
        outside = times(seen, turn[:, size:])
        query, key = (Linear(spec.width, name=name)(seen) for name in ("query", "key"))
        halves = (
            Linear(spec.width // 2, name="value")(seen),
            Linear(spec.width // 2, name="value_outside")(outside),
        )
        by_head = (*seen.shape[:2], spec.heads, spec.head_width // 2)
        value = jnp.concatenate([half.reshape(by_head) for half in halves], -1).reshape(seen.shape)
        read = self.read(query, key, value).reshape(*by_head[:3], -1)
        to_kept, to_all = (half.reshape(*seen.shape[:2], -1) for half in jnp.split(read, 2, -1))
        kept = Linear(size, kernel_init=self.last(), name="keep")(to_kept)
        return times(kept, turn[:, :size].T) + Linear(spec.width, kernel_init=self.last(), name="out")(to_all)


class InvariantDecoder(Decoder):
    """A decoder whose attention keeps a subspace; of the plain one's parameters.

    Attributes:
      basis: of the subspace; empty: :func:`drawn_basis`.
    """

    basis: Basis = ()

    @flax.linen.nowrap
    def block(self, number: int) -> InvariantBlock:
        """A block with the kernel kept."""
        spec, basis = self.spec, self.basis or drawn_basis(self.spec)
        width, size = spec.width, len(basis)
        others = 2 * width**2 + (2 * width - size) * (width // 2) + (size + width) * (width // 2) + width
        hidden = hidden_units(spec, others, width)
        return InvariantBlock(spec, spec.windows[number], hidden, basis, name=f"block_{number}")
