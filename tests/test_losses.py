"""Losses and accuracy against NumPy, padding, ties."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses
from tests import reference


def test_cross_entropy_by_hand():
    # two classes with odds 3 : 1
    logits = jnp.log(jnp.asarray([[3.0, 1.0], [1.0, 3.0]]))
    labels, ones = jnp.asarray([0, 0]), jnp.ones(2)
    loss = losses.cross_entropy(logits, labels, ones, axis=0)
    assert float(loss) == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-6)
    assert float(losses.cross_entropy(logits, labels, jnp.asarray([1.0, 0.0]), axis=0)) == pytest.approx(
        -np.log(0.75)
    )


@pytest.mark.parametrize("scale", [1.0, 1e3])  # large logits must not overflow
def test_cross_entropy_equals_numpy(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(5, 9))).astype(np.float32)
    labels, weight = rng.integers(0, 5, 9), (np.arange(9) < 7).astype(np.float32)
    got = losses.cross_entropy(
        jnp.asarray(logits), jnp.asarray(labels, jnp.int32), jnp.asarray(weight), axis=0
    )
    assert float(got) == pytest.approx(reference.loss_of(logits.astype(float), labels, weight), rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient():
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    labels = jnp.asarray([0, 2, 1, 0])
    more = jnp.concatenate([logits, 7 * jnp.ones((3, 2))], axis=1), jnp.concatenate([labels, labels[:2]])
    value_and_grad = jax.value_and_grad(functools.partial(losses.cross_entropy, axis=0))
    plain = value_and_grad(logits, labels, jnp.ones(4))
    wide = value_and_grad(*more, jnp.asarray([1.0] * 4 + [0.0] * 2))
    np.testing.assert_allclose(plain[0], wide[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1], wide[1][:, :4], rtol=1e-6)
    assert np.all(np.asarray(wide[1])[:, 4:] == 0)


def test_padding_that_is_not_finite_is_ignored():
    logits = jnp.asarray([[1.0, jnp.nan], [0.0, jnp.inf]])
    loss = losses.cross_entropy(logits, jnp.asarray([0, 0]), jnp.asarray([1.0, 0.0]), axis=0)
    assert float(loss) == pytest.approx(np.log1p(np.exp(-1.0)), rel=1e-6)


def test_num_correct_by_hand():
    # right, wrong, a tie (the lower class wins), right but padding
    logits = jnp.asarray([[2.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 9.0]])
    labels, weight = jnp.asarray([0, 1, 0, 2]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    assert float(losses.num_correct(logits, labels, weight, axis=0)) == 2.0
    assert float(losses.num_correct(logits, jnp.asarray([0, 1, 1, 2]), weight, axis=0)) == 1.0


# --- distillation ------------------------------------------------------------------------------------


def distilled(logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray, alpha: float, t: float) -> float:
    """Row by row, ``(batch, classes)``, in float64."""

    def log_softmax(row: np.ndarray) -> np.ndarray:
        return row - row.max() - np.log(np.exp(row - row.max()).sum())

    total = 0.0
    for row, said, label in zip(logits, teacher, labels, strict=True):
        p, q = log_softmax(said / t), log_softmax(row / t)
        total += alpha * -log_softmax(row)[label] + (1 - alpha) * t * t * np.sum(np.exp(p) * (p - q))
    return total / len(labels)


def batch_of_a_teacher() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    logits, teacher = (rng.normal(size=(5, 4)).astype(np.float32) * 3 for _ in range(2))
    return logits, teacher, rng.integers(0, 4, 5)


def gradient_of(loss, logits, teacher, labels, weight=None):
    y = losses.Taught(jnp.asarray(labels, jnp.int32), jnp.asarray(teacher))
    weight = jnp.ones(len(labels)) if weight is None else jnp.asarray(weight)
    return jax.value_and_grad(lambda z: loss(z, y, weight))(jnp.asarray(logits))


def test_distillation_by_hand():
    """A student that knows nothing, a teacher with odds 3 : 1 at temperature 1."""
    y = losses.Taught(jnp.asarray([0]), jnp.log(jnp.asarray([[3.0, 1.0]])))
    loss = losses.Distillation(alpha=0.25, temperature=1.0)
    divergence = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    got = loss(jnp.zeros((1, 2)), y, jnp.ones(1))
    assert float(got) == pytest.approx(0.25 * np.log(2) + 0.75 * divergence, rel=1e-6)
    # who answers as the teacher does has learned all that there is
    assert float(losses.Distillation(0.0, 3.0)(y.logits, y, jnp.ones(1))) == pytest.approx(0, abs=1e-7)
    assert float(losses.num_correct(y.logits, y, jnp.ones(1))) == 1


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 4.0), (0.7, 0.5), (1.0, 2.0)])
def test_distillation_and_its_gradient_equal_numpy(alpha, temperature):
    logits, teacher, labels = batch_of_a_teacher()
    loss = losses.Distillation(alpha, temperature)
    value, gradient = gradient_of(loss, logits, teacher, labels)

    def numpy(z: np.ndarray) -> float:
        return distilled(z, teacher.astype(float), labels, alpha, temperature)

    assert float(value) == pytest.approx(numpy(logits.astype(float)), rel=1e-5)
    for at in np.ndindex(logits.shape):
        step = np.zeros(logits.shape)
        step[at] = 1e-5
        slope = (numpy(logits + step) - numpy(logits - step)) / 2e-5
        assert float(gradient[at]) == pytest.approx(slope, abs=2e-5)
    # the classes along the first axis, padding, and data without a teacher
    y = losses.Taught(jnp.asarray(labels, jnp.int32), jnp.asarray(teacher.T))
    assert float(loss(jnp.asarray(logits.T), y, jnp.ones(5), axis=0)) == pytest.approx(float(value), rel=1e-6)
    padded, _ = gradient_of(
        loss,
        np.concatenate([logits, np.full((1, 4), np.nan, np.float32)]),
        np.concatenate([teacher, np.full((1, 4), np.inf, np.float32)]),
        [*labels, 0],
        [1.0] * 5 + [0.0],
    )
    assert float(padded) == pytest.approx(float(value), rel=1e-6)
    plain = loss(jnp.asarray(logits), y.labels, jnp.ones(5))
    assert float(plain) == float(losses.cross_entropy(jnp.asarray(logits), y.labels, jnp.ones(5)))


def test_the_gradient_of_distillation_equals_pytorchs():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits, teacher, labels = batch_of_a_teacher()
    value, gradient = gradient_of(losses.Distillation(0.3, 2.5), logits, teacher, labels)
    z = torch.tensor(logits, requires_grad=True)
    soft = functional.kl_div(
        functional.log_softmax(z / 2.5, 1),
        functional.softmax(torch.tensor(teacher) / 2.5, 1),
        reduction="batchmean",
    )
    whole = 0.3 * functional.cross_entropy(z, torch.tensor(labels)) + 0.7 * 2.5**2 * soft
    whole.backward()
    assert float(value) == pytest.approx(whole.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, z.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha must be between 0 and 1: 1.5"),
        ({"temperature": 0.0}, "temperature must be above"),
    ],
)
def test_distillation_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        losses.Distillation(**options)


def test_a_teacher_of_other_classes_is_refused():
    y = losses.Taught(jnp.zeros(3, jnp.int32), jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="the student's shape"):
        losses.Distillation()(jnp.zeros((3, 4)), y, jnp.ones(3))


# --- samples with places -----------------------------------------------------------------------------


def test_places_count_by_their_weight_within_a_sample():
    odds = jnp.asarray([[[3.0, 1.0], [1.0, 3.0], [1.0, 1.0]], [[3.0, 1.0], [9.0, 1.0], [1.0, 7.0]]])
    labels = jnp.asarray([[0, 0, 1], [1, 0, 5]])  # the last one is no class, and does not count
    y = losses.TokenLabels(labels, jnp.asarray([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    first = -(2 * np.log(0.75) + np.log(0.25) + np.log(0.5)) / 4
    ones, one = jnp.ones(2), jnp.asarray([1.0, 0.0])
    assert float(losses.cross_entropy(jnp.log(odds), y, ones)) == pytest.approx((first + np.log(4)) / 2)
    turned = jnp.moveaxis(jnp.log(odds), -1, 0)
    assert float(losses.cross_entropy(turned, y, one, axis=0)) == pytest.approx(first)
    # right, wrong, a tie (the lower class wins): 2 of 4; wrong
    assert float(losses.num_correct(jnp.log(odds), y, ones)) == 0.5
    assert float(losses.num_correct(jnp.log(odds), losses.Taught(y, odds), one)) == 0.5
    # plain labels count alike; none is 0
    assert float(losses.num_correct(jnp.log(odds), labels, one)) == pytest.approx(1 / 3)
    assert np.isnan(losses.cross_entropy(jnp.log(odds), labels, ones))
    none = losses.TokenLabels(labels, jnp.zeros((2, 3)))
    assert float(losses.cross_entropy(jnp.log(odds), none, ones)) == 0
    same = losses.Taught(y, jnp.log(odds))
    distilled_ = losses.Distillation(0.5, 1.0)(jnp.log(odds), same, one)
    assert float(distilled_) == pytest.approx(first / 2, rel=1e-6)
