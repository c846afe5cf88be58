"""What predicts what: against SciPy, a planted fit, and permutations of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet.prediction import cross_validated_r2, importance, predict, predictors, spearman, thirds


def test_a_planted_predictor_is_found_and_noise_is_not():
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=(2, 200))
    y = x + draw.normal(size=200)  # half of the variance
    found = predictors({"x": x, "noise": noise, "again": x + 1e-3 * noise}, y, "x", permutations=20)
    assert found["x"]["alone"]["r2"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=0.04)
    assert found["x"]["alone"]["p"] == 1 / 21 and found["x"]["beyond"] is None
    for name in ("noise", "again"):  # what is known already adds nothing
        assert found[name]["beyond"]["increment"] < 0.01 and found[name]["beyond"]["p"] > 0.05
    assert found["noise"]["alone"]["r2"] < 0.01
    low, high = found["x"]["spearman"]["ci95"]
    assert low < found["x"]["spearman"]["rho"] < high and found["noise"]["spearman"]["ci95"][0] < 0


def test_an_exact_fit_a_constant_and_missing_values():
    x = np.arange(12.0)
    assert cross_validated_r2(x[:, None], 3 * x - 1) == pytest.approx(1)
    assert cross_validated_r2(np.zeros((12, 0)), x) == pytest.approx(0, abs=1e-9)
    assert cross_validated_r2(np.ones((12, 1)), x) == pytest.approx(0, abs=1e-9)
    y = 2 * x
    y[3] = np.nan
    assert predict(x, y, permutations=5)["not_finite"] == 1
    assert predict(x[:3], y[:3])["r2"] is None and spearman(x[:3], y[:3])["rho"] is None
    assert spearman(x, np.exp(x))["rho"] == 1
    with pytest.raises(ValueError, match="unknown base 'z'"):
        predictors({"x": x}, y, "z")
    with pytest.raises(ValueError, match="4 or more"):
        cross_validated_r2(x[:3, None], x[:3])


def test_intervals_importance_and_thirds_of_a_planted_fit():
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=(2, 300))
    y = 2 * x + draw.normal(size=300)
    found = predict(x, y, permutations=5)
    r2, (low, high) = found["r2"], found["ci95"]  # type: ignore[misc]
    assert r2 is not None and low < r2 < high and low < 0.8 < high  # 4 of 5 parts of the variance
    lost = importance({"x": x, "noise": noise}, y)
    # shuffled, x is wrong by itself and by its stand-in: twice its share of the variance
    assert lost["x"] == pytest.approx(1.6, abs=0.25) and abs(lost["noise"]) < 0.02
    split = thirds(x, y)
    order = np.argsort(x)
    assert split["difference"] == pytest.approx(y[order[-100:]].mean() - y[order[:100]].mean())
    assert split["ci95"] and split["p"] is not None
    assert split["ci95"][0] > 0 and split["p"] < 1e-6 and split["least"]["n"] == 100
    assert thirds(np.ones(9), np.arange(9.0))["difference"] is None
