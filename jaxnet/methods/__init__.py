"""Methods: rules that change which weights exist while a network trains.

>>> from jaxnet import methods
>>> methods.make("rigl", fraction=0.2)
RigL(fraction=0.2, every=100, until=None)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxnet.errors import check_choice
from jaxnet.methods.base import BaseMethod, DenseGradient, Periodic, Sizes, keep_best
from jaxnet.methods.cannistraci_hebb import CHTs, CHTss
from jaxnet.methods.extrema import Extrema
from jaxnet.methods.granet import GraNet
from jaxnet.methods.magnitude import Magnitude
from jaxnet.methods.revive import Revive
from jaxnet.methods.rigl import RigL
from jaxnet.methods.snip import SNIP
from jaxnet.methods.sparse_evolution import SET
from jaxnet.methods.sparse_momentum import SparseMomentum
from jaxnet.methods.static import Static

METHODS: dict[str, type[BaseMethod]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "magnitude": Magnitude,
    "snip": SNIP,
    "extrema": Extrema,
    "sparse-momentum": SparseMomentum,
    "revive": Revive,
    "granet": GraNet,
    "chts": CHTs,
    "chtss": CHTss,
}
"""Methods by name."""


def make(name: str, **options: Any) -> BaseMethod:
    """The method called ``name``.

    Raises:
      ValueError: there is none, or it has no such option.
    """
    check_choice("method", name, METHODS)
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
    "CHTs",
    "CHTss",
    "DenseGradient",
    "Extrema",
    "GraNet",
    "Magnitude",
    "Periodic",
    "Revive",
    "RigL",
    "Sizes",
    "SparseMomentum",
    "Static",
    "keep_best",
    "make",
]
