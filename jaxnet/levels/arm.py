"""An arm: one idea as a change to a plain decoder, registered once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen
import jax.numpy as jnp
import optax

from jaxnet.nn import Linen
from jaxnet.train import Activity, Penalty, Task
from jaxnet.transformer import Decoder, Spec
from jaxnet.types import PyTree, Scalar

Phases = tuple[tuple[Spec, int], ...]
"""Decoders of equal parameters, and for how many steps each is trained, one after the other."""

STRENGTH, PROGRESS, SEEN = "strength", "progress", "seen"
"""What a network carries for its losses: the value of the arm's dial, the share of the steps that are done
(in [0, 1], so that a loss may have a schedule), and what ``look`` saw of the parameters last."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an idea changes in a decoder and in its training (static); what it leaves out stays plain.

    Attributes:
      what: it is, in a line.
      module: of a spec: ``(batch, time)`` tokens to ``(batch, time, vocab)`` logits, causal.
      watch: of a spec: paths of the submodules whose outputs ``activity`` is shown.
      penalty: of a spec: added to the loss (:class:`jaxnet.train.Task`), of what is :func:`carried`.
      activity: of a spec: likewise, of what the watched submodules did with the batch.
      optimizer: of a spec, the plain optimiser and the number of steps: the one in its place.
      phases: of a spec and the number of steps: what is trained one after the other.
      look: of a spec: what of the parameters is carried from look to look.
      told: numbers, by name, of what the watched submodules did with a text.
      dials: values of the strength to choose from.
    """

    what: str
    module: Callable[[Spec], flax.linen.Module] = Decoder
    watch: Callable[[Spec], tuple[str, ...]] | None = None
    penalty: Callable[[Spec], Penalty] | None = None
    activity: Callable[[Spec], Activity] | None = None
    optimizer: Callable[[Spec, optax.GradientTransformation, int], optax.GradientTransformation] | None = None
    phases: Callable[[Spec, int], Phases] | None = None
    look: Callable[[Spec], Callable[[Any], PyTree]] | None = None
    told: Callable[[Any], dict[str, Scalar]] | None = None
    dials: tuple[float, ...] = (1.0,)

    def model(self, spec: Spec) -> Linen:
        """The model of a spec, for training."""
        return Linen(self.module(spec), watch=() if self.watch is None else self.watch(spec))

    def task(self, spec: Spec, batch_size: int, **how: Any) -> Task:
        """The model with the arm's losses, for training; ``how`` is more of :class:`jaxnet.train.Task`."""
        losses = {"penalty": self.penalty, "activity": self.activity}
        made: dict[str, Any] = {name: loss and loss(spec) for name, loss in losses.items()}
        return Task(self.model(spec), batch_size, **made, **how)

    def carried(self, spec: Spec, params: Any, strength: Any, progress: Any) -> dict[str, Any]:
        """What a network carries from now on, until somebody looks again."""
        now = {STRENGTH: jnp.asarray(strength, jnp.float32), PROGRESS: jnp.asarray(progress, jnp.float32)}
        return now if self.look is None else {**now, SEEN: self.look(spec)(params)}

    def trained(self, spec: Spec, steps: int) -> Phases:
        """The decoders that are trained one after the other."""
        return ((spec, steps),) if self.phases is None else self.phases(spec, steps)


def ramp(carried: Any) -> Scalar:
    """The schedule of a loss: its strength grows linearly over the first half of the training, then stays."""
    return jnp.asarray(carried[STRENGTH] * jnp.minimum(2 * carried[PROGRESS], 1))
