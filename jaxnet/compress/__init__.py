"""Compression: pruning, refit, few bits, fewer units; and what goes first when a network gets smaller.

Any Flax model is pruned by its parameters and the structure that ``jaxnet.sparsify(params, density=1, ...)``
gives for them; refit and narrower layers serve perceptrons.
"""

from __future__ import annotations

from jaxnet.compress.bits import (
    BITS,
    allocate_bits,
    hessian_sensitivity,
    quantise,
    sensitivity,
    with_bits,
)
from jaxnet.compress.prune import SCOPES, SCORES, check_ratio, kept, prune, score, waves
from jaxnet.compress.refitting import refit, refit_layer
from jaxnet.compress.resizing import (
    alignment_loss,
    check_teacher,
    effective_widths,
    frozen_targets,
    narrow,
    resize,
)

__all__ = [
    "BITS",
    "SCOPES",
    "SCORES",
    "alignment_loss",
    "allocate_bits",
    "check_ratio",
    "check_teacher",
    "effective_widths",
    "frozen_targets",
    "hessian_sensitivity",
    "kept",
    "narrow",
    "prune",
    "quantise",
    "refit",
    "refit_layer",
    "resize",
    "score",
    "sensitivity",
    "waves",
    "with_bits",
]
