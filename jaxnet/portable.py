"""A network as one small file that needs nothing but NumPy: CSR arrays, biases, samples to check it by.

The file is an ``.npz`` of plain arrays; :func:`logits` is all that it takes to use it::

    file = numpy.load("network.npz")
    file["sizes"]                          # units per layer
    file["weight_0"], file["column_0"], file["row_ptr_0"], file["bias_0"]  # the first layer, CSR (out, in)
    file["mean"], file["std"], file["scale"], file["activation"]
    file["samples"], file["labels"], file["logits"]  # some samples as stored, and what the network says
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.activations import ACTIVATIONS
from jaxnet.data.dataset import Dataset
from jaxnet.errors import InputError, check_choice
from jaxnet.files import disk_errors, dump_json, json_safe, user_path, write_bytes
from jaxnet.structure import to_scipy

VERSION = 1
"""Of the file's form."""

BY_NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda h: np.maximum(h, 0),
    "tanh": np.tanh,
    "identity": lambda h: h,
}
"""Activations that :func:`logits` knows."""


@dataclasses.dataclass(frozen=True)
class Portable:
    """A network outside of JAX.

    Attributes:
      layers: per layer a SciPy CSR array ``(out, in)`` and its bias ``(out,)``.
      activation: of the hidden layers, by name.
      mean: ``(feature,)`` or scalar, subtracted from a sample after it is divided by ``scale``.
      std: likewise, divided by then.
      scale: 255 for samples stored as uint8, else 1.
      samples: ``(sample, feature)``, a few, as they are stored.
      labels: ``(sample,)``, theirs.
      logits: ``(sample, class)``, what the network said of them when it was written.
      facts: what is known of it (accuracy, seed, command), JSON-like.
    """

    layers: Sequence[tuple[Any, np.ndarray]]
    activation: str
    mean: np.ndarray
    std: np.ndarray
    scale: float
    samples: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    facts: Mapping[str, Any]

    @property
    def nonzeros(self) -> int:
        """Weights that exist, biases apart."""
        return sum(int(matrix.nnz) for matrix, _ in self.layers)


def logits(network: Portable, samples: np.ndarray) -> np.ndarray:
    """Logits ``(sample, class)`` float32 of samples ``(sample, feature)`` as they are stored, by NumPy.

    Raises:
      ValueError: an activation other than relu, tanh or identity.
    """
    check_choice("activation", network.activation, BY_NUMPY)
    activation = BY_NUMPY[network.activation]
    h = ((samples.astype(np.float32) / np.float32(network.scale) - network.mean) / network.std).T
    for number, (matrix, bias) in enumerate(network.layers):
        h = matrix @ h + bias[:, None]
        if number + 1 < len(network.layers):
            h = activation(h)
    found: np.ndarray = h.T
    return found


def portable(
    params: Any,
    structure: Any,
    activation: str,
    dataset: Dataset,
    facts: Mapping[str, Any],
    *,
    check: int = 20,
) -> Portable:
    """A trained perceptron as a :class:`Portable`, on the host.

    Args:
      params: of one network (:class:`jaxnet.Params`), without patches.
      structure: likewise, sparse or masked.
      activation: of its hidden layers.
      dataset: what it was trained on: how samples are normalised, and the first ``check`` test samples.
      facts: what is known of it.
      check: samples that are kept with it.
    """
    check_choice("activation", activation, ACTIVATIONS)
    biases = [np.array(layer.bias, np.float32) for layer in params.scaffold]
    layers = list(zip(to_scipy(params, structure).values(), biases, strict=True))
    shared = [np.unique(values) for values in (dataset.mean, dataset.std)]
    mean, std = (
        (value if value.size == 1 else whole).astype(np.float32)
        for value, whole in zip(shared, (dataset.mean, dataset.std), strict=True)
    )
    samples = np.array(dataset.x_test[:check])
    scale = 255.0 if samples.dtype == np.uint8 else 1.0
    labels = np.array(dataset.y_test[:check])
    found = Portable(layers, activation, mean, std, scale, samples, labels, np.zeros(0), dict(facts))
    return dataclasses.replace(found, logits=logits(found, samples))


def save_portable(path: str | os.PathLike[str], network: Portable) -> None:
    """Writes a network, whole or not at all, the same bytes every time.

    Raises:
      InputError: it cannot be written.
    """
    arrays: dict[str, Any] = {"version": VERSION, "activation": network.activation}
    arrays["sizes"] = np.array([network.layers[0][0].shape[1], *(m.shape[0] for m, _ in network.layers)])
    for k, (matrix, bias) in enumerate(network.layers):
        arrays[f"weight_{k}"] = np.asarray(matrix.data, np.float32)
        arrays[f"column_{k}"] = _small(matrix.indices)
        arrays[f"row_ptr_{k}"] = _small(matrix.indptr)
        arrays[f"bias_{k}"] = np.asarray(bias, np.float32)
    for name in ("mean", "std", "scale", "samples", "labels", "logits"):
        arrays[name] = np.asarray(getattr(network, name))
    arrays["facts"] = dump_json(json_safe(network.facts))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(user_path(path), buffer.getvalue())


def load_portable(path: str | os.PathLike[str]) -> Portable:
    """Reads what :func:`save_portable` wrote.

    Raises:
      InputError: there is no such file, or it is another one, or damaged.
    """
    from scipy.sparse import csr_array  # slow to import

    path = user_path(path)
    with disk_errors(path, "read"):
        data = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if int(found["version"]) != VERSION:
            raise InputError(f"{path}: a network of another version ({found['version']}, not {VERSION})")
        sizes, layers = found["sizes"], []
        for k, (num_in, num_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            parts = [found[f"{name}_{k}"] for name in ("weight", "column", "row_ptr")]
            parts[1:] = [part.astype(np.int32) for part in parts[1:]]
            layers.append((csr_array(tuple(parts), shape=(int(num_out), int(num_in))), found[f"bias_{k}"]))
        whole = {name: found[name] for name in ("mean", "std", "samples", "labels", "logits")}
        facts = json.loads(str(found["facts"]))
        return Portable(layers, str(found["activation"]), scale=float(found["scale"]), facts=facts, **whole)
    except InputError:
        raise
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError, TypeError):
        raise InputError(f"{path}: this is no portable network, or it is damaged") from None


def _small(index: np.ndarray) -> np.ndarray:
    """Indices in two bytes each where they fit."""
    return np.asarray(index, np.uint16 if index.size == 0 or index.max() < 2**16 else np.int32)
