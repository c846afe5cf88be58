"""Revival: hidden units that do nothing are drawn anew."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxnet.changes import edit
from jaxnet.changes.weights import edited, smallest
from jaxnet.errors import check_choice
from jaxnet.methods.base import BaseMethod, DenseGradient, Sizes, connected, near, scaffold, unit_stats
from jaxnet.structure import present, reserved, weights, with_entries
from jaxnet.topology import Entry, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Int, Key, PyTree, Scalar, UnitMask

NORMS = ("l2", "l1")


@dataclasses.dataclass(frozen=True)
class Revive(BaseMethod):
    """Redraws dead hidden units, alone or beside another method; the number of weights of every layer stays.

    A unit is dead if the norm of its incoming weights is at most ``threshold`` times the mean norm
    of its layer, or (``silent``) if it was active in no sample of the last ``gather`` batches. A unit
    without any weight, incoming or outgoing, is left alone. Of all dead units those of the
    smallest norm, relative to their layers' means, are redrawn, at most ``most`` per event:

    1. its incoming weights go, and as many, at least ``incoming``, come at random positions;
    2. ``outgoing`` new weights lead from it to random units that it does not lead to yet and
       that are not redrawn themselves (fewer where there are fewer); its old ones stay;
    3. its bias becomes zero (the optimiser's moments of the bias stay);
    4. of the layer's other weights, those not into or out of a redrawn unit, the smallest go, as
       many as have come too many; where there are not enough, fewer come.

    A new weight is normal with the root mean square of the layer's weights.

    Ours. Redrawing units of little use is as in Sokar et al. 2023 (ReDo), which judges by
    activations and is for dense networks.

    Attributes:
      norm: ``l2`` or ``l1``, of the incoming weights.
      threshold: fraction of the layer's mean norm, 0 or more.
      silent: also judge by activity.
      gather: batches by which activity is judged.
      outgoing: new weights out of a unit.
      incoming: least weights into it.
      most: units redrawn per event.
      every: steps between two events.
      until: step from which on none is redrawn, or None.
      base: another method, which acts first where both are due, or None.
    """

    serves: ClassVar[tuple[type, ...]] = (Topology,)
    redraws: ClassVar[bool] = True

    norm: str = "l2"
    threshold: float = 0.01
    silent: bool = True
    gather: int = 10
    outgoing: int = 5
    incoming: int = 5
    most: int = 50
    every: int = 100
    until: int | None = None
    base: BaseMethod | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_choice("norm", self.norm, NORMS)
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"threshold must be 0 or more: {self.threshold}")
        for name in ("gather", "outgoing", "incoming", "most", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if self.until is not None and self.until < 1:
            raise ValueError(f"until must be at least 1 step: {self.until}")

    def check(self, net: Net) -> None:
        """Also raises ValueError for a net that is no perceptron, or that ``base`` does not serve."""
        super().check(net)
        scaffold(net.structure, type(self).__name__)
        if self.base is not None:
            self.base.check(net)

    def init(self, net: Net, dense_gradient: DenseGradient, *, key: Key) -> tuple[Net, PyTree]:
        """The other method's state, and that no unit has been active yet."""
        self.check(net)
        inner: PyTree = ()
        if self.base is not None:
            net, inner = self.base.init(net, dense_gradient, key=key)
        hidden = list(scaffold(net.structure, "Revive").values())[:-1]
        return net, (inner, tuple(jnp.zeros(entry.shape[0], bool) for entry in hidden))

    def observe(self, net: Net, state: PyTree, gradient: PyTree) -> PyTree:
        """Passed on."""
        return state if self.base is None else (self.base.observe(net, state[0], gradient), state[1])

    def _event(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        return (step > 0) & (step % self.every == 0)

    def _own(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """At an event, and in the steps before it in which activity is looked at."""
        due = near(step, self.every, self.gather) if self.silent else self._event(step)
        return due if self.until is None else due & (step < self.until)

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Where units are looked at or redrawn, or the other method is due."""
        return self._own(step) if self.base is None else self._own(step) | self.base.due(step)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Lets the other method act, then redraws."""
        base, (inner, active) = self.base, state
        key_base, key_event = jax.random.split(key)
        # seen before the other method acts: it is the network of this batch
        seen = self._seen(active, dense_gradient) if self.silent else active
        if base is not None:

            def act(net: Net, inner: PyTree) -> tuple[Net, PyTree]:
                return base.update(net, inner, dense_gradient, step, key=key_base)[:2]

            net, inner = jax.lax.cond(base.due(step), act, lambda *same: same, net, inner)

        def event(net: Net) -> tuple[Net, tuple[UnitMask, ...]]:
            return self._redrawn(net, seen, key_event), tuple(jnp.zeros_like(a) for a in seen)

        happens = self._event(step) & self._own(step)
        net, seen = jax.lax.cond(happens, event, lambda net: (net, seen), net)
        return net, (inner, seen), None

    def _seen(self, active: tuple[UnitMask, ...], dense_gradient: DenseGradient) -> tuple[UnitMask, ...]:
        stats = unit_stats(dense_gradient, "post", "Revive with silent=True")
        return tuple(was | (s.active > 0) for was, s in zip(active, stats, strict=True))

    def budget(self, step: int, sizes: Sizes) -> int:
        """The other method's."""
        return super().budget(step, sizes) if self.base is None else self.base.budget(step, sizes)

    def _redrawn(self, net: Net, active: tuple[UnitMask, ...], key: Key) -> Net:
        """The network with its dead units redrawn."""
        chain = scaffold(net.structure, "Revive")
        values = {path: v for path, (v, _) in weights(net.params, net.structure).items()}
        chosen = self._chosen(chain, values, active)
        taken = reserved(net.structure)
        kept: dict[str, Entry] = {}
        grown: dict[str, Entry] = {}
        scale: dict[str, Scalar] = {}
        for layer, (path, entry) in enumerate(chain.items()):
            rows = chosen[layer] if layer < len(chosen) else jnp.zeros(entry.shape[0], bool)
            cols = chosen[layer - 1] if layer else jnp.zeros(entry.shape[1], bool)
            drawn = jax.random.fold_in(key, layer)
            keep, new, wanted = self._plan(entry, values[path], rows, cols, taken.get(path), key=drawn)
            nowhere = jnp.zeros(0, jnp.int32)
            kept[path] = edited(entry, keep, nowhere, nowhere > 0)
            grown[path] = edited(entry, keep, new, wanted)
            number = jnp.maximum(entry.num_nonzeros, 1).astype(values[path].dtype)
            scale[path] = jnp.sqrt(jnp.sum(jnp.square(values[path])) / number)
        # in two edits: a position that is left and drawn again holds a new weight
        net, _ = edit(net, with_entries(net.structure, kept))
        place = {path: jax.random.fold_in(key, len(chain) + number) for number, path in enumerate(chain)}

        def value(path: str, entry: Entry) -> Array:
            assert isinstance(entry, Topology)
            return scale[path] * jax.random.normal(place[path], (entry.capacity,))

        net, _ = edit(net, with_entries(net.structure, grown), value)
        layers = list(net.params.scaffold)
        for layer, units in enumerate(chosen):
            layers[layer] = layers[layer].replace(bias=jnp.where(units, 0.0, layers[layer].bias))
        return net.replace(params=net.params.replace(scaffold=tuple(layers)))

    def _chosen(
        self, chain: dict[str, Topology], values: dict[str, Array], active: tuple[UnitMask, ...]
    ) -> list[UnitMask]:
        """Which units of each hidden layer are redrawn."""
        found, ranks = [], []
        for (path, entry), part, was_active in zip(
            list(chain.items())[:-1], connected(chain), active, strict=True
        ):
            size = jnp.square(values[path]) if self.norm == "l2" else jnp.abs(values[path])
            norm = jnp.zeros(entry.shape[0]).at[entry.rows].add(size, mode="drop")
            norm = jnp.sqrt(norm) if self.norm == "l2" else norm
            units = jnp.maximum(jnp.sum(part), 1).astype(norm.dtype)
            mean = jnp.sum(norm) / units
            dead = norm <= self.threshold * mean
            found.append(part & (dead | ~was_active if self.silent else dead))
            ranks.append(norm / jnp.where(mean > 0, mean, 1.0))
        dead_units = jnp.concatenate(found)
        rank = jnp.where(dead_units, jnp.concatenate(ranks), jnp.inf)
        _, first = jax.lax.top_k(-rank, min(self.most, rank.shape[0]))
        chosen = jnp.zeros(rank.shape[0], bool).at[first].set(True) & dead_units
        ends = [sum(len(a) for a in found[: n + 1]) for n in range(len(found))]
        return [chosen[end - a.shape[0] : end] for a, end in zip(found, ends, strict=True)]

    def _plan(
        self, entry: Topology, values: Array, rows: UnitMask, cols: UnitMask, taken: Array | None, *, key: Key
    ) -> tuple[Bool[Array, "nnz"], Int[Array, "k"], Bool[Array, "k"]]:
        """Which weights stay, and the positions that are drawn."""
        num_out, num_in = entry.shape
        key_in, key_out = jax.random.split(key)
        open_ = jnp.ones(entry.shape, bool) if taken is None else ~taken
        # into redrawn units: as many as before, at least so many
        most = min(self.most, num_out)
        into = jnp.nonzero(rows, size=most, fill_value=num_out)[0]
        wish = jnp.maximum(entry.fan_in.at[into].get(mode="fill", fill_value=0), self.incoming)
        free = open_.at[into].get(mode="fill", fill_value=False)
        noise = jnp.where(free, jax.random.uniform(key_in, (most, num_in)), -1.0)
        best, place = jax.lax.top_k(noise, num_in)
        new_in = into[:, None] * num_in + place
        want_in = (best >= 0) & (jnp.arange(num_in) < wish[:, None])
        # out of redrawn units, to others
        most = min(self.most, num_in)
        out_of = jnp.nonzero(cols, size=most, fill_value=num_in)[0]
        free = (open_ & ~present(entry) & ~rows[:, None]).T.at[out_of].get(mode="fill", fill_value=False)
        noise = jnp.where(free, jax.random.uniform(key_out, (most, num_out)), -1.0)
        best, place = jax.lax.top_k(noise, min(self.outgoing, num_out))
        new_out, want_out = place * num_in + out_of[:, None], best >= 0
        new = jnp.concatenate([new_in.ravel(), new_out.ravel()]).astype(jnp.int32)
        wanted = jnp.concatenate([want_in.ravel(), want_out.ravel()])
        # what makes room for them
        of_row = rows.at[entry.rows].get(mode="fill", fill_value=False)
        elsewhere = entry.exists & ~of_row & ~cols[entry.cols]
        gone = jnp.sum(of_row, dtype=jnp.int32)
        wanted &= jnp.cumsum(wanted) <= gone + jnp.sum(elsewhere)
        size = jnp.minimum(jnp.nan_to_num(jnp.abs(values), nan=jnp.inf), jnp.finfo(values.dtype).max)
        excess = jnp.maximum(jnp.sum(wanted, dtype=jnp.int32) - gone, 0)
        keep = ~of_row & ~smallest(entry, jnp.where(elsewhere, size, jnp.inf), excess)
        return keep, new, wanted
