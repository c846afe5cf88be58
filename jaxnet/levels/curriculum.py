"""Curriculum: local attention first, then a wider window, then the whole past."""

from __future__ import annotations

import dataclasses

from jaxnet.levels.arm import Arm, Phases
from jaxnet.transformer import Spec, Window

LOCAL = 0.4
"""Share of the steps in which attention is local."""


def phases(spec: Spec, steps: int) -> Phases:
    """A window of an eighth of the length first, then what the decoder has; equal parameters."""
    near = max(2, spec.length // 8)

    def narrowed(window: Window) -> Window:
        return min(window, near) if isinstance(window, int) else min(near, spec.length)

    first = round(LOCAL * steps)
    local = dataclasses.replace(spec, windows=tuple(narrowed(w) for w in spec.windows))
    return tuple((which, count) for which, count in ((local, first), (spec, steps - first)) if count)


ARM = Arm("attention is local in the first steps, global after them", phases=phases)
