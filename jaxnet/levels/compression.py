"""Smaller decoders: learned masks and linear bottlenecks, beside magnitude and refit.

All of them take a trained decoder's parameters and what its layers see of some text, and give parameters of
the same shapes. Those of a bottleneck have a low rank instead of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnet.linalg import eigh, solve, times
from jaxnet.transformer import Linear
from jaxnet.types import Array, Bool, Float, PyTree, Scalar

Path = tuple[str, ...]
Grams = dict[Path, Float[Array, "in in"]]
"""Of every linear layer of the blocks: the mean of ``x x^T`` over its inputs ``x``."""

Masks = dict[Path, Bool[Array, "in out"]]
"""Of every such layer: which weights stay."""

HIDDEN = 8
"""Units of the predictor of masks."""

SOFT = 0.5
"""Width, in logarithms of the score, in which the gradient sees a mask that is not sharp."""


def grams(module: flax.linen.Module, params: Any, tokens: Any) -> Grams:
    """What the linear layers of the blocks see of ``(batch, time)`` tokens."""
    found: Grams = {}

    def record(following: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, Linear) and context.method_name == "__call__":
            path = (*context.module.path, "kernel")
            if path[0].startswith("block_"):
                x = args[0].reshape(-1, args[0].shape[-1])
                found[path] = times(x.T, x) / x.shape[0]
        return following(*args, **kwargs)

    with flax.linen.intercept_methods(record):
        module.apply({"params": params}, tokens)
    return found


def kernels(params: Any, seen: Grams) -> dict[Path, Float[Array, "in out"]]:
    """The weights of these layers."""
    flat = flatten_dict(params)
    return {path: flat[path] for path in seen}


def replaced(params: Any, new: dict[Path, Array]) -> Any:
    """The parameters with other weights in some layers."""
    return unflatten_dict({**flatten_dict(params), **new})


def count(shape: tuple[int, ...], ratio: float) -> int:
    """How many weights of a layer stay, of which a share goes."""
    return max(1, int((1 - ratio) * shape[0] * shape[1] + 1e-4))


def largest(scores: Float[Array, "in out"], ratio: float) -> Bool[Array, "in out"]:
    """The weights of a layer with the largest scores; of equal ones the earlier."""
    order = jnp.argsort(-scores.ravel(), stable=True)[: count(scores.shape, ratio)]
    return jnp.zeros(scores.size, bool).at[order].set(True).reshape(scores.shape)


def by_magnitude(params: Any, seen: Grams, ratio: float) -> Masks:
    """The largest weights of every layer stay."""
    return {path: largest(jnp.abs(w), ratio) for path, w in kernels(params, seen).items()}


def masked(params: Any, masks: Masks) -> Any:
    """The parameters with zeros where a mask says so."""
    return replaced(params, {p: jnp.where(m, flatten_dict(params)[p], 0) for p, m in masks.items()})


def refitted(params: Any, masks: Masks, seen: Grams, ridge: float = 1e-3) -> Any:
    """What stays learns by least squares to give what the whole layer gave, output by output.

    ``min E|x (w' - w)|^2 + r |w' - w|^2`` over the weights that stay, ``r`` the ridge times the mean square
    of an input. As :func:`jaxnet.compress.refit_layer`, without a bias, from moments alone.
    """
    new = {}
    for path, w in kernels(params, seen).items():
        gram = seen[path]
        gram = gram + ridge * jnp.trace(gram) / len(gram) * jnp.eye(len(gram), dtype=gram.dtype)

        def one(kept_and_wanted: tuple[Array, Array], gram: Array = gram) -> Array:
            kept, wanted = kept_and_wanted
            both = kept[:, None] & kept[None]
            system = jnp.where(both, gram, 0) + jnp.diag(jnp.where(kept, 0, 1).astype(gram.dtype))
            return solve(system, jnp.where(kept, wanted, 0)[:, None])[:, 0]

        new[path] = jax.lax.map(one, (masks[path].T, times(gram, w).T)).T
    return replaced(params, new)


def bottleneck(params: Any, seen: Grams, ratio: float) -> Any:
    """Every layer through as few units as have no more weights: the best for what it gives on the text.

    ``W U U^T`` with the ``r`` leading eigenvectors ``U`` of ``W^T E[x x^T] W``, and ``r (in + out)`` at most
    the weights that would stay: it is the nearest map of that rank in what comes out, ``E|x (W' - W)|^2``.
    """
    new = {}
    for path, w in kernels(params, seen).items():
        rank = max(1, count(w.shape, ratio) // sum(w.shape))
        _, vectors = eigh(times(w.T, seen[path], w))
        top = vectors[:, -rank:]
        new[path] = times(w, top, top.T)
    return replaced(params, new)


def features(params: Any, seen: Grams, slopes: PyTree) -> dict[Path, Float[Array, "in out 3"]]:
    """What a predictor knows of a weight: its size, that of its input, what its removal would cost linearly.

    Logarithms, each less its mean over the layer; ``slopes`` is the gradient of a loss.
    """
    flat, found = flatten_dict(slopes), {}
    for path, w in kernels(params, seen).items():
        size = jnp.broadcast_to(jnp.sqrt(jnp.diag(seen[path]))[:, None], w.shape)
        parts = [jnp.log(jnp.abs(part) + 1e-12) for part in (w, size, w * flat[path])]
        found[path] = jnp.stack([part - jnp.mean(part) for part in parts], -1)
    return found


def predictor(key: Any) -> PyTree:
    """A predictor of one hidden layer, the same for all weights; it begins as ``|w| sqrt(E x^2)`` (Wanda)."""
    first = jax.random.normal(key, (3, HIDDEN)) / jnp.sqrt(3.0)
    return {
        "first": first,
        "bias": jnp.zeros(HIDDEN),
        "last": jnp.zeros(HIDDEN),
        "plain": jnp.array([1.0, 1.0, 0.0]),
    }


def scores(made: PyTree, feature: Float[Array, "in out 3"]) -> Float[Array, "in out"]:
    """What a predictor says of the weights of a layer: more is more important."""
    hidden = jnp.tanh(times(feature, made["first"]) + made["bias"])
    return times(hidden, made["last"]) + times(feature, made["plain"])


def learned_masks(
    loss: Callable[[Any, Any], Scalar],
    params: Any,
    seen: Grams,
    ratio: float,
    batches: Any,
    key: Any,
    rate: float = 0.01,
) -> Masks:
    """Masks by a predictor that learns from the loss of the masked decoder, whose weights stay as they are.

    The mask is sharp, the largest scores of every layer; its gradient is that of a soft one (straight
    through, Bengio et al. 2013). Learned are the few numbers of :func:`predictor`.

    Args:
      loss: ``(params, batch) -> scalar``.
      params: of the trained decoder.
      seen: of :func:`grams`.
      ratio: of the weights of every layer that go.
      batches: a batch per step, leaves ``(step, ...)``; the features come from the first.
      key: decides the predictor at first.
      rate: of Adam.
    """
    slopes = jax.grad(loss)(params, jax.tree.map(lambda leaf: leaf[0], batches))
    known = features(params, seen, slopes)
    weights, adam, made = kernels(params, seen), optax.adam(rate), predictor(key)

    def through(made: PyTree, path: Path) -> Array:
        said = scores(made, known[path])
        hard = largest(jax.lax.stop_gradient(said), ratio)
        edge = jnp.min(jnp.where(hard, jax.lax.stop_gradient(said), jnp.inf))
        soft = jax.nn.sigmoid((said - edge) / SOFT)
        return hard + soft - jax.lax.stop_gradient(soft)

    def step(carry: Any, batch: Any) -> Any:
        made, state = carry

        def cost(made: PyTree) -> Scalar:
            return loss(
                replaced(params, {path: w * through(made, path) for path, w in weights.items()}), batch
            )

        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(jax.grad(cost)(made), state)
        return (optax.apply_updates(made, updates), state), None

    (made, _), _ = jax.lax.scan(step, (made, adam.init(made)), batches)
    return {path: largest(scores(made, feature), ratio) for path, feature in known.items()}
