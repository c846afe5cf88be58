"""jaxnet: sparse networks that build themselves, trained for many seeds at once.

Functions treat one network and are pure; ``jax.vmap`` gives many. Start with
:class:`NetworkSpec`, :func:`init` and :func:`apply`; ``docs/architecture.md``
shows how the modules fit together.

>>> import jax
>>> import jaxnet
>>> spec = jaxnet.NetworkSpec((784, 256, 128, 10), density=0.02)
>>> key_mask, key_init = jax.random.split(jax.random.key(0))
>>> params, structure = jaxnet.init(spec, key_mask=key_mask, key_init=key_init)
>>> int(jaxnet.count_nonzeros(params, structure)["scaffold"])
4694
>>> logits, activations = jaxnet.apply(spec, params, structure, jax.numpy.ones((5, 784)))
>>> logits.shape
(5, 10)
"""

from __future__ import annotations

from jaxnet import (
    activations,
    changes,
    checkpoint,
    data,
    errors,
    kernels,
    keys,
    losses,
    masks,
    methods,
    nn,
    optim,
    original,
    patches,
    records,
    signals,
    statistics,
    structure,
    topology,
    train,
    trees,
    types,
    units,
)
from jaxnet.changes import with_patches
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.masks import allocate, draw_topologies
from jaxnet.nn.mlp import MLP, NetworkSpec, apply, forward, init
from jaxnet.nn.params import Params, Structure, count_nonzeros, to_masked_network
from jaxnet.optim import dual_rate_adam, grouped
from jaxnet.original import OriginalRules
from jaxnet.patches import PatchBank, PatchRules, contributions, merge_patches, redundancy, remove_patches
from jaxnet.signals import detect
from jaxnet.sparsify import sparsify
from jaxnet.topology import Mask, Topology
from jaxnet.train import (
    Net,
    Task,
    TrainState,
    collect_stats,
    evaluate,
    init_state,
    make_epoch,
    track_best,
)
from jaxnet.units import Extrema, UnitStats
from jaxnet.wrap import act, wrap

__all__ = [
    "MLP",
    "Extrema",
    "InputError",
    "Mask",
    "Net",
    "NetworkSpec",
    "OriginalRules",
    "Params",
    "PatchBank",
    "PatchRules",
    "Split",
    "Structure",
    "Task",
    "Topology",
    "TrainState",
    "UnitStats",
    "act",
    "activations",
    "allocate",
    "apply",
    "changes",
    "checkpoint",
    "collect_stats",
    "contributions",
    "count_nonzeros",
    "data",
    "detect",
    "draw_topologies",
    "dual_rate_adam",
    "errors",
    "evaluate",
    "forward",
    "grouped",
    "init",
    "init_state",
    "kernels",
    "keys",
    "losses",
    "make_epoch",
    "masks",
    "merge_patches",
    "methods",
    "nn",
    "optim",
    "original",
    "patches",
    "records",
    "redundancy",
    "remove_patches",
    "signals",
    "sparsify",
    "statistics",
    "structure",
    "to_masked_network",
    "topology",
    "track_best",
    "train",
    "trees",
    "types",
    "units",
    "with_patches",
    "wrap",
]
