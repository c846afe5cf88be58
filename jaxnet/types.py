"""Named array types: the shape of an array stands where the array is declared."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Bool, Float, Int, UInt8

Key = Array
"""A typed PRNG key, as made by ``jax.random.key``."""

Values = Float[Array, "nnz"]
"""The weights of one sparse layer that exist, in the order of its topology."""

Weight = Float[Array, "out in"]
"""All weights of one layer as a dense matrix; a row belongs to one output unit."""

Features = Float[Array, "unit batch"]
"""Activations of one layer, features first and the batch innermost."""

Bias = Float[Array, "out"]
Logits = Float[Array, "batch classes"]
Labels = Int[Array, "batch"]
UnitMask = Bool[Array, "unit"]
UnitScore = Float[Array, "unit"]
Scalar = Float[Array, ""]
PyTree = Any

__all__ = [
    "Array",
    "Bias",
    "Bool",
    "Features",
    "Float",
    "Int",
    "Key",
    "Labels",
    "Logits",
    "PyTree",
    "Scalar",
    "UInt8",
    "UnitMask",
    "UnitScore",
    "Values",
    "Weight",
]
