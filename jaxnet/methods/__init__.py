"""Methods: rules that change which weights exist while a network trains.

>>> from jaxnet import methods
>>> methods.make("rigl", fraction=0.2)
RigL(fraction=0.2, every=100, until=None)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxnet.methods.base import BaseMethod, DenseGradient, Periodic, Sizes, keep_best
from jaxnet.methods.magnitude import Magnitude
from jaxnet.methods.rigl import RigL
from jaxnet.methods.snip import SNIP
from jaxnet.methods.sparse_evolution import SET
from jaxnet.methods.static import Static

METHODS: dict[str, type[BaseMethod]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "magnitude": Magnitude,
    "snip": SNIP,
}
"""Methods by name."""


def make(name: str, **options: Any) -> BaseMethod:
    """The method called ``name``.

    Raises:
      ValueError: there is none, or it has no such option.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    allowed = [field.name for field in dataclasses.fields(METHODS[name])]
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"{name} has no option {option!r}: it has {known}")
    return METHODS[name](**options)


__all__ = [
    "METHODS",
    "SET",
    "SNIP",
    "BaseMethod",
    "DenseGradient",
    "Magnitude",
    "Periodic",
    "RigL",
    "Sizes",
    "Static",
    "keep_best",
    "make",
]
