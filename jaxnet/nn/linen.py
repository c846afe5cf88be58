"""Any Flax linen module as a model for training, alone or below a multi-layer perceptron.

The module stays as it is. Its parameters are its collection ``params``, its structure is what
:func:`jaxnet.sparsify` gives for them, or what its sparse layers (:class:`jaxnet.nn.SparseDense`) have drawn;
what it learns of batches without a gradient (the running statistics of ``flax.linen.BatchNorm``) stands in
the structure under :data:`REMEMBERED`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen
import jax.numpy as jnp

from jaxnet.activations import ACTIVATIONS
from jaxnet.nn.loops import fast_in_loops
from jaxnet.nn.mlp import Activations
from jaxnet.structure import REMEMBERED
from jaxnet.topology import Entry, Mask, Topology
from jaxnet.types import Array, Key

STRUCTURE = "structure"
"""The collection in which a module's layers find which of their weights exist."""

Arguments = tuple[tuple[str, Any], ...]
"""Keyword arguments by name, hashable: ``(("train", True),)``."""


@dataclasses.dataclass(frozen=True)
class Linen:
    """A linen module as a model for training (static); see :class:`jaxnet.train.Model`.

    >>> import jax
    >>> model = Linen(flax.linen.Dense(3))
    >>> params, structure = model.init(jnp.zeros((1, 2)), key=jax.random.key(0))
    >>> model(params, structure, jnp.zeros((5, 2)), key_forward=None)[0].shape
    (5, 3)

    Attributes:
      module: any linen module of one input, ``(batch, ...)``, and one output, ``(batch, ...)``.
      learning: its further arguments while it learns, such as ``(("train", True),)``.
      judging: its further arguments otherwise.
      watch: paths of submodules (``Conv_0``, ``block/Conv_1``) whose outputs are shown as layers of units:
        the last axis holds the units (channels), every pixel of a sample counts.
      activation: by which these units are judged active or saturated, by name.
      remembers: the module has running statistics (the collection ``batch_stats``).
      shape: of a sample as the module wants it, where samples come flat; None: as they come.
    """

    module: flax.linen.Module
    learning: Arguments = ()
    judging: Arguments = ()
    watch: tuple[str, ...] = ()
    activation: str = "relu"
    remembers: bool = False
    shape: tuple[int, ...] | None = None

    class_axis: ClassVar[int] = -1
    """Logits are ``(batch, classes)``."""

    def init(self, x: Array, *, key: Key) -> tuple[Any, dict[str, Any]]:
        """Parameters, and the structure before any weight is masked.

        That is what the module's sparse layers have drawn and what it remembers, if anything. Put masks
        beside it: ``{**jaxnet.sparsify(params, ...)[1], **structure}``.

        Raises:
          ValueError: the module has collections other than ``params``, ``structure`` and (if it remembers)
            ``batch_stats``.
        """
        held = dict(self.module.init(key, self._shaped(x), **dict(self.judging)))
        params, drawn = held.pop("params", {}), dict(held.pop(STRUCTURE, {}))
        remembered = {REMEMBERED: held.pop("batch_stats")} if self.remembers and "batch_stats" in held else {}
        if held:
            known = "" if self.remembers else " (running statistics: remembers=True)"
            raise ValueError(f"the module also has {', '.join(sorted(held))}, which nothing trains{known}")
        return params, {**drawn, **remembered}

    def __call__(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Array, Activations]:
        """What the module gives, and the watched layers; nothing is learned."""
        del key_forward  # nothing is dropped out when judging
        out, seen, _ = self._apply(params, structure, x, dict(self.judging))
        return out, seen

    def learn(
        self, params: Any, structure: Any, x: Array, *, key_forward: Key | None
    ) -> tuple[Array, Activations, Any]:
        """The same while learning (dropout draws from ``key_forward``), and the structure after it."""
        draws = {} if key_forward is None else {"dropout": key_forward}
        return self._apply(params, structure, x, dict(self.learning), draws, learning=True)

    def incoming(self, params: Any, structure: Any) -> list[tuple[Array, Entry | None]]:
        """The weights into every watched layer, ``(out, ...)``."""
        return [_outputs_first(*self._kernel(params, structure, name)) for name in self.watch]

    def _shaped(self, x: Array) -> Array:
        if self.shape is None:
            return x
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"samples of shape {x.shape[1:]} are none of {self.shape}, as the module reads them"
            )
        return x.reshape(-1, *self.shape)

    def _kernel(self, params: Any, structure: Any, name: str) -> tuple[Array, Entry | None]:
        entry = structure
        for part in (*name.split("/"), "kernel"):
            if not isinstance(params, dict) or part not in params:
                raise ValueError(f"the watched {name} has no kernel")
            params = params[part]
            entry = entry.get(part) if isinstance(entry, dict) else None
        return params, entry

    def _apply(
        self,
        params: Any,
        structure: Any,
        x: Array,
        arguments: dict[str, Any],
        rngs: dict[str, Key] | None = None,
        *,
        learning: bool = False,
    ) -> tuple[Array, Activations, Any]:
        variables, mutable = {"params": params}, ["intermediates"] if self.watch else []
        if isinstance(structure, dict):
            variables[STRUCTURE] = {name: part for name, part in structure.items() if name != REMEMBERED}
        if self.remembers:
            variables["batch_stats"] = structure[REMEMBERED]
            mutable += ["batch_stats"] if learning else []

        def is_watched(module: flax.linen.Module, method: str) -> bool:
            return method == "__call__" and "/".join(module.path) in self.watch

        def applied(variables: Any, x: Array) -> Any:
            more: dict[str, Any] = {"capture_intermediates": is_watched} if self.watch else {}
            return self.module.apply(variables, x, **arguments, rngs=rngs, mutable=mutable, **more)

        out, changed = fast_in_loops(applied)(variables, self._shaped(x))
        if learning and self.remembers:
            structure = {**structure, REMEMBERED: changed["batch_stats"]}
        captured = changed.get("intermediates", {}) if self.watch else {}
        pre = tuple(_units_first(_at(captured, name)) for name in self.watch)
        act = ACTIVATIONS[self.activation]
        return out, Activations(pre, tuple(act(values) for values in pre)), structure


def _at(captured: Any, name: str) -> Array:
    for part in name.split("/"):
        if part not in captured:
            raise ValueError(f"the module applies no submodule called {name!r}")
        captured = captured[part]
    found: Array = captured["__call__"][0]
    return found


def _units_first(values: Array) -> Array:
    """``(batch, ..., unit)`` as ``(unit, batch)``, or ``(unit, batch, place)`` where there are places."""
    moved = jnp.moveaxis(values, -1, 0)
    return moved if values.ndim == 2 else moved.reshape(*moved.shape[:2], math.prod(moved.shape[2:]))


def _outputs_first(kernel: Array, entry: Entry | None) -> tuple[Array, Entry | None]:
    if isinstance(entry, Topology):  # (out, in) already
        return kernel, entry
    first = jnp.moveaxis(kernel, -1, 0)
    return first, None if entry is None else Mask(jnp.moveaxis(entry.mask, -1, 0))
