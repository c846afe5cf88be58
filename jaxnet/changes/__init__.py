"""Changes of structure, and what follows them.

A change is a function ``(net, ...) -> (net, info)`` of one network. An **edit**
keeps the shapes and lives inside jit and vmap: rewiring, pruning, cloning, skip
connections. **Growth** changes them, on the host between compiled programs: a
layer, more units, patches. Whatever a net keeps for every weight follows both
(:mod:`jaxnet.changes.moving`).
"""

from __future__ import annotations

from jaxnet.changes.bootstrap import BootstrapRules, bootstrap, bootstrapped_arms, random_like, shuffle_values
from jaxnet.changes.channels import grow_around
from jaxnet.changes.moving import (
    EditInfo,
    carry_tree,
    edit,
    reshape,
    to_sparse,
    with_equal_room,
    with_optimizer,
    with_room,
)
from jaxnet.changes.patching import RULES, add_patches, norm_and_drift, with_patches
from jaxnet.changes.rewire import (
    NEW_WEIGHT,
    clone_and_prune,
    exchange,
    grow_random,
    prune_smallest,
    scaffold_path,
    small_weights,
)
from jaxnet.changes.shape import grown, insert_layer, widen
from jaxnet.changes.skips import MAX_INCOMING, route_skips, with_skips

__all__ = [
    "MAX_INCOMING",
    "NEW_WEIGHT",
    "RULES",
    "BootstrapRules",
    "EditInfo",
    "add_patches",
    "bootstrap",
    "bootstrapped_arms",
    "carry_tree",
    "clone_and_prune",
    "edit",
    "exchange",
    "grow_around",
    "grow_random",
    "grown",
    "insert_layer",
    "norm_and_drift",
    "prune_smallest",
    "random_like",
    "reshape",
    "route_skips",
    "scaffold_path",
    "shuffle_values",
    "small_weights",
    "to_sparse",
    "widen",
    "with_equal_room",
    "with_optimizer",
    "with_patches",
    "with_room",
    "with_skips",
]
