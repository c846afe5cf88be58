"""A tiny network, model and data for each kind of structure that methods serve."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import optim
from jaxnet.data.batches import Split
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.patches import PatchRules
from jaxnet.topology import Mask, Topology
from jaxnet.train import Net, Task
from tests import networks

BATCH, RATE = 4, 0.05
OPTIMIZER = optim.dual_rate_adam(RATE, RATE)

SPEC = NetworkSpec((6, 8, 5), 0.6)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A model that is no multi-layer perceptron: parameters in a dict, a kernel of four axes, a matrix."""

    class_axis: ClassVar[int] = -1

    def __call__(self, params: Any, structure: Any, x: Any, *, key_forward: Any) -> tuple[Any, None]:
        del structure, key_forward
        axes = ("NHWC", "HWIO", "NHWC")
        hidden = jax.lax.conv_general_dilated(x, params["kernel"], (2, 2), "VALID", dimension_numbers=axes)
        return jax.nn.relu(hidden).reshape(x.shape[0], -1) @ params["matrix"] + params["bias"], None


def perceptron(seed: int) -> Net:
    """Topologies with free slots, and dense patches, whose positions no weight may take."""
    rules = PatchRules("dense", 3, patch_density=0.4)
    params, structure = networks.make(SPEC, rules, jax.random.key(seed), padding=2)
    return Net.of(params, structure, OPTIMIZER)


def convolution(seed: int) -> Net:
    """Masks over a dict of arrays."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (2, 2, 2, 4), "matrix": (16, 3)}
    masks = {name: rng.random(shape) < 0.6 for name, shape in shapes.items()}
    params = {name: np.where(there, rng.normal(size=there.shape), 0) for name, there in masks.items()}
    return Net.of(
        {"bias": jnp.zeros(3), **{name: jnp.asarray(w, jnp.float32) for name, w in params.items()}},
        {"bias": None, **{name: Mask(jnp.asarray(there)) for name, there in masks.items()}},
        OPTIMIZER,
    )


class Kind(NamedTuple):
    task: Task
    data: Split
    make: Callable[[int], Net]


KINDS = {
    Topology: Kind(Task(MLP(SPEC), BATCH), networks.samples(12, 6, 5), perceptron),
    Mask: Kind(Task(Convolution(), BATCH), networks.samples(12, 32, 3).replace(shape=(4, 4, 2)), convolution),
}


def at(tree: Any, index: Any) -> Any:
    """Members of a stacked tree, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


@functools.cache
def stack(kind: type) -> Any:
    """Three networks: two alike, one different."""
    make = KINDS[kind].make
    if kind is Topology:
        make = networks.quick(make)  # eager, every operation would be compiled
    first, other = make(0), make(1)
    return jax.tree.map(lambda *leaves: np.stack(leaves), first, first, other)
