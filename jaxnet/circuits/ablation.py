"""Ablation: what a network can still do when some of its weights or units are gone.

What is gone is **zero**, or carries its **mean** over the samples, or (**resample**) what it carries in the
whole network on another sample, a control. All functions treat one network; a mask has an entry per element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.activations import ACTIVATIONS
from jaxnet.circuits.suites import Suite, by_sample, partners
from jaxnet.errors import InputError, check_choice
from jaxnet.losses import ABSENT
from jaxnet.nn.layers import weighted
from jaxnet.structure import entries, exists
from jaxnet.train import Task
from jaxnet.types import Array, Bool, Float, Key, PyTree

MODES = ("zero", "mean", "resample")
"""What is left of what is gone."""

ELEMENTS = ("weight", "unit")
"""What a circuit is made of: the weights that exist, or hidden units. A tree like the parameters with the
number of every value's group (:func:`jaxnet.guard.groups`) serves too, with ``zero``."""

Measure = Callable[[Float[Array, "element"]], Float[Array, "capability"]]
"""The metric of every capability, of a mask of what is kept."""


def names_of(params: PyTree, structure: PyTree) -> list[str]:
    """The paths of the weights: those with an entry; without any, all arrays of two axes or more."""
    there = entries(structure)
    if there:
        return list(there)
    return [jax.tree_util.keystr(p) for p, leaf in jax.tree.leaves_with_path(params) if np.ndim(leaf) > 1]


def weight_values(params: PyTree, structure: PyTree) -> Float[Array, "element"]:
    """``(E,)``, the values of all weights end to end, room for weights that do not exist included."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    return jnp.concatenate([leaves[name].ravel() for name in names_of(params, structure)])


def existing(params: PyTree, structure: PyTree, wrt: Any = "weight") -> Bool[Array, "element"]:
    """``(E,)``, which elements there are: the rest is padding, or masked."""
    if not isinstance(wrt, str):
        return jnp.ones(1 + int(max(np.max(np.asarray(leaf)) for leaf in jax.tree.leaves(wrt))), bool)
    check_choice("elements", wrt, ELEMENTS)
    if wrt == "unit":
        return jnp.ones(sum(_layers(params)[:-1]), bool)
    there = entries(structure)
    if not there:
        return jnp.ones(weight_values(params, structure).shape, bool)
    return jnp.concatenate([exists(entry).ravel() for entry in there.values()])


def per_layer(params: PyTree, structure: PyTree) -> np.ndarray:
    """``(E,)`` int, the number of every weight's array, counted from 0; on the host."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    names = names_of(params, structure)
    return np.concatenate([np.full(leaves[name].size, i) for i, name in enumerate(names)])


def masked(params: PyTree, structure: PyTree, keep: Float[Array, "element"], wrt: Any = "weight") -> PyTree:
    """The parameters with every weight times its part of a mask; what has no element stays."""
    if not isinstance(wrt, str):
        return jax.tree.map(lambda p, g: p * keep.at[g].get(mode="fill", fill_value=1.0), params, wrt)
    names, start, parts = names_of(params, structure), 0, dict[str, Array]()
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for name in names:
        leaf = leaves[name]
        parts[name] = leaf * keep[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype)
        start += leaf.size
    return jax.tree.map_with_path(lambda p, leaf: parts.get(jax.tree_util.keystr(p), leaf), params)


def check_network(params: PyTree, what: str = "the network") -> None:
    """Raises InputError where a weight is not finite (traced ones pass)."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise InputError(f"{what} has weights that are not finite at {jax.tree_util.keystr(path)}")


def _layers(params: Any) -> list[int]:
    if not hasattr(params, "scaffold"):
        raise ValueError("units, means and resampling need the chain of a perceptron: ablate weights to zero")
    return [layer.bias.shape[-1] for layer in params.scaffold]


def chain(
    task: Task,
    params: Any,
    structure: Any,
    x: Array,
    keep: Array | None = None,
    wrt: str = "weight",
    references: Sequence[Array] | None = None,
    probes: Sequence[Array] | None = None,
) -> tuple[Array, list[Array]]:
    """A perceptron with a mask: logits ``(class, sample)``, and what goes into every layer.

    Args:
      task: its model is a perceptron's.
      params: without patches and skips.
      structure: likewise.
      x: ``(sample, in)``.
      keep: ``(E,)``; None keeps all.
      wrt: what it masks.
      references: what weights (or units) that are gone carry, for every layer's input; None: zero.
      probes: added to the pre-activations of every layer, ``(out, sample)`` each.
    """
    model: Any = task.model
    _layers(params)
    if getattr(structure, "bank", None) is not None or getattr(structure, "skips", None):
        raise ValueError("means and resampling serve perceptrons without patches and skips")
    h, last, start, seen = x.T, len(params.scaffold) - 1, 0, []
    for t, (layer, entry) in enumerate(zip(params.scaffold, structure.weights, strict=True)):
        seen.append(h)
        values = layer.weight
        if keep is not None and wrt == "weight":
            part = keep[start : start + values.size].reshape(values.shape).astype(values.dtype)
            start += values.size
            pre = weighted(values * part, entry, h, model.product)
            if references is not None:
                pre = pre + weighted(values * (1 - part), entry, references[t], model.product)
        else:
            pre = weighted(values, entry, h, model.product)
        pre = pre + layer.bias[:, None]
        if probes is not None:
            pre = pre + probes[t]
        h = ACTIVATIONS[model.activation if t < last else "identity"](pre)
        if keep is not None and wrt == "unit" and t < last:
            part = keep[start : start + h.shape[0], None].astype(h.dtype)
            start += h.shape[0]
            h = h * part + (0 if references is None else (1 - part) * references[t + 1])
    if structure.outputs is not None:
        h = jnp.where(structure.outputs[:, None], h, ABSENT)
    return h, seen


def references_of(
    task: Task, params: Any, structure: Any, suite: Suite, mode: str, *, key: Key | None = None
) -> list[Array] | None:
    """What is carried by what is gone, for every layer's input: ``(in, 1)`` means or ``(in, sample)``.

    Raises:
      ValueError: an unknown mode, or ``resample`` without a key.
    """
    check_choice("mode", mode, MODES)
    if mode == "zero":
        return None
    seen = chain(task, params, structure, suite.x)[1]
    if mode == "mean":
        return [jnp.mean(h, 1, keepdims=True) for h in seen]
    if key is None:
        raise ValueError("resampling draws other samples from a key: give key")
    other = partners(suite, key=key)
    return [h[:, other] for h in seen]


def measured(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    mode: str = "zero",
    *,
    key: Key | None = None,
    wrt: Any = "weight",
    metric: str = "loss",
) -> Measure:
    """The metric of every capability as a function of the mask; ``(E,)`` of truth values or numbers."""
    references = references_of(task, params, structure, suite, mode, key=key)
    model = task.model
    if not isinstance(wrt, str) and mode != "zero":
        raise ValueError("groups can be ablated to zero only")

    def of(keep: Array) -> Array:
        keep = keep.astype(jnp.result_type(suite.weight))
        if references is None and (not isinstance(wrt, str) or wrt == "weight"):
            here = masked(params, structure, keep, wrt)
            logits, _ = model(here, structure, suite.x, key_forward=None)
        else:
            made, _ = chain(task, params, structure, suite.x, keep, wrt, references)
            logits = jnp.moveaxis(made, 0, model.class_axis)
        return jnp.sum(by_sample(task, logits, suite, metric), -1)

    return of


def losses(
    task: Task, params: Any, structure: Any, suite: Suite, metric: str = "loss"
) -> Float[Array, "capability"]:
    """``(K,)``, the loss (or margin) of every capability in the whole network."""
    logits, _ = task.model(params, structure, suite.x, key_forward=None)
    return jnp.sum(by_sample(task, logits, suite, metric), -1)


def ablate(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    masks: Float[Array, "mask element"] | Bool[Array, "mask element"],
    mode: str = "zero",
    *,
    key: Key | None = None,
    wrt: Any = "weight",
    metric: str = "loss",
    at_once: int = 64,
) -> Float[Array, "mask capability"]:
    """The loss of every capability under every mask of what is kept.

    Args:
      task: the model and its loss.
      params: of one network.
      structure: of it; ``zero`` on weights serves any model.
      suite: capabilities and samples.
      masks: ``(M, E)``, true or 1 where an element stays (:func:`existing` says which there are).
      mode: one of :data:`MODES`.
      key: for ``resample``.
      wrt: what the elements are: one of :data:`ELEMENTS`, or a tree of group numbers.
      metric: one of :data:`jaxnet.circuits.suites.METRICS`.
      at_once: masks in memory together.

    Returns:
      ``(M, K)``.
    """
    of = measured(task, params, structure, suite, mode, key=key, wrt=wrt, metric=metric)
    return jax.lax.map(of, masks, batch_size=min(at_once, masks.shape[0]))


def ablate_each(
    task: Task,
    params: Any,
    structure: Any,
    suite: Suite,
    mode: str = "zero",
    *,
    key: Key | None = None,
    wrt: Any = "weight",
    metric: str = "loss",
    at_once: int = 64,
) -> Float[Array, "element capability"]:
    """``(E, K)``, the loss without each element alone; no mask of all of them lies in memory."""
    of = measured(task, params, structure, suite, mode, key=key, wrt=wrt, metric=metric)
    number = existing(params, structure, wrt).shape[0]
    place = jnp.arange(number)
    return jax.lax.map(lambda e: of(place != e), place, batch_size=min(at_once, number))
