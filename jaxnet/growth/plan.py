"""What growth is to do (static)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import optax

from jaxnet import optim
from jaxnet.changes import RULES
from jaxnet.errors import check_choice
from jaxnet.growth.decisions import DecisionRules
from jaxnet.kernels import Product, dense_product
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.patches import PatchRules
from jaxnet.train import Method, Task
from jaxnet.train.net import Transform

SELECTIONS = ("best", "last")
SCHEDULES = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class GrowthPlan:
    """How networks are trained and changed (static).

    Attributes:
      spec: the network at the start.
      decisions: when, where and by how much to change.
      operator: ``redraw`` or ``preserve``; see :mod:`jaxnet.changes.shape`.
      added: weights that every change of the scaffold adds; None to give a new
        layer, or new units, the density of the start.
      patches: how patches are made, or None for none.
      epochs: of an iteration, at most.
      patience: epochs without a new best after which an iteration ends early; None for never.
      lr: learning rate of the scaffold.
      lr_patch: learning rate of the patches.
      schedule: ``constant``, or ``cosine`` to zero in every iteration.
      select: network that is judged, grown and returned: that of the ``best``
        epoch of an iteration, or the ``last``. The accuracy of an iteration is
        that of the best epoch with patience or ``best``, otherwise the last's.
      judge_best: report the best epoch's accuracy although the last network goes
        on (the original's optimistic way).
      fresh_optimizer: a new optimiser in every iteration, else its state is carried over.
      method: what changes the structure while training, or None.
      detector: signal that finds the extrema; one of :data:`jaxnet.signals.SIGNALS`.
      detect_on: ``pre`` or ``post`` activations.
      batch_size: samples per step.
      product: the sparse product.
      transform: of the batches that are learned, or None (``transform`` of :class:`jaxnet.train.Task`).
      own_draws: every network draws for itself what the transform draws.
    """

    spec: NetworkSpec
    decisions: DecisionRules = dataclasses.field(default_factory=DecisionRules)
    operator: str = "preserve"
    added: int | None = None
    patches: PatchRules | None = None
    epochs: int = 20
    patience: int | None = 5
    lr: float = 1e-3
    lr_patch: float = 1e-3
    schedule: str = "constant"
    select: str = "best"
    judge_best: bool = False
    fresh_optimizer: bool = False
    method: Method | None = None
    detector: str = "original"
    detect_on: str = "pre"
    batch_size: int = 64
    product: Product = dense_product
    transform: Transform | None = None
    own_draws: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for value, allowed, what in (
            (self.operator, RULES, "operator"),
            (self.select, SELECTIONS, "selection"),
            (self.schedule, SCHEDULES, "schedule"),
        ):
            check_choice(what, value, allowed)
        for name in ("added", "epochs", "patience", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")
        for name in ("lr", "lr_patch"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0: {value}")
        if self.method is not None and self.select == "best":
            raise ValueError(
                "a structure that changes while training leaves no best state behind: select last"
            )
        if self.schedule == "cosine" and self.patience is not None:
            raise ValueError("a cosine schedule needs iterations of equal length: patience must be None")
        if self.decisions.patches and self.patches is None:
            raise ValueError("decisions that add patches need rules for them")
        if len(self.spec.sizes) < 3:
            raise ValueError(f"growth needs a hidden layer: {list(self.spec.sizes)}")

    def task(self, spec: NetworkSpec) -> Task:
        """What training needs to know of a grown network."""
        return Task(MLP(spec, self.product), self.batch_size, transform=self.transform)

    def optimizer(self, samples: int) -> optax.GradientTransformation:
        """Adam with a rate per group; a cosine schedule starts anew after ``epochs`` times ``samples``."""
        period = self.epochs * -(-samples // self.batch_size)

        def rate(lr: float) -> Any:
            if self.schedule == "constant":
                return lr
            return lambda count: lr / 2 * (1 + jnp.cos(jnp.pi * (count % period) / period))

        return optim.grouped(
            {"scaffold": optax.adam(rate(self.lr)), "patch": optax.adam(rate(self.lr_patch))}
        )
