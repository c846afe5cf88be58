"""The structure stays as it is."""

from __future__ import annotations

import dataclasses

from jaxnet.methods.base import BaseMethod


@dataclasses.dataclass(frozen=True)
class Static(BaseMethod):
    """No change: what every other method is compared with."""
