"""Learners that say in which directions weights may move: row projection, and updates of low rank.

They read the inputs of every layer of a perceptron from its activations.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from jaxnet import protect
from jaxnet.continual.learner import Learner, Setting, Turn, everywhere, looked_at
from jaxnet.data.batches import Data
from jaxnet.optim import scale_updates
from jaxnet.protect import RowBasis
from jaxnet.train import Net
from jaxnet.types import Array, PyTree, Scalar


def path(layer: int) -> str:
    """Where the weight of a layer is."""
    return f".scaffold[{layer}].weight"


def shapes(structure: Any) -> list[tuple[int, int]]:
    """``(out, in)`` of every layer."""
    return [entry.shape for entry in structure.weights]


def inputs(setting: Setting, net: Net, data: Data) -> list[Array]:
    """``(in, sample)`` of every layer, on samples that are looked at."""
    x, _ = data.batch(looked_at(setting, data))
    _, seen = setting.task.model(net.params, net.structure, x, key_forward=None)
    return [x.T, *seen.post]


def entry_of(setting: Setting, structure: Any, layer: int) -> Any:
    """The entry of a layer; None where it is dense."""
    return None if setting.fan_in[layer] is None else structure.weights[layer]


class RowProjection(Learner):
    """Updates act as zero on what old tasks have shown."""

    what = "row projection: updates act as zero on the leading directions of old inputs, row by row"
    dial = "energy"
    values = (0.7, 0.8, 0.9, 0.95)

    def optimizer(self, setting: Setting, net: Net) -> optax.GradientTransformation:
        """Projected last."""
        return optax.chain(
            setting.optimizer, scale_updates(), protect.project_rows(self.nothing(setting, net), passes=1)
        )

    def nothing(self, setting: Setting, net: Net) -> dict[str, RowBasis]:
        """No direction is taken, with room for all."""
        made = {}
        for layer, shape in enumerate(shapes(net.structure)):
            entry, fan_in = entry_of(setting, net.structure, layer), setting.fan_in[layer]
            made[path(layer)] = protect.no_rows(entry, shape, fan_in=fan_in, bias=setting.bias)
        return made

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """Nothing is protected."""
        return everywhere(net, 1.0), self.nothing(setting, net)

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """What this task has shown, too; behind the first layer less may be lost (a fifth, as GPM has it)."""
        setting, found = now.setting, {}
        for layer, x in enumerate(inputs(setting, net, now.stream.task(now.t))):
            old = memory[path(layer)]
            energy = now.dial if layer == 0 else 1 - (1 - now.dial) / 5
            entry = entry_of(setting, net.structure, layer)
            how = {"out": old.shape[0], "fan_in": setting.fan_in[layer], "bias": setting.bias}
            new = protect.row_basis(entry, x, energy, known=old, at_most=min(x.shape), **how)
            found[path(layer)] = protect.merge(old, new, room=old.vectors.shape[2], apart=True)
        return net.replace(opt_state=protect.with_bases(net.opt_state, found)), found

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """All directions that there is room for."""
        return 4.0 * self.room(setting)

    def room(self, setting: Setting) -> int:
        """Numbers of the bases."""
        model: Any = setting.task.model
        sizes = model.spec.sizes
        total = 0
        for num_in, num_out, fan_in in zip(sizes, sizes[1:], setting.fan_in, strict=False):
            total += (num_in + 1) ** 2 if fan_in is None else num_out * (fan_in + 1) ** 2
        return total


class LowRank(RowProjection):
    """Updates lie in the leading directions of the new inputs."""

    what = "low rank: updates lie in the leading directions of the new task's inputs, row by row"
    dial = "rank"
    values = (5.0, 15.0, 40.0, 80.0)

    def optimizer(self, setting: Setting, net: Net) -> optax.GradientTransformation:
        """Projected last."""
        bases = self.whole(setting, net)
        return optax.chain(
            setting.optimizer, scale_updates(), protect.project_rows(bases, inside=True, passes=1)
        )

    def whole(self, setting: Setting, net: Net) -> dict[str, RowBasis]:
        """Every direction, for the first task."""

        def full(basis: RowBasis) -> RowBasis:
            places = basis.vectors.shape[1]
            rank = jnp.full_like(basis.rank, places)
            return basis.replace(vectors=jnp.broadcast_to(jnp.eye(places), basis.vectors.shape), rank=rank)

        return {name: full(basis) for name, basis in self.nothing(setting, net).items()}

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """Every direction is free."""
        return everywhere(net, 1.0), ()

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """The directions of what comes now."""
        setting, found, whole = now.setting, {}, self.whole(now.setting, net)
        for layer, x in enumerate(inputs(setting, net, now.stream.task(now.t))):
            all_of_it = whole[path(layer)]
            entry = entry_of(setting, net.structure, layer)
            how: Any = {"out": all_of_it.shape[0], "fan_in": setting.fan_in[layer], "bias": setting.bias}
            lead = protect.row_basis(entry, x, 0.99999, **how)
            counts = (jnp.arange(lead.vectors.shape[2], dtype=jnp.float32) < now.dial).astype(x.dtype)
            vectors = jnp.where(now.t == 0, all_of_it.vectors, lead.vectors * counts)
            found[path(layer)] = lead.replace(vectors=vectors)
        return net.replace(opt_state=protect.with_bases(net.opt_state, found)), memory

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Nothing is kept."""
        return net, memory

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """Nothing of old tasks."""
        return 0
