"""Convolutions that train fast inside loops on a CPU.

XLA's CPU backend has one fast convolution: images ``(batch, height, width, in)`` and kernels
``(height, width, in, out)``. A convolution of another form is brought to this one at the top level of a
program, but not inside a loop (https://github.com/jax-ml/jax/issues/12868), and the gradients of a
convolution have other forms: a training step is many times slower in a ``lax.scan`` than outside. Here
the gradients are written so that nothing has to be brought into form: the gradient of the input as one
more convolution of the fast form, that of the kernel as a matrix product over shifted slices of the
images, a few images at a time. Under ``vmap`` the networks take turns, each on all processors: XLA has
no fast form for many kernels at once. On other platforms XLA computes everything as it always does; a
program is made for the platform that it is compiled for.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from jaxnet.types import Array, Float

Images = Float[Array, "batch height width in"]
"""Images or feature maps, channels last."""

Kernel = Float[Array, "kernel_height kernel_width in out"]
"""Weights of a convolution, in Flax's order."""

Padding = str | int | Sequence[tuple[int, int]]
"""``"SAME"``, ``"VALID"``, one number for all sides, or ``((above, below), (left, right))``."""

Pair = tuple[int, int]

COLUMN_BYTES = 1 << 19
"""The slices that are multiplied at once by the gradient of a kernel: they should stay in the cache."""

FEW_IN, FEW_OUT = 6, 16
"""Channels up to which XLA's convolution takes longer to lay out its input than to compute."""


def conv(
    x: Images,
    kernel: Kernel,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Images:
    """A batch of images convolved with a kernel, in the full precision of its type on every platform.

    The same function as ``lax.conv_general_dilated``. It can be differentiated backwards any number of
    times, but not forwards (``jax.jvp``).

    Args:
      x: ``(batch, height, width, in)``.
      kernel: ``(kernel height, kernel width, in, out)``.
      strides: steps of the window, one number or ``(down, right)``.
      padding: zeros around the images, see :data:`Padding`; negative numbers crop.
      dilation: distance between neighbouring entries of the kernel, one number or ``(down, right)``.

    Returns:
      ``(batch, height', width', out)``.

    Raises:
      ValueError: the arrays do not fit (groups of channels are not supported), or a number is out of range.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"images {x.shape} and kernel {kernel.shape} do not fit: they must be (batch, height, width, in) "
            "and (kernel height, kernel width, in, out); groups of channels are not supported"
        )
    steps, gaps = pair(strides, "strides"), pair(dilation, "dilation")
    reach = (_dilated(kernel.shape[0], gaps[0]), _dilated(kernel.shape[1], gaps[1]))
    pads = resolve_padding(padding, (x.shape[1], x.shape[2]), reach, steps)
    return _compiled(_Window(steps, pads, (1, 1), gaps), x, kernel)


def pair(value: int | Sequence[int], what: str) -> Pair:
    """One number for both axes, or one for each.

    Raises:
      ValueError: not one or two numbers from 1 up.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or min(both) < 1:
        raise ValueError(f"{what} must be one number or two, 1 or more: {value}")
    return both


def resolve_padding(padding: Padding, size: Pair, window: Pair, strides: Pair) -> tuple[Pair, Pair]:
    """The rows and columns that are added before and after, for images of ``size``.

    Raises:
      ValueError: see :data:`Padding`.
    """
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"unknown padding {padding!r}: SAME, VALID, a number, or two pairs of numbers")
        padding = lax.padtype_to_pads(size, window, strides, padding)
    pads = [tuple(int(n) for n in sides) for sides in padding]
    if [len(sides) for sides in pads] != [2, 2]:
        raise ValueError(f"padding must be two pairs of numbers: {padding}")
    (above, below), (left, right) = pads
    return (above, below), (left, right)


class _Window(NamedTuple):
    """How a kernel moves over images (static); each entry is for (height, width)."""

    strides: Pair
    padding: tuple[Pair, Pair]
    input_dilation: Pair  # zeros come between the pixels: the gradient of strides
    kernel_dilation: Pair

    def transposed(self, size: Pair, kernel: Pair, out: Pair) -> _Window:
        """The window that takes the gradient of an output of ``out`` pixels to the input of ``size``."""
        pads = []
        for axis in (0, 1):
            reach = _dilated(kernel[axis], self.kernel_dilation[axis])
            before = reach - 1 - self.padding[axis][0]
            length = _dilated(size[axis], self.input_dilation[axis])
            # so that each pixel of the input is met once
            after = length + reach - 1 - _dilated(out[axis], self.strides[axis]) - before
            pads.append((before, after))
        return _Window(self.input_dilation, (pads[0], pads[1]), self.strides, self.kernel_dilation)


def _dilated(length: int, dilation: int) -> int:
    return max(0, (length - 1) * dilation + 1)


def _xla(window: _Window, x: Array, kernel: Array) -> Array:
    """What XLA makes of it; on CPUs this is the fast form."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation=window.input_dilation,
        rhs_dilation=window.kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def _on_cpu(window: _Window, x: Array, kernel: Array) -> Array:
    """XLA's fast form or, for a first layer of few channels, twice as fast, a product for every image."""
    size, features = (kernel.shape[0], kernel.shape[1]), kernel.shape[3]
    shape = jax.eval_shape(functools.partial(_xla, window), x, kernel).shape
    if x.shape[3] > FEW_IN or features > FEW_OUT or 0 in shape:
        return _xla(window, x, kernel)

    def one(image: Array) -> Array:
        columns = jnp.concatenate(_slices(window, size, image[None], shape[1:3]), axis=3)
        return _dot(columns.reshape(-1, math.prod(kernel.shape[:3])), kernel.reshape(-1, features))

    return lax.map(one, x).reshape(shape).astype(x.dtype)


# Whatever takes turns under vmap stands within a rule of differentiation, because a loop over networks
# (`sequential_vmap`) has none of its own; the rules use each other, so that any order is right.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: _Window, x: Array, kernel: Array) -> Array:
    cpu, plain = functools.partial(_on_cpu, window), functools.partial(_xla, window)
    return _by_platform(sequential_vmap(cpu), plain, x, kernel)


def _conv_forward(window: _Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(window, x, kernel), (x, kernel)


def _conv_backward(window: _Window, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def input_as_xla(gradient: Array, kernel: Array) -> Array:
        of_x: Array = jax.linear_transpose(lambda x: _xla(window, x, kernel), x)(gradient)[0]
        return of_x

    def kernel_as_xla(x: Array, gradient: Array) -> Array:
        of_kernel: Array = jax.linear_transpose(lambda k: _xla(window, x, k), kernel)(gradient)[0]
        return of_kernel

    # one choice for each: the gradient of data that nobody wants is then not computed
    by_hand = functools.partial(_input_gradient, window, (x.shape[1], x.shape[2]))
    of_x = _by_platform(by_hand, input_as_xla, gradient, kernel)
    by_hand = functools.partial(_kernel_gradient, window, kernel.shape[:2])
    return of_x, _by_platform(by_hand, kernel_as_xla, x, gradient)


_conv.defvjp(_conv_forward, _conv_backward)

# called outside of a program, a loop over networks would be compiled at every call
_compiled = jax.jit(_conv, static_argnums=0)


def _by_platform(cpu: Callable[..., Array], other: Callable[..., Array], *arguments: Array) -> Array:
    out: Array = lax.platform_dependent(*arguments, cpu=cpu, default=other)
    return out


def _input_gradient(window: _Window, size: Pair, gradient: Array, kernel: Array) -> Array:
    height, width = kernel.shape[:2]
    back = window.transposed(size, (height, width), (gradient.shape[1], gradient.shape[2]))
    return _conv(back, gradient, kernel[::-1, ::-1].swapaxes(2, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _kernel_gradient(window: _Window, size: Pair, x: Array, gradient: Array) -> Array:
    return sequential_vmap(functools.partial(_column_product, window, size))(x, gradient)


def _kernel_gradient_forward(
    window: _Window, size: Pair, x: Array, gradient: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _kernel_gradient(window, size, x, gradient), (x, gradient)


def _kernel_gradient_backward(
    window: _Window, size: Pair, saved: tuple[Array, Array], kernel: Array
) -> tuple[Array, Array]:
    x, gradient = saved
    return _input_gradient(window, (x.shape[1], x.shape[2]), gradient, kernel), _conv(window, x, kernel)


_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def _column_product(window: _Window, size: Pair, x: Array, gradient: Array) -> Array:
    """Gradient of a kernel of ``size``: the pixels under each of its entries times the output's gradient."""
    batch, height, width, features = gradient.shape
    channels = x.shape[3]

    def product(x: Array, gradient: Array) -> Array:
        slices = [jnp.moveaxis(part, 3, 0) for part in _slices(window, size, x, (height, width))]
        # (kernel entry * in, batch * pixel), faster than its transpose, and (batch * pixel, out)
        columns = jnp.concatenate(slices).reshape(math.prod(size) * channels, -1)
        return _dot(columns, gradient.reshape(-1, features))

    image = height * width * math.prod(size) * channels * x.dtype.itemsize
    parts = -(-batch // max(1, COLUMN_BYTES // max(1, image)))
    if parts <= 1:
        total = product(x, gradient)
    else:
        each = batch // parts
        whole = parts * each
        stacked = [a[:whole].reshape(parts, each, *a.shape[1:]) for a in (x, gradient)]
        zero = jnp.zeros((math.prod(size) * channels, features), _sums(x.dtype))
        total, _ = lax.scan(lambda total, part: (total + product(*part), None), zero, stacked)
        if whole < batch:
            total += product(x[whole:], gradient[whole:])
    return total.reshape(*size, channels, features).astype(x.dtype)


def _sums(dtype: jnp.dtype) -> jnp.dtype:
    """Half precision is summed in single."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _dot(a: Array, b: Array) -> Array:
    """A product of matrices, summed in :func:`_sums` of their type."""
    return lax.dot(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=_sums(a.dtype))


def _slices(window: _Window, size: Pair, x: Array, out: Pair) -> list[Array]:
    """For each entry of the kernel the pixels that it meets, ``(batch, *out, in)``."""
    sides = [(*pads, gap - 1) for pads, gap in zip(window.padding, window.input_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    ends = [_dilated(length, step) for length, step in zip(out, window.strides, strict=True)]
    return [
        lax.slice(
            x, (0, i, j, 0), (x.shape[0], i + ends[0], j + ends[1], x.shape[3]), (1, *window.strides, 1)
        )
        for i, j in itertools.product(
            *(range(0, n * d, d) for n, d in zip(size, window.kernel_dilation, strict=True))
        )
    ]
