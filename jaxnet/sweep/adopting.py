"""Whether a winner was trained on the samples that it is to go on with."""

from __future__ import annotations

from jaxnet.data import Dataset
from jaxnet.errors import InputError
from jaxnet.sweep.winner import Winner


def check_trained_on(winner: Winner, dataset: Dataset, protocol: str, *, pixels: bool = False) -> None:
    """Raises InputError unless a winner was trained on the samples of a data set under a protocol.

    The fingerprint tells images, labels and which of them are validation samples; ``pixels`` says that they
    are not normalised but divided by 255.
    """
    meta, path, outputs, classes = winner.meta, winner.path, winner.spec.sizes[-1], dataset.num_classes
    if not meta.get("data_fingerprint"):
        raise InputError(f"{path} does not say what it was trained on: give a winner of a hunt")
    if meta["data_fingerprint"] != dataset.fingerprint:
        split = (meta.get("row") or {}).get("split", "")
        hunted = {"test": "seed", "validation": "clean"}.get(split, protocol)
        if meta.get("dataset") == dataset.name and hunted != protocol:
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
    if meta.get("pixels", False) != pixels:
        way_out = "give --normalise pixels" if meta.get("pixels") else "leave --normalise out"
        raise InputError(f"{path} was trained on pixels that are normalised otherwise: {way_out}")
    if outputs > classes:
        raise InputError(
            f"{path} has {outputs} outputs for the {classes} classes of {dataset.name}: "
            f"give a winner of an architecture that ends with {classes}"
        )
