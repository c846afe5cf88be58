"""Learners that hold weights where they are: by rates, zones and penalties."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxnet import protect
from jaxnet.continual.learner import Learner, Setting, Turn, everywhere, importance
from jaxnet.optim import scale_updates, with_scales
from jaxnet.train import Net, Task
from jaxnet.types import PyTree, Scalar


class LowerRate(Learner):
    """A lower learning rate from the second task on."""

    what = "a lower learning rate from the second task on"
    dial = "rate x"
    values = (0.1, 0.2, 0.5, 0.8)

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """As it is."""
        return net, ()

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """The factor."""
        return everywhere(net, jnp.where(now.t > 0, now.dial, 1.0)), memory


class Freeze(LowerRate):
    """The largest weights are frozen after the first task."""

    what = "the largest weights of every array are frozen after the first task"
    dial = "share"
    values = (0.05, 0.1, 0.3, 0.5)

    def before(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Nothing."""
        return net, memory

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Factors of 0, once."""
        labels = protect.by_importance(jax.tree.map(jnp.abs, net.params), net.structure, now.dial)
        old = protect.scales_of(net)
        scales = jax.tree.map(lambda a, b: jnp.where(now.t == 0, a, b), protect.zone_scales(labels), old)
        return net.replace(opt_state=with_scales(net.opt_state, scales)), memory

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """A bit each."""
        return weights / 8


class EWC(Learner):
    """A penalty by the Fisher information (Kirkpatrick et al. 2017).

    The strength is of means over samples. Avalanche's script for permuted MNIST has a strength of 1, but of
    squared mean gradients of batches of 256 and without the half: at most about 0.01 here.
    """

    what = "EWC: a penalty by the diagonal of the Fisher information, summed over tasks"
    dial = "strength"
    values = (0.1, 1.0, 10.0, 100.0)

    def task(self, setting: Setting) -> Task:
        """With the penalty."""
        return dataclasses.replace(setting.task, penalty=protect.penalty)

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """No weight is important."""
        return net.replace(carried=protect.no_memory(net.params, dial)), ()

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """More are."""
        found = importance(now.setting, net, now.stream.task(now.t), now.key)
        return net.replace(carried=protect.remember(net.carried, net.params, found)), memory

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """Anchor and importance."""
        return 8 * weights


class SI(EWC):
    """A penalty by what a weight has done for the loss."""

    what = "SI: a penalty by what a weight has done for the loss on its way"
    dial = "strength"
    values = (0.01, 0.03, 0.1, 0.3)

    def optimizer(self, setting: Setting, net: Net) -> optax.GradientTransformation:
        """Beside which paths are summed up."""
        return optax.chain(protect.track_path(setting.optimizer), scale_updates())

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Paths become importance."""
        path, state = protect.path_of(net.opt_state)
        found = protect.path_importance(path, net.params, net.carried.anchor)
        return net.replace(carried=protect.remember(net.carried, net.params, found), opt_state=state), memory

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """Anchor, importance and path."""
        return 12 * weights


class Zones(Learner):
    """What matters most is frozen, the next slow."""

    what = "zones: by the Fisher information of all tasks, half of the share frozen, half at a tenth"
    dial = "share"
    values = (0.05, 0.1, 0.3, 0.6)

    def begin(self, setting: Setting, net: Net, dial: Scalar) -> tuple[Net, PyTree]:
        """No weight matters yet."""
        return net, jax.tree.map(jnp.zeros_like, net.params)

    def after(self, now: Turn, net: Net, memory: PyTree) -> tuple[Net, PyTree]:
        """Zones anew."""
        found = importance(now.setting, net, now.stream.task(now.t), now.key)
        memory = jax.tree.map(jnp.add, memory, found)
        labels = protect.by_importance(memory, net.structure, now.dial / 2, now.dial / 2)
        return net.replace(opt_state=with_scales(net.opt_state, protect.zone_scales(labels))), memory

    def stored(self, setting: Setting, weights: int, dial: float, image_bytes: int) -> float:
        """Importance, and a zone each."""
        return 5 * weights
