"""Continual learning: streams of tasks, learners that keep the old ones, and what was forgotten.

A learner, a stream and a network are all data of one compiled program, so that many networks learn side by
side, each with its own stream, and every task runs the same program.
"""

from __future__ import annotations

from jaxnet.continual.holding import EWC, SI, Freeze, LowerRate, Zones
from jaxnet.continual.learner import Learner, Setting, Turn
from jaxnet.continual.learning import Progress, begin, grown, judge, learn, order, turn
from jaxnet.continual.measures import average, forgetting, interference, learning, transfer
from jaxnet.continual.parts import FreeWeights, PatchPerTask
from jaxnet.continual.projecting import LowRank, RowProjection
from jaxnet.continual.rehearsal import Joint, LwF, Replay
from jaxnet.continual.streams import Part, Stream, permuted, rotated, split_classes

LEARNERS: dict[str, Learner] = {
    "naive": Learner(),
    "lower-rate": LowerRate(),
    "freeze": Freeze(),
    "low-rank": LowRank(),
    "ewc": EWC(),
    "si": SI(),
    "lwf": LwF(),
    "replay": Replay(),
    "row-projection": RowProjection(),
    "zones": Zones(),
    "free-weights": FreeWeights(),
    "patches": PatchPerTask(),
    "joint": Joint(),
}
"""Learners by name."""

__all__ = [
    "EWC",
    "LEARNERS",
    "SI",
    "FreeWeights",
    "Freeze",
    "Joint",
    "Learner",
    "LowRank",
    "LowerRate",
    "LwF",
    "Part",
    "PatchPerTask",
    "Progress",
    "Replay",
    "RowProjection",
    "Setting",
    "Stream",
    "Turn",
    "Zones",
    "average",
    "begin",
    "forgetting",
    "grown",
    "interference",
    "judge",
    "learn",
    "learning",
    "order",
    "permuted",
    "rotated",
    "split_classes",
    "transfer",
    "turn",
]
