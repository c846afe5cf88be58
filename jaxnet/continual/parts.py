"""Learners that give every task a part of its own, and must be told which task a sample is from."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnet import signals
from jaxnet.changes import reshape, with_patches
from jaxnet.continual.learner import Learner, Setting, Turn, everywhere, looked_at
from jaxnet.data.batches import Data, Split
from jaxnet.optim import with_scales
from jaxnet.patches import PatchBank, PatchRules
from jaxnet.patches.bank import keep_patches
from jaxnet.structure import entries, exists
from jaxnet.train import Batches, Net, train_batches
from jaxnet.types import Array, Bool, PyTree, Scalar

FREE = 2**15 - 1
"""The owner of a weight that no task has."""


class FreeWeights(Learner):
    """PackNet: every task keeps a share of the weights that are still free.

    After a part of its steps the largest free weights are the task's, the others zero; the rest of its steps
    trains those alone. Biases stay as the first task leaves them. Source: Mallya and Lazebnik 2018.
    """

    what = "free weights (PackNet): a task keeps the largest of the free weights, the rest is free again"
    dial = "share"
    values = (0.1, 0.2, 0.35, 0.5)
    knows_task = True

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """All are free."""
        return everywhere(net, 1.0), jax.tree.map(lambda p: jnp.full(p.shape, FREE, jnp.int16), net.params)

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """What has an owner is frozen."""
        return _only(net, jax.tree.map(lambda owner: owner == FREE, memory)), memory

    def train(self, now: Turn, net: Net, memory: PyTree, data: Data, batches: Batches) -> tuple[Net, PyTree]:
        """All free weights, then those that are kept."""
        steps = batches.indices.shape[0]
        first = min(steps - 1, round((1 - now.setting.retrain) * steps)) if steps > 1 else 1
        parts = (Batches(*(part[s] for part in batches)) for s in (slice(first), slice(first, None)))
        before, after = parts
        net, _, _ = train_batches(self.task(now.setting), net, data, before)
        there = entries(net.structure)

        def choose(path: Any, owner: Array, values: Array) -> Array:
            entry = there.get(jax.tree_util.keystr(path))
            if entry is None:  # biases
                return jnp.full_like(owner, 0)
            free = (owner == FREE) & exists(entry)
            number = jnp.round(now.dial * jnp.sum(free, dtype=jnp.float32)).astype(jnp.int32)
            sizes = jnp.where(free, jnp.abs(values), -1.0)
            least = jnp.sort(sizes.ravel())[::-1][jnp.clip(number - 1, 0, sizes.size - 1)]
            kept = free & (sizes >= least) & (number > 0)
            return jnp.where(kept, now.t.astype(owner.dtype), owner)

        memory = jax.tree.map_with_path(choose, memory, net.params)
        params = jax.tree.map(lambda p, owner: jnp.where(owner == FREE, 0, p), net.params, memory)
        own = jax.tree.map(lambda owner: owner == now.t.astype(owner.dtype), memory)
        net = _only(net.replace(params=params), own)
        if after.indices.shape[0]:
            net, _, _ = train_batches(self.task(now.setting), net, data, after)
        return net, memory

    def answers(self, params: Any, memory: PyTree, structure: PyTree, t: Array) -> Any:
        """The weights of this task and of those before it."""
        there = entries(structure)

        def one(path: Any, owner: Array, values: Array) -> Array:
            return (
                jnp.where(owner <= t.astype(owner.dtype), values, 0)
                if jax.tree_util.keystr(path) in there
                else values
            )

        return jax.tree.map_with_path(one, memory, params)

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """An owner each."""
        return weights


def _only(net: Net, chosen: PyTree) -> Net:
    """The net in which these weights alone are trained; the others' moments are gone."""
    return net.replace(
        opt_state=with_scales(net.opt_state, jax.tree.map(lambda c: c.astype(jnp.float32), chosen))
    )


class Column(flax.struct.PyTreeNode):
    """The patches of every task: leaves ``(task, ...)``, and those that a task begins with."""

    own: PyTree
    first: PyTree


class PatchPerTask(Learner):
    """A scaffold that the first task trains, and patches for each of the others."""

    what = "patches per task: the first task trains the scaffold, each of the others patches of its own"
    dial = "patches"
    values = (2.0, 5.0, 10.0, 20.0)
    knows_task = True
    sparse_only = True
    most = 20
    """Patches per hidden layer and kind of extremum, at most."""

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """No patch."""
        return everywhere(net, 1.0), ()

    def grow(self, now: Turn, net: Net) -> tuple[Net, Column]:
        """After the first task: patches around the extrema, as many as the dial says, and all else frozen."""
        setting = now.setting
        data = now.stream.task(0)
        x, y = data.batch(looked_at(setting, data))
        seen = Split(x, y, jnp.zeros(()), jnp.ones(()))
        found = signals.find(setting.task, net.params, net.structure, seen, "quantile", quantile=0.2)
        rules = PatchRules("mlp", self.most, max_targets=10, max_inputs=50)

        def change(params: Any) -> Any:
            params, structure = with_patches(
                params, net.structure, found, rules, key_patch=now.key, silent=True
            )
            assert structure.bank is not None
            bank = keep_patches(structure.bank, _first_of(structure.bank, now.dial))
            return params, structure.replace(bank=bank)

        net = reshape(net, change)
        first = net.params.patches
        own = jax.tree.map(lambda a: jnp.zeros((setting.tasks, *a.shape), a.dtype), first)
        patch = net.params.replace(
            scaffold=jax.tree.map(lambda a: jnp.zeros(a.shape, bool), net.params.scaffold),
            patches=jax.tree.map(lambda a: jnp.ones(a.shape, bool), first),
        )
        return _only(net, patch), Column(own, first)

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Patches begin anew."""
        if not isinstance(memory, Column):
            return net, memory
        return net.replace(params=net.params.replace(patches=memory.first)), memory

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """The task's patches are kept."""
        if not isinstance(memory, Column):
            return net, memory
        own = jax.tree.map(lambda all_of, new: all_of.at[now.t].set(new), memory.own, net.params.patches)
        return net, memory.replace(own=own)

    def answers(self, params: Any, memory: PyTree, structure: PyTree, t: Array) -> Any:
        """The scaffold with the patches of the task; the first task has none."""
        if not isinstance(memory, Column):
            return params
        return params.replace(patches=jax.tree.map(lambda own: own[t], memory.own))


def _first_of(bank: PatchBank, number: Scalar) -> Bool[Array, "slot"]:
    """The first slots of every layer and sort: those at the most extreme units."""
    keep = []
    for patches in bank.layers:
        if patches is not None:
            high, slots = patches.num_high, patches.active.shape[0]
            keep += [jnp.arange(n, dtype=jnp.float32) < number for n in (high, slots - high)]
    return jnp.concatenate(keep)
