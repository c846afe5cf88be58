"""Sparse products: one function signature, several implementations.

A product takes ``(values, topology, x)`` with ``values: (nnz,)``, a
:class:`jaxnet.masks.Topology` of shape ``(out, in)`` and features-first
activations ``x: (in, batch)``, and returns ``(out, batch)``. It is written for
one network; ``vmap`` gives many. It is differentiable in ``values`` and ``x``;
the gradient of a padding slot is zero.

``dense`` is there on every device. ``csr`` runs on CPU and is there where it
could be built (``python -m jaxnet.info`` says).
"""

from __future__ import annotations

from collections.abc import Callable

from jaxnet.errors import InputError
from jaxnet.kernels import csr_library
from jaxnet.kernels.csr import csr_layer, csr_product
from jaxnet.kernels.dense import dense_product
from jaxnet.masks import Topology
from jaxnet.types import Bias, Features, Values

Product = Callable[[Values, Topology, Features], Features]

Layer = Callable[[Values, Topology, Features, Bias, str], Features]

PRODUCTS: dict[str, Product] = {"dense": dense_product}
"""The products that can be used here, by name."""

if csr_library.available():
    PRODUCTS["csr"] = csr_product


def product(name: str) -> Product:
    """Returns the product called ``name``.

    Raises:
      InputError: no product has this name, or it is not available here.
    """
    if name in PRODUCTS:
        return PRODUCTS[name]
    if name == "csr":
        csr_library.require()  # raises, and says how to get it
    raise InputError(f"unknown kernel {name!r}: choose one of {', '.join(PRODUCTS)}")


def fused_layer(product: Product) -> Layer | None:
    """The ``activation(W x + bias)`` that goes with a product in one pass, or None."""
    return csr_layer if product is csr_product else None


__all__ = [
    "PRODUCTS",
    "Layer",
    "Product",
    "csr_layer",
    "csr_product",
    "dense_product",
    "fused_layer",
    "product",
]
