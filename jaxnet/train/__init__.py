"""Training and evaluation of one network of any model, for jit and vmap around it.

A :class:`Net` is what is trained; a :class:`Task` fixes what is static: the model,
the loss and the hooks around it. Epochs are scans inside one compiled program:
the samples lie on the device as they are stored, batches are gathered there.
"""

from __future__ import annotations

from jaxnet.train.batch import BatchView, dense_gradient
from jaxnet.train.epoch import (
    Batches,
    epoch_order,
    make_epoch,
    make_watched_epoch,
    track_best,
    train_batches,
)
from jaxnet.train.evaluate import all_finite, answers, collect_stats, evaluate, outside
from jaxnet.train.net import (
    Activity,
    EpochInfo,
    EpochResult,
    Evaluation,
    Method,
    Model,
    Net,
    Penalty,
    Task,
    TrainState,
    init_state,
)
from jaxnet.train.teacher import Together, taught_by

__all__ = [
    "Activity",
    "BatchView",
    "Batches",
    "EpochInfo",
    "EpochResult",
    "Evaluation",
    "Method",
    "Model",
    "Net",
    "Penalty",
    "Task",
    "Together",
    "TrainState",
    "all_finite",
    "answers",
    "collect_stats",
    "dense_gradient",
    "epoch_order",
    "evaluate",
    "init_state",
    "make_epoch",
    "make_watched_epoch",
    "outside",
    "taught_by",
    "track_best",
    "train_batches",
]
