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
"""A number per output unit of a layer."""

Logits = Float[Array, "batch classes"]
"""What a network says of samples, samples first."""

Labels = Int[Array, "batch"]
"""The class of each sample."""

UnitMask = Bool[Array, "unit"]
"""A truth value per unit of a layer."""

UnitScore = Float[Array, "unit"]
"""A number per unit of a layer."""

Scalar = Float[Array, ""]
"""One number on the device."""

PyTree = Any
"""A tree of arrays, of whatever nodes."""

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
