"""What a method is: a rule that changes which weights exist while a network trains."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxnet.changes import edit, exchange
from jaxnet.changes.weights import edited, smallest
from jaxnet.optim import check_follows
from jaxnet.structure import entries, exists, reserved, weights, with_entries
from jaxnet.topology import Entry, Mask, Topology
from jaxnet.train import Net
from jaxnet.types import Array, Bool, Int, Key, PyTree, Scalar, UnitMask
from jaxnet.units import UnitStats

DenseGradient = Callable[[], PyTree]
"""Gives the loss's gradient at all positions of every weight; called only where it is needed.

Where it has a method ``stats(values) -> statistics of every hidden layer``, as
:class:`jaxnet.train.BatchView` has, methods that look at units can be used.
"""

Sizes = Sequence[tuple[int, int]]
"""Weights at the start and positions of every weight, in the order of the structure."""


@dataclasses.dataclass(frozen=True)
class BaseMethod:
    """A method (static); a new one is a subclass in a file of its own, and an entry in ``METHODS``.

    It treats one network, of any model, by the paths of its structure, under jit,
    vmap and scan. This one changes nothing.

    Attributes:
      serves: kinds of entries that it can change.
      redraws: new weights are drawn instead of zero, and one that existed may become new.
    """

    serves: ClassVar[tuple[type, ...]] = (Topology, Mask)
    redraws: ClassVar[bool] = False

    def check(self, net: Net) -> None:
        """Raises ValueError for a net that the method cannot serve.

        There is no weight with an entry, one of a kind that is not served, or an
        optimiser whose state cannot follow.
        """
        found = entries(net.structure)
        if not found:
            raise ValueError("the structure has no entry for any weight: there is nothing to change")
        for path, entry in found.items():
            if not isinstance(entry, self.serves):
                served = " and ".join(kind.__name__ for kind in self.serves)
                raise ValueError(
                    f"{type(self).__name__} serves {served}, and {path} is a {type(entry).__name__}"
                )
        check_follows(net.optimizer, net.params)

    def init(self, net: Net, dense_gradient: DenseGradient, *, key: Key) -> tuple[Net, PyTree]:
        """The network and the method's own state before the first step."""
        del dense_gradient, key
        self.check(net)
        return net, ()

    def observe(self, net: Net, state: PyTree, gradient: PyTree) -> PyTree:
        """The state after a step; ``gradient`` is like the parameters. Called after every step."""
        del net, gradient
        return state

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the structure is changed after ``step`` steps, counted from 1."""
        return jnp.zeros(jnp.shape(step), bool)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """The network and the state after a change, and what was done; ``key`` is of this step."""
        del dense_gradient, step, key
        return net, state, None

    def budget(self, step: int, sizes: Sizes) -> int:
        """How many weights exist after ``step`` steps, all together; 0 steps are before the first."""
        del step
        return sum(there for there, _ in sizes)


@dataclasses.dataclass(frozen=True)
class Periodic(BaseMethod):
    """A method that changes a fraction of the weights every so many steps (static).

    Attributes:
      fraction: of the weights at the first change, in [0, 1].
      every: steps between two changes.
      until: step from which on nothing is changed any more; the fraction falls
        along a half cosine to zero there (None: no decay and no end).
    """

    fraction: float = 0.3
    every: int = 100
    until: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if not (math.isfinite(self.fraction) and 0 <= self.fraction <= 1):
            raise ValueError(f"fraction must be between 0 and 1: {self.fraction}")
        if self.every < 1 or (self.until is not None and self.until < 1):
            raise ValueError(f"every and until must be at least 1 step: {self.every}, {self.until}")

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Every ``every`` steps, until the end."""
        due = (step % self.every == 0) & (step > 0)
        return due if self.until is None else due & (step < self.until)

    def fraction_at(self, step: Int[Array, ""]) -> Scalar:
        """The fraction changed after ``step`` steps."""
        if self.until is None:
            return jnp.full((), self.fraction)
        share = jnp.clip(jnp.asarray(step, jnp.float32) / self.until, 0.0, 1.0)
        return self.fraction / 2 * (1 + jnp.cos(jnp.pi * share))


def exchanged(net: Net, scores: Mapping[str, Array], fraction: Scalar, at_most: float) -> dict[str, Entry]:
    """Every entry after :func:`jaxnet.changes.exchange`: the smallest weights give way to the largest scores.

    Args:
      net: the network.
      scores: by path, of the dense arrays' shapes.
      fraction: of the weights, that is exchanged.
      at_most: largest fraction (static).
    """
    taken = reserved(net.structure)
    return {
        path: exchange(entry, values, scores[path], fraction, at_most, taken=taken.get(path))
        for path, (values, entry) in weights(net.params, net.structure).items()
    }


def near(step: Int[Array, ""], every: int, gather: int) -> Bool[Array, ""]:
    """Whether ``step`` is one of the last ``gather`` steps up to a change every ``every`` steps."""
    return (step > 0) & ((step % every == 0) | (step % every > max(0, every - gather)))


def keep_best(net: Net, scores: Mapping[str, Array], keep: Mapping[str, Array] | Array) -> tuple[Net, Any]:
    """Prunes all but the weights of the largest score; of those that tie the later ones stay.

    Args:
      net: the network.
      scores: by path, of the parameters' shapes; NaN counts as the largest.
      keep: how many at each path, or one number for all of them together.
    """
    there = entries(net.structure)
    nowhere = jnp.zeros(0, jnp.int32)
    dropped: dict[str, Array] = {}
    if isinstance(keep, Mapping):
        for path, entry in there.items():
            dropped[path] = smallest(entry, scores[path], entry.num_nonzeros - keep[path])
    else:
        shapes = {path: exists(entry) for path, entry in there.items()}
        flat = jnp.concatenate([scores[path].ravel() for path in there])
        all_of_them = Mask(jnp.concatenate([mask.ravel() for mask in shapes.values()]))
        gone = smallest(all_of_them, flat, all_of_them.num_nonzeros - keep)
        start = 0
        for path, mask in shapes.items():
            dropped[path] = gone[start : start + mask.size].reshape(mask.shape)
            start += mask.size
    new = {path: edited(entry, ~dropped[path], nowhere, nowhere > 0) for path, entry in there.items()}
    return edit(net, with_entries(net.structure, new))


def dense_by_path(gradient: PyTree, structure: PyTree) -> dict[str, Array]:
    """The leaves of a dense gradient at the paths that have an entry."""
    there = entries(structure)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(gradient)}
    return {path: leaves[path] for path in there}


def unit_stats(dense_gradient: DenseGradient, values: str, name: str) -> tuple[UnitStats, ...]:
    """Statistics of every hidden layer on the batch of this step, for the method called ``name``.

    Raises:
      ValueError: whatever trains the network gives none.
    """
    stats: Callable[[str], tuple[UnitStats, ...]] | None = getattr(dense_gradient, "stats", None)
    if stats is None:
        raise ValueError(
            f"{name} looks at the activations of hidden units: give act a dense_gradient with a method stats "
            "(jaxnet.train.BatchView)"
        )
    return stats(values)


def scaffold(structure: PyTree, name: str) -> dict[str, Topology]:
    """The topologies of a chain of layers by path, the first layer first, for the method called ``name``.

    Raises:
      ValueError: the structure is none of a multi-layer perceptron.
    """
    there = entries(structure)
    chain = {path: entry for path, entry in there.items() if isinstance(entry, Topology)}
    found = list(chain.values())
    fit = all(a.shape[0] == b.shape[1] for a, b in itertools.pairwise(found))
    if len(chain) < len(there) or not fit or not hasattr(structure, "scaffold"):
        raise ValueError(f"{name} serves the scaffold of a multi-layer perceptron, layer after layer")
    return chain


def connected(chain: Mapping[str, Topology]) -> list[UnitMask]:
    """Which units of every hidden layer have any weight, incoming or outgoing.

    The others are no part of the network (a family's smaller architectures have such units).
    """
    found = []
    for entry, following in itertools.pairwise(chain.values()):
        # padding has column 0: it must not count as a weight
        leads = jnp.zeros(entry.shape[0], bool).at[following.cols].max(following.exists)
        found.append(leads | (entry.fan_in > 0))
    return found


def at_weights(dense: Array, entry: Entry) -> Array:
    """What a dense array has where the weights are, in the parameter's shape; zero where none exists."""
    if isinstance(entry, Topology):
        return dense.at[entry.rows, entry.cols].get(mode="fill", fill_value=0)
    return jnp.where(entry.mask, dense, 0)
