"""Zones: labels of weights, turned into factors on their updates, and methods that keep what is protected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxnet.errors import check_choice
from jaxnet.methods.base import BaseMethod, DenseGradient, Sizes
from jaxnet.optim import ScaleState, with_scales
from jaxnet.structure import clear, entries, exists
from jaxnet.train import Net
from jaxnet.trees import where
from jaxnet.types import Array, Bool, Int, Key, PyTree

ZONES: dict[str, float] = {"frozen": 0.0, "slow": 0.1, "normal": 1.0, "fast": 3.0}
"""Factors on the updates of a zone's weights."""

NAMES = tuple(ZONES)
"""Zones by number: what a tree of labels holds."""


def zone_scales(labels: PyTree, factors: Mapping[str, float] | None = None) -> PyTree:
    """Factors for :func:`jaxnet.optim.scale_updates` from labels.

    >>> zone_scales({"w": jnp.asarray([0, 2])})["w"].tolist()
    [0.0, 1.0]

    Args:
      labels: like the parameters, of integers: the number of each weight's zone in :data:`NAMES`.
      factors: by name, where they differ from :data:`ZONES`.

    Raises:
      ValueError: there is no zone of a name.
    """
    for name in factors or ():
        check_choice("zone", name, NAMES)
    table = jnp.asarray([{**ZONES, **(factors or {})}[name] for name in NAMES], jnp.float32)
    return jax.tree.map(lambda label: table[label], labels)


def by_importance(
    importance: PyTree, structure: PyTree, frozen: float | Array, slow: float | Array = 0.0
) -> PyTree:
    """Labels: of every array the share ``frozen`` of the weights that matter most, then the share ``slow``.

    Weights of no importance are normal.
    """
    there = entries(structure)

    def one(path: Any, leaf: Array) -> Int[Array, "..."]:
        entry = there.get(jax.tree_util.keystr(path))
        alive = jnp.ones(leaf.shape, bool) if entry is None else exists(entry)
        values = jnp.where(alive, leaf, -1.0).ravel()
        number = jnp.sum(alive, dtype=jnp.float32)
        ranked = jnp.sort(values)[::-1]

        def least(share: float | Array) -> Array:
            count = jnp.round(jnp.asarray(share) * number).astype(jnp.int32)
            value = ranked[jnp.clip(count - 1, 0, values.size - 1)]
            return jnp.where(count > 0, value, jnp.inf)

        matters = leaf > 0
        first, second = least(frozen), least(jnp.asarray(frozen) + jnp.asarray(slow))
        label = jnp.where(matters & (leaf >= first), 0, jnp.where(matters & (leaf >= second), 1, 2))
        return jnp.where(alive, label, 2).astype(jnp.int32)

    return jax.tree.map_with_path(one, importance)


def scales_of(net: Net) -> PyTree:
    """The factors that a net's optimiser has; ValueError without :func:`jaxnet.optim.scale_updates`."""
    for node in jax.tree.leaves(net.opt_state, is_leaf=lambda node: isinstance(node, ScaleState)):
        if isinstance(node, ScaleState):
            return node.scales
    raise ValueError("the optimiser has no factors: put jaxnet.optim.scale_updates last into the chain")


@dataclasses.dataclass(frozen=True)
class Keep(BaseMethod):
    """A method that drops no weight whose updates are scaled down: what is protected stays.

    The method sees protected weights as the largest. Where it would drop one nevertheless (there are too few
    others, or it goes by something else than size) the net stays as it was.

    Attributes:
      method: the method.
      below: a weight with a smaller factor is protected.
    """

    serves: ClassVar[tuple[type, ...]] = BaseMethod.serves
    method: BaseMethod = dataclasses.field(default_factory=BaseMethod)
    below: float = 0.5

    def init(self, net: Net, dense_gradient: DenseGradient, *, key: Key) -> tuple[Net, PyTree]:
        """That of the method."""
        scales_of(net)
        return self.method.init(net, dense_gradient, key=key)

    def observe(self, net: Net, state: PyTree, gradient: PyTree) -> PyTree:
        """That of the method."""
        return self.method.observe(net, state, gradient)

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """That of the method."""
        return self.method.due(step)

    def budget(self, step: int, sizes: Sizes) -> int:
        """That of the method, which may be exceeded where it would drop what is protected."""
        return self.method.budget(step, sizes)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """The method's change, and nothing protected dropped."""
        small = jax.tree.map(lambda scale: (scale < self.below).astype(jnp.float32), scales_of(net))
        protected = clear(small, net.structure)
        large = 10 * max_of(net.params)
        shown = jax.tree.map(
            lambda p, held: jnp.where(held > 0, jnp.where(p < 0, -large, large).astype(p.dtype), p),
            net.params,
            protected,
        )
        beside = {"carried": net.carried, "params": net.params, "protected": protected}
        changed, state, info = self.method.update(
            net.replace(params=shown, carried=beside), state, dense_gradient, step, key=key
        )
        kept, held = changed.carried["params"], changed.carried["protected"]
        params = jax.tree.map(lambda new, old, h: jnp.where(h > 0, old, new), changed.params, kept, held)
        lost = [jnp.sum(a) > jnp.sum(b) for a, b in _pairs(protected, held)]
        done = changed.replace(params=params, carried=changed.carried["carried"])
        sound = ~jnp.any(jnp.stack(lost)) if lost else jnp.asarray(True)
        return where(sound, done, net), state, info


@dataclasses.dataclass(frozen=True)
class Refresh(BaseMethod):
    """Zones found anew every so often while a network trains: what matters may move.

    Attributes:
      labels: ``(net, view) -> labels`` like the parameters (:func:`zone_scales`); ``view`` is the
        :class:`jaxnet.train.BatchView` of the step.
      every: steps between two looks.
    """

    labels: Callable[[Net, Any], PyTree] = lambda net, view: net.params
    every: int = 100

    def check(self, net: Net) -> None:
        """Raises ValueError where the optimiser has no factors."""
        scales_of(net)

    def due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Every ``every`` steps."""
        return (step % self.every == 0) & (step > 0)

    def update(
        self, net: Net, state: PyTree, dense_gradient: DenseGradient, step: Int[Array, ""], *, key: Key
    ) -> tuple[Net, PyTree, Any]:
        """Other factors; the structure stays."""
        del step, key
        scales = zone_scales(self.labels(net, dense_gradient))
        return net.replace(opt_state=with_scales(net.opt_state, scales)), state, None


def zoned(optimizer: optax.GradientTransformation, labels: PyTree = None) -> optax.GradientTransformation:
    """The optimiser with factors by zone behind it (None: all normal, until others are set)."""
    from jaxnet.optim import scale_updates

    return optax.chain(optimizer, scale_updates(None if labels is None else zone_scales(labels)))


def max_of(tree: PyTree) -> Array:
    """The largest magnitude in a tree, at least the smallest normal number."""
    return jnp.maximum(
        jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)])), 1e-30
    )


def _pairs(a: PyTree, b: PyTree) -> list[tuple[Array, Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
