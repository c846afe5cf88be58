"""Sparse products: one function signature, several implementations.

A product takes ``(values, topology, x)`` with ``values: (nnz,)``, a
:class:`jaxnet.masks.Topology` of shape ``(out, in)`` and features-first
activations ``x: (in, batch)``, and returns ``(out, batch)``. It is written for
one network; ``vmap`` gives many. It is differentiable in ``values`` and ``x``;
the gradient of a padding slot is zero.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxnet.kernels.dense import dense_product
from jaxnet.types import Features, Values

Product = Callable[[Values, object, Features], Features]

PRODUCTS: dict[str, Product] = {"dense": dense_product}
"""The products by name."""


def product(name: str) -> Product:
    """Returns the product called ``name``.

    Raises:
      ValueError: no product has this name.
    """
    try:
        return PRODUCTS[name]
    except KeyError:
        raise ValueError(f"unknown kernel {name!r}: choose one of {', '.join(PRODUCTS)}") from None


__all__ = ["PRODUCTS", "Product", "dense_product", "product"]
