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
    _check_data(flags, winner, dataset)
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


def _check_data(config: Any, winner: jaxnet.sweep.Winner, dataset: jaxnet.data.Dataset) -> None:
    """The fingerprint tells images, labels and which of them are validation samples."""
    meta, path, outputs, classes = winner.meta, winner.path, winner.spec.sizes[-1], dataset.num_classes
    if not meta.get("data_fingerprint"):
        raise InputError(f"{path} does not say what it was trained on: give a winner of a hunt")
    if meta["data_fingerprint"] != dataset.fingerprint:
        split = (meta.get("row") or {}).get("split", "")
        hunted = {"test": "seed", "validation": "clean"}.get(split, config.protocol)
        if meta.get("dataset") == dataset.name and hunted != config.protocol:
            # not even the other way round: training on another part is another experiment
            raise InputError(
                f"{path} was trained under --protocol {meta.get('protocol', hunted)}, which splits the "
                f"samples otherwise: give --protocol {hunted}"
            )
        raise InputError(
            f"{path} was trained on other data ({meta.get('dataset')}, fingerprint "
            f"{meta['data_fingerprint']}) than --dataset gives ({dataset.name}, {dataset.fingerprint}): "
            "give the data of the hunt"
        )
    if meta.get("pixels", False) != (config.normalise == "pixels"):
        way_out = "give --normalise pixels" if meta.get("pixels") else "leave --normalise out"
        raise InputError(f"{path} was trained on pixels that are normalised otherwise: {way_out}")
    if outputs > classes:
        raise InputError(
            f"{path} has {outputs} outputs for the {classes} classes of {dataset.name}: "
            f"give a winner of an architecture that ends with {classes}"
        )
