"""Any model's convolutions and poolings, computed by the forms that are fast inside loops on a CPU.

Flax, Equinox and most programs write a convolution as ``lax.conv_general_dilated`` and a pooling as
``lax.reduce_window``, whose gradients are many times slower in a ``lax.scan`` than outside of it on a CPU
(:mod:`jaxnet.nn.convolution`). :func:`fast_in_loops` changes nothing in a model: it reads what the model
computes, and computes the same with :func:`jaxnet.nn.conv` and :func:`jaxnet.nn.max_pool` in their places.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import primitives

from jaxnet.nn.convolution import conv
from jaxnet.nn.pool import max_pool

CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""Images ``(batch, height, width, in)``, kernels ``(height, width, in, out)``, as Flax has them."""


def fast_in_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, with convolutions and max poolings that train fast in loops on a CPU.

    Replaced are convolutions of images with the channels last, in one group, and max poolings of such
    images; whatever else the function does, and convolutions within its own loops, stay as they are.
    What is replaced can be differentiated backwards only.

    >>> import flax.linen
    >>> layer, x = flax.linen.Conv(4, (3, 3)), jax.numpy.ones((2, 8, 8, 3))
    >>> params = layer.init(jax.random.key(0), x)
    >>> fast = fast_in_loops(layer.apply)
    >>> bool(jax.numpy.allclose(fast(params, x), layer.apply(params, x), atol=1e-6))
    True
    """

    @functools.wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Any:
        closed, shapes = jax.make_jaxpr(functools.partial(function, **kwargs), return_shape=True)(*args)
        flat = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        tree: Any = jax.tree.structure(shapes)
        return tree.unflatten(flat)

    return computed


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of a program, equation by equation."""
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        known |= zip(equation.outvars, _outputs(equation, inputs), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive is primitives.conv_general_dilated_p and _is_fast_convolution(params, inputs):
        steps, gaps = params["window_strides"], params["rhs_dilation"]
        return [conv(*inputs, strides=steps, padding=params["padding"], dilation=gaps)]
    if primitive is primitives.reduce_window_max_p and _is_fast_pooling(params, inputs):
        size, steps = params["window_dimensions"][1:3], params["window_strides"][1:3]
        return [max_pool(inputs[0], size, steps, padding=params["padding"][1:3])]
    if primitive is primitives.jit_p and _has_any(params["jaxpr"].jaxpr):
        inner: core.ClosedJaxpr = params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    bound = primitive.get_bind_params(params)
    functions, rest = bound if isinstance(bound, tuple) else ((), bound)  # older and newer JAX
    found = primitive.bind(*functions, *inputs, **rest)
    return found if primitive.multiple_results else [found]


def _is_fast_convolution(params: dict[str, Any], inputs: Sequence[Any]) -> bool:
    plain = params["feature_group_count"] == params["batch_group_count"] == 1
    dense = all(n == 1 for n in params["lhs_dilation"])
    same = inputs[0].dtype == inputs[1].dtype and params["preferred_element_type"] in (None, inputs[0].dtype)
    return plain and dense and same and tuple(params["dimension_numbers"]) == CHANNELS_LAST


def _is_fast_pooling(params: dict[str, Any], inputs: Sequence[Any]) -> bool:
    dense = all(n == 1 for name in ("base_dilation", "window_dilation") for n in params[name])
    ends = [params[name][k] for name in ("window_dimensions", "window_strides") for k in (0, -1)]
    sides = [params["padding"][k] for k in (0, -1)]
    floating = jax.numpy.issubdtype(inputs[0].dtype, jax.numpy.floating)
    images = inputs[0].ndim == 4 and ends == [1] * 4 and sides == [(0, 0)] * 2
    return bool(dense and images and floating)


def _has_any(jaxpr: core.Jaxpr) -> bool:
    """Whether there is anything to replace in a program, within the programs it calls too."""
    replaced = (primitives.conv_general_dilated_p, primitives.reduce_window_max_p)
    return any(
        equation.primitive in replaced
        or (equation.primitive is primitives.jit_p and _has_any(equation.params["jaxpr"].jaxpr))
        for equation in jaxpr.eqns
    )
