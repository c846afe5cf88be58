"""An arm: one idea as a change to a plain decoder, registered once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen
import optax

from jaxnet.nn import Linen
from jaxnet.train import Activity, Penalty
from jaxnet.transformer import Decoder, Spec

Phases = tuple[tuple[Spec, int], ...]
"""Decoders of equal parameters, and for how many steps each is trained, one after the other."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an idea changes in a decoder and in its training (static); what it leaves out stays plain.

    Attributes:
      what: it is, in a line.
      module: of a spec: ``(batch, time)`` tokens to ``(batch, time, vocab)`` logits, causal.
      watch: of a spec: paths of the submodules whose outputs ``activity`` is shown.
      penalty: of a spec: added to the loss (:class:`jaxnet.train.Task`).
      activity: of a spec: likewise, of what the watched submodules did with the batch.
      optimizer: of a spec, the plain optimiser and the number of steps: the one in its place.
      phases: of a spec and the number of steps: what is trained one after the other.
    """

    what: str
    module: Callable[[Spec], flax.linen.Module] = Decoder
    watch: Callable[[Spec], tuple[str, ...]] | None = None
    penalty: Callable[[Spec], Penalty] | None = None
    activity: Callable[[Spec], Activity] | None = None
    optimizer: Callable[[Spec, optax.GradientTransformation, int], optax.GradientTransformation] | None = None
    phases: Callable[[Spec, int], Phases] | None = None

    def model(self, spec: Spec) -> Linen:
        """The model of a spec, for training."""
        return Linen(self.module(spec), watch=() if self.watch is None else self.watch(spec))
