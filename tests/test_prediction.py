"""What predicts what: against SciPy, a planted fit, and permutations of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet.prediction import cross_validated_r2, predict, predictors, spearman


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
