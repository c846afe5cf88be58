"""Sparse products: one function signature, several implementations.

A product takes ``(values, topology, x)`` with ``values: (nnz,)``, a
:class:`jaxnet.topology.Topology` of shape ``(out, in)`` and features-first
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
from jaxnet.kernels.dense import DENSE_PRODUCTS, dense_product
from jaxnet.topology import Topology
from jaxnet.types import Bias, Features, Values

Product = Callable[[Values, Topology, Features], Features]
"""``(values, topology, x) -> (out, batch)``: a sparse product."""

Layer = Callable[[Values, Topology, Features, Bias, str], Features]
"""A product with bias and activation, by its name, in one call."""

PRODUCTS: dict[str, Product] = {"dense": dense_product}
"""The products that can be used here, by name."""

if csr_library.available():
    PRODUCTS["csr"] = csr_product


PRECISIONS = tuple(DENSE_PRODUCTS)
"""Precisions of the operands of a product, the most exact first."""


def product(name: str, precision: str = "f32") -> Product:
    """Returns the product called ``name``, with operands of some precision.

    Raises:
      InputError: no product has this name, it is not available here, or it does
        not know the precision.
    """
    if name == "csr" and name not in PRODUCTS:
        csr_library.require()  # raises, and says how to get it
    if name not in PRODUCTS:
        raise InputError(f"unknown kernel {name!r}: choose one of {', '.join(PRODUCTS)}")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "f32":
        return PRODUCTS[name]
    if name != "dense":
        raise InputError(
            f"the {name} kernel computes in f32 only: choose the dense kernel for precision {precision}"
        )
    return DENSE_PRODUCTS[precision]


def fused_layer(product: Product) -> Layer | None:
    """The ``activation(W x + bias)`` that goes with a product in one pass, or None."""
    return csr_layer if product is csr_product else None


__all__ = [
    "PRECISIONS",
    "PRODUCTS",
    "Layer",
    "Product",
    "csr_layer",
    "csr_product",
    "dense_product",
    "fused_layer",
    "product",
]
