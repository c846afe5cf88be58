"""Convolutions: XLA's own as the reference for values and gradients, vmap, loops, programs for GPUs too."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxnet import trees
from jaxnet.nn import conv, convolution


def reference(x, kernel, *, strides=(1, 1), padding: Any = "SAME", dilation=(1, 1)):
    """XLA's convolution and its own gradients."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def value_and_gradients(function, x, kernel, **options):
    """The output and the gradients of the sum of its sines: every output has a gradient of its own."""

    def loss(x, kernel):
        y = function(x, kernel, **options)
        return jnp.sum(jnp.sin(y)), y

    (of_x, of_kernel), y = jax.grad(loss, (0, 1), has_aux=True)(x, kernel)
    return {"y": y, "x": of_x, "kernel": of_kernel}


def draw(key, x_shape, kernel_shape, dtype: Any = jnp.float32):
    key_x, key_kernel = jax.random.split(key)
    return jax.random.normal(key_x, x_shape, dtype), jax.random.normal(key_kernel, kernel_shape, dtype)


def assert_close(got, wanted, tolerance):
    for name in wanted:
        scale = max(1.0, np.abs(np.asarray(wanted[name])).max(initial=0.0))
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=tolerance * scale, err_msg=name)


def test_a_3x3_kernel_by_hand():
    x = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.zeros((3, 3, 1, 2), np.float32)
    kernel[1, 1, 0, 0] = 1.0  # the first output is the image
    kernel[0, 2, 0, 1] = 10.0  # the second ten times the pixel above to the right
    y = np.asarray(conv(jnp.asarray(x), jnp.asarray(kernel)))
    assert y[0, :, :, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert y[0, :, :, 1].tolist() == [[0, 0, 0], [10, 20, 0], [40, 50, 0]]
    # where all outputs count alike, an entry of the kernel gets the sum of the pixels that it meets
    of_kernel = jax.grad(lambda k: jnp.sum(conv(jnp.asarray(x), k)))(jnp.asarray(kernel))
    assert np.asarray(of_kernel)[:, :, 0, 0].tolist() == [[8, 15, 12], [21, 36, 27], [20, 33, 24]]
    # and a pixel the sum of the entries that meet it
    of_x = jax.grad(lambda x: jnp.sum(conv(x, jnp.asarray(kernel))))(jnp.asarray(x))
    assert np.asarray(of_x)[0, :, :, 0].tolist() == [[1, 11, 11], [1, 11, 11], [1, 1, 1]]


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
sides = st.tuples(st.integers(-1, 3), st.integers(-1, 3))


@settings(max_examples=6)
@given(
    batch=st.integers(1, 7),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    channels=st.sampled_from([1, 3, 5]),  # of five XLA computes the output
    kernel=pairs,
    features=st.integers(1, 3),
    strides=pairs,
    dilation=pairs,
    padding=st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(sides, sides)),
    column_bytes=st.sampled_from([1, 3000, 1 << 20]),
)
def test_values_and_gradients_are_xlas(
    batch, size, channels, kernel, features, strides, dilation, padding, column_bytes
):
    if padding == "VALID":  # a window wider than the image has no output
        size = tuple(max(n, (k - 1) * d + 1) for n, k, d in zip(size, kernel, dilation, strict=True))
    if isinstance(padding, tuple):
        size = tuple(
            max(n, (k - 1) * d + 1 - sum(p))
            for n, k, d, p in zip(size, kernel, dilation, padding, strict=True)
        )
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    with jax.enable_x64(True), mock.patch.object(convolution, "COLUMN_BYTES", column_bytes):
        arrays = draw(jax.random.key(1), (batch, *size, channels), (*kernel, channels, features), jnp.float64)

        def both(x, kernel):
            return [value_and_gradients(f, x, kernel, **options) for f in (conv, reference)]

        own, xla = jax.jit(both)(*arrays)
    assert_close(own, xla, 1e-12)


def test_gradients_of_gradients_are_xlas(key):
    arrays = draw(key, (2, 7, 6, 2), (3, 2, 2, 3))
    options = {"strides": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}

    def second(function, x, kernel):
        def norm(x, kernel):
            found = value_and_gradients(function, x, kernel, **options)
            return jnp.sum(found["x"] ** 2) + jnp.sum(jnp.cos(found["kernel"]))

        return dict(zip(("x", "kernel"), jax.grad(norm, (0, 1))(x, kernel), strict=True))

    own, xla = (jax.jit(functools.partial(second, f))(*arrays) for f in (conv, reference))
    assert_close(own, xla, 1e-5)


@pytest.mark.parametrize("shared", ["nothing", "x", "kernel"])
def test_many_networks_are_each_alone(shared, key):
    xs, kernels = draw(key, (3, 4, 6, 5, 2), (3, 3, 3, 2, 4))
    axes = (None if shared == "x" else 0, None if shared == "kernel" else 0)
    step = functools.partial(value_and_gradients, conv, strides=2)
    together = jax.jit(jax.vmap(step, axes))(
        xs[0] if shared == "x" else xs, kernels[0] if shared == "kernel" else kernels
    )
    alone = jax.jit(step)
    for i in range(3):
        one = alone(xs[0 if shared == "x" else i], kernels[0 if shared == "kernel" else i])
        assert_close(trees.take(together, i), one, 1e-6)


def train(function, kernel, images):
    """Gradient descent on one batch after another, in a scan."""

    def step(kernel, x):
        found = value_and_gradients(function, x, kernel)
        return kernel - 0.01 * found["kernel"], jnp.sum(found["y"])

    return lax.scan(step, kernel, images)


def test_training_in_a_scan_is_xlas(key):
    images, kernel = draw(key, (4, 3, 6, 6, 2), (3, 3, 2, 3))
    own, xla = (jax.jit(functools.partial(train, f))(kernel, images)[0] for f in (conv, reference))
    assert_close({"kernel": own}, {"kernel": xla}, 1e-5)


def test_on_a_cpu_no_convolution_is_of_another_form_than_the_fast_one(key):
    """What a loop would compute slowly: see the module's docstring."""
    images, kernel = draw(key, (2, 3, 6, 6, 8), (2, 3, 3, 8, 4))
    many = jax.jit(jax.vmap(functools.partial(train, conv), (0, None)))
    text = many.lower(kernel, images).as_text(dialect="hlo")
    lines = [line for line in text.splitlines() if " convolution(" in line]
    assert lines and all("dim_labels=b01f_01io->b01f" in line for line in lines)
    assert not any("feature_group_count" in line or "batch_group_count" in line for line in lines)


@pytest.mark.parametrize("platforms", [["cuda"], ["cpu", "cuda"]])
def test_one_program_for_each_platform_or_for_both(platforms, key):
    images, kernel = draw(key, (2, 3, 6, 6, 2), (2, 3, 3, 2, 4))
    many = jax.jit(jax.vmap(functools.partial(train, conv), (0, None)))
    exported = jax.export.export(many, platforms=platforms)(kernel, images)
    assert exported.platforms == tuple(platforms)
    # for CUDA it has the gradient of the kernel that XLA makes: a convolution of another form
    assert "dim_numbers = [f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]" in exported.mlir_module()
    if "cpu" in platforms:
        assert trees.equal(exported.call(kernel, images), many(kernel, images))


def test_half_precision_is_summed_in_single(key):
    x, kernel = draw(key, (300, 4, 4, 1), (1, 1, 1, 1), jnp.bfloat16)
    of_kernel = jax.grad(lambda k: jnp.sum(conv(x, k)))(kernel)
    assert of_kernel.dtype == jnp.bfloat16
    assert float(of_kernel[0, 0, 0, 0]) == pytest.approx(np.asarray(x, np.float64).sum(), rel=0.01)


def test_wrong_calls_say_what_fits():
    x, kernel = jnp.zeros((1, 5, 5, 4)), jnp.zeros((3, 3, 2, 6))
    with pytest.raises(ValueError, match="groups of channels are not supported"):
        conv(x, kernel)
    kernel = jnp.zeros((3, 3, 4, 6))
    with pytest.raises(ValueError, match="unknown padding 'CIRCULAR'"):
        conv(x, kernel, padding="CIRCULAR")
    with pytest.raises(ValueError, match="two pairs"):
        conv(x, kernel, padding=((1, 1), (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="strides must be one number or two, 1 or more: 0"):
        conv(x, kernel, strides=0)
    with pytest.raises(ValueError, match="dilation"):
        conv(x, kernel, dilation=(1, 2, 3))
    assert conv(x, kernel, padding=2).shape == (1, 7, 7, 6)
