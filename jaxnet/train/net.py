"""What is trained, what is static, what is carried and what is observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import losses
from jaxnet.optim import cleared_state
from jaxnet.types import Array, Bool, Float, Int, Key, PyTree, Scalar


class Net(flax.struct.PyTreeNode):
    """A network in training. Parameters, structure and the parts of the rest have the same paths.

    Attributes:
      params: what is trained.
      structure: which weights exist (:mod:`jaxnet.structure`).
      opt_state: the optimiser's state.
      carried: trees like the parameters, with an entry per weight, that follow
        every change of structure as the moments do (anchors, Fisher values), or None.
      optimizer: static, what ``opt_state`` belongs to.
    """

    params: Any
    structure: Any
    opt_state: PyTree
    carried: PyTree = None
    optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False, kw_only=True)

    @classmethod
    def of(
        cls, params: Any, structure: Any, optimizer: optax.GradientTransformation, carried: PyTree = None
    ) -> Net:
        """A network before its first step; whatever it keeps for a weight that does not exist is zero."""
        opt_state = cleared_state(optimizer, params, structure)
        return cls(params, structure, opt_state, carried, optimizer=optimizer)


class Model(Protocol):
    """How a network is applied (static, hashable).

    A model that is applied in another way while it learns (dropout, normalisation by the batch) has a
    method ``learn`` besides, of the same arguments, which also gives the structure after the batch. With an
    attribute ``remembers`` that is true this structure is kept: what is neither integer nor boolean in it
    was learned without a gradient.
    """

    class_axis: ClassVar[int]
    """The axis of the logits that the classes lie along: 0 for ``(classes, batch)``, else -1."""

    def __call__(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Array, Any]:
        """Logits of samples ``(batch, ...)``, and whatever else is to be seen of them (activations)."""


Transform = Callable[..., tuple[Array, Any]]
"""``transform(x, y, *, key) -> (x, y)``: what is done to a batch before it is learned."""

Penalty = Callable[[Any, PyTree], Scalar]
"""``penalty(params, carried) -> scalar``: added to the loss."""

Activity = Callable[[Any, Any, Array, Float[Array, "batch"], PyTree], Scalar]
"""``activity(seen, params, x, weight, carried) -> scalar``: added to the loss, of what a batch does."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What training and evaluation need to know (static).

    Attributes:
      model: how the network is applied.
      batch_size: samples per step; the last batch of an epoch may be smaller.
      eval_batch_size: samples per step of an evaluation (no influence on results
        but for rounding).
      loss: ``loss(logits, labels, weight, axis=...) -> scalar``, the mean over samples.
      transform: of the batches that are learned, or None.
      penalty: added to the loss in training, or None.
      activity: likewise, of what the model shows beside its logits for a batch (activations).
    """

    model: Model
    batch_size: int = 64
    eval_batch_size: int = 1000
    loss: Callable[..., Scalar] = losses.cross_entropy
    transform: Transform | None = None
    penalty: Penalty | None = None
    activity: Activity | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("batch_size", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")


class TrainState(flax.struct.PyTreeNode):
    """What is carried from epoch to epoch.

    Attributes:
      net: the network as it is.
      method: state of the method that changes its structure; None without one.
      key: of the network: what a method draws comes from it; None without one.
      epoch: epochs trained.
      best_params: values after the best epoch so far.
      best_structure: what they belong to; None where the structure never changes.
      best_accuracy: accuracy there; -1 before the first epoch.
      best_epoch: that epoch, counted from 1; 0 before the first.
      stopped: early stopping has struck: the state no longer changes.
      diverged: a loss, a weight or a logit was not finite. Such a network is never the best.
    """

    net: Net
    method: PyTree
    key: Key | None
    epoch: Int[Array, ""]
    best_params: Any
    best_structure: Any
    best_accuracy: Scalar
    best_epoch: Int[Array, ""]
    stopped: Bool[Array, ""]
    diverged: Bool[Array, ""]

    @property
    def best(self) -> tuple[Any, Any]:
        """Parameters and structure after the best epoch."""
        return self.best_params, self.net.structure if self.best_structure is None else self.best_structure


class Method(Protocol):
    """A rule that changes the structure while a network trains; see :mod:`jaxnet.methods`."""

    def init(self, net: Net, dense_gradient: Callable[[], PyTree], *, key: Key) -> tuple[Net, PyTree]:
        """The network and the method's own state before the first step."""

    def observe(self, net: Net, state: PyTree, gradient: PyTree) -> PyTree:
        """The state after a step with that gradient."""

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the structure is changed after ``step`` steps."""

    def update(
        self,
        net: Net,
        state: PyTree,
        dense_gradient: Callable[[], PyTree],
        step: Int[Array, ""],
        *,
        key: Key,
    ) -> tuple[Net, PyTree, Any]:
        """The network and the state after the change, and what was done."""


class EpochInfo(flax.struct.PyTreeNode):
    """What is observed in an epoch.

    Attributes:
      loss: mean training loss (nats).
      accuracy: training accuracy.
      gradient_norms: ``(step,)``, Euclidean norm of every gradient, where it was asked for.
    """

    loss: Scalar
    accuracy: Scalar
    gradient_norms: Float[Array, "step"] | None = None


class Evaluation(flax.struct.PyTreeNode):
    """Mean loss (nats) and accuracy (a fraction) on some samples; a diverged network's accuracy is NaN."""

    loss: Scalar
    accuracy: Scalar


class EpochResult(flax.struct.PyTreeNode):
    """What a watched epoch gave, for one network or, with a leading axis, for many."""

    info: EpochInfo
    evaluation: Evaluation

    def rows(self, labels: Sequence[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
        """A row of results per network, its label first; networks beyond the labels have no row."""
        host = jax.tree.map(np.asarray, self)
        return [
            {
                **label,
                "train_loss": float(host.info.loss[i]),
                "train_accuracy": float(host.info.accuracy[i]),
                "split": split,
                "loss": float(host.evaluation.loss[i]),
                "accuracy": float(host.evaluation.accuracy[i]),
            }
            for i, label in enumerate(labels)
        ]


def init_state(
    net: Net,
    method: Method | None = None,
    dense_gradient: Callable[[], PyTree] | None = None,
    *,
    key: Key | None = None,
) -> TrainState:
    """The state before the first epoch; a method has its first say here.

    Args:
      net: the network.
      method: what changes its structure, or None.
      dense_gradient: of the network, for methods that look at it before they start (SNIP).
      key: of the network; needed with a method.

    Raises:
      ValueError: a method without a key, or one that the optimiser's state cannot follow.
    """
    state, structure = None, None
    if method is not None:
        if key is None:
            raise ValueError("a method draws from the network's own key: give key")
        net, state = method.init(net, dense_gradient or _no_gradient, key=key)
        structure = net.structure
    if any(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree.leaves(net.structure)):
        structure = net.structure  # what a model remembers belongs to its values
    zero = jnp.zeros((), jnp.int32)
    # copies: the whole state may be donated, and no array can be given away twice
    return TrainState(
        net=net,
        method=state,
        key=None if method is None else key,
        epoch=zero,
        best_params=jax.tree.map(jnp.copy, net.params),
        best_structure=jax.tree.map(jnp.copy, structure),
        best_accuracy=jnp.asarray(-1.0, jnp.float32),
        best_epoch=jnp.copy(zero),
        stopped=jnp.zeros((), bool),
        diverged=jnp.zeros((), bool),
    )


def _no_gradient() -> PyTree:
    raise ValueError("this method looks at a gradient before it starts: give dense_gradient to init_state")
