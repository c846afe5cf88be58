"""Networks taken out of a sweep: trimmed to their own widths, saved, loaded, exported.

Inside a sweep a network is padded to the widths of its family. A winner is
trimmed on the host to an ordinary network: :func:`jaxnet.apply` gives the same
logits, and nothing remembers the family.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import structure as structures
from jaxnet.allocation import drawable_density
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.files import disk_errors, user_path
from jaxnet.nn.mlp import MLP, NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.statistics import exact_fraction
from jaxnet.store import checkpoint
from jaxnet.structure import LayerParams
from jaxnet.topology import Mask, Topology
from jaxnet.train import Evaluation, Task, evaluate


def trim(params: Params, structure: Structure, sizes: Sequence[int]) -> tuple[Params, Structure]:
    """Cuts one network of a family down to the units and weights that exist, on the host.

    Args:
      params: of one network, padded; leaves without a seed axis.
      structure: likewise, without patches.
      sizes: units per layer that exist.

    Returns:
      The same network with NumPy leaves and no padding: ``capacity`` is the
      number of weights that exist.

    Raises:
      ValueError: the sizes do not fit the network.
    """
    layers, topologies = [], []
    if len(sizes) != len(params.scaffold) + 1:
        raise ValueError(f"{len(params.scaffold)} layers need one more sizes: {list(sizes)}")
    for layer, t, num_in, num_out in zip(
        params.scaffold, structure.weights, sizes[:-1], sizes[1:], strict=True
    ):
        if isinstance(t, Mask):  # dense: the weights that are not zero
            layer, t = _nonzero(layer)
        assert isinstance(t, Topology)
        nnz = int(t.num_nonzeros)
        rows, cols = np.array(t.rows[:nnz]), np.array(t.cols[:nnz])
        if t.shape[0] < num_out or t.shape[1] < num_in or np.any(rows >= num_out) or np.any(cols >= num_in):
            raise ValueError(f"a {num_in}x{num_out} layer does not hold this network's weights")
        layers.append(LayerParams(np.array(layer.weight[:nnz]), np.array(layer.bias[:num_out])))  # type: ignore[arg-type]
        topologies.append(
            Topology(rows, cols, np.array(t.row_ptr[: num_out + 1]), (num_out, num_in))  # type: ignore[arg-type]
        )
    return Params(tuple(layers)), Structure.of(topologies)


def _nonzero(layer: LayerParams) -> tuple[LayerParams, Topology]:
    """A dense layer on the host by the weights that are not zero."""
    weight = np.asarray(layer.weight)
    rows, cols = (index.astype(np.int32) for index in np.nonzero(weight))
    row_ptr = np.searchsorted(rows, np.arange(weight.shape[0] + 1)).astype(np.int32)
    topology = Topology(rows, cols, row_ptr, weight.shape)  # type: ignore[arg-type]
    return layer.replace(weight=weight[rows, cols]), topology


def sort_units(params: Params, structure: Structure) -> tuple[Params, Structure]:
    """Numbers the hidden units of every layer by the norm of their incoming weights, largest first.

    A permutation: the network computes the same function. Training treats all
    units of a layer alike, so sorting once after training gives what sorting
    again and again during it would.

    Args:
      params: of one network without padding (:func:`trim`) and without patches.
      structure: likewise.

    Returns:
      The permuted network; ties keep their order.
    """
    layers, topologies = [], []
    below: np.ndarray | None = None  # old unit -> new unit of the layer below
    last = len(params.scaffold) - 1
    for number, (layer, t) in enumerate(zip(params.scaffold, structure.weights, strict=True)):
        assert isinstance(t, Topology)
        num_out = t.shape[0]
        rows, cols, weight = np.asarray(t.rows), np.asarray(t.cols), np.asarray(layer.weight)
        bias = np.asarray(layer.bias)
        cols = cols if below is None else below[cols]
        below = np.arange(num_out)
        if number < last:
            norm = np.bincount(rows, np.square(weight, dtype=np.float64), minlength=num_out)
            by_norm = np.argsort(-norm, kind="stable")
            below[by_norm] = np.arange(num_out)
            bias = bias[by_norm]
        rows = below[rows]
        order = np.lexsort((cols, rows))
        rows, cols = rows[order].astype(np.int32), cols[order].astype(np.int32)
        row_ptr = np.searchsorted(rows, np.arange(num_out + 1)).astype(np.int32)
        layers.append(LayerParams(weight[order], bias))  # type: ignore[arg-type]
        topologies.append(Topology(rows, cols, row_ptr, t.shape))  # type: ignore[arg-type]
    return Params(tuple(layers)), Structure.of(topologies)


def winner_accuracy(params: Params, structure: Structure, activation: str, split: Split) -> float:
    """Fraction of samples that a trimmed network answers right, exact; NaN where a logit is not finite."""
    shapes = [t.shape for t in structure.weights if isinstance(t, Topology)]
    sizes = (shapes[0][1], *(num_out for num_out, _ in shapes))
    task = Task(MLP(NetworkSpec(sizes, 1.0, activation)))
    return exact_fraction(float(_judge(task, params, structure, split).accuracy), split.size)


@functools.partial(jax.jit, static_argnums=0)
def _judge(task: Task, params: Params, structure: Structure, split: Split) -> Evaluation:
    return evaluate(task, params, structure, split)


def to_scipy(params: Params, structure: Structure) -> list[tuple[Any, np.ndarray]]:
    """Exports a network to SciPy: per layer a CSR matrix ``(out, in)`` and its bias ``(out,)``.

    Layer by layer ``W @ x + b``, with the activation between the layers, gives
    the logits.
    """
    matrices = structures.to_scipy(params, structure)
    biases = (np.array(layer.bias) for layer in params.scaffold)
    return list(zip(matrices.values(), biases, strict=True))


def save_winner(
    folder: str | os.PathLike[str],
    name: str,
    params: Params,
    structure: Structure,
    *,
    density: float,
    init: str,
    activation: str,
    allocation: str = "uniform",
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Saves a trimmed network so that :func:`load_winner` needs nothing but the folder returned.

    Args:
      folder: where the winners of one sweep lie; none is ever deleted here.
      name: letters, digits, ``-`` and ``_``.
      params: from :func:`trim`.
      structure: from :func:`trim`.
      density: as asked for.
      init: initial values it was trained from.
      activation: of the hidden layers.
      allocation: how the density was shared out over the layers.
      meta: whatever else to keep (seed, results), JSON-like.

    Raises:
      InputError: the folder cannot be written.
    """
    topologies = [t for t in structure.weights if isinstance(t, Topology)]
    facts = {
        "kind": "sweep winner",
        "sizes": [topologies[0].shape[1], *(t.shape[0] for t in topologies)],
        "nonzeros": [t.capacity for t in topologies],
        "density": density,
        "init": init,
        "activation": activation,
        "allocation": allocation,
        **(meta or {}),
    }
    return checkpoint.save(folder, name, {"params": params, "structure": structure}, facts, keep=2**31)


def load_winner(path: str | os.PathLike[str]) -> tuple[NetworkSpec, Params, Structure]:
    """Loads a network that a hunt saved.

    Args:
      path: the winner's own folder, as listed under ``winners`` in ``summary.json``.

    Returns:
      An ordinary network with JAX leaves. Where a Bernoulli mask left a layer
      without any weight, the spec names the lowest density that could be drawn.

    Raises:
      InputError: there is no winner, or it is damaged.
    """
    path = user_path(path)
    meta = winner_meta(path)
    sizes, nonzeros = tuple(meta["sizes"]), meta["nonzeros"]
    layers, topologies = [], []
    for num_in, num_out, nnz in zip(sizes[:-1], sizes[1:], nonzeros, strict=True):
        # zeros say which shapes and types are expected
        slots, row_ptr = jnp.zeros(nnz, jnp.int32), jnp.zeros(num_out + 1, jnp.int32)
        topologies.append(Topology(slots, slots, row_ptr, (num_out, num_in)))
        layers.append(LayerParams(jnp.zeros(nnz), jnp.zeros(num_out)))
    like: dict[str, Any] = {"params": Params(tuple(layers)), "structure": Structure.of(topologies)}
    tree, _ = checkpoint.restore(
        path.parent, _name(path), like, way_out="the hunt writes its winners anew with --resume"
    )
    allocation, density = meta.get("allocation", "uniform"), meta["density"]
    if allocation == "uniform":
        density = drawable_density(sizes, density)
    spec = NetworkSpec(sizes, density, meta["activation"], allocation, meta["init"])
    return spec, tree["params"], tree["structure"]


@dataclasses.dataclass(frozen=True)
class Winner:
    """A saved winner.

    Attributes:
      path: its folder.
      spec: the network.
      params: trained values.
      structure: without patches.
      meta: what is known of it, see :func:`winner_meta`.
    """

    path: Path
    spec: NetworkSpec
    params: Params
    structure: Structure
    meta: dict[str, Any]

    def fingerprint(self) -> str:
        """16 hexadecimal digits, a hash of the network: the same wherever the same network lies."""
        digest = hashlib.sha256(repr(self.spec).encode())
        for leaf in jax.tree.leaves((self.params, self.structure)):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()[:16]


def read_winner(path: str | os.PathLike[str]) -> Winner:
    """What :func:`load_winner` and :func:`winner_meta` say; InputError as they do."""
    return Winner(user_path(path), *load_winner(path), winner_meta(path))


def winner_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known of a saved winner: sizes, density, seed, results.

    Raises:
      InputError: there is no winner at ``path``, or its manifest is damaged.
    """
    path = user_path(path)
    if not path.is_dir():
        raise InputError(f"{path}: there is no such folder: give one listed under winners in summary.json")
    try:
        with disk_errors(path / checkpoint.MANIFEST, "read"):
            data = (path / checkpoint.MANIFEST).read_bytes() if (path / checkpoint.MANIFEST).exists() else b""
        meta = json.loads(data)["meta"]
        if meta["kind"] != "sweep winner":
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: this is no winner of a hunt: give a folder listed under winners in summary.json"
        ) from None
    return dict(meta)


def _name(path: Path) -> str:
    """The name under which jaxnet.checkpoint saved the folder ``000007.name``."""
    return path.name.split(".", 1)[-1]
