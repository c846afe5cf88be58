"""Cannistraci-Hebb training: what a layer's own shape asks for is grown, no gradient needed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.changes import edit
from jaxnet.changes.weights import edited, smallest
from jaxnet.errors import check_choice
from jaxnet.methods.base import BaseMethod, DenseGradient, Periodic
from jaxnet.methods.gradual import Gradual
from jaxnet.methods.links import RULES, link_scores_of
from jaxnet.methods.scopes import importance
from jaxnet.methods.soft import most_of, number_of, regrown, softly, softly_largest
from jaxnet.structure import reserved, weights, with_entries
from jaxnet.topology import Entry
from jaxnet.train import Net
from jaxnet.types import Array, Int, Key, PyTree, Scalar


@dataclasses.dataclass(frozen=True)
class SoftRules(BaseMethod):
    """How connections are drawn that go and that come (static).

    Attributes:
      delta: softness of the removal at the first change, in [0, 1]: which weights stay
        is drawn without replacement, in proportion to ``importance ** (delta / (1 - delta))``;
        0 is uniform, 1 takes the most important.
      delta_end: softness at step ``until``, linearly in between (without one, ``delta`` stays).
      delta_grow: likewise for growth, by link scores.
      relative: 0 for the weight's magnitude, 1 for its relative importance (its share of
        its row's sum plus its share of its column's), in between a mixture.
      rule: of :func:`jaxnet.methods.links.link_scores`.
    """

    delta: float = 0.5
    delta_end: float = 0.9
    delta_grow: float = 0.5
    relative: float = 0.0
    rule: str = "ch2"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("delta", "delta_end", "delta_grow", "relative"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{name} must be between 0 and 1: {value}")
        check_choice("rule", self.rule, RULES)

    def delta_at(self, step: Int[Array, ""], until: int | None) -> Scalar:
        """The softness of the removal after ``step`` steps."""
        if until is None:
            return jnp.full((), self.delta)
        share = jnp.clip(jnp.asarray(step, jnp.float32) / until, 0.0, 1.0)
        return self.delta + (self.delta_end - self.delta) * share

    def rewired(
        self,
        values: Array,
        entry: Entry,
        delta: Scalar,
        number: Int[Array, ""],
        at_most: int,
        taken: Array | None,
        *,
        key: Key,
    ) -> Entry:
        """The entry with as many weights, ``number`` of them grown."""
        key_drop, key_grow = jax.random.split(key)
        order = softly(importance(values, entry, self.relative), delta, key=key_drop)
        keep = ~smallest(entry, order, number)
        nowhere = jnp.zeros(0, jnp.int32)
        # predicted from what is left
        score = link_scores_of(edited(entry, keep, nowhere, nowhere > 0), self.rule)
        score = softly_largest(score, self.delta_grow, key=key_grow)
        return regrown(entry, keep, score, number, at_most, taken)

    def rewired_everywhere(
        self,
        net: Net,
        fraction: Scalar,
        delta: Scalar,
        most: Callable[[Array, Entry], int],
        *,
        key: Key,
    ) -> dict[str, Entry]:
        """Every array with as many weights, ``fraction`` of them grown, by path.

        ``most(values, entry)`` are at most grown in an array (static).
        """
        taken, new = reserved(net.structure), dict[str, Entry]()
        for place, (path, (values, entry)) in enumerate(weights(net.params, net.structure).items()):
            number, at_most = number_of(fraction, entry.num_nonzeros), most(values, entry)
            drawn = jax.random.fold_in(key, place)
            new[path] = self.rewired(values, entry, delta, number, at_most, taken.get(path), key=drawn)
        return new


@dataclasses.dataclass(frozen=True)
class CHTs(SoftRules, Periodic):
    """Drops weights drawn by importance, grows as many drawn by link prediction; arrays keep their numbers.

    Link scores are those of the network after the removal (:func:`~jaxnet.methods.links.link_scores`);
    a position without any score is drawn, evenly, only where there are no others left.

    Source: Zhang et al. 2025 (Cannistraci-Hebb training soft rule, arXiv 2501.19107). Different
    here: a weight that is dropped and grown at once stays as it was; units that lost all their
    inputs or outputs keep the rest of their weights; the removal's ``delta`` follows the steps up
    to ``until``, and so does the fraction; kernels of convolutions are rewired too.
    """

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        Periodic.__post_init__(self)
        SoftRules.__post_init__(self)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Exchanges in every weight; the gradient is not asked for."""
        del dense_gradient
        fraction, delta = self.fraction_at(step), self.delta_at(step, self.until)

        def most(values: Array, entry: Entry) -> int:
            return most_of(self.fraction, values.size)

        new = self.rewired_everywhere(net, fraction, delta, most, key=key)
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info


@dataclasses.dataclass(frozen=True)
class CHTss(SoftRules, Gradual):
    """As :class:`CHTs`, the density falling along a sigmoid from ``start`` to ``density``.

    At every change first the least important weights go, as many as the density falls by, nothing
    drawn; then ``fraction`` of those that are left are exchanged. The sigmoid has the slope
    ``steepness`` over the way from ``begin`` to ``end`` and is stretched so that it meets both ends.

    Source: Zhang et al. 2025 (CHTs with sigmoid gradual density decay). There all layers but a
    dense output layer are pruned to the same density; here all of them together, for without
    a dense output layer that would leave it next to nothing.

    Attributes:
      steepness: of the sigmoid, above 0; the authors' 6 is that of half the way.
    """

    start: float = 0.5
    steepness: float = 12.0
    scope: str = "relative"

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        Gradual.__post_init__(self)
        SoftRules.__post_init__(self)
        if not (math.isfinite(self.steepness) and self.steepness > 0):
            raise ValueError(f"steepness must be above 0: {self.steepness}")

    def share(self, progress: float) -> float:
        """What is left of the way, by the sigmoid."""

        def fallen(t: float) -> float:
            return 1 / (1 + math.exp(-self.steepness * (t - 0.5)))

        return (fallen(1) - fallen(progress)) / (fallen(1) - fallen(0))

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Prunes to the density of this step and exchanges, in every weight."""
        del dense_gradient

        def most(values: Array, entry: Entry) -> int:
            return most_of(self.fraction, values.size)  # one of all arrays may be denser than ``start``

        fraction, delta = self.fraction_at(step), self.delta_at(step, self.until)
        # one edit from what was to what will be: a weight that is cut and grows again stays as it was
        new = self.rewired_everywhere(self.pruned(net, step), fraction, delta, most, key=key)
        net, info = edit(net, with_entries(net.structure, new))
        return net, state, info
