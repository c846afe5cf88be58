"""A method around an optimiser, for a training loop that is the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.methods import BaseMethod
from jaxnet.structure import clear, entries
from jaxnet.train import Net
from jaxnet.types import Int, Key, PyTree

T = TypeVar("T")


class WrapState(flax.struct.PyTreeNode):
    """State of an optimiser with a method around it.

    Attributes:
      opt_state: of the optimiser.
      structure: which weights exist now.
      method_state: of the method.
      step: updates so far.
      key: what the method draws from.
      optimizer: static.
      method: static.
    """

    opt_state: PyTree
    structure: Any
    method_state: PyTree
    step: Int[jax.Array, ""]
    key: Key
    optimizer: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    method: BaseMethod = flax.struct.field(pytree_node=False)

    def net(self, params: Any) -> Net:
        """The network whose parameters these are."""
        return Net(params, self.structure, self.opt_state, optimizer=self.optimizer)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A gradient that was checked, and the statistics that came with it."""

    gradient: Callable[[], PyTree]
    stats: Callable[[str], Any]

    def __call__(self) -> PyTree:
        return self.gradient()


def wrap(
    optimizer: optax.GradientTransformation,
    method: BaseMethod,
    structure: PyTree,
    *,
    key: Key,
    dense_gradient: Callable[[], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Puts a method around an optimiser.

    What does not exist gets no gradient, no moment and no update. In the loop one
    more call per step, :func:`act`, lets the method change the structure::

        params, structure = jaxnet.sparsify(params, density=0.1, key=key)
        optimizer = jaxnet.wrap(optax.adam(1e-3), jaxnet.methods.make("rigl"), structure, key=key)
        state = optimizer.init(params)
        ...
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        params, state = jaxnet.act(params, state, gradient)

    Args:
      optimizer: any whose state can follow a change of structure.
      method: one of :mod:`jaxnet.methods`.
      structure: which weights exist at the start (:func:`jaxnet.sparsify`).
      key: PRNG key for what the method draws.
      dense_gradient: the gradient at the start, for methods that look at it before they
        begin (SNIP); the parameters are then to be masked by ``state.structure`` once.

    Returns:
      An optax transformation; its state is a :class:`WrapState`.

    Raises:
      ValueError: from ``init``: the optimiser's state cannot follow, or the method does not
        serve the structure.
    """

    def none() -> PyTree:
        raise ValueError(f"{type(method).__name__} looks at a gradient before it begins: give dense_gradient")

    def init(params: Any) -> WrapState:
        net, state = method.init(
            Net.of(params, structure, optimizer), dense_gradient or none, key=jax.random.fold_in(key, 0)
        )
        # copies: a step may be given the whole state to use up
        kept = jax.tree.map(jnp.copy, net.structure)
        step = jnp.zeros((), jnp.int32)
        return WrapState(net.opt_state, kept, state, step, jnp.copy(key), optimizer=optimizer, method=method)

    inner = optax.with_extra_args_support(optimizer)

    def update(gradient: T, state: WrapState, params: Any = None, **extra: Any) -> tuple[T, WrapState]:
        gradient = clear(gradient, state.structure)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = inner.update(gradient, state.opt_state, params, **extra)
        updates = clear(updates, state.structure)
        observed = method.observe(state.net(params), state.method_state, gradient)
        return updates, state.replace(opt_state=opt_state, method_state=observed, step=state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def act(
    params: T,
    state: WrapState,
    gradient: PyTree = None,
    *,
    dense_gradient: Callable[[], PyTree] | None = None,
) -> tuple[T, WrapState]:
    """Lets the method change the structure where it is due; once per step, after the update.

    Args:
      params: after the update.
      state: after the update.
      gradient: the loss's gradient of this step as ``jax.grad`` gave it.
      dense_gradient: with sparse layers, whose parameters are only the weights that exist:
        gives the gradient at all positions (:func:`jaxnet.structure.dense_gradient`);
        called where it is needed. For methods that look at hidden units it has a method
        ``stats`` (:class:`jaxnet.train.BatchView`).

    Returns:
      Parameters and state of the same shapes.

    Raises:
      ValueError: the method needs a gradient at all positions, and this is none.
    """
    method = state.method

    def dense() -> PyTree:
        given = gradient if dense_gradient is None else dense_gradient()
        shapes = {jax.tree_util.keystr(p): np.shape(leaf) for p, leaf in jax.tree.leaves_with_path(given)}
        for path, entry in entries(state.structure).items():
            if shapes.get(path) != entry.shape:
                raise ValueError(
                    f"{type(method).__name__} needs the gradient at all positions of {path}: give act the "
                    "gradient, or, with sparse layers, dense_gradient (jaxnet.structure.dense_gradient)"
                )
        return given

    asked: Callable[[], PyTree] = dense
    stats: Callable[[str], Any] | None = getattr(dense_gradient, "stats", None)
    if stats is not None:
        asked = _Asked(dense, stats)

    def change(params: T, state: WrapState) -> tuple[T, WrapState]:
        key = jax.random.fold_in(state.key, state.step)
        net, method_state, _ = method.update(
            state.net(params), state.method_state, asked, state.step, key=key
        )
        changed = state.replace(opt_state=net.opt_state, structure=net.structure, method_state=method_state)
        return net.params, changed

    return jax.lax.cond(method.due(state.step), change, lambda *same: same, params, state)
