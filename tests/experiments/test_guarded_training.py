"""``experiments.guarded_training``: wrong input, the drifts, a small run."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _guard_drift as drift
from experiments import guarded_training as study
from jaxnet import data
from jaxnet.keys import keys_of
from jaxnet.lab import Run
from jaxnet.lab.run import make_split
from tests.experiments.wrong_input import assert_refused


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--drift", "rotate:far"], "--drift must be rotate:DEGREES, label-noise or spike"),
        (["--drift", "flood"], "--drift must be"),
        (["--capacity", "0"], "--capacity must be at least 1: 0"),
        (["--false-alarm", "1"], "--false-alarm must be below 1"),
        (["--noise-checks", "2"], "--noise-checks must be at least 3"),
        (["--rates", "0"], "--rates must be one or more numbers above 0"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(flags, said, tmp_path, capsys):
    assert_refused(study.STUDY.main, study.Config, flags, said, tmp_path / "run", capsys)


def test_drifted_samples_are_as_they_were_or_as_they_are_now(key):
    digits = make_split(data.load("digits"), "val")
    turned = drift.drifted(digits, "rotate", 90.0, (8, 8, 1), 10, key=key)
    wild = drift.drifted(digits, "spike", 0.0, (8, 8, 1), 10, key=key)
    noisy = drift.drifted(digits, "label-noise", 0.0, (8, 8, 1), 10, key=key)
    index = jnp.arange(20)
    plain, labels = digits.batch(index)
    for one in (turned, wild, noisy):
        np.testing.assert_allclose(one.batch(index)[0], plain, atol=1e-5)
        assert one.batch(index)[1].tolist() == labels.tolist()
    now = index + digits.size
    wanted = np.rot90(np.asarray(plain).reshape(-1, 8, 8), 1, (1, 2))
    np.testing.assert_allclose(turned.batch(now)[0].reshape(-1, 8, 8), wanted, atol=1e-4)
    assert wild.batch(now)[1].tolist() == ((labels + 1) % 10).tolist()
    np.testing.assert_allclose(wild.batch(now)[0], 10 * plain, atol=1e-4)
    wrong = float(jnp.mean(noisy.batch(digits.size + jnp.arange(digits.size))[1] != digits.y))
    assert 0.3 < wrong < 0.6
    order = drift.order("spike", digits.size, 8, 3, 5, key=jax.random.key(0))
    assert order.indices.shape[1:] == (5, 8)
    assert int(jnp.sum(jnp.any(order.indices >= digits.size, -1))) == drift.SPIKE


@pytest.mark.slow
def test_a_small_run_is_judged_and_written(tmp_path: Path) -> None:
    doc = tmp_path / "guard.md"
    config = study.Config(
        sizes=(64, 16, 10), num_seeds=2, epochs=8, every=5, run_every=3, held=100, noise_checks=8, checks=10,
        runs=2, rates=(0.1,), strengths=(100.0,), lr=3e-3, out=str(tmp_path / "run"), doc=str(doc),
    )  # fmt: skip
    summary = study.STUDY.main(config)
    arms = summary["arms"]
    assert set(drift.ENDS) < set(arms) and {"guard", "replay", "skip", "ewc", "lower-rate"} < set(arms)
    by = {name: arm["aggregate"] for name, arm in arms.items()}
    assert by["rollback"]["old"]["mean"] > by["nothing"]["old"]["mean"]
    assert by["nothing"]["new"]["mean"] > by["rollback"]["new"]["mean"]
    assert summary["noticed"]["largest error of the sum of shares"] < 0.05
    assert doc.read_text().startswith("# A guard over a run")


def test_keys_first_asked_for_among_shapes_are_keys() -> None:
    config = study.Config(num_seeds=2)
    run = Run(config, data.load("digits"), None)  # type: ignore[arg-type]
    assert jax.eval_shape(lambda: run.keys).shape == (2,)
    assert jax.random.key_data(run.keys).tolist() == jax.random.key_data(keys_of((0, 1))).tolist()
