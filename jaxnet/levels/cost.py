"""What an arm costs: parameters, products, memory; and the width at which it has as many parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from jax.extend import core

from jaxnet import transformer, trees
from jaxnet.transformer import Decoder, Spec

NEAR = 0.01
"""Numbers of parameters that differ by no more than this share count as equal."""


def num_params(module: flax.linen.Module) -> int:
    """How many parameters a module of tokens has; nothing is computed."""
    if type(module) is Decoder:  # known, and asked for often
        return transformer.num_params(module.spec)
    shapes: Any = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    return trees.count(shapes["params"])


def matched(module: Callable[[Spec], flax.linen.Module], spec: Spec, target: int) -> Spec:
    """The spec with another width and perceptron, at which the module has ``target`` parameters.

    It stays as it is where it has so many already, within :data:`NEAR`.
    Of widths that the heads allow the one is taken at which the perceptron is most nearly as wide, relative
    to the stream, as it was asked for; it takes up what is left.

    Raises:
      ValueError: no width comes within :data:`NEAR` of it.
    """
    asked, step = spec.hidden_width / spec.width, 2 * spec.heads
    known = dict[tuple[int, int], int]()

    def count(width: int, hidden: int) -> int:
        if (width, hidden) not in known:
            known[width, hidden] = num_params(module(sized(spec, width, hidden)))
        return known[width, hidden]

    if abs(count(spec.width, spec.hidden_width) / target - 1) <= NEAR:
        return spec
    # parameters grow about as the square of the width
    guess = spec.width * math.sqrt(target / count(spec.width, spec.hidden_width))
    near = max(step, round(guess / step) * step)
    best, distance = None, math.inf
    for width in sorted({max(step, near + k * step) for k in (-1, 0, 1)}):
        start = max(1, round(asked * width))
        slope = count(width, start + 1) - count(width, start)
        hidden = start + round((target - count(width, start)) / slope) if slope else start
        if hidden < 1 or abs(count(width, hidden) / target - 1) > NEAR:
            continue
        if (away := abs(math.log(hidden / width / asked))) < distance:
            best, distance = sized(spec, width, hidden), away
    if best is None:
        raise ValueError(
            f"no width has {target} parameters within {100 * NEAR:g} %: at {near} and {round(asked * near)} "
            f"in the perceptron there are {count(near, round(asked * near))}"
        )
    return best


def sized(spec: Spec, width: int, hidden: int) -> Spec:
    """The spec with other widths."""
    return dataclasses.replace(spec, width=width, hidden=hidden)


def matmul_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of the matrix products and convolutions of a function, two per product.

    Read from the program (``jax.make_jaxpr``): a scan counts as often as it is long, of alternatives
    (``cond``) the dearest. What is not a product of matrices counts nothing.

    Raises:
      ValueError: there are products in a loop of unknown length (``while``).

    >>> matmul_flops(lambda a, b: a @ b, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (left, _), _ = params["dimension_numbers"]
            summed = math.prod(_shape(equation.invars[0])[axis] for axis in left)
            total += 2 * math.prod(_shape(equation.outvars[0])) * summed
        elif name == "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(out) * math.prod(kernel) // features
        else:
            inner = [_flops(one) for one in _within(params)]
            if name == "while" and any(inner):
                raise ValueError("there are matrix products in a loop of unknown length: use a scan")
            if name in ("cond", "platform_index"):
                total += max(inner, default=0)
            else:
                total += params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)
    return total


def _shape(atom: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = atom.aval.shape
    return shape


def _within(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an equation calls; not the rules for its derivatives."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def kept_bytes(loss: Callable[[Any], Any], params: Any) -> int:
    """Bytes that a forward pass keeps for the backward one, without the parameters; nothing is computed.

    As the program is written: what the compiler fuses or computes again is not known to it.

    >>> kept_bytes(lambda w: jnp.sum(jnp.sin(w)), jnp.ones(3))  # the cosine
    12
    """
    jaxpr = jax.make_jaxpr(lambda values: jax.tree.leaves(jax.vjp(loss, values)[1]))(params).jaxpr
    given = {id(atom) for atom in (*jaxpr.invars, *jaxpr.constvars)}
    made = {id(atom): atom for atom in jaxpr.outvars if not isinstance(atom, core.Literal)}
    shapes: list[Any] = [atom.aval for name, atom in made.items() if name not in given]
    return sum(math.prod(one.shape) * one.dtype.itemsize for one in shapes)
