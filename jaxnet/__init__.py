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
    checkpoint,
    data,
    errors,
    extrema,
    kernels,
    layers,
    losses,
    masks,
    network,
    optim,
    patches,
    records,
    statistics,
    train,
    trees,
    types,
)
from jaxnet.errors import InputError
from jaxnet.extrema import Extrema, UnitStats, detect
from jaxnet.masks import Topology, allocate, draw_topologies
from jaxnet.network import (
    NetworkSpec,
    Params,
    Structure,
    apply,
    count_nonzeros,
    forward,
    init,
    to_masked_network,
    with_patches,
)
from jaxnet.optim import dual_rate_adam, grouped
from jaxnet.patches import PatchBank, PatchRules, contributions, merge_patches, redundancy, remove_patches
from jaxnet.train import Split, Task, TrainState, collect_stats, evaluate, init_state, make_epoch, track_best

__all__ = [
    "Extrema",
    "InputError",
    "NetworkSpec",
    "Params",
    "PatchBank",
    "PatchRules",
    "Split",
    "Structure",
    "Task",
    "Topology",
    "TrainState",
    "UnitStats",
    "activations",
    "allocate",
    "apply",
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
    "extrema",
    "forward",
    "grouped",
    "init",
    "init_state",
    "kernels",
    "layers",
    "losses",
    "make_epoch",
    "masks",
    "merge_patches",
    "network",
    "optim",
    "patches",
    "records",
    "redundancy",
    "remove_patches",
    "statistics",
    "to_masked_network",
    "track_best",
    "train",
    "trees",
    "types",
    "with_patches",
]
