"""Widths by the dimension that activations have, and representations as targets of distillation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet import linalg
from jaxnet.activations import ACTIVATIONS
from jaxnet.changes import widen
from jaxnet.circuits.ablation import check_network
from jaxnet.circuits.alignment import cka
from jaxnet.circuits.attribution import chain
from jaxnet.compress.refitting import pre_activations, refit_layer
from jaxnet.errors import InputError
from jaxnet.nn.mlp import NetworkSpec
from jaxnet.nn.params import Params, Structure
from jaxnet.reach import effective_rank
from jaxnet.structure import LayerParams, to_dense
from jaxnet.topology import Mask
from jaxnet.train import Model, Task
from jaxnet.types import Array, Float, Int, Key, Scalar


def effective_widths(
    task: Task, params: Any, structure: Any, x: Float[Array, "sample in"], tau: float
) -> Int[Array, "layer"]:
    """Of every hidden layer the fewest directions that hold ``tau`` of the **squares** of its activations.

    (Shares of singular values instead of their squares would count noise: energy is their squares.)
    """
    seen = chain(task, params, structure, x)[1][1:]
    spectra = [linalg.singular_values(h - jnp.mean(h, 1, keepdims=True)) for h in seen]
    found = jnp.stack([effective_rank(s, "energy", share=tau) for s in spectra])
    return jnp.maximum(found, 1).astype(jnp.int32)


def narrow(
    task: Task,
    params: Any,
    structure: Any,
    x: Float[Array, "sample in"],
    widths: tuple[int, ...],
    ridge: float = 1e-3,
) -> tuple[Params, Structure]:
    """A dense perceptron of smaller hidden layers: units become their leading directions, then refitted.

    The new units of a layer are the leading left singular vectors of its centred pre-activations, signed so
    that most of each lies above zero; the layer that reads them is refitted to what it gave before.
    """
    dense, model = to_dense(params, structure), task.model
    inputs = chain(task, params, structure, x)[1]
    wanted = pre_activations(task, params, structure, inputs)
    layers, h, made = [], x.T, list[LayerParams]()
    for number, layer in enumerate(dense.scaffold):
        num_in = h.shape[0]
        everything = Mask(jnp.ones((layer.bias.shape[0], num_in), bool))
        old = layer if number == 0 else refit_layer(everything, h, wanted[number], ridge, fan_in=num_in)
        if number == len(dense.scaffold) - 1:
            made.append(old)
            break
        pre = linalg.times(old.weight, h) + old.bias[:, None]
        basis = linalg.svd(pre - jnp.mean(pre, 1, keepdims=True))[0][:, : widths[number]]
        side = jnp.sign(jnp.sum(linalg.times(basis.T, pre), 1))
        basis = basis * jnp.where(side == 0, 1, side)
        made.append(
            LayerParams(linalg.times(basis.T, old.weight), linalg.times(basis.T, old.bias[:, None])[:, 0])
        )
        layers = [*made]
        upto = Params(tuple(layers))
        entries = [Mask(jnp.ones(one.weight.shape, bool)) for one in layers]
        out, _ = chain(task, upto, Structure.of(entries), x)  # the last layer of a chain is linear
        h = ACTIVATIONS[model.activation](out)  # type: ignore[attr-defined]
    return Params(tuple(made)), Structure.of([Mask(jnp.ones(one.weight.shape, bool)) for one in made])


def resize(
    task: Task,
    params: Any,
    structure: Any,
    x: Float[Array, "sample in"],
    tau: float,
    *,
    full: float = 0.9,
    spec: NetworkSpec | None = None,
    key: Key | None = None,
) -> tuple[Any, Any, tuple[int, ...]]:
    """A perceptron whose hidden layers are as wide as their activations have dimensions; on the host.

    Narrower by SVD (:func:`narrow`), dense. Where a layer has more dimensions than ``full`` of its units and
    nothing is narrower, it is doubled: without a change of the function (:func:`jaxnet.changes.widen`, which
    needs ``spec``, sparse layers and ``key``).

    Args:
      task: its model is a perceptron's.
      params: of it.
      structure: of it.
      x: samples.
      tau: share of the squares, in (0, 1].
      full: share of units from which a layer counts as full.
      spec: for growing.
      key: likewise.

    Returns:
      Parameters, structure, widths of the hidden layers.

    Raises:
      InputError: ``tau`` out of range, or weights that are not finite.
    """
    if not 0 < tau <= 1:
        raise InputError(f"tau must be above 0 and at most 1: {tau}")
    check_network(params)
    found = [int(n) for n in np.asarray(effective_widths(task, params, structure, x, tau))]
    now = [int(layer.bias.shape[0]) for layer in params.scaffold[:-1]]
    if any(n < full * w for n, w in zip(found, now, strict=True)):
        made = narrow(task, params, structure, x, tuple(found))
        return *made, tuple(found)
    if spec is None or key is None:
        return params, structure, tuple(now)
    widths = list(now)
    for layer, units in enumerate(now):
        entry_in, entry_out = structure.weights[layer], structure.weights[layer + 1]
        spec, params, structure = _widened(spec, params, structure, layer, units, entry_in, entry_out, key)
        widths[layer] = 2 * units
    return params, structure, tuple(widths)


def _widened(
    spec: NetworkSpec, params: Any, structure: Any, layer: int, units: int, into: Any, out: Any, key: Key
) -> tuple[NetworkSpec, Any, Any]:
    return widen(
        spec,
        params,
        structure,
        layer=layer,
        units=units,
        nonzeros_in=int(into.num_nonzeros),
        nonzeros_out=2 * int(out.num_nonzeros),  # of the layer in all
        rule="preserve",
        key_mask=key,
        key_init=key,
    )


def frozen_targets(h: Float[Array, "unit sample"], tau: float = 0.99) -> Float[Array, "sample direction"]:
    """Orthonormal targets of a teacher's layer: right singular vectors of its centred activations.

    As many as hold ``tau`` of the squares (found on the host).
    """
    _, s, v = linalg.svd(h - jnp.mean(h, 1, keepdims=True))
    number = int(effective_rank(s, "energy", share=tau))
    return v[: max(number, 1)].T


def alignment_loss(h: Float[Array, "unit sample"], targets: Float[Array, "sample direction"]) -> Scalar:
    """``1 - CKA`` of a student's layer with frozen targets: 0 where it spans them, evenly, and nothing else.

    Targets are constants: without that, teacher and student could meet in a constant.
    """
    return 1 - cka(h, targets.T)


def check_teacher(teacher: Model, params: Any, structure: Any, x: Array, classes: int) -> None:
    """Raises InputError where a teacher has other classes than its student."""
    logits, _ = teacher(params, structure, x, key_forward=None)
    number = logits.shape[teacher.class_axis]
    if number != classes:
        raise InputError(
            f"the teacher knows {number} classes and the student {classes}: they must be the same"
        )
