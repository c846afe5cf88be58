"""Sparse parameters for any model: masks over the arrays it has, nothing of the model is touched."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.allocation import allocate_arrays
from jaxnet.masks import constant_fan_in_topology, uniform_topology
from jaxnet.topology import Mask, topology_mask
from jaxnet.types import Array, Bool, Key

T = TypeVar("T")

Include = Callable[[str, Array], bool] | Sequence[str]
"""Which leaves: ``include(name, leaf)``, or names and patterns such as ``"*/kernel"``."""


def sparsify(
    params: T, *, density: float, allocation: str = "uniform", include: Include | None = None, key: Key
) -> tuple[T, T]:
    """Draws which weights of a model exist, and zeros the others.

    Works on the parameters of any model: the collection ``params`` of Flax linen,
    a state of ``flax.nnx.split``, an Equinox module, or any other tree. The model
    is applied as it is: a weight that does not exist is exactly zero, and
    :func:`jaxnet.wrap` keeps it so.

    >>> kernel = jnp.ones((20, 10))
    >>> params, structure = sparsify(
    ...     {"kernel": kernel, "bias": jnp.ones(10)}, density=0.1, key=jax.random.key(0)
    ... )
    >>> int((params["kernel"] != 0).sum()), structure["bias"] is None
    (20, True)

    Args:
      params: the parameters.
      density: fraction of the weights that exist, of all that are included, in (0, 1].
      allocation: how it is shared out; see :func:`jaxnet.allocation.allocate_arrays`.
        Arrays are taken as ``(..., in, out)``, as Flax has them.
      include: which leaves are weights to be masked; floating-point arrays with
        two axes or more by default. A name is the path with slashes
        (``Dense_0/kernel``); ``*`` matches anything.
      key: PRNG key; array ``n`` uses ``fold_in(key, n)``.

    Returns:
      The parameters with zeros where no weight exists, and the structure: the
      same tree with a :class:`~jaxnet.topology.Mask` for every weight that is
      masked and ``None`` for every other leaf.

    Raises:
      ValueError: no leaf is included, a name is no leaf's, one of them is no array with two
        axes or more, or the density or allocation cannot be drawn.
    """
    leaves = jax.tree.leaves_with_path(params)
    names = [leaf_name(path) for path, _ in leaves]
    arrays = [leaf for _, leaf in leaves]
    chosen = _included(names, arrays, include)
    counts = allocate_arrays([np.shape(arrays[i]) for i in chosen], density, allocation)
    values, entries = list(arrays), [None] * len(arrays)
    for number, (i, count) in enumerate(zip(chosen, counts, strict=True)):
        mask = _draw(np.shape(arrays[i]), count, allocation, jax.random.fold_in(key, number))
        values[i] = jnp.where(mask, arrays[i], jnp.zeros((), arrays[i].dtype))
        entries[i] = Mask(mask)  # type: ignore[call-overload]
    tree: Any = jax.tree.structure(params)
    return tree.unflatten(values), tree.unflatten(entries)


def leaf_name(path: Any) -> str:
    """A path as a user writes it: ``Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _included(names: Sequence[str], arrays: Sequence[Any], include: Include | None) -> list[int]:
    def is_weight(array: Any) -> bool:
        return np.ndim(array) >= 2 and jnp.issubdtype(jnp.result_type(array), jnp.floating)

    if include is None:
        chosen = [i for i, array in enumerate(arrays) if is_weight(array)]
    elif callable(include):
        chosen = [i for i, array in enumerate(arrays) if include(names[i], array)]
    else:
        for pattern in include:
            if not fnmatch.filter(names, pattern):
                raise ValueError(f"no parameter is called {pattern!r}: they are {', '.join(names)}")
        chosen = [i for i, name in enumerate(names) if any(fnmatch.fnmatch(name, p) for p in include)]
    if not chosen:
        raise ValueError(f"no weight is included: the parameters are {', '.join(names) or 'none'}")
    for i in chosen:
        if not is_weight(arrays[i]):
            shape = np.shape(arrays[i])
            raise ValueError(f"{names[i]} of shape {shape} is no array of weights with two axes or more")
    return chosen


def _draw(shape: tuple[int, ...], count: int, allocation: str, key: Key) -> Bool[Array, "..."]:
    fan_in = int(np.prod(shape[:-1]))
    if allocation == "constant-fan-in":
        topology = constant_fan_in_topology(shape[-1], fan_in, count // shape[-1], key_mask=key)
        return topology_mask(topology).T.reshape(shape)
    return topology_mask(uniform_topology(fan_in, shape[-1], count, key_mask=key)).reshape(shape)
