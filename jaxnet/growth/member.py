"""One network of a population, and what is told of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxnet.data.batches import Split
from jaxnet.growth.decisions import Decision
from jaxnet.growth.steps import Measured
from jaxnet.growth.training import Judged
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.train import Net
from jaxnet.trees import count
from jaxnet.types import Key


@dataclasses.dataclass(frozen=True)
class GrowthData:
    """Samples and their order.

    Attributes:
      train: samples to train on.
      watch: evaluated after every epoch; the target is about these.
      extrema: whose activations are watched.
      key_data: order of the samples, common to all networks.
      watch_name: what ``watch`` is called in rows of results.
    """

    train: Split
    watch: Split
    extrema: Split
    key_data: Key
    watch_name: str = "validation"


@dataclasses.dataclass
class Member:
    """One network of a population, on the host.

    Attributes:
      seed: its number.
      spec: its sizes.
      net: values, structure, optimiser state.
      history: an entry per iteration.
      stop: why it stopped, or None.
    """

    seed: int
    spec: NetworkSpec
    net: Net
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stop: str | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was done to it so far, without the reasons: its shapes follow from that."""
        told = (h["decision"] for h in self.history if h["decision"] is not None)
        return tuple(dataclasses.replace(Decision(**d), reason="") for d in told)


def history_entry(member: Member, judged: Judged, measured: Measured) -> dict[str, Any]:
    """What is told of an iteration; ``weights`` are all, patches included; the decision comes later."""
    nonzeros = {name: int(value) for name, value in measured.nonzeros.items()}
    return {
        "iteration": len(member.history) + 1,
        "architecture": list(member.spec.sizes),
        "accuracy": float(judged.accuracy),
        "best_epoch": int(judged.best_epoch),
        "epochs": int(judged.epochs),
        "diverged": bool(judged.diverged),
        "extrema_high": [int(e.high.sum()) for e in measured.found],
        "extrema_low": [int(e.low.sum()) for e in measured.found],
        "patches": int(measured.patches),
        "nonzeros": nonzeros,
        "weights": nonzeros["scaffold"] + nonzeros["patch"],
        "decision": None,
    }


def capacity(net: Net) -> int:
    """Weights of a network and all values of its patches, from its shapes."""
    layers = net.params.scaffold
    return sum(count(layer.weight) for layer in layers) + count(net.params.patches)


def by_shape(members: Sequence[Member]) -> list[list[Member]]:
    """Networks that one program can train, together."""
    groups: dict[Any, list[Member]] = {}
    for member in members:
        groups.setdefault((member.spec.sizes, shape_of(member.net)), []).append(member)
    return list(groups.values())


def shape_of(net: Net) -> Any:
    """What networks trained by one program have in common; hashable."""
    leaves, structure = jax.tree.flatten(net)
    return structure, tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves)
