"""The winner of a hunt as the network that a study starts from (``--from-checkpoint``)."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jaxnet
from jaxnet.errors import InputError
from jaxnet.lab import option

C = TypeVar("C")


def flag(what: str) -> Any:
    """``--from-checkpoint`` of a study that does something with a trained scaffold."""
    return option(
        None,
        f"folder of a hunt's winner (OUT/winners/...): {what} this trained scaffold instead of fresh ones; "
        "what is auto comes from it, and the seeds differ in what is drawn from then on",
    )


def of(config: Any) -> jaxnet.sweep.Winner | None:
    """The winner that a configuration names, if any; InputError where there is none, or it is damaged."""
    if config.from_checkpoint is None:
        return None
    if not config.from_checkpoint.strip():
        raise InputError("--from-checkpoint must name a folder: it is empty")
    return jaxnet.sweep.read_winner(config.from_checkpoint)


def known(config: Any) -> dict[str, Any]:
    """For provenance: which network this is, and what the hunt read of it."""
    winner = of(config)
    if winner is None:
        return {}
    facts = {name: winner.meta.get(name) for name in ("row", "test_accuracy", "sorted")}
    return {"checkpoint": {"path": str(winner.path), "fingerprint": winner.fingerprint(), **facts}}


def adopt(config: C, dataset: jaxnet.data.Dataset) -> C:
    """The configuration, where it names a winner with what that decides.

    InputError: a flag contradicts the winner, or it was trained on other samples.
    """
    flags: Any = config
    winner = of(config)
    if winner is None:
        return config
    jaxnet.sweep.check_trained_on(winner, dataset, flags.protocol, pixels=flags.normalise == "pixels")
    spec, path = winner.spec, winner.path
    if len(spec.sizes) < 3:
        raise InputError(f"{path}: a network without hidden layers has no extrema to patch or to grow at")
    theirs = {name: getattr(spec, name) for name in ("sizes", "density", "allocation", "init", "activation")}
    asked = {**theirs, "density": winner.meta["density"]}  # the spec's may be above it: see load_winner
    for name, its in asked.items():
        ours = getattr(flags, name)
        if ours is not None and ours != its:
            shown = [",".join(map(str, v)) if isinstance(v, tuple) else v for v in (ours, its)]
            raise InputError(
                f"--{name} {shown[0]} contradicts the checkpoint {path}, which has {shown[1]}: "
                f"leave --{name} out"
            )
    return dataclasses.replace(flags, **theirs, checkpoint_fingerprint=winner.fingerprint())
