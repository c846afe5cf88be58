"""The persistent GPU kernel: run as ordinary JAX operations against csr, and lowered for CUDA."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data
from jaxnet.data.batches import Split
from jaxnet.errors import InputError
from jaxnet.kernels import persistent
from jaxnet.kernels.persistent import wire
from jaxnet.sweep import (
    Bench,
    DrawRules,
    Grid,
    Program,
    SweepConfig,
    make_family,
    make_variant,
    run,
    with_kernel,
)
from jaxnet.sweep import persistent as on_sweeps
from jaxnet.sweep.persistent import make_epochs, refusal
from jaxnet.topology import topology_from_mask
from tests.sweep import small


def test_a_layer_is_wired_by_rows_and_by_columns() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    wiring = wire(topology_from_mask(mask), first=False)
    assert np.asarray(wiring.rows)[:5].tolist() == [0, 0, 2, 2, 2]
    assert np.asarray(wiring.cols)[:5].tolist() == [0, 3, 0, 2, 3]
    assert np.asarray(wiring.row_start).tolist() == [0, 2, 2] + 14 * [5]
    assert wiring.longest_row.tolist() == [3]
    assert np.asarray(wiring.readers)[:5].tolist() == [0, 2, 3, 1, 4]  # of inputs 0, 0, 2, 3, 3
    assert np.asarray(wiring.read_start).tolist() == [0, 2, 2, 3] + 13 * [5]
    assert wiring.most_read is not None and wiring.most_read.tolist() == [2]


def pixels() -> tuple[Split, Split, Split]:
    """The small samples as uint8, to be normalised by scalars."""

    def one(split: Split) -> Split:
        x = jnp.clip(128 + 40 * split.x, 0, 255).astype(jnp.uint8)
        return split.replace(x=x, mean=jnp.full((1,), 0.5), std=jnp.full((1,), 0.2))

    train, val, watched = (one(split) for split in small.splits())
    return train, val, watched


@pytest.mark.parametrize("stored", [pytest.param("float32", marks=pytest.mark.slow), "uint8"])
def test_it_trains_as_the_sparse_product_does(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two architectures, an incomplete last batch; with pixels decay and a batch that is no power of two."""
    monkeypatch.setattr(run, "make_epochs", functools.partial(make_epochs, interpret=True))
    splits = small.splits()
    changes: dict[str, Any] = {"epochs": 3}
    if stored == "uint8":
        splits, changes = pixels(), {"epochs": 2, "batch_size": 20, "weight_decay": 1e-2}
    kernel = "csr" if "csr" in small.PRODUCTS else "dense"

    def train(**how: Any) -> Any:
        options: dict[str, Any] = {"key_data": jax.random.key(small.KEY_DATA), "chunk": small.NUM_SEEDS}
        config = small.config(kernel, **changes, **how)
        return small.train_all(Program(small.FAMILY, config, small.NUM_SEEDS, splits, **options))

    found, expected = train(persistent=True), train()
    small.assert_same(found.structure, expected.structure)
    small.assert_close(found.params, expected.params, 2e-5)
    np.testing.assert_allclose(found.row.loss, expected.row.loss, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.row.accuracy, expected.row.accuracy, atol=0.03, rtol=0)  # of 41 samples


def test_it_is_one_kernel_on_cuda() -> None:
    """Lowered on any machine; no dense matrix of a layer is left beside it."""
    sizes = (784, 128, 10)
    family, config = make_family([sizes], [0.02], "uniform"), SweepConfig(persistent=True)
    phases = run.make_phases(family, config)
    split = Split(jnp.zeros((256, 784), jnp.uint8), jnp.zeros(256, jnp.int32), jnp.zeros(1), jnp.ones(1))
    variants = jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), make_variant(sizes, 0.02))

    def train(key: jax.Array, variant: Any) -> Any:
        learner = phases.begin(key, variant)
        return phases.train(learner, variant, key, jax.random.key(0), split, 0, 2)[1]

    check = jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    lowered = jax.export.export(jax.jit(jax.vmap(train)), platforms=["cuda"], disabled_checks=[check])(
        small.keys(8), variants
    )
    text = lowered.mlir_module()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 1
    assert "128x784xf32" not in text and "26x784xf32" not in text


@pytest.mark.parametrize(
    ("changes", "precision", "reason"),
    [
        ({"common_order": False}, "f32", "one order"),
        ({"draw": DrawRules(activation="tanh")}, "f32", "ReLUs only, not tanh"),
        ({}, "bf16", "in f32, not in bf16"),
        ({}, "f32", "no GPU"),
    ],
)
@pytest.mark.cpu
def test_what_it_cannot_train_is_said(changes: dict[str, Any], precision: str, reason: str) -> None:
    config = SweepConfig(**changes)
    said = refusal(config, 10, precision)
    assert said is not None and reason in said
    with pytest.raises(InputError, match="the persistent kernel cannot train this: ") as error:
        with_kernel(config, "persistent", precision)
    assert "\n" not in str(error.value)


def test_more_classes_than_a_tile_are_refused() -> None:
    assert refusal(SweepConfig(), 33) == "it knows at most 32 classes, not 33"
    layer = [wire(topology_from_mask(np.ones((33, 4), bool)), first=True)]
    learned = [persistent.Learned(*(jnp.zeros(n) for _ in range(3))) for n in (256, 64)]
    batches: Any = jnp.zeros((1, 4, 16)), jnp.zeros((1, 16), jnp.int32), jnp.ones((1, 16))
    rates: Any = dict.fromkeys(("scale", "shift", "lr", "weight_decay"), 1.0)
    rates |= {"corrections": jnp.ones((1, 2)), "classes": jnp.int32(33)}
    with pytest.raises(ValueError, match="must fit one tile of 32: 64"):
        persistent.train_epoch(layer, learned[:1], learned[1:], *batches, **rates, interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_it_is_used_where_a_trial_shows_that_it_is_right(off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def epochs(config: SweepConfig) -> Any:
        right = make_epochs(config, interpret=True)

        def train(*given: Any) -> Any:
            params, opt_state, loss = right(*given)
            return params, opt_state, loss + off

        return train

    monkeypatch.setattr(run, "make_epochs", epochs)
    monkeypatch.setattr(persistent, "missing", lambda: None)
    monkeypatch.setattr(on_sweeps, "_NETWORKS", 2)
    monkeypatch.setattr(on_sweeps, "_STEPS", 4)
    grid = Grid(((small.LARGE, small.DENSITY),), range(2))
    bench = Bench(small.config("dense"), small.splits(), key_data=jax.random.key(small.KEY_DATA))
    if off:
        with pytest.raises(ValueError, match=r"its losses are 0\.001 nats off on this device"):
            bench.plan(grid, 1, 2, "persistent", 2)
    else:
        assert bench.plan(grid, 1, 2, "persistent", 2)["kernel"] == "persistent"


@pytest.mark.gpu
def test_many_steps_of_real_size_have_the_losses_of_the_dense_product() -> None:
    """As many weights as take several tiles, and as many networks as keep all multiprocessors busy."""
    sizes, steps, number = (784, 128, 10), 400, 512
    key = jax.random.key(0)
    x = jax.random.randint(key, (64 * steps, 784), 0, 256).astype(jnp.uint8)
    y = jnp.argmax(x[:, :10], axis=1).astype(jnp.int32)
    split = Split(x, y, jnp.full((1,), 0.5), jnp.full((1,), 0.3))
    variants = jax.tree.map(lambda leaf: jnp.stack([leaf] * number), make_variant(sizes, 0.02))

    def train(**how: Any) -> Any:
        options: dict[str, Any] = {"key_data": jax.random.key(1), "chunk": number}
        family = make_family([sizes], [0.02], "uniform")
        program = Program(family, SweepConfig(epochs=1, **how), number, (split, split, split), **options)
        return np.asarray(program(small.keys(number), variants).row.loss)

    np.testing.assert_allclose(train(persistent=True), train(), atol=1e-3, rtol=0)


@pytest.mark.gpu
def test_it_trains_digits_on_a_gpu_to_the_same_bits_again() -> None:
    digits = data.load("digits")
    x, y, mean, std = (jnp.asarray(a) for a in (digits.x_train, digits.y_train, digits.mean, digits.std))
    split = Split(x, y, mean, std)
    sizes = (64, 48, 10)
    variants = jax.tree.map(lambda leaf: jnp.stack([leaf] * 6), make_variant(sizes, 0.1))

    def train(**how: Any) -> Any:
        config = SweepConfig(epochs=3, batch_size=32, **how)
        options: dict[str, Any] = {"key_data": jax.random.key(1), "chunk": 6}
        program = Program(make_family([sizes], [0.1], "uniform"), config, 6, (split, split, split), **options)
        return jax.tree.map(np.asarray, program(small.keys(), variants))

    found, again, expected = train(persistent=True), train(persistent=True), train()
    small.assert_same(found, again)
    small.assert_same(found.structure, expected.structure)
    small.assert_close(found.row.accuracy, expected.row.accuracy, 0.02)
