"""The winner of a hunt as the network that a study starts from (``--from-checkpoint``)."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxnet.errors import InputError
from jaxnet.files import user_path
from jaxnet.lab import flag_name

if TYPE_CHECKING:
    from jaxnet.data import Dataset
    from jaxnet.nn.mlp import NetworkSpec
    from jaxnet.nn.params import Params, Structure

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class Winner:
    """A trained scaffold.

    Attributes:
      path: its folder.
      spec: the network.
      params: trained values.
      structure: without patches.
      meta: what the hunt knows of it.
    """

    path: Path
    spec: NetworkSpec
    params: Params
    structure: Structure
    meta: dict[str, Any]

    def fingerprint(self) -> str:
        """16 hexadecimal digits, a hash of the network: the same wherever the same network lies."""
        import jax

        digest = hashlib.sha256(repr(self.spec).encode())
        for leaf in jax.tree.leaves((self.params, self.structure)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()[:16]


def read(path: str) -> Winner:
    """Reads a winner.

    Raises:
      InputError: there is none at ``path``, or it is damaged.
    """
    from jaxnet.sweep import load_winner, winner_meta

    if not path.strip():
        raise InputError("--from-checkpoint must name a folder: it is empty")
    meta = winner_meta(path)
    return Winner(user_path(path), *load_winner(path), meta)


def of(config: Any) -> Winner | None:
    """The winner that a configuration names, if any."""
    return None if config.from_checkpoint is None else read(config.from_checkpoint)


def known(config: Any) -> dict[str, Any]:
    """For provenance: which network this is, and what the hunt read of it."""
    winner = of(config)
    if winner is None:
        return {}
    facts = {name: winner.meta.get(name) for name in ("row", "test_accuracy", "sorted")}
    return {"checkpoint": {"path": str(winner.path), "fingerprint": winner.fingerprint(), **facts}}


def adopt(config: C, winner: Winner, dataset: Dataset) -> C:
    """The configuration of a run that starts from ``winner``: what is not given comes from it.

    Raises:
      InputError: a flag contradicts the winner or has no meaning with it, or it
        was trained on other samples.
    """
    flags: Any = config
    _check_data(flags, winner, dataset)
    spec = winner.spec
    if len(spec.sizes) < 3:
        raise InputError(f"{winner.path}: a network without hidden layers has no extrema to patch")
    asked = winner.meta["density"]  # the spec's may be above it: see load_winner
    theirs = {"sizes": spec.sizes, "density": asked, "allocation": spec.allocation, "init": spec.init}
    for flag, its in {**theirs, "activation": spec.activation}.items():
        ours = getattr(flags, flag)
        if ours is not None and ours != its:
            shown = [",".join(map(str, v)) if isinstance(v, tuple) else v for v in (ours, its)]
            raise InputError(
                f"--{flag} {shown[0]} contradicts the checkpoint {winner.path}, which has {shown[1]}: "
                f"leave --{flag} out"
            )
    for flag in ("scaffold_epochs", "lr"):
        if getattr(flags, flag):  # 0 epochs are what is done
            raise InputError(
                f"{flag_name(flag)} has no meaning with --from-checkpoint: its scaffold is trained; "
                "leave it out"
            )
    if flags.max_patches == 0 and flags.num_seeds > 1:
        raise InputError(
            "--max-patches 0 leaves nothing to draw, so all seeds would be one network: give --num-seeds 1"
        )
    return dataclasses.replace(
        flags,
        checkpoint_fingerprint=winner.fingerprint(),
        sizes=spec.sizes,
        density=spec.density,
        allocation=spec.allocation,
        init=spec.init,
        activation=spec.activation,
        scaffold_epochs=0,
    )


def _check_data(config: Any, winner: Winner, dataset: Dataset) -> None:
    """The fingerprint tells images, labels and which of them are validation samples."""
    meta = winner.meta
    if meta.get("data_fingerprint") == dataset.fingerprint:
        sizes, classes = winner.spec.sizes, dataset.num_classes
        if sizes[-1] > classes:
            raise InputError(
                f"{winner.path} has {sizes[-1]} outputs for the {classes} classes of {dataset.name}: "
                f"give a winner of an architecture that ends with {classes}"
            )
        return
    if not meta.get("data_fingerprint"):
        raise InputError(f"{winner.path} does not say what it was trained on: give a winner of a hunt")
    row = meta.get("row") or {}
    hunted = {"test": "seed", "validation": "clean"}.get(row.get("split", ""), config.protocol)
    if meta.get("dataset") == dataset.name and hunted != config.protocol:
        # not even the other way round: training on another part is another experiment
        raise InputError(
            f"{winner.path} was trained under --protocol {hunted}, which splits the samples otherwise: "
            f"give --protocol {hunted}"
        )
    raise InputError(
        f"{winner.path} was trained on other data ({meta.get('dataset')}, fingerprint "
        f"{meta['data_fingerprint']}) than --dataset gives ({dataset.name}, {dataset.fingerprint}): "
        "give the data of the hunt"
    )
